"""Contact sheets: every kind of thing, every place, every held-out subject."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from .chance import HELD_OUT, scene_of, subject
from .kinds import CLASSES, SETTINGS
from .picture import draw
from .scene import Scene


def contact_sheet(rows: Sequence[Sequence[Scene]], size: int, gap: int = 2) -> Image.Image:
    """The scenes of each row side by side."""
    pictures = [[draw(scene, size) for scene in row] for row in rows]
    return tile(pictures, gap)


def tile(rows: Sequence[Sequence[Image.Image]], gap: int = 2) -> Image.Image:
    """Equally large pictures in rows on a white page."""
    size, columns = rows[0][0].width, max(map(len, rows))
    step = size + gap
    page = Image.new("RGB", (columns * step + gap, len(rows) * step + gap), "white")
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            page.paste(picture, (gap + x * step, gap + y * step))
    return page


def save_small(picture: Image.Image, path: Path) -> None:
    """As a PNG of 200 colours: a third of the size, and no one sees it."""
    picture.quantize(200, dither=Image.Dither.NONE).save(path, optimize=True)


def world_rows(seed: int = 0) -> list[list[Scene]]:
    """A row for each kind, in the places one after the other."""
    places = (*SETTINGS, "")
    return [
        [
            scene_of(
                subject(seed + 100 * column, kind),
                seed + 1000 * row + column,
                places[(5 * row + column) % len(places)],
            )
            for column in range(len(places))
        ]
        for row, kind in enumerate(CLASSES)
    ]


def subject_rows(seed: int = 0) -> list[list[Scene]]:
    """A row for each held-out subject: on plain paper, then in the places."""
    return [
        [scene_of(looks, seed + column, place) for column, place in enumerate(("", "", *SETTINGS))]
        for looks in HELD_OUT.values()
    ]
