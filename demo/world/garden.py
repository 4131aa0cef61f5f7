"""House, tree and flower."""

# fmt: off
from __future__ import annotations

import random

import numpy as np

from .geometry import box, curve, limb, oval, turned
from .pen import INK, WHITE, Colour, Pen, dark, light, mix
from .scene import Looks, paint

BARK: Colour = (134, 90, 58)
LEAF: Colour = (92, 160, 74)


def draw_house(pen: Pen, looks: Looks, pose: str, phase: float) -> None:
    rng = random.Random(looks.jitter)
    wall, roof = paint(looks.colour, rng), paint(looks.second, rng)
    wide, eave = {"cottage": (0.74, 0.0), "tower": (0.5, -0.16), "barn": (0.82, 0.02)}[looks.shape]
    if looks.extra and looks.shape != "tower":
        pen.blob(box(0.24, -0.8, 0.46, -0.1), paint(looks.extra, rng))
    pen.blob(box(-wide, eave, wide, 0.96), wall)
    top = -0.92 if looks.shape == "tower" else -0.76
    if looks.shape == "barn":
        peak = [(-wide - 0.12, eave + 0.1), (-wide * 0.72, -0.5), (0, top), (wide * 0.72, -0.5),
                (wide + 0.12, eave + 0.1)]
    else:
        peak = [(-wide - 0.16, eave + 0.1), (-0.04, top), (0.04, top), (wide + 0.16, eave + 0.1)]
    pen.blob(np.array(peak), roof)
    if looks.shape != "tower":
        pen.blob(oval(0, -0.22, 0.14, 0.14), (190, 224, 240), tones=False, line=0.7)
    _front(pen, looks, wide, eave, mix(roof, INK, 0.12))


def _front(pen: Pen, looks: Looks, wide: float, eave: float, door: Colour) -> None:
    glass = (255, 236, 150) if looks.marking == "lit" else (186, 222, 240)
    at = 0.0 if looks.marking == "plain" else -0.34 * (wide > 0.6)
    pen.blob(box(at - 0.17, 0.44, at + 0.17, 0.96, 0.08), door, tones=False, line=0.8)
    pen.fill(oval(at + 0.08, 0.72, 0.035, 0.035), (250, 220, 110))
    spots = [(-0.46, 0.4), (0.46, 0.4)] if at == 0.0 else [(0.36, 0.42)]
    if wide < 0.6:
        spots = [(0, 0.12)]
    for x, y in spots:
        r = 0.19 if wide > 0.6 else 0.2
        if looks.marking == "round":
            pen.blob(oval(x, y, r, r), glass, tones=False, line=0.8)
        else:
            pen.blob(box(x - r, y - r, x + r, y + r), glass, tones=False, line=0.8)
        pen.fill(box(x - r, y - 0.025, x + r, y + 0.025), WHITE)
        pen.fill(box(x - 0.025, y - r, x + 0.025, y + r), WHITE)


def draw_tree(pen: Pen, looks: Looks, pose: str, phase: float) -> None:
    rng = random.Random(looks.jitter)
    crown, fruit = paint(looks.colour, rng), paint(looks.second, rng)
    sway = (phase - 0.5) * 0.14
    pen.blob(limb([(0, 0.96), (0.02, 0.5), (sway / 2, -0.1)], 0.15, 0.09), BARK, tones=False)
    pen.fill(limb([(-0.07, 0.92), (-0.04, 0.5)], 0.03), light(BARK))
    if looks.shape == "pine":
        for y, w in ((0.52, 0.74), (0.08, 0.6), (-0.34, 0.42)):
            x = sway * (1 - y)
            pen.blob(
                curve((x, y - 0.62), (x + w * 0.6, y - 0.16), (x + w, y + 0.06), (x, y + 0.12),
                      (x - w, y + 0.06), (x - w * 0.6, y - 0.16)),
                crown,
            )
    elif looks.shape == "tall":
        pen.blob(oval(sway, -0.3, 0.46, 0.68), crown)
    else:
        pen.blobs(
            [
                (oval(x + sway, y, r, r), crown)
                for x, y, r in ((-0.46, -0.06, 0.4), (0.46, -0.04, 0.4), (-0.2, -0.46, 0.42),
                                (0.26, -0.48, 0.4), (0, -0.06, 0.44))
            ]
        )
    if looks.marking != "plain":
        round_tree = ((-0.44, -0.1), (0.1, -0.52), (0.48, -0.14), (-0.2, -0.5), (0.06, 0.02))
        narrow = ((-0.14, -0.56), (0.14, -0.3), (-0.18, -0.02), (0.2, 0.1), (0.02, -0.72))
        for x, y in round_tree if looks.shape == "round" else narrow:
            r = 0.105 if looks.marking == "fruit" else 0.075
            pen.blob(oval(x + sway, y, r, r), fruit, tones=False, line=0.5)


def draw_flower(pen: Pen, looks: Looks, pose: str, phase: float) -> None:
    rng = random.Random(looks.jitter)
    petal, centre = paint(looks.colour, rng), paint(looks.second, rng)
    sway = (phase - 0.5) * 0.36
    head = (sway, -0.36)
    pen.blob(limb([(0, 0.98), (sway * 0.2, 0.4), head], 0.06), LEAF, tones=False)
    for side, y in ((-1, 0.62), (1, 0.5)):
        leaf = curve((0, 0), (0.2, -0.2), (0.56, -0.22), (0.34, 0.04)) * (side, 1)
        pen.blob(leaf + (0, y + 0.14), LEAF, tones=False)
    if looks.shape == "tulip":
        _tulip(pen, petal, centre, head, looks.marking)
        return
    petals = rng.choice((5, 6)) if looks.shape == "round" else 9
    for number in range(petals):
        turn = 360 / petals * number + sway * 40
        if looks.shape == "round":
            leaf = oval(0, -0.36, 0.24, 0.26)
        else:
            leaf = curve((0, -0.66), (0.13, -0.4), (0.08, 0), (-0.08, 0), (-0.13, -0.4))
        pen.blob(turned(leaf, turn) + head, petal, tones=False)
        if looks.marking == "tips":
            pen.fill(turned(oval(0, -0.48, 0.09, 0.1), turn) + head, centre)
    pen.blob(oval(*head, 0.23, 0.23), centre)
    if looks.marking == "dots":
        for dx, dy in ((-0.08, -0.06), (0.08, -0.04), (0, 0.1)):
            pen.fill(oval(head[0] + dx, head[1] + dy, 0.04, 0.04), mix(centre, INK, 0.5))


def _tulip(
    pen: Pen, petal: Colour, centre: Colour, head: tuple[float, float], marking: str
) -> None:
    for side in (-1, 1):
        outer = curve((0, 0.36), (0.42, 0.18), (0.5, -0.48), (0.22, -0.2)) * (side, 1)
        pen.blob(outer + head, dark(petal), tones=False)
    pen.blob(curve((0, 0.38), (0.3, 0.16), (0.26, -0.26), (0, -0.56), (-0.26, -0.26), (-0.3, 0.16))
             + head, petal)
    if marking == "dots":
        for x, y in ((-0.1, -0.1), (0.1, -0.06), (0, 0.16)):
            pen.fill(oval(x, y, 0.065, 0.065) + head, centre)
    elif marking == "tips":
        pen.fill(curve((0, -0.52), (0.2, -0.24), (0, -0.16), (-0.2, -0.24)) + head, centre)
    else:
        pen.fill(curve((0, 0.28), (0.1, 0.06), (0, -0.3), (-0.1, 0.06)) + head, centre)
