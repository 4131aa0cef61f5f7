"""A pen that fills outlines as in a picture book: a dark contour, three tones, light from above
left. Shapes are given in the thing's own coordinates; the pen knows where they go."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .geometry import Points, grown

Colour = tuple[int, int, int]
INK: Colour = (44, 32, 38)
WHITE: Colour = (255, 255, 255)
SHADE: Colour = (52, 34, 78)
CONTOUR = 0.0135  # of the picture's side


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """``share`` of the second colour in the first."""
    (r, g, b), (x, y, z) = first, second
    return round(r + (x - r) * share), round(g + (y - g) * share), round(b + (z - b) * share)


def dark(colour: Colour) -> Colour:
    return mix(colour, SHADE, 0.2)


def light(colour: Colour) -> Colour:
    return mix(colour, (255, 250, 232), 0.2)


def contour(colour: Colour) -> Colour:
    return mix(colour, INK, 0.78)


@dataclass(frozen=True)
class Tint:
    """What the light of a place does to colours: times ``gain``, then ``share`` of ``air``."""

    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    air: Colour = WHITE
    share: float = 0.0

    def __call__(self, colour: Colour) -> Colour:
        if self is DAYLIGHT:
            return colour
        (r, g, b), (x, y, z) = colour, self.gain
        return mix((min(255, r * x), min(255, g * y), min(255, b * z)), self.air, self.share)


DAYLIGHT = Tint()


class Pen:
    """Draws on ``image``; (x, y) goes to ``matrix`` @ (x, y) + ``origin`` in pixels."""

    def __init__(
        self, image: Image.Image, matrix: np.ndarray, origin: np.ndarray, tint: Tint = DAYLIGHT
    ) -> None:
        self._draw = ImageDraw.Draw(image, "RGBA" if image.mode == "RGB" else None)
        self._matrix = np.ascontiguousarray(matrix.T)
        self._origin = origin
        self._tint = tint
        self._line = CONTOUR * image.width
        (a, b), (c, d) = matrix.tolist()
        self.unit = math.sqrt(abs(a * d - b * c))  # pixels per unit of the thing's coordinates

    def fill(self, points: Points, colour: Colour, alpha: int = 255) -> None:
        """One flat tone, no contour; ``alpha`` only on the picture itself."""
        self._fill(points @ self._matrix + self._origin, colour, alpha)

    def _fill(self, pixels: Points, colour: Colour, alpha: int = 255) -> None:
        self._draw.polygon(pixels.ravel().tolist(), fill=(*self._tint(colour), alpha))

    def blob(self, points: Points, colour: Colour, tones: bool = True, line: float = 1.0) -> None:
        """A solid shape of its own."""
        self.blobs([(points, colour)], tones, line)

    def blobs(
        self, parts: Iterable[tuple[Points, Colour]], tones: bool = True, line: float = 1.0
    ) -> None:
        """Several shapes inside one common contour."""
        placed = [(points @ self._matrix + self._origin, colour) for points, colour in parts]
        for pixels, colour in placed:
            self._fill(grown(pixels, self._line * line), contour(colour))
        for pixels, colour in placed:
            self._fill(pixels, dark(colour) if tones else colour)
        if tones:
            for pixels, colour in placed:
                self._fill(*self._inner(pixels, 0.9, 0.035, colour))
                self._fill(*self._inner(pixels, 0.58, 0.14, light(colour)))

    @staticmethod
    def _inner(pixels: Points, scale: float, shift: float, colour: Colour) -> tuple:
        """The shape again, smaller and nearer to the light."""
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        middle = (low + high) / 2
        return (pixels - middle) * scale + middle - (high - low) * shift, colour

    def dot(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """A small disc, round whatever the matrix does."""
        px, py = np.array((x, y)) @ self._matrix + self._origin
        r = radius * self.unit
        self._draw.ellipse((px - r, py - r, px + r, py + r), fill=(*self._tint(colour), 255))

    def line(self, points: Points, width: float, colour: Colour, alpha: int = 255) -> None:
        """An open line, ``width`` in the thing's own units."""
        pixels = points @ self._matrix + self._origin
        wide = max(1, round(width * self.unit))
        self._draw.line(pixels.ravel().tolist(), (*self._tint(colour), alpha), wide)


def page(image: Image.Image, tint: Tint = DAYLIGHT) -> Pen:
    """A pen for the picture itself, whose corners are (0, 0) and (1, 1)."""
    return Pen(image, np.eye(2) * image.width, np.zeros(2), tint)
