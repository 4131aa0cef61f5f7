"""What a person should know of a photo before it trains: marks with their reason in words.

Nothing is left out for a mark: it is advice, and says by which number it was come to.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .image_set import ImageSet
from .images import ImageFile, fit_square, read_image

SMALL = 512  # pixels of the shorter side: what Stable Diffusion 1.x was trained at
ODD = 2.0  # longer by shorter side
SHARP_SIDE = 512  # sharpness depends on the scale: all are measured at one
BLURRED = 30.0  # variance of the Laplacian there; photographs in focus have hundreds


@dataclass(frozen=True)
class Mark:
    """One thing about a photo: ``kind`` for a page, ``text`` for a person."""

    kind: str
    text: str


def describe(found: ImageSet, most: int) -> list[dict[str, Any]]:
    """The first photos as JSON: name, width, height, crop (see :func:`square`), caption, marks."""
    shown = []
    for number, file in enumerate(found.files[:most]):
        marks = [[mark.kind, mark.text] for mark in marks_of(file, found)]
        entry = {"name": Path(file.path).name, "width": file.width, "height": file.height}
        caption = found.captions[number] if found.captions else ""
        crop = square(file.width, file.height)
        shown.append(entry | {"crop": crop, "caption": caption, "marks": marks})
    return shown


def sharpness(picture: Image.Image) -> float:
    """Variance of the Laplacian of the 8-bit luminance (Pech-Pacheco et al. 2000), of the middle
    square at 512 pixels; enlarging a small picture does not make it sharper."""
    grey = np.asarray(fit_square(picture, SHARP_SIDE).convert("L"), dtype=np.float64)
    middle = grey[1:-1, 1:-1]
    around = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:]
    return float(np.var(around - 4.0 * middle))


def marks_of(file: ImageFile, found: ImageSet) -> list[Mark]:
    """Of one picture of a set."""
    marks = []
    short, long = sorted((file.width, file.height))
    if short < SMALL:
        text = f"{short} pixels on its shorter side: below {SMALL} it is enlarged, and looks soft"
        marks.append(Mark("small", text))
    if long > ODD * short:
        kept = round(100 * short / long)
        marks.append(Mark("odd", f"long and narrow: a square crop keeps {kept} % of it"))
    value = sharpness(read_image(file.path, "white"))
    if value < BLURRED:
        marks.append(
            Mark("blurred", f"blurred, or very even: sharpness {value:.0f} of {BLURRED:g}")
        )
    if is_transparent(file.path):
        marks.append(Mark("transparent", f"partly transparent: {_under(found.transparent)}"))
    if file.masked:
        marks.append(Mark("masked", "with a mask: what is black in it hardly counts"))
    twins = [Path(o.path).name for o in found.files if o.digest == file.digest and o is not file]
    if twins:
        marks.append(Mark("twice", f"the same picture as {', '.join(twins)}: it counts again"))
    return marks


def _under(transparent: str) -> str:
    if transparent == "mask":
        return "those parts hardly count"
    return f"{transparent} lies under it"


def is_transparent(path: str) -> bool:
    """Whether a pixel of a picture that was read before is not opaque."""
    with Image.open(path) as image:
        if not image.has_transparency_data:
            return False
        return image.convert("RGBA").getchannel("A").getextrema()[0] < 255


def square(width: int, height: int) -> tuple[float, float, float, float]:
    """The middle square as parts of the picture: left, top, width, height."""
    side = min(width, height)
    wide, high = side / width, side / height
    return (1 - wide) / 2, (1 - high) / 2, wide, high
