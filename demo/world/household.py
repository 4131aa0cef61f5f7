"""Things about the house: cup, teapot, ball, backpack, umbrella, robot."""

# fmt: off
from __future__ import annotations

import math
import random

import numpy as np

from .geometry import box, curve, heart, limb, oval, path, slice_of, star, turned
from .pen import INK, WHITE, Colour, Pen, dark, light, mix
from .scene import Looks, paint


def _paints(looks: Looks) -> tuple[random.Random, Colour, Colour]:
    rng = random.Random(looks.jitter)
    return rng, paint(looks.colour, rng), paint(looks.second, rng)


def badge(pen: Pen, marking: str, x: float, y: float, r: float, colour: Colour) -> None:
    """A star, a heart or three dots."""
    if marking == "star":
        pen.fill(star(x, y, r * 1.15), colour)
    elif marking == "heart":
        pen.fill(heart(x, y, r), colour)
    elif marking == "dots":
        for dx, dy in ((-0.9, -0.5), (0.1, 0.25), (0.95, -0.55), (-0.8, 0.85), (0.9, 0.9)):
            pen.fill(oval(x + dx * r, y + dy * r, r * 0.34, r * 0.34), colour)


def draw_cup(pen: Pen, looks: Looks, pose: str, phase: float) -> None:
    rng, main, second = _paints(looks)
    top = {"mug": -0.5, "tall": -0.84, "bowl": -0.3}[looks.shape] * rng.uniform(0.9, 1.0)
    foot = 0.3 if looks.shape == "bowl" else 0.5
    steam = mix(WHITE, (200, 206, 220), 0.3)
    for x in (-0.3, 0.06) if looks.extra else ():
        wave = path(
            (x, top - 0.12), (x + 0.12, top - 0.24), (x - 0.02, top - 0.36), (x + 0.1, top - 0.46)
        )
        pen.line(wave, 0.08, steam)
    middle = (top + 0.9) / 2
    handle = [(0.5, middle - 0.3), (0.9, middle - 0.3), (0.94, middle + 0.12), (0.46, middle + 0.3)]
    pen.blob(limb(handle, 0.085), dark(main), tones=False)
    side = curve((-0.64, top), (0.64, top), (0.64, top + 0.14), (foot + 0.08, 0.66), (foot, 0.94),
                 (-foot, 0.94), (-foot - 0.08, 0.66), (-0.64, top + 0.14))
    pen.blob(side, main)
    if looks.marking == "stripes":
        for y in (0.3, 0.62):
            at = top + (0.94 - top) * y
            w = 0.63 - (0.6 - foot) * y * y
            pen.fill(
                curve((-w, at - 0.09), (0, at - 0.04), (w, at - 0.09), (w, at + 0.06),
                      (0, at + 0.11), (-w, at + 0.06)),
                second,
            )
    badge(pen, looks.marking, 0, middle + 0.08, 0.27, second)
    pen.blob(oval(0, top + 0.02, 0.64, 0.14), light(main), tones=False, line=0.8)
    inside = second if looks.marking == "inside" else mix(main, INK, 0.45)
    pen.fill(oval(0, top + 0.03, 0.53, 0.095), inside)


def draw_teapot(pen: Pen, looks: Looks, pose: str, phase: float) -> None:
    rng, main, second = _paints(looks)
    plump = rng.uniform(0.92, 1.05)
    tall = 0.1 if looks.shape == "tall" else 0.0
    pen.blob(limb([(0.42, 0.06 - tall), (0.92, -0.02), (0.94, 0.44), (0.44, 0.6)], 0.085), second,
             tones=False)
    pen.blob(
        curve((-0.4, 0.3), (-0.7, 0.16), (-0.86, -0.24), (-1.02, -0.3), (-0.92, -0.06),
              (-0.72, 0.5), (-0.4, 0.66)),
        main,
        tones=False,
    )
    body = curve((0, -0.3 - tall), (0.42, -0.14 - tall), (0.62 * plump, 0.34), (0.42, 0.84),
                 (0, 0.92), (-0.42, 0.84), (-0.62 * plump, 0.34), (-0.42, -0.14 - tall))
    pen.blob(box(-0.36, 0.82, 0.36, 0.96, 0.05), dark(main), tones=False)
    pen.blob(body, main)
    if looks.marking == "stripes":
        for start, end in ((0.0, 0.26), (0.5, 0.72)):
            pen.fill(slice_of(0, 0.3, 0.6 * plump, 0.62, start, end), second)
    badge(pen, looks.marking, 0, 0.36, 0.27, second)
    pen.blob(
        curve((-0.4, -0.18 - tall), (-0.2, -0.4 - tall), (0.2, -0.4 - tall), (0.4, -0.18 - tall),
              (0, -0.1 - tall)),
        second,
        line=0.9,
    )
    pen.blob(oval(0, -0.5 - tall, 0.11, 0.11), main)


def draw_ball(pen: Pen, looks: Looks, pose: str, phase: float) -> None:
    _, main, second = _paints(looks)
    r, y = 0.8, 0.2
    spin = (phase - 0.5) * 80
    pen.blob(oval(0, y, r, r), main)
    if looks.marking == "stripe":
        pen.fill(turned(slice_of(0, 0, r, r, -0.28, 0.28, 9), spin) + (0, y), second)
    elif looks.marking == "wedges":
        for number in range(3):
            angles = np.radians(spin + number * 120 + np.linspace(0, 60, 7))
            rim = np.stack([np.cos(angles), np.sin(angles)], axis=1) * r
            pen.fill(np.concatenate([rim, [[-0.1, -0.1]]]) + (0, y), second)
        pen.fill(oval(-0.1, y - 0.1, 0.14, 0.14), WHITE)
    elif looks.marking == "dots":
        for number in range(5):
            angle = math.radians(spin + number * 72)
            x, up = 0.5 * math.cos(angle), 0.5 * math.sin(angle)
            pen.fill(oval(x, y + up, 0.15, 0.15), second)
    else:
        badge(pen, looks.marking, 0, y, 0.42, second)
    pen.fill(oval(-0.32, y - 0.44, 0.2, 0.12, -35), mix(main, WHITE, 0.75))


def draw_backpack(pen: Pen, looks: Looks, pose: str, phase: float) -> None:
    rng, main, second = _paints(looks)
    wide = {"round": 0.66, "tall": 0.56}[looks.shape] * rng.uniform(0.94, 1.06)
    pen.blob(limb([(-0.2, -0.7), (-0.16, -0.96), (0.16, -0.96), (0.2, -0.7)], 0.055), INK,
             tones=False, line=0.3)
    for side in (-1, 1):
        strap = [(side * wide * 0.7, -0.3), (side * (wide + 0.22), 0.1), (side * wide * 0.8, 0.7)]
        pen.blob(limb(strap, 0.09), dark(second), tones=False)
    round_top = 0.86 if looks.shape == "round" else 0.74
    pen.blob(
        curve((0, -round_top), (wide * 0.7, -0.72), (wide, -0.2), (wide * 1.04, 0.7),
              (wide * 0.8, 0.95), (-wide * 0.8, 0.95), (-wide * 1.04, 0.7), (-wide, -0.2),
              (-wide * 0.7, -0.72)),
        main,
    )
    pen.line(path((-wide * 0.8, -0.26), (0, -0.12), (wide * 0.8, -0.26)), 0.07, mix(main, INK, 0.5))
    pen.blob(box(-wide * 0.72, 0.2, wide * 0.72, 0.84, 0.14), second, line=0.8)
    pen.fill(box(-wide * 0.72, 0.32, wide * 0.72, 0.4), mix(second, INK, 0.3))
    if looks.marking == "stripes":
        for y in (-0.6, -0.4):
            pen.fill(box(-wide * 0.76, y, wide * 0.76, y + 0.1), second)
    else:
        badge(pen, looks.marking, 0, -0.44, 0.2, second)


def draw_umbrella(pen: Pen, looks: Looks, pose: str, phase: float) -> None:
    rng, main, second = _paints(looks)
    low = rng.uniform(0.06, 0.14)
    pen.blob(limb([(0, -0.8), (0, 0.74), (0.08, 0.9), (0.24, 0.9), (0.28, 0.76)], 0.05),
             (150, 100, 62), tones=False)
    rim = [-0.98, -0.34, 0.34, 0.98]
    arc = curve((-0.98, low), (-0.8, -0.42), (-0.34, -0.8), (0, -0.88), (0.34, -0.8), (0.8, -0.42),
                (0.98, low), (0.66, low - 0.1), (0.34, low + 0.04), (0, low - 0.08),
                (-0.34, low + 0.04), (-0.66, low - 0.1))
    pen.blob(arc, main)
    if looks.marking == "wedges":
        pen.fill(
            curve((0, -0.86), (0.24, -0.4), (rim[2], low), (0, low - 0.1), (rim[1], low),
                  (-0.24, -0.4)),
            second,
        )
    elif looks.marking == "rim":
        pen.fill(
            curve((-0.94, low - 0.04), (-0.86, -0.22), (0, -0.18), (0.86, -0.22),
                  (0.94, low - 0.04), (0.34, low), (0, low - 0.1), (-0.34, low)),
            second,
        )
    else:
        badge(pen, looks.marking, 0, -0.38, 0.26, second)
    for x in rim[1:3]:
        pen.line(path((0, -0.86), (x * 0.74, -0.4), (x, low + 0.02)), 0.04, mix(main, INK, 0.5))
    pen.blob(limb([(0, -0.9), (0, -0.98)], 0.035), (150, 100, 62), tones=False, line=0.6)


def draw_robot(pen: Pen, looks: Looks, pose: str, phase: float) -> None:
    rng, main, second = _paints(looks)
    wide, swing = rng.uniform(0.44, 0.52), (phase - 0.5) * 0.5
    for x in (-0.24, 0.24):
        pen.blob(box(x - 0.13, 0.5, x + 0.13, 0.86, 0.03), mix(main, INK, 0.3), tones=False)
        pen.blob(box(x - 0.2, 0.8, x + 0.18, 0.97, 0.06), second, tones=False)
    for side in (-1, 1):
        hand = (side * (wide + 0.3), 0.36 - side * swing)
        pen.blob(limb([(side * wide, 0.06), hand], 0.085), mix(main, INK, 0.3), tones=False)
        pen.blob(oval(*hand, 0.13, 0.13), second, tones=False)
    pen.blob(box(-wide, -0.12, wide, 0.62, 0.1), main)
    pen.fill(box(-wide * 0.66, 0.04, wide * 0.66, 0.46, 0.06), second)
    badge(pen, looks.marking, 0, 0.26, 0.15, main)
    pen.line(np.array([(0, -0.7), (0, -0.9)]), 0.07, INK)
    pen.blob(oval(0, -0.9, 0.085, 0.085), (222, 66, 60), tones=False, line=0.7)
    if looks.shape == "round":
        pen.blob(oval(0, -0.42, 0.46, 0.36), main)
    else:
        pen.blob(box(-0.44, -0.76, 0.44, -0.1, 0.08), main)
    for x in (-0.19, 0.19):
        pen.blob(oval(x, -0.48, 0.14, 0.14), (252, 244, 190), tones=False, line=0.6)
        pen.fill(oval(x + swing * 0.1, -0.47, 0.065, 0.065), INK)
    pen.fill(box(-0.2, -0.28, 0.2, -0.2, 0.03), INK)
