"""What there is to draw, as data: a thing's fixed looks, and the scene it is put in."""

from __future__ import annotations

import random
from dataclasses import dataclass

from .pen import Colour

COLOURS: dict[str, Colour] = {
    "red": (218, 58, 54),
    "orange": (240, 142, 52),
    "yellow": (250, 210, 74),
    "green": (96, 174, 84),
    "blue": (70, 128, 214),
    "purple": (148, 98, 192),
    "pink": (244, 150, 184),
    "brown": (150, 98, 62),
    "golden": (230, 182, 108),
    "black": (78, 74, 86),
    "grey": (160, 162, 170),
    "white": (250, 246, 238),
}


def paint(word: str, rng: random.Random) -> Colour:
    """A shade of the colour; the word still fits."""
    return tuple(max(0, min(255, c + rng.randint(-10, 10))) for c in COLOURS[word])


@dataclass(frozen=True)
class Looks:
    """One individual thing: whatever stays the same from picture to picture."""

    kind: str
    colour: str
    second: str
    marking: str
    shape: str
    extra: str
    """A collar's, a roof's … colour; empty for none."""
    jitter: int
    """Seed of the proportions and of the exact shades."""


@dataclass(frozen=True)
class Scene:
    """One picture. Lengths are fractions of its side, y runs down."""

    looks: Looks
    setting: str
    """Name of a place, empty for a plain page."""
    pose: str
    phase: float
    """0 … 1: the moment within the pose: stride, wag, flap."""
    x: float
    """The thing's middle."""
    y: float
    """The ground under it."""
    size: float
    """Side of the square that holds it."""
    tilt: float
    flip: bool
    detail: int
    """Seed of the surroundings."""

    @property
    def kind(self) -> str:
        return self.looks.kind

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the square that holds the thing."""
        half = self.size / 2
        return (self.x - half, self.y - self.size, self.x + half, self.y)
