"""Captions: how files are read, what text a row gets, what a frozen encoder keeps."""

from collections import Counter
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest
import torch
from pack.trainer.captions import (
    BOTH,
    FILES,
    Caption,
    Texts,
    caption_file,
    instance_texts,
    read_caption,
)
from pack.trainer.concepts import make_concept as concept_of
from pack.trainer.concepts import report
from pack.trainer.config import Concept, ConfigError, DataConfig
from pack.trainer.events import Note
from pack.trainer.image_set import read_folder
from toy import CPU, make_concept, make_job, picture, run, same, toy_base

UNET = "model.diffusion_model."
FROZEN = {"trains": "unet"}


def concept(*captions: str, photos: int | None = None) -> Concept:
    return Concept(
        instance_prompt="a photo of zwx dog",
        instance_images=tuple(f"{n}.png" for n in range(photos or len(captions))),
        class_prompt="a photo of a dog",
        class_images=("c.png",),
        captions=captions,
    )


@pytest.mark.parametrize(
    ("data", "text", "remark"),
    [
        (b"a zwx dog", "a zwx dog", ""),
        ("\ufeffa café\r\n on  grass\n".encode(), "a café on grass", ""),
        ("a café".encode("utf-16"), "a café", ""),
        ("a café".encode("cp1252"), "a café", "Windows-1252"),
        (b"\x81\xff", "\ufffdÿ", "Windows-1252"),
        (b"a\0b", "", "NUL"),
        (b" \n\t", "", "empty"),
        (b"", "", "empty"),
        (b"x" * 70_000, "", "64 KB"),
    ],
)
def test_files_in_every_spelling(tmp_path: Path, data: bytes, text: str, remark: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(data)
    got = read_caption(path)
    assert got.text == text and remark in got.remark and bool(remark) == bool(got.remark)


def test_random_bytes_are_a_text_or_a_remark(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    path = tmp_path / "a.txt"
    for length in range(200):
        path.write_bytes(bytes(torch.randint(0, 256, (length,), generator=g).tolist()))
        got = read_caption(path)
        assert isinstance(got, Caption) and (got.text or got.remark)
        concept(got.text)  # which refuses what no file can hold


def test_txt_wins_over_caption(tmp_path: Path) -> None:
    photo = tmp_path / "a.b.jpg"
    assert caption_file(photo) is None
    (tmp_path / "a.b.caption").write_text("x")
    assert caption_file(photo).suffix == ".caption"
    (tmp_path / "a.b.txt").write_text("y")
    assert caption_file(photo).suffix == ".txt"


def folder_of(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        picture(tmp_path / f"{name}.png", 1)
    (tmp_path / "a.txt").write_text("a ZWX dog on grass")
    (tmp_path / "b.caption").write_text("sitting, snow")
    (tmp_path / "notes.txt").write_text("mine")
    return tmp_path


def test_a_folder_says_what_it_read(tmp_path: Path) -> None:
    found = read_folder(folder_of(tmp_path), caption_source=FILES)
    assert found.captions == ("a ZWX dog on grass", "sitting, snow", "")
    assert [name for name, _ in found.skipped] == ["notes.txt"]
    assert "2 with a caption" in found.report() and "c.png has no caption" in found.report()
    plain = read_folder(tmp_path)
    assert plain.captions == () and [n for n, _ in plain.skipped] == [
        "a.txt",
        "b.caption",
        "notes.txt",
    ]


def test_a_word_that_holds_the_identifier_does_not_name_the_subject() -> None:
    texts = instance_texts(("masks on desks", "SKS, a dog"), FILES, "p", "sks", "dog")
    assert texts == ("sks dog, masks on desks", "SKS, a dog")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            FILES,
            ("a ZWX dog on grass", "zwx dog, sitting, snow", "a photo of zwx dog"),
        ),
        (
            BOTH,
            (
                "a photo of zwx dog, a ZWX dog on grass",
                "a photo of zwx dog, sitting, snow",
                "a photo of zwx dog",
            ),
        ),
    ],
)
def test_the_identifier_is_in_every_text(
    tmp_path: Path, source: str, expected: tuple[str, ...]
) -> None:
    found = read_folder(folder_of(tmp_path), caption_source=source)
    made = concept_of(found, identifier="zwx", class_noun="dog")
    assert made.captions == made.texts == expected
    assert "'zwx dog, sitting, snow'" in report([made]) or source == BOTH
    assert instance_texts((), source, "p", "zwx", "dog") == ()


def test_long_captions_are_named(tmp_path: Path) -> None:
    (folder_of(tmp_path) / "c.txt").write_text("zwx dog, " + "very " * 80 + "happy")
    found = read_folder(tmp_path, caption_source=FILES)
    made = concept_of(found, identifier="zwx", class_noun="dog")
    assert "warning: longer than 77 tokens" in report([made])
    many = tuple(f"zwx dog {n} " + "very " * 80 for n in range(2))
    job = make_job(tmp_path, (replace(make_concept(tmp_path / "pictures"), captions=many),))
    notes = [note.text for note in run(job).of(Note)]
    assert sum("77 tokens" in note for note in notes) == 2


def test_captions_without_their_photo_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 captions for 3 photos"):
        concept("a", "b", photos=3)


def test_tags_are_shuffled_behind_those_that_stay() -> None:
    one = concept("zwx dog, a,b , c,, d")
    texts = Texts(3, DataConfig(shuffle_tags=True))
    seen = [texts.instance(one, 0, position) for position in range(2400)]
    assert all(text.startswith("zwx dog, ") for text in seen)
    counts = Counter(seen)
    assert len(counts) == 24 and all(60 < count < 145 for count in counts.values())
    assert {frozenset(text.split(", ")) for text in seen} == {frozenset(["zwx dog", *"abcd"])}
    again = Texts(3, DataConfig(shuffle_tags=True))
    assert [again.instance(one, 0, p) for p in (77, 3)] == [seen[77], seen[3]]
    all_move = Texts(3, DataConfig(shuffle_tags=True, keep_tags=0))
    assert len({all_move.instance(one, 0, p).split(", ")[0] for p in range(100)}) == 5
    assert Texts(3).instance(one, 0, 5) == one.captions[0]


def test_a_prompt_of_the_concept_is_not_shuffled() -> None:
    one = replace(concept(photos=1), instance_prompt="zwx dog, a, b, c")
    texts = Texts(0, DataConfig(shuffle_tags=True, keep_tags=0))
    assert {texts.instance(one, 0, p) for p in range(20)} == {"zwx dog, a, b, c"}


def test_dropout_is_as_frequent_as_asked_and_each_row_draws_for_itself() -> None:
    one = concept("zwx dog, a")
    texts = Texts(1, DataConfig(caption_dropout=0.2))
    instance = [texts.instance(one, 0, p) == "" for p in range(4000)]
    class_ = [texts.class_(one, p) == "" for p in range(4000)]
    both = [a and b for a, b in zip(instance, class_, strict=True)]
    for dropped, rate in ((instance, 0.2), (class_, 0.2), (both, 0.04)):
        assert abs(sum(dropped) / 4000 - rate) < 4 * (rate * (1 - rate) / 4000) ** 0.5
    assert "" in texts.fixed(one) and "" not in Texts(1).fixed(one)


def test_class_images_alone_can_lose_their_text() -> None:
    one = concept("zwx dog, a")
    texts = Texts(1, DataConfig(class_caption_dropout=0.2))
    dropped = [texts.class_(one, p) == "" for p in range(4000)]
    assert abs(sum(dropped) / 4000 - 0.2) < 4 * (0.2 * 0.8 / 4000) ** 0.5
    assert all(texts.instance(one, 0, p) for p in range(4000))
    assert "" in texts.fixed(one)
    more = Texts(1, DataConfig(class_caption_dropout=0.2, caption_dropout=0.5))
    often = sum(more.class_(one, p) == "" for p in range(4000)) / 4000
    assert abs(often - 0.5) < 4 * 0.5 / 4000**0.5  # the larger of the two


def test_every_text_of_a_run_is_known_before_it_unless_it_is_shuffled() -> None:
    one = concept("zwx a, b", "zwx c, d")
    fixed = Texts(0, DataConfig(caption_dropout=0.5))
    drawn = {fixed.instance(one, p % 2, p) for p in range(50)} | {
        fixed.class_(one, p) for p in range(50)
    }
    assert drawn == set(fixed.fixed(one))
    assert Texts(0, DataConfig(shuffle_tags=True)).fixed(one) == ["a photo of a dog"]


def test_a_run_learns_its_captions(tmp_path: Path) -> None:
    plain = make_concept(tmp_path / "pictures")
    texts = tuple(f"zwx dog, scene {n}, red, blue" for n in range(len(plain.instance_images)))
    told = replace(plain, captions=texts)
    made = [
        run(make_job(tmp_path, (one,), data=DataConfig(**data), **FROZEN)).tensors
        for one, data in (
            (plain, {}),
            (told, {}),
            (told, {"shuffle_tags": True}),
            (told, {"shuffle_tags": True, "keep_tags": 3}),
            (told, {"caption_dropout": 1.0}),
            (plain, {"shuffle_tags": True}),
        )
    ]
    prompts, told_, shuffled, one_moves, without, prompts_again = made
    assert same(told_, one_moves) and same(prompts, prompts_again)  # nothing to shuffle
    for a, b in combinations((prompts, told_, shuffled, without), 2):
        assert not same(a, b, UNET)


def test_a_frozen_encoder_keeps_so_many_states_and_no_bit_depends_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pack.trainer import texts
    from pack.trainer.checkpoint import detect
    from pack.trainer.model import StableDiffusion
    from pack.trainer.texts import FrozenTexts

    base = toy_base()
    model = StableDiffusion(base, detect(base))
    calls = []
    real = StableDiffusion.encode_prompts

    def encode_prompts(self, *inputs):
        calls.append(1)
        return real(self, *inputs)

    monkeypatch.setattr(StableDiffusion, "encode_prompts", encode_prompts)
    prompts = [f"zwx dog {n}" for n in range(6)]
    everything = FrozenTexts(model, [*prompts, *prompts], CPU)
    assert len(calls) == 6
    monkeypatch.setattr(texts, "KEPT", 3)
    few = FrozenTexts(model, prompts, CPU)
    assert len(calls) == 9
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for prompt in prompts:
            assert torch.equal(few[prompt].states, everything[prompt].states)
    assert len(calls) == 12 and len(few._states) == 3
    few[prompts[5]]
    assert len(calls) == 12
