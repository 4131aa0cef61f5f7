"""Car and boat, seen from the side."""

# fmt: off
from __future__ import annotations

import random

from .geometry import Points, box, curve, limb, oval, star
from .pen import INK, WHITE, Colour, Pen, dark, mix
from .scene import Looks, paint

GLASS: Colour = (176, 220, 240)
TYRE: Colour = (58, 56, 64)
WOOD: Colour = (160, 108, 66)


def draw_car(pen: Pen, looks: Looks, pose: str, phase: float) -> None:
    rng = random.Random(looks.jitter)
    main, second = paint(looks.colour, rng), paint(looks.second, rng)
    long = rng.uniform(0.94, 1.04)
    cabin, body, windows = CARS[looks.shape]
    roof = second if looks.marking in ("roof", "stripe") else main
    pen.blob(cabin * (long, 1), roof)
    for window in windows:
        pen.fill(window * (long, 1), mix(GLASS, INK, 0.12))
        pen.fill(window * (long * 0.94, 0.86) + (0, -0.02), GLASS)
    pen.blob(body * (long, 1), main)
    if looks.marking == "stripe":
        pen.fill(box(-0.9 * long, 0.34, 0.9 * long, 0.46), second)
    elif looks.marking == "star":
        pen.fill(star(0.06, 0.42, 0.22), second)
    elif looks.marking == "dots":
        for x in (-0.3, -0.02, 0.26):
            pen.fill(oval(x, 0.42, 0.1, 0.1), second)
    elif looks.marking == "doors":
        pen.fill(box(-0.22, 0.26, 0.28, 0.6, 0.06), second)
    pen.fill(box(-0.9 * long, 0.6, 0.9 * long, 0.68), mix(main, INK, 0.4))
    pen.blob(oval(-0.88 * long, 0.4, 0.075, 0.1), (255, 238, 158), tones=False, line=0.7)
    pen.fill(oval(0.9 * long, 0.4, 0.05, 0.09), (206, 52, 48))
    for x in (-0.52, 0.54):
        pen.blob(oval(x * long, 0.7, 0.26, 0.26), TYRE, tones=False, line=0.7)
        pen.fill(oval(x * long, 0.7, 0.135, 0.135), (214, 214, 220))
        pen.fill(oval(x * long, 0.7, 0.05, 0.05), TYRE)


CARS: dict[str, tuple[Points, Points, list[Points]]] = {
    "beetle": (
        curve((-0.62, 0.3), (-0.5, -0.12), (-0.16, -0.36), (0.3, -0.36), (0.64, -0.08), (0.74, 0.3),
              (0, 0.34)),
        curve((-0.98, 0.5), (-0.92, 0.22), (-0.6, 0.08), (0, 0.12), (0.62, 0.08), (0.94, 0.26),
              (0.98, 0.56), (0.84, 0.7), (0, 0.7), (-0.86, 0.7)),
        [curve((-0.46, 0.06), (-0.34, -0.16), (-0.06, -0.24), (-0.04, 0.08)),
         curve((0.08, -0.24), (0.36, -0.2), (0.54, 0.06), (0.08, 0.08))],
    ),
    "van": (
        box(-0.86, -0.52, 0.94, 0.4, 0.16),
        box(-0.98, 0.08, 0.96, 0.68, 0.14),
        [box(-0.78, -0.38, -0.36, 0.02, 0.06), box(-0.24, -0.38, 0.2, 0.02, 0.06),
         box(0.32, -0.38, 0.8, 0.02, 0.06)],
    ),
    "pickup": (
        curve((-0.52, 0.3), (-0.42, -0.26), (-0.28, -0.42), (0.1, -0.42), (0.2, -0.3), (0.22, 0.3)),
        box(-0.98, 0.12, 0.98, 0.68, 0.1),
        [curve((-0.38, 0.04), (-0.28, -0.26), (0.04, -0.28), (0.08, 0.06))],
    ),
}


def draw_boat(pen: Pen, looks: Looks, pose: str, phase: float) -> None:
    rng = random.Random(looks.jitter)
    main, second = paint(looks.colour, rng), paint(looks.second, rng)
    wide = rng.uniform(0.94, 1.04)
    if looks.shape == "steamer":
        _steamer(pen, second, phase)
    else:
        _sails(pen, looks, second, phase)
    hull = curve((-1.0, 0.34), (-0.5, 0.42), (0.5, 0.42), (1.0, 0.3), (0.84, 0.7), (0.56, 0.94),
                 (0, 0.98), (-0.56, 0.94), (-0.86, 0.7)) * (wide, 1)
    pen.blob(hull, main)
    pen.fill(
        curve((-0.96, 0.36), (-0.5, 0.43), (0.5, 0.43), (0.96, 0.33), (0.92, 0.48), (0.5, 0.54),
              (-0.5, 0.54), (-0.92, 0.5))
        * (wide, 1),
        mix(main, WHITE, 0.45),
    )
    if looks.marking == "stripe":
        pen.fill(
            curve((-0.84, 0.66), (0, 0.74), (0.84, 0.66), (0.74, 0.78), (0, 0.86), (-0.74, 0.78))
            * (wide, 1),
            second,
        )
    elif looks.marking == "portholes":
        for x in (-0.46, 0, 0.46):
            pen.blob(oval(x, 0.7, 0.1, 0.1), second, tones=False, line=0.6)


def _sails(pen: Pen, looks: Looks, second: Colour, phase: float) -> None:
    belly = 0.1 + 0.14 * phase
    pen.blob(limb([(0.0, -0.96), (0.0, 0.4)], 0.045), WOOD, tones=False)
    sail = curve(
        (0.08, -0.88), (0.4 + belly, -0.36), (0.82, 0.2), (0.46, 0.26), (0.08, 0.24), (0.1, -0.3)
    )
    pen.blob(sail, second)
    if looks.shape == "two sails":
        jib = curve(
            (-0.08, -0.72), (-0.3 - belly / 2, -0.3), (-0.76, 0.2), (-0.4, 0.24), (-0.08, 0.22)
        )
        pen.blob(jib, mix(second, WHITE, 0.5))
    if looks.marking == "star":
        pen.fill(star(0.33, -0.04, 0.18), WHITE if sum(second) < 640 else (214, 66, 60))
    flag = curve((-0.02, -1.0), (-0.3, -0.92), (-0.02, -0.82))
    pen.blob(flag, (220, 70, 62), tones=False, line=0.7)


def _steamer(pen: Pen, second: Colour, phase: float) -> None:
    for number, (x, y, r) in enumerate(((0.3, -0.74, 0.12), (0.52, -0.88, 0.16))):
        pen.fill(oval(x + phase * 0.14 * number, y, r, r * 0.8), (236, 236, 240))
    pen.blob(box(0.06, -0.62, 0.34, 0.1, 0.02), second)
    pen.fill(box(0.06, -0.5, 0.34, -0.36), dark(INK))
    pen.blob(box(-0.6, -0.12, 0.62, 0.46, 0.06), (250, 246, 236))
    pen.blob(box(-0.52, -0.34, 0.0, 0.0, 0.05), (250, 246, 236))
    for x in (-0.36, 0, 0.36):
        pen.fill(oval(x, 0.16, 0.105, 0.105), mix(GLASS, INK, 0.25))
