"""Bird and fish."""

# fmt: off
from __future__ import annotations

import random

from .geometry import circle, curve, limb, oval, slice_of, turned
from .pen import INK, WHITE, Colour, Pen, dark, light, mix
from .scene import Looks, paint

BEAK: Colour = (246, 164, 50)


def draw_bird(pen: Pen, looks: Looks, pose: str, phase: float) -> None:
    rng = random.Random(looks.jitter)
    main, second = paint(looks.colour, rng), paint(looks.second, rng)
    plump = rng.uniform(0.92, 1.1)
    flying = pose == "flying"
    for x in () if flying else (-0.08, 0.14):
        pen.blob(limb([(x, 0.6), (x, 0.92)], 0.045), BEAK, tones=False, line=0.8)
        pen.blob(limb([(x - 0.16, 0.94), (x + 0.08, 0.94)], 0.05), BEAK, tones=False, line=0.8)
    tail = curve((0.4, 0.2), (0.98, 0.0), (1.0, 0.22), (0.94, 0.36), (0.4, 0.46))
    pen.blob(tail, mix(main, INK, 0.18), tones=False)
    if flying:
        _wing(pen, main, second, looks.marking, 0.1, -0.02, -100 + 60 * phase, 0.9)
    if looks.shape == "crest":
        for turn in (-38, -8, 22):
            feather = turned(limb([(0, 0), (0, -0.34)], 0.1, 0.05), turn)
            pen.blob(feather + (-0.3, -0.66), second, tones=False)
    body = curve((-0.34, -0.86), (0.06, -0.66), (0.26, -0.2), (0.62, 0.16), (0.46, 0.56 * plump),
                 (0, 0.7 * plump), (-0.44, 0.5), (-0.6, 0.06), (-0.72, -0.44), (-0.62, -0.76))
    pen.blob(body, main)
    pen.fill(
        curve(
            (-0.5, -0.06), (-0.12, 0.06), (0.1, 0.56), (-0.16, 0.63), (-0.4, 0.44), (-0.55, 0.16)
        ),
        second,
    )
    beak_long = 0.4 if looks.shape == "long beak" else 0.26
    beak = curve((-0.66, -0.6), (-0.68 - beak_long, -0.46), (-0.68, -0.34), (-0.6, -0.42))
    pen.blob(beak, BEAK, tones=False)
    if looks.marking == "cap":
        pen.fill(curve((-0.64, -0.72), (-0.34, -0.84), (-0.06, -0.66), (-0.3, -0.6)), second)
    pen.fill(oval(-0.42, -0.5, 0.15, 0.16), WHITE)
    pen.fill(oval(-0.44, -0.49, 0.105, 0.12), INK)
    pen.fill(oval(-0.47, -0.53, 0.04, 0.045), WHITE)
    if flying:
        _wing(pen, main, second, looks.marking, 0.04, 0.06, -62 + 70 * phase, 1.0)
    else:
        _wing(pen, main, second, looks.marking, 0.0, -0.06, 34 + 10 * phase, 0.72)


def _wing(pen: Pen, main: Colour, second: Colour, marking: str, x: float, y: float, turn: float,
          size: float) -> None:
    def at(points):
        return turned(points * size, turn) + (x, y)

    pen.blob(
        at(
            curve((-0.1, -0.22), (0.4, -0.3), (0.86, -0.1), (1.0, 0.16), (0.6, 0.3), (0.2, 0.26),
                  (-0.12, 0.1))
        ),
        dark(main),
        tones=False,
    )
    if marking == "bars":
        for start in (0.36, 0.62):
            pen.fill(
                at(
                    curve((start, -0.2), (start + 0.12, -0.18), (start + 0.18, 0.22),
                          (start + 0.04, 0.24))
                ),
                second,
            )
    elif marking == "tips":
        pen.fill(at(curve((0.6, -0.16), (0.86, -0.06), (0.96, 0.14), (0.62, 0.24))), second)
    else:
        pen.fill(at(curve((0.0, -0.14), (0.4, -0.2), (0.7, -0.06), (0.3, 0.04))), light(main))


def draw_fish(pen: Pen, looks: Looks, pose: str, phase: float) -> None:
    rng = random.Random(looks.jitter)
    main, second = paint(looks.colour, rng), paint(looks.second, rng)
    high = {"round": 0.7, "slim": 0.44, "tall fin": 0.54}[looks.shape] * rng.uniform(0.92, 1.06)
    middle, wag = 1 - high - 0.1, (phase - 0.5) * 0.3
    fin = mix(second, INK, 0.06)
    y = middle
    pen.blob(
        curve((0.46, y), (0.78, y - 0.24 + wag), (1.0, y - 0.46 + wag), (0.92, y + wag * 0.6),
              (1.0, y + 0.46 + wag), (0.78, y + 0.24 + wag)),
        fin,
        tones=False,
    )
    tall = 0.56 if looks.shape == "tall fin" else 0.26
    pen.blob(
        curve((-0.3, y - high * 0.7), (0.0, y - high - tall), (0.34, y - high - tall * 0.6),
              (0.44, y - high * 0.4)),
        fin,
        tones=False,
    )
    pen.blob(curve((-0.1, y + high * 0.8), (0.2, y + high + 0.18), (0.34, y + high * 0.6)), fin,
             tones=False)
    pen.blob(_fish_body(y, high), main)
    _fish_marks(pen, looks.marking, second, y, high)
    pen.blob(turned(curve((0, -0.1), (0.3, -0.16), (0.36, 0.04), (0.26, 0.2), (0, 0.1)), wag * 90)
             + (-0.12, y + 0.14), fin, tones=False, line=0.8)
    pen.fill(limb([(-0.84, y + 0.2), (-0.66, y + 0.25), (-0.56, y + 0.17)], 0.035), INK)
    pen.blob(oval(-0.52, y - 0.12, 0.16, 0.16), WHITE, tones=False, line=0.7)
    pen.fill(oval(-0.55, y - 0.11, 0.095, 0.1), INK)
    pen.fill(oval(-0.58, y - 0.15, 0.035, 0.035), WHITE)


def _fish_body(y: float, high: float):
    points = circle(32) * (0.76, high)
    points[:, 1] *= 1 - 0.42 * (points[:, 0] > 0.2) * (points[:, 0] - 0.2) / 0.56
    return points + (-0.14, y)


def _fish_marks(pen: Pen, marking: str, second: Colour, y: float, high: float) -> None:
    if marking == "stripes":
        for x, tall in ((-0.24, 0.9), (0.04, 0.84), (0.3, 0.6)):
            h = high * tall
            pen.fill(
                curve((x - 0.07, y - h), (x + 0.05, y - h), (x + 0.1, y), (x + 0.04, y + h),
                      (x - 0.08, y + h), (x - 0.02, y)),
                second,
            )
    elif marking == "dots":
        for dx, dy in ((-0.14, -0.5), (0.12, -0.2), (0.34, 0.1), (0.1, 0.5), (-0.2, 0.1),
                       (0.36, -0.36)):
            pen.fill(oval(dx, y + dy * high, 0.085, 0.085), second)
    elif marking == "belly":
        pen.fill(slice_of(-0.14, y, 0.7, high * 0.94, 0.42, 0.97), second)
    elif marking == "mask":
        pen.fill(turned(slice_of(0, 0, high * 0.9, 0.72, 0.42, 0.98), 90) + (-0.14, y), second)
