"""Aspect-ratio buckets: which sizes there are, and which of them a picture gets."""

import math
from collections import Counter
from collections.abc import Iterable

from .config import DataConfig

STEP = 64  # of a side in pixels, so that every level of the net halves evenly

Size = tuple[int, int]
"""Width and height in pixels."""


def bucket_sizes(resolution: int, data: DataConfig) -> list[Size]:
    """Sides that are multiples of ``STEP`` and cover no more than ``resolution``².

    For each width the tallest height, and the same lying down; a size that another one contains
    is left out. They are NovelAI's buckets, as every trainer of the field has them.
    """
    top = data.bucket_max_side
    bottom = min(data.bucket_min_side, _whole(min(resolution, top)))
    found = set()
    for width in range(bottom, top + 1, STEP):
        height = min(top, _whole(resolution**2 // width))
        if height >= bottom:
            found |= {(width, height), (height, width)}
    return sorted(size for size in found if not any(_holds(other, size) for other in found))


def _whole(side: int) -> int:
    return side // STEP * STEP


def _holds(one: Size, other: Size) -> bool:
    return one != other and one[0] >= other[0] and one[1] >= other[1]


def bucket_of(picture: Size, sizes: Iterable[Size], data: DataConfig) -> Size:
    """The size whose shape is nearest to the picture's; of two equally near ones the larger.

    With ``bucket_no_upscale`` a side that is longer than the picture's becomes the picture's,
    rounded down; but never less than ``bucket_min_side`` or, if that is less, a square's side.
    """
    width, height = picture
    shape = math.log(width / height)

    def far(size: Size) -> tuple[float, int, Size]:
        return (round(abs(math.log(size[0] / size[1]) - shape), 9), -size[0] * size[1], size)

    sizes = list(sizes)
    best = min(sizes, key=far)
    if not data.bucket_no_upscale:
        return best
    bottom = min(min(size) for size in sizes)
    w, h = (max(bottom, min(side, _whole(have))) for side, have in zip(best, picture, strict=True))
    return w, h


def square_cuts(width: int, height: int) -> float:
    """The part of a picture's area that a square leaves out."""
    return 1 - min(width, height) / max(width, height)


def shares(count: int, weights: Counter[Size]) -> dict[Size, int]:
    """``count`` divided: one each, and the rest as ``weights`` are, by largest remainders.

    The largest share comes first. With fewer than there are sizes, it is one each.
    """
    total, rest = sum(weights.values()), max(0, count - len(weights))
    exact = {size: rest * weight / total for size, weight in weights.items()}
    given = {size: 1 + int(part) for size, part in exact.items()}
    by_remainder = sorted(exact, key=lambda size: (int(exact[size]) - exact[size], size))
    for size in by_remainder[: rest - sum(map(int, exact.values()))]:
        given[size] += 1
    return dict(sorted(given.items(), key=lambda entry: (-entry[1], entry[0])))
