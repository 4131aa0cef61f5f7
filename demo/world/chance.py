"""Scenes and subjects from a seed. Some pairs of colours are kept for held-out subjects: no thing
of ``random_scene`` ever has them, whatever the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator

from .kinds import CLASSES, KINDS, PLACES, SETTINGS
from .scene import Looks, Scene

# colour of the thing → colours of its markings that pre-training never shows with it
RESERVED: dict[str, tuple[str, ...]] = {
    "golden": ("black",),
    "white": ("orange", "red"),
    "black": ("golden", "pink"),
    "grey": ("brown", "yellow"),
    "brown": ("white", "blue"),
    "orange": ("brown", "purple"),
    "red": ("blue", "white"),
    "yellow": ("pink", "blue"),
    "green": ("orange", "yellow"),
    "blue": ("yellow", "red"),
    "purple": ("green", "yellow"),
    "pink": ("black", "green"),
}

HELD_OUT: dict[str, Looks] = {
    "dog-1": Looks("dog", "golden", "black", "patch", "long", "red", 11),
    "dog-2": Looks("dog", "white", "orange", "spots", "short", "blue", 22),
    "dog-3": Looks("dog", "black", "golden", "bib", "folded", "green", 33),
    "dog-4": Looks("dog", "grey", "brown", "saddle", "long", "yellow", 44),
    "dog-5": Looks("dog", "brown", "white", "socks", "short", "purple", 55),
    "cat-1": Looks("cat", "orange", "brown", "stripes", "pointed", "blue", 66),
    "cat-2": Looks("cat", "white", "orange", "patch", "pointed", "pink", 77),
    "bird-1": Looks("bird", "blue", "yellow", "tips", "crest", "", 88),
    "car-1": Looks("car", "yellow", "blue", "star", "beetle", "", 99),
    "backpack-1": Looks("backpack", "purple", "green", "stripes", "round", "", 110),
    "teapot-1": Looks("teapot", "green", "orange", "dots", "plain", "", 121),
    "robot-1": Looks("robot", "red", "blue", "heart", "square", "", 132),
}


def is_reserved(looks: Looks) -> bool:
    """Whether these looks belong to held-out subjects only."""
    return looks.second in RESERVED[looks.colour]


def subject(seed: int, kind: str, held_out: bool = False) -> Looks:
    """One individual of a kind; ``held_out``: one that pre-training can not have shown."""
    rng = random.Random(f"subject {kind} {seed}")
    return _looks(rng, kind, held_out)


def _looks(rng: random.Random, kind: str, held_out: bool = False) -> Looks:
    of = KINDS[kind]
    pairs = [
        (colour, second)
        for colour in of.colours
        for second in of.seconds
        if colour != second and (second in RESERVED[colour]) == held_out
    ]
    colour = rng.choice(of.colours) if not held_out else rng.choice(pairs)[0]
    second = rng.choice([pair[1] for pair in pairs if pair[0] == colour])
    return Looks(
        kind,
        colour,
        second,
        rng.choice(of.markings),
        rng.choice(of.shapes),
        rng.choice(of.extras),
        rng.randrange(2**31),
    )


def random_scene(seed: int) -> Scene:
    """Any thing anywhere, never with the looks of a held-out subject."""
    rng = random.Random(f"scene {seed}")
    looks = _looks(rng, rng.choice(CLASSES))
    return _placed(rng, looks, rng.choice((*SETTINGS, "", "")))


def scene_of(looks: Looks, seed: int, setting: str | None = None) -> Scene:
    """The thing in another pose, and in any place or the one named (empty: none)."""
    rng = random.Random(f"place {seed}")
    drawn = rng.choice((*SETTINGS, "", ""))
    return _placed(rng, looks, drawn if setting is None else setting)


def _placed(rng: random.Random, looks: Looks, setting: str) -> Scene:
    kind, place = KINDS[looks.kind], PLACES[setting]
    pose = rng.choice(kind.poses)
    size = 0.9 if pose == "face" else rng.uniform(*kind.size)
    feet = rng.uniform(*place.feet)
    if pose == "face":
        feet = rng.uniform(0.96, 1.02)
    elif pose == "lying":
        size *= 1.14
    elif pose in ("flying", "swimming"):
        feet -= rng.uniform(0.04, 0.16) * (1.5 - size)
    room = max(0.0, 0.5 - size / 2)
    return Scene(
        looks,
        setting,
        pose,
        rng.random(),
        0.5 + rng.uniform(-room, room),
        feet,
        size,
        rng.uniform(-kind.tilt, kind.tilt),
        rng.random() < 0.5,
        rng.randrange(2**31),
    )


def scenes(first: int, count: int) -> Iterator[Scene]:
    """``random_scene`` of consecutive seeds."""
    return (random_scene(seed) for seed in range(first, first + count))
