"""The front of a head in units of its half-width: eyes, muzzle, nose, mouth, whiskers."""

# fmt: off
from __future__ import annotations

from collections.abc import Callable

from .geometry import Points, curve, limb, oval, path
from .pen import INK, WHITE, Colour, Pen, light, mix

PINK: Colour = (238, 142, 152)
At = Callable[[Points], Points]


def _eyes(pen: Pen, at: At, apart: float, y: float, size: float, iris: Colour | None) -> None:
    for side in (-1, 1):
        x = side * apart
        if iris:
            pen.fill(at(oval(x, y, size * 1.25, size * 1.3)), INK)
            pen.fill(at(oval(x, y, size, size * 1.05)), iris)
            pen.fill(at(oval(x, y, size * 0.46, size * 0.95)), INK)
        else:
            pen.fill(at(oval(x, y, size, size * 1.15)), INK)
        pen.fill(at(oval(x - size * 0.3, y - size * 0.4, size * 0.38, size * 0.38)), WHITE)


def dog_face(pen: Pen, fur: Colour, at: At, r: float) -> None:
    muzzle = light(mix(fur, (255, 240, 214), 0.55))
    pen.fill(
        at(
            curve((0, -0.06), (0.3, 0.06), (0.54, 0.38), (0.3, 0.68), (0, 0.72), (-0.3, 0.68),
                  (-0.54, 0.38), (-0.3, 0.06))
        ),
        muzzle,
    )
    pen.fill(at(oval(0, 0.66, 0.15, 0.17)), PINK)
    pen.fill(
        at(curve((-0.24, 0.5), (0, 0.4), (0.24, 0.5), (0.1, 0.58), (0, 0.5), (-0.1, 0.58))), INK
    )
    _eyes(pen, at, 0.38, -0.14, 0.145, None)
    pen.fill(at(oval(0, 0.22, 0.23, 0.165)), INK)
    pen.fill(at(oval(-0.07, 0.16, 0.08, 0.045)), WHITE)


def cat_face(pen: Pen, fur: Colour, at: At, r: float) -> None:
    muzzle = light(mix(fur, (255, 244, 226), 0.6))
    pen.fill(at(oval(-0.17, 0.4, 0.24, 0.19)), muzzle)
    pen.fill(at(oval(0.17, 0.4, 0.24, 0.19)), muzzle)
    whisker = WHITE if sum(fur) < 380 else mix(fur, INK, 0.6)
    for side in (-1, 1):
        for y, drop in ((0.3, -0.08), (0.44, 0.08)):
            pen.line(at(path((side * 0.4, y), (side * 1.12, y + drop))), 0.045 * r, whisker)
    _eyes(pen, at, 0.42, -0.06, 0.2, (172, 206, 84))
    pen.fill(at(curve((-0.11, 0.2), (0.11, 0.2), (0, 0.34))), PINK)
    pen.line(
        at(path((-0.2, 0.46), (-0.08, 0.5), (0, 0.4), (0.08, 0.5), (0.2, 0.46))), 0.055 * r, INK
    )


def rabbit_face(pen: Pen, fur: Colour, at: At, r: float) -> None:
    muzzle = light(mix(fur, (255, 246, 236), 0.7))
    for side in (-1, 1):
        pen.fill(at(oval(side * 0.52, 0.32, 0.16, 0.12)), mix(fur, PINK, 0.55))
    pen.fill(at(oval(0, 0.42, 0.34, 0.28)), muzzle)
    _eyes(pen, at, 0.4, -0.08, 0.165, None)
    pen.fill(at(limb([(0, 0.34), (0, 0.5)], 0.03)), INK)
    pen.blob(at(curve((-0.12, 0.5), (0.12, 0.5), (0.1, 0.74), (-0.1, 0.74))), WHITE, tones=False,
             line=0.5)
    pen.fill(at(curve((-0.13, 0.22), (0.13, 0.22), (0, 0.37))), PINK)


FACES = {"dog": dog_face, "cat": cat_face, "rabbit": rabbit_face}
