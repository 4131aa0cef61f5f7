"""Four-legged friends: dog, cat and rabbit share their bodies and differ in their heads."""

# fmt: off
from __future__ import annotations

import random
from dataclasses import dataclass

from .faces import FACES, PINK
from .geometry import curve, limb, oval, turned
from .pen import INK, WHITE, Colour, Pen, dark, mix
from .scene import Looks, paint

GOLD: Colour = (250, 204, 66)


@dataclass(frozen=True)
class Build:
    """The proportions of one animal, the same in every picture of it."""

    fur: Colour
    second: Colour
    collar: Colour | None
    head: float
    body: float
    legs: float
    ears: float


def build_of(looks: Looks) -> Build:
    rng = random.Random(looks.jitter)
    fur, second = paint(looks.colour, rng), paint(looks.second, rng)
    collar = paint(looks.extra, rng) if looks.extra else None
    spread = [rng.uniform(0.92, 1.1) for _ in range(4)]
    return Build(fur, second, collar, *spread)


def draw_pet(pen: Pen, looks: Looks, pose: str, phase: float) -> None:
    """A dog, a cat or a rabbit, standing on y = 1."""
    build = build_of(looks)
    POSES[pose](pen, looks, build, phase)


def _sitting(pen: Pen, looks: Looks, b: Build, phase: float) -> None:
    lean = (phase - 0.5) * 0.16
    _tail(pen, looks, b, (0.34, 0.78), phase)
    wide = 0.4 * b.body
    paws = b.second if looks.marking == "socks" else b.fur
    for side in (-1, 1):
        pen.blob(oval(side * wide, 0.8, 0.2, 0.2), dark(b.fur))
    body = curve((0, -0.1), (0.26, 0.1), (wide + 0.06, 0.62), (0.3, 0.95), (-0.3, 0.95),
                 (-wide - 0.06, 0.62), (-0.26, 0.1))
    pen.blob(body, b.fur)
    _marks(pen, looks, b, 0.1, 0.45, 0.9)
    if looks.marking in ("socks", "bib"):
        pen.fill(oval(0, 0.36, 0.19, 0.3), b.second)
    for side in (-1, 1):
        x = side * 0.16
        pen.blob(limb([(x, 0.45), (x, 0.9)], 0.1, 0.1), b.fur, tones=False, line=0.8)
        pen.blob(oval(x + side * 0.02, 0.91, 0.15, 0.1), paws)
    _collar(pen, b, lean * 0.5, 0.1, 0.25)
    _head(pen, looks, b, lean, -0.32, 0.5, lean * 60)


def _standing(pen: Pen, looks: Looks, b: Build, phase: float) -> None:
    swing = (phase - 0.5) * 0.36
    top = 0.62 - 0.06 * b.legs
    paws = b.second if looks.marking == "socks" else b.fur
    _tail(pen, looks, b, (0.66, 0.3), phase)
    for x, s in ((-0.22, -swing), (0.5, swing)):
        leg = limb([(x, top - 0.1), (x + s * 0.5, 0.78), (x + s, 0.92)], 0.12, 0.085)
        pen.blob(leg, mix(dark(b.fur), INK, 0.12), tones=False)
    body = curve((-0.5, 0.2), (-0.1, 0.12), (0.4, 0.08), (0.74, 0.26), (0.72, 0.56),
                 (0.3, 0.66 * b.body), (-0.2, 0.68 * b.body), (-0.56, 0.52))
    pen.blob(body, b.fur)
    _marks(pen, looks, b, 0.26, 0.36, 1.15)
    for x, s in ((-0.36, swing), (0.62, -swing)):
        leg = limb([(x, top - 0.12), (x + s * 0.5, 0.76), (x + s, 0.9)], 0.135, 0.095)
        pen.blob(leg, b.fur, tones=False, line=0.8)
        pen.blob(oval(x + s - 0.03, 0.91, 0.14, 0.095), paws)
    if looks.marking in ("socks", "bib"):
        pen.fill(oval(-0.46, 0.38, 0.12, 0.22, 12), b.second)
    _collar(pen, b, -0.46, 0.14, 0.24)
    _head(pen, looks, b, -0.48, -0.22, 0.43, (phase - 0.5) * -14)


def _lying(pen: Pen, looks: Looks, b: Build, phase: float) -> None:
    paws = b.second if looks.marking == "socks" else b.fur
    _tail(pen, looks, b, (0.76, 0.8), phase)
    body = curve(
        (-0.4, 0.42), (0.1, 0.34), (0.62, 0.42), (0.88, 0.7), (0.8, 0.95), (0.1, 0.98), (-0.5, 0.96)
    )
    pen.blob(body, b.fur)
    pen.blob(oval(0.56, 0.78, 0.27, 0.2 * b.body), b.fur, line=0.7)
    _marks(pen, looks, b, 0.2, 0.6, 1.1)
    for x in (-0.62, -0.24):
        pen.blob(oval(x, 0.9, 0.2, 0.1), paws)
    pen.blob(oval(0.42, 0.92, 0.18, 0.085), paws)
    _collar(pen, b, -0.4, 0.6, 0.26)
    _head(pen, looks, b, -0.4, 0.24, 0.47, (phase - 0.5) * 16)


def _face(pen: Pen, looks: Looks, b: Build, phase: float) -> None:
    """A close-up: head and shoulders."""
    body = curve((0, 0.2), (0.5, 0.5), (0.72, 1.06), (0, 1.1), (-0.72, 1.06), (-0.5, 0.5))
    pen.blob(body, b.fur)
    if looks.marking in ("socks", "bib"):
        pen.fill(oval(0, 0.95, 0.34, 0.28), b.second)
    _collar(pen, b, 0, 0.6, 0.44)
    y, r = (0.26, 0.6) if looks.kind == "rabbit" else (0.0, 0.78)  # room for long ears
    _head(pen, looks, b, 0, y, r, (phase - 0.5) * 24)


POSES = {"sitting": _sitting, "standing": _standing, "lying": _lying, "face": _face}


def _tail(pen: Pen, looks: Looks, b: Build, root: tuple[float, float], phase: float) -> None:
    x, y = root
    wag = (phase - 0.5) * 0.3
    if looks.kind == "rabbit":
        pen.blob(oval(x + 0.06, y, 0.15, 0.15), WHITE)
        return
    long = looks.kind == "cat"
    tip = (x + 0.2 + wag, y - (0.62 if long else 0.44))
    bend = (x + (0.34 if long else 0.24), y - 0.2)
    end = (tip[0] - 0.14, tip[1] - 0.12) if long else tip
    line = [(x - 0.06, y + 0.02), bend, tip, end]
    pen.blob(limb(line, 0.085, 0.06), b.fur, tones=False)
    if looks.marking != "plain":
        pen.fill(limb(line[2:], 0.066, 0.056), b.second)


def _collar(pen: Pen, b: Build, x: float, y: float, width: float) -> None:
    if b.collar is None:
        return
    band = limb([(x - width, y - 0.04), (x, y + 0.06), (x + width, y - 0.04)], 0.075)
    pen.blob(band, b.collar, tones=False, line=0.8)
    pen.blob(oval(x, y + 0.15, 0.075, 0.075), GOLD, line=0.6)


def _marks(pen: Pen, looks: Looks, b: Build, x: float, y: float, scale: float) -> None:
    """What is painted on the body around (x, y)."""
    tone = b.second
    if looks.marking == "patch":
        pen.fill(oval(x + 0.12 * scale, y - 0.02, 0.22 * scale, 0.17, -12), tone)
    elif looks.marking == "spots":
        for dx, dy, r in ((-0.26, 0.02, 0.08), (0, -0.1, 0.1), (0.22, 0.1, 0.085),
                          (-0.06, 0.16, 0.07), (0.32, -0.12, 0.07)):
            pen.fill(oval(x + dx * scale, y + dy, r, r * 0.9), tone)
    elif looks.marking == "stripes":
        for dx in (-0.24, -0.04, 0.16, 0.34):
            at = x + dx * scale
            pen.fill(
                curve((at - 0.05, y - 0.24), (at + 0.05, y - 0.24), (at + 0.04, y), (at, y + 0.14),
                      (at - 0.03, y)),
                tone,
            )
    elif looks.marking == "saddle":
        pen.fill(
            curve((x - 0.26 * scale, y - 0.2), (x, y - 0.26), (x + 0.34 * scale, y - 0.22),
                  (x + 0.34 * scale, y + 0.04), (x + 0.04, y + 0.12), (x - 0.24 * scale, y)),
            tone,
        )


def _head(pen: Pen, looks: Looks, b: Build, x: float, y: float, r: float, tilt: float) -> None:
    """The head seen from the front, ``r`` its half-width."""
    r *= b.head

    def at(points):
        return turned(points * r, tilt) + (x, y)

    for side in (-1, 1):
        if looks.kind != "dog" or looks.shape == "folded":
            _upright_ear(pen, looks, b, side, at)
    skull = {
        "dog": curve((0, -0.88), (0.66, -0.66), (0.92, 0), (0.72, 0.56), (0, 0.82), (-0.72, 0.56),
                     (-0.92, 0), (-0.66, -0.66)),
        "cat": curve((0, -0.74), (0.62, -0.66), (1.0, 0.08), (0.66, 0.62), (0, 0.76), (-0.66, 0.62),
                     (-1.0, 0.08), (-0.62, -0.66)),
        "rabbit": curve((0, -0.78), (0.56, -0.56), (0.8, 0.1), (0.72, 0.58), (0, 0.82),
                        (-0.72, 0.58), (-0.8, 0.1), (-0.56, -0.56)),
    }[looks.kind]
    pen.blob(at(skull), b.fur)
    _head_marks(pen, looks, b, at)
    if looks.kind == "dog" and looks.shape != "folded":
        for side in (-1, 1):
            _hanging_ear(pen, looks, b, side, at)
    FACES[looks.kind](pen, b.fur, at, r)


def _head_marks(pen: Pen, looks: Looks, b: Build, at) -> None:
    if looks.marking == "patch":
        pen.fill(at(oval(0.38, -0.14, 0.34, 0.4, 15)), b.second)
    elif looks.marking == "stripes":
        for dx in (-0.26, 0, 0.26):
            pen.fill(
                at(limb([(dx, -0.68 + abs(dx) * 0.2), (dx * 0.8, -0.36)], 0.075, 0.03)), b.second
            )
    elif looks.marking in ("saddle", "spots"):
        pen.fill(at(oval(0, -0.54, 0.34, 0.24)), b.second)
    elif looks.marking in ("bib", "socks"):
        pen.fill(at(curve((-0.08, -0.78), (0.08, -0.78), (0.14, -0.1), (-0.14, -0.1))), b.second)


def _ear_colour(looks: Looks, b: Build) -> Colour:
    return b.second if looks.marking in ("patch", "saddle", "spots") else mix(b.fur, INK, 0.22)


def _hanging_ear(pen: Pen, looks: Looks, b: Build, side: int, at) -> None:
    long = (0.72 if looks.shape == "long" else 0.34) * b.ears
    ear = curve((side * 0.5, -0.8), (side * 0.86, -0.72), (side * 1.2, -0.1 + long * 0.3),
                (side * 1.14, 0.12 + long), (side * 0.86, 0.08 + long), (side * 0.74, -0.3))
    pen.blob(at(ear), _ear_colour(looks, b), tones=False)


def _upright_ear(pen: Pen, looks: Looks, b: Build, side: int, at) -> None:
    colour = b.fur if looks.kind == "rabbit" else _ear_colour(looks, b)
    if looks.kind == "rabbit":
        lean = 0.18 if looks.shape == "upright" else 0.55
        ear = [(side * 0.32, -0.5), (side * (0.34 + lean / 2), -1.1),
               (side * (0.3 + lean), -1.62 * b.ears)]
        pen.blob(at(limb(ear, 0.2, 0.15)), colour, tones=False)
        pen.fill(at(limb(ear, 0.1, 0.07)), mix(b.second, PINK, 0.7))
        return
    tip = (side * 0.82, -1.24 * b.ears)
    ear = curve(
        (side * 0.26, -0.6), (side * 0.54, -0.98), tip, (side * 0.96, -0.8), (side * 0.92, -0.22)
    )
    pen.blob(at(ear), colour, tones=False)
    if looks.kind == "cat":
        pen.fill(at(curve((side * 0.44, -0.66), tip, (side * 0.8, -0.44)) * 0.94), PINK)
    else:  # the tip of a dog's ear folds over
        fold = curve((side * 0.4, -0.9), tip, (side * 1.2, -0.86), (side * 1.02, -0.56))
        pen.blob(at(fold), dark(colour), tones=False, line=0.7)
