"""The demo's sheet: the photos, and rows of the same prompts and seeds before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from ..trainer.plot import FAINT, INK, PAPER, SERIES, font

MARGIN, LABELS, GAP = 48, 92, 14
SIDE, COLUMNS = 256, 4
LEFT = MARGIN + LABELS
WIDTH = LEFT + COLUMNS * SIDE + (COLUMNS - 1) * GAP + MARGIN
PHOTOS = 5
PHOTO = (WIDTH - LEFT - MARGIN - (PHOTOS - 1) * GAP) // PHOTOS
ROUND = 10  # radius of the pictures' corners
ACCENT = SERIES[0][2]


@dataclass(frozen=True)
class Comparison:
    """One prompt, or several with something in common, before and after training."""

    title: str
    captions: Sequence[str]
    """Over the columns; empty where the title says it all."""
    before: Sequence[Image.Image]
    after: Sequence[Image.Image]


def draw_sheet(
    photos: Sequence[Path],
    comparisons: Sequence[Comparison],
    title: str,
    subtitle: str,
    note: str,
    target: Path,
) -> None:
    """Writes the sheet; ``note`` is a line under everything, empty for none."""
    sheet = Sheet(title, subtitle)
    sheet.photos(photos)
    for comparison in comparisons:
        sheet.comparison(comparison)
    sheet.finish(note).save(target, optimize=True)


class Sheet:
    """A page that grows downwards."""

    def __init__(self, title: str, subtitle: str) -> None:
        self.page = Image.new("RGB", (WIDTH, 8000), PAPER)
        self.pen = ImageDraw.Draw(self.page)
        self.y = 40
        self._line(MARGIN, title, 34, INK, 50)
        self._line(MARGIN, subtitle, 19, FAINT, 48)

    def photos(self, paths: Sequence[Path]) -> None:
        """The first few photos in one row."""
        shown = paths[:PHOTOS]
        more = f", {len(shown)} of them here" if len(shown) < len(paths) else ""
        self._line(LEFT, f"{len(paths)} photos of the subject{more}", 21, INK, 40)
        pictures = [Image.open(path).convert("RGB") for path in shown]
        self._row("", FAINT, pictures, PHOTO)
        self.y += 28

    def comparison(self, comparison: Comparison) -> None:
        self._line(LEFT, comparison.title, 21, INK, 34)
        for column, caption in enumerate(comparison.captions):
            x = LEFT + column * (SIDE + GAP)
            self.pen.text((x, self.y), caption, FAINT, font(18))
        self.y += 32 if comparison.captions else 6
        self._row("before", FAINT, comparison.before, SIDE)
        self._row("after", ACCENT, comparison.after, SIDE)
        self.y += 28

    def finish(self, note: str) -> Image.Image:
        """The page, cut to its length."""
        if note:
            self._line(LEFT, note, 18, FAINT, 40)
        return self.page.crop((0, 0, WIDTH, self.y + MARGIN - 28))

    def _line(self, x: int, text: str, size: int, colour: str, height: int) -> None:
        self.pen.text((x, self.y), text, colour, font(size))
        self.y += height

    def _row(self, label: str, colour: str, pictures: Sequence[Image.Image], side: int) -> None:
        """Pictures side by side with the row's name before them."""
        middle = (LEFT - 20, self.y + side / 2)
        self.pen.text(middle, label, colour, font(20), anchor="rm")
        for column, picture in enumerate(pictures):
            place = (LEFT + column * (side + GAP), self.y)
            # smooth: at a few dozen pixels, visible squares would hide what is on them
            square = ImageOps.fit(picture, (side, side), Image.Resampling.LANCZOS)
            self.page.paste(square, place, _corners(side))
        self.y += side + GAP


def _corners(side: int) -> Image.Image:
    """A mask with round corners, smoothed by drawing it larger."""
    fine = 4
    mask = Image.new("L", (side * fine, side * fine))
    box = (0, 0, side * fine - 1, side * fine - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, ROUND * fine, 255)
    return mask.reduce(fine)
