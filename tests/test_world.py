"""The picture-book world: pure functions of a seed, true captions, held-out looks kept apart."""

import itertools
from collections import Counter

import numpy as np
import pytest
from pack.demo.world import (
    CLASSES,
    COLOURS,
    HELD_OUT,
    KINDS,
    PLACES,
    RESERVED,
    SETTINGS,
    caption,
    draw,
    is_reserved,
    random_scene,
    scene_of,
    subject,
)
from pack.demo.world.sheet import contact_sheet, world_rows


def pixels(scene, size: int = 32) -> np.ndarray:
    return np.asarray(draw(scene, size)).astype(int)


def test_the_same_seed_is_the_same_scene_caption_and_picture() -> None:
    for seed in range(20):
        scene = random_scene(seed)
        assert scene == random_scene(seed)
        assert caption(scene, seed) == caption(random_scene(seed), seed)
        assert (pixels(scene) == pixels(random_scene(seed))).all()
    assert (pixels(random_scene(0)) != pixels(random_scene(1))).any()


def test_every_kind_in_every_pose_and_every_place_can_be_drawn() -> None:
    for number, place in enumerate(("", *SETTINGS)):
        for kind in CLASSES:
            scene = scene_of(subject(number, kind), number, place)
            assert (scene.kind, scene.setting) == (kind, place)
            assert draw(scene, 16).size == (16, 16)
    drawn = {(kind, scene_of(subject(0, kind), n).pose) for kind in CLASSES for n in range(40)}
    assert drawn == {(kind, pose) for kind in CLASSES for pose in KINDS[kind].poses}


def test_every_look_can_be_drawn_and_shows() -> None:
    """Each marking, shape and extra of each kind changes pixels."""
    for kind, of in KINDS.items():
        looks = subject(3, kind)
        for field, values in (("marking", of.markings), ("shape", of.shapes)):
            pictures = []
            for value in values:
                other = type(looks)(**{**vars(looks), field: value})
                pictures.append(pixels(scene_of(other, 5, "")))
            for first, second in itertools.combinations(pictures, 2):
                assert (first != second).any(), (kind, field)


@pytest.mark.parametrize("size", [64, 96, 128])
def test_a_larger_picture_shows_the_same(size: int) -> None:
    for seed in range(6):
        scene = random_scene(seed)
        picture = draw(scene, size)
        assert picture.size == (size, size) and picture.mode == "RGB"
        small = np.asarray(picture.resize((32, 32), 4)).astype(int)
        assert np.abs(small - pixels(scene)).mean() < 8


def test_captions_say_what_is_there() -> None:
    seen = Counter()
    for seed in range(400):
        scene = random_scene(seed)
        words = caption(scene, seed)
        assert f" {scene.kind}" in words
        for other in CLASSES:
            assert (f" {other}" in words) == (other == scene.kind)
        said = {word for word in words.split() if word in COLOURS}
        assert said <= {scene.looks.colour}
        phrases = [p for p in PLACES[scene.setting].phrases if p and words.endswith(p)]
        others = [p for name in SETTINGS for p in PLACES[name].phrases if name != scene.setting]
        assert not any(phrase in words for phrase in others)
        article, thing = words.removeprefix("a photo of ").removeprefix("a picture of ").split()[:2]
        assert (article == "an") == (thing[0] in "aeiou") and article in ("a", "an")
        seen["colour"] += bool(said)
        seen["place"] += bool(phrases)
        seen["neither"] += not said and not phrases
    assert min(seen.values()) > 40


def test_held_out_looks_never_appear() -> None:
    for looks in HELD_OUT.values():
        assert is_reserved(looks) and looks.kind in CLASSES
    for seed in range(4000):
        assert not is_reserved(random_scene(seed).looks)
    for seed, kind in itertools.product(range(20), CLASSES):
        assert not is_reserved(subject(seed, kind))
        assert is_reserved(subject(seed, kind, held_out=True))


def test_reserved_pairs_leave_every_colour_enough() -> None:
    for kind, of in KINDS.items():
        for colour in of.colours:
            free = [s for s in of.seconds if s != colour and s not in RESERVED[colour]]
            assert len(free) >= 3, (kind, colour)


def test_held_out_subjects_are_distinct_at_a_glance() -> None:
    assert len(HELD_OUT) >= 8
    assert Counter(looks.kind for looks in HELD_OUT.values())["dog"] >= 4
    assert len({looks.kind for looks in HELD_OUT.values()}) >= 5
    same = {name: scene_of(looks, 4, "") for name, looks in HELD_OUT.items()}
    for first, second in itertools.combinations(same, 2):
        difference = np.abs(pixels(same[first]) - pixels(same[second])).mean()
        assert difference > 6, (first, second, difference)


def test_a_subject_keeps_its_looks_in_every_scene() -> None:
    looks = HELD_OUT["dog-1"]
    scenes = [scene_of(looks, seed) for seed in range(30)]
    assert {scene.looks for scene in scenes} == {looks}
    assert len({scene.pose for scene in scenes}) == 4 and len({s.setting for s in scenes}) > 8


def test_the_thing_is_inside_the_picture() -> None:
    for seed in range(300):
        left, top, right, bottom = random_scene(seed).box
        assert left > -0.03 and right < 1.03 and top > -0.08 and bottom < 1.03


def test_the_sheet_has_a_row_for_each_kind() -> None:
    rows = world_rows()
    assert [row[0].kind for row in rows] == list(CLASSES)
    assert {scene.setting for scene in rows[0]} == {"", *SETTINGS}
    assert contact_sheet([rows[0][:3], rows[1][:2]], 16, gap=2).size == (56, 38)
