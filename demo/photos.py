"""Five pictures of one subject of the picture-book world: what the demo trains on where the user
brings no photos. The base has never seen the subject; poses and places differ, as they should in a
set of photos."""

from __future__ import annotations

from pathlib import Path

from .base.pool import EVALUATION_SEED
from .world import HELD_OUT, draw, scene_of

SUBJECT = "car-1"  # of what the base draws best
SIDE = 256
# few places, so that eight remain where no photo shows the subject
PLACES_SHOWN = ("", "meadow", "room", "city", "meadow")
FIRST_SCENE = EVALUATION_SEED + 12  # from here on, five scenes show a pet in each of its poses


def draw_photos(
    folder: Path, subject: str = SUBJECT, side: int = SIDE, seed: int = 0
) -> list[Path]:
    """Writes the pictures, ``side`` × ``side`` RGB, into ``folder`` and returns their paths.

    ``subject`` is one of ``HELD_OUT``; another ``seed`` gives other pictures of it.
    """
    looks = HELD_OUT[subject]
    folder.mkdir(parents=True, exist_ok=True)
    first = FIRST_SCENE + seed * len(PLACES_SHOWN)
    paths = []
    for number, place in enumerate(PLACES_SHOWN):
        path = folder / f"{subject}_{number + 1}.png"
        draw(scene_of(looks, first + number, place), side).save(path)
        paths.append(path)
    return paths
