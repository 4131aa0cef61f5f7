"""What a picture may be called."""

from __future__ import annotations

import random

from .kinds import PLACES
from .scene import Scene

PHRASINGS = ("{}", "{}", "a photo of {}", "a photo of {}", "a picture of {}")
NAMES_COLOUR = 0.5
NAMES_PLACE = 0.85


def with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def caption(scene: Scene, seed: int) -> str:
    """A true sentence about the scene; with and without its colour and its place."""
    rng = random.Random(f"caption {seed}")
    phrasing = rng.choice(PHRASINGS)
    thing = scene.kind
    if rng.random() < NAMES_COLOUR:
        thing = f"{scene.looks.colour} {thing}"
    place = rng.choice(PLACES[scene.setting].phrases)
    if rng.random() >= NAMES_PLACE:
        place = ""
    return f"{phrasing.format(with_article(thing))} {place}".strip()
