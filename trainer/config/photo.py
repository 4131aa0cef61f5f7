"""One picture of a concept: the file, and how it is read."""

import re
from dataclasses import dataclass

from .options import ConfigError, shown

AS_MASK = "mask"
_COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0), "grey": (128, 128, 128)}


@dataclass(frozen=True)
class Photo:
    """What decides the pixels of a picture and which of them count.

    Attributes:
        transparent: what lies under transparent pixels, see :func:`background`.
        mask: a file of the same size whose white part trains; empty: all of the picture.
    """

    path: str
    transparent: str = "white"
    mask: str = ""


def background(transparent: str) -> tuple[int, int, int] | None:
    """The colour under transparent pixels; None: they keep their own, and alpha is the mask.

    Raises:
        ConfigError: neither white, black, grey nor mask, and no #rrggbb.
    """
    text = transparent.strip().lower() if isinstance(transparent, str) else ""
    if text == AS_MASK:
        return None
    if text in _COLOURS:
        return _COLOURS[text]
    if re.fullmatch(r"#[0-9a-f]{6}", text):
        return tuple(bytes.fromhex(text[1:]))
    raise ConfigError(
        f"transparent = {shown(transparent)}: choose white, black, grey, a colour such as #ff8800,"
        " or mask"
    )
