"""Concepts as they are typed, and the field's concepts_list.json."""

import json
from pathlib import Path

import pytest
from pack.trainer.concepts import make_concept, read_concepts_file, report, unused
from pack.trainer.config import ConfigError
from pack.trainer.image_set import ImageSet
from pack.trainer.images import ImageFile
from toy import picture

PHOTOS = ImageSet((ImageFile("a.png", 8, 8, ""),))
CLASSES = ImageSet((ImageFile("c.png", 8, 8, ""),), prompt="a picture of a dog")


def test_usual_prompts() -> None:
    concept = make_concept(PHOTOS, identifier=" zwx ", class_noun="dog")
    assert concept.instance_prompt == "a photo of zwx dog"
    assert concept.class_prompt == "a photo of a dog" and not concept.has_prior
    made = make_concept(PHOTOS, CLASSES, identifier="zwx", class_noun="dog")
    assert made.class_prompt == "a picture of a dog" and made.has_prior
    mine = make_concept(PHOTOS, CLASSES, identifier="zwx", class_noun="dog", class_prompt="dogs")
    assert mine.class_prompt == "dogs"


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"identifier": " "}, "identifier"),
        ({"class_noun": ""}, "class_noun"),
        ({"instance_prompt": "a photo of my dog"}, "zwx"),
        ({"instance_prompt": "dog " * 76 + "zwx"}, "77 tokens"),
    ],
)
def test_prompts_must_name_the_subject(values: dict, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        make_concept(PHOTOS, **{"identifier": "zwx", "class_noun": "dog", **values})


def test_report_says_what_clip_reads() -> None:
    long = "a photo of zwx dog " + "very " * 80 + "happy"
    concept = make_concept(PHOTOS, identifier="zwx", class_noun="dog", instance_prompt=long)
    text = report([concept])
    assert "z + wx" in text and "happy" in text and "no prior preservation" in text


@pytest.mark.parametrize(
    ("noun", "prompt", "said"),
    [
        ("dog", "a picture of a dog", ""),
        ("old dog", "an old dog, outdoors", ""),
        ("woman", "", "do not name the class, 'woman'"),  # that of the images stays
        ("dog", "a photo of zwx dog", "name your subject, 'zwx'"),
    ],
)
def test_class_images_of_something_else_are_noticed(noun: str, prompt: str, said: str) -> None:
    made = make_concept(PHOTOS, CLASSES, identifier="zwx", class_noun=noun, class_prompt=prompt)
    text = report([made])
    assert said in text and ("warning: the class images" in text) == bool(said)


def test_concepts_of_one_name_are_noticed() -> None:
    dog, cat = (make_concept(PHOTOS, identifier="zwx", class_noun=n) for n in ("dog", "cat"))
    assert report([dog, cat]).startswith("warning: several concepts are called 'zwx'")
    other = make_concept(PHOTOS, identifier="sks", class_noun="cat")
    assert "several" not in report([dog, other])


def test_what_class_images_bring_in_vain_is_said() -> None:
    assert unused(CLASSES) == ""
    file = ImageFile("c.png", 8, 8, "", masked=True)
    assert "their masks are not" in unused(ImageSet((file,)))
    assert "their masks and captions are not" in unused(ImageSet((file,), captions=("a",)))


def test_two_concepts_need_two_names() -> None:
    one = make_concept(PHOTOS, identifier="zwx", class_noun="dog")
    with pytest.raises(ConfigError, match="share the prompt"):
        report([one, one])


def write(folder: Path, entries: object) -> Path:
    path = folder / "concepts_list.json"
    path.write_text(json.dumps(entries), encoding="utf-8-sig")
    return path


def test_the_fields_file(tmp_path: Path) -> None:
    for name in ("dog", "dog_class", "cat"):
        (tmp_path / name).mkdir()
        picture(tmp_path / name / "0.png", 1)
    path = write(
        tmp_path,
        [
            {
                "instance_prompt": "photo of zwx dog",
                "class_prompt": "photo of a dog",
                "instance_data_dir": "dog",
                "class_data_dir": "dog_class",
            },
            {
                "instance_prompt": "photo of ukj cat",
                "class_prompt": "photo of a cat",
                "instance_data_dir": "cat",
                "class_data_dir": "not there yet",
            },
        ],
    )
    dog, cat = read_concepts_file(path, lambda text: tmp_path / text, 0.5)
    assert (dog.identifier, dog.class_noun, dog.has_prior) == ("zwx", "dog", True)
    assert (cat.identifier, cat.class_noun, cat.has_prior) == ("ukj", "cat", False)
    assert dog.prior_weight == 0.5


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ({}, "no list"),
        ([], "no list"),
        ([3], "concept 1"),
        ([{"instance_prompt": "x"}], "instance_data_dir"),
        ([{"instance_data_dir": "x"}], "instance_prompt"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, entries: object, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        read_concepts_file(write(tmp_path, entries), lambda text: tmp_path / text)
    with pytest.raises(ConfigError, match="not JSON"):
        (tmp_path / "x.json").write_text("{")
        read_concepts_file(tmp_path / "x.json", lambda text: tmp_path / text)
    with pytest.raises(ConfigError, match="no file"):
        read_concepts_file(tmp_path / "absent.json", lambda text: tmp_path / text)
