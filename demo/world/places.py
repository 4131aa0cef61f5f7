"""Surroundings out of doors: what lies behind a thing, and what falls in front of it."""

# fmt: off
from __future__ import annotations

import random

import numpy as np
from PIL import Image

from .geometry import box, circle, curve, limb, oval, path
from .pen import WHITE, Colour, Pen, dark, light, mix


def vary(colour: Colour, rng: random.Random, by: int = 10) -> Colour:
    """Another tone of the colour, as light as chance has it."""
    shift = rng.randint(-by, by)
    return tuple(max(0, min(255, c + shift + rng.randint(-by // 3, by // 3))) for c in colour)


def sky(image: Image.Image, top: Colour, bottom: Colour) -> None:
    """A vertical blend over the whole picture."""
    ramp = np.linspace(0, 1, image.height)[:, None]
    column = np.asarray(top) * (1 - ramp) + np.asarray(bottom) * ramp
    strip = Image.fromarray(column.round().astype(np.uint8)[:, None])
    image.paste(strip.resize(image.size, Image.Resampling.NEAREST))


def ground(pen: Pen, rng: random.Random, top: float, colour: Colour, swell: float = 0.02) -> None:
    """Everything below a gently uneven line."""
    heights = [top + rng.uniform(-swell, swell) for _ in range(5)]
    line = path(*((number / 4, height) for number, height in enumerate(heights)))
    pen.fill(np.concatenate([line, [(1, 1.1), (0, 1.1)]]), colour)
    low = line + (0, 0.22)
    pen.fill(np.concatenate([low, [(1, 1.1), (0, 1.1)]]), mix(colour, dark(colour), 0.4))


def cloud(pen: Pen, x: float, y: float, r: float, colour: Colour) -> None:
    for dx, dy, s in ((-1.0, 0.15, 0.6), (0, -0.1, 0.85), (1.0, 0.2, 0.55)):
        pen.fill(oval(x + dx * r, y + dy * r, s * r, s * r * 0.8), colour)
    pen.fill(box(x - 1.4 * r, y + 0.2 * r, x + 1.4 * r, y + 0.62 * r, 0.2 * r), colour)


def specks(
    pen: Pen, rng: random.Random, count: int, top: float, colours: list[Colour], size: float = 0.012
) -> None:
    """Pebbles, tufts, crumbs: short flat strokes, larger towards the reader."""
    for _ in range(count):
        x, y = rng.random(), rng.uniform(top, 1)
        wide = size * (0.6 + 1.2 * (y - top))
        pen.fill(box(x - wide * 1.6, y - wide / 2, x + wide * 1.6, y + wide / 2, wide / 2),
                 rng.choice(colours))


def beach(image: Image.Image, pen: Pen, rng: random.Random) -> None:
    sky(image, vary((120, 196, 240), rng), (246, 240, 214))
    sun = (rng.uniform(0.12, 0.88), rng.uniform(0.1, 0.2))
    pen.fill(oval(*sun, 0.11, 0.11), (255, 246, 190))
    pen.fill(oval(*sun, 0.08, 0.08), (255, 226, 110))
    sea, shore = rng.uniform(0.36, 0.44), rng.uniform(0.58, 0.66)
    pen.fill(box(0, sea, 1, 1), vary((46, 150, 190), rng))
    pen.fill(box(0, (sea + shore) / 2, 1, 1), vary((76, 184, 204), rng))
    for _ in range(6):
        x, y = rng.random(), rng.uniform(sea + 0.03, shore - 0.03)
        pen.line(path((x, y), (x + 0.07, y - 0.01), (x + 0.14, y)), 0.014, (190, 230, 236))
    waves = [(n / 4, shore + rng.uniform(-0.025, 0.025)) for n in range(5)]
    line = path(*waves)
    below = [(1, 1.1), (0, 1.1)]
    pen.fill(np.concatenate([line - (0, 0.03), below]), (244, 250, 248))
    pen.fill(np.concatenate([line, below]), vary((240, 214, 158), rng))
    pen.fill(np.concatenate([line + (0, 0.04), below]), vary((246, 222, 170), rng))
    specks(pen, rng, 22, shore + 0.08, [(226, 194, 138), (252, 234, 192), (214, 180, 128)])
    if rng.random() < 0.5:
        _parasol(pen, rng.choice((0.1, 0.9)), shore + 0.04, rng)


def _parasol(pen: Pen, x: float, y: float, rng: random.Random) -> None:
    colour = rng.choice([(232, 92, 84), (250, 190, 70), (96, 170, 220)])
    pen.line(np.array([(x, y), (x, y - 0.24)]), 0.016, (150, 110, 76))
    pen.blob(curve((x - 0.13, y - 0.2), (x, y - 0.32), (x + 0.13, y - 0.2), (x, y - 0.18)), colour,
             tones=False, line=0.6)


def snow(image: Image.Image, pen: Pen, rng: random.Random) -> None:
    sky(image, vary((158, 186, 220), rng), (226, 236, 246))
    top = rng.uniform(0.5, 0.6)
    hill = rng.uniform(0.1, 0.6)
    pen.fill(curve((hill - 0.5, 0.7), (hill, top - 0.2), (hill + 0.6, 0.7)), (206, 220, 238))
    for _ in range(5):
        fir(pen, rng.random(), top + 0.06, rng.uniform(0.18, 0.32), (72, 116, 112), snowy=True)
    ground(pen, rng, top, vary((242, 247, 253), rng, 5))
    specks(pen, rng, 12, top + 0.06, [(222, 232, 246), WHITE, (210, 222, 240)], 0.016)


def snowfall(pen: Pen, rng: random.Random) -> None:
    for _ in range(26):
        pen.dot(rng.random(), rng.random(), rng.uniform(0.009, 0.018), WHITE)


def fir(pen: Pen, x: float, foot: float, high: float, colour: Colour, snowy: bool = False) -> None:
    pen.fill(box(x - 0.012, foot - 0.04, x + 0.012, foot + 0.03), (112, 78, 56))
    for part in (0.0, 0.3, 0.6):
        y, w = foot - high * part, high * (0.36 - 0.3 * part)
        tip = y - high * 0.46
        pen.fill(np.array([(x, tip), (x + w, y), (x - w, y)]), colour)
        if snowy:
            pen.fill(
                np.array(
                    [(x, tip), (x + w * 0.5, y - high * 0.24), (x - w * 0.5, y - high * 0.24)]
                ),
                (244, 248, 254),
            )


def night(image: Image.Image, pen: Pen, rng: random.Random) -> None:
    sky(image, (20, 24, 62), (62, 66, 128))
    for _ in range(24):
        pen.dot(rng.random(), rng.uniform(0, 0.6), rng.uniform(0.006, 0.013), (255, 246, 206))
    x, y = rng.uniform(0.12, 0.88), rng.uniform(0.12, 0.22)
    pen.fill(oval(x, y, 0.15, 0.15), (58, 62, 112))
    pen.fill(oval(x, y, 0.1, 0.1), (252, 244, 208))
    pen.fill(oval(x + 0.045, y - 0.02, 0.085, 0.085), (52, 56, 106))
    top = rng.uniform(0.56, 0.64)
    for _ in range(3):
        hill = rng.random()
        pen.fill(oval(hill, top + 0.16, 0.36, 0.24), vary((38, 46, 90), rng, 8))
    ground(pen, rng, top, vary((38, 64, 82), rng, 6))
    specks(pen, rng, 16, top + 0.05, [(30, 52, 72), (52, 80, 96)], 0.014)


def forest(image: Image.Image, pen: Pen, rng: random.Random) -> None:
    sky(image, vary((186, 222, 170), rng), (122, 176, 120))
    top = rng.uniform(0.56, 0.64)
    for depth, tone in ((0, (120, 170, 112)), (1, (82, 136, 84)), (2, (56, 108, 68))):
        for n in range(5 - depth):
            x = (n + rng.uniform(0.1, 0.9)) / (5 - depth)
            colour = vary(tone, rng)
            if rng.random() < 0.6:
                fir(pen, x, top + 0.02 + depth * 0.02, 0.42 + 0.12 * depth, colour)
            else:
                high = 0.36 + 0.1 * depth
                pen.fill(box(x - 0.02, top - high, x + 0.02, top + 0.04), (110, 82, 58))
                pen.fill(oval(x, top - high, 0.14, 0.17), colour)
    ground(pen, rng, top, vary((92, 134, 70), rng))
    specks(pen, rng, 18, top + 0.04, [(74, 114, 58), (118, 158, 84), (136, 112, 70)], 0.015)
    for x in (rng.uniform(0.02, 0.2), rng.uniform(0.8, 0.98)):
        pen.blob(limb([(x, 0.92), (x, 0.87)], 0.016), (248, 236, 214), tones=False, line=0.5)
        pen.blob(curve((x - 0.05, 0.87), (x, 0.8), (x + 0.05, 0.87)), (214, 66, 54), tones=False,
                 line=0.5)


def meadow(image: Image.Image, pen: Pen, rng: random.Random) -> None:
    sky(image, vary((112, 190, 244), rng), (220, 242, 250))
    for _ in range(2):
        cloud(pen, rng.random(), rng.uniform(0.1, 0.3), rng.uniform(0.06, 0.1), WHITE)
    top = rng.uniform(0.52, 0.62)
    pen.fill(oval(rng.uniform(0, 1), top + 0.24, 0.62, 0.34), vary((150, 206, 112), rng))
    ground(pen, rng, top, vary((122, 190, 84), rng))
    for _ in range(22):
        x, y = rng.random(), rng.uniform(top + 0.06, 1)
        pen.line(np.array([(x, y), (x + rng.uniform(-0.015, 0.015), y - 0.05)]), 0.012,
                 vary((88, 156, 62), rng))
    for _ in range(9):
        x, y = rng.random(), rng.uniform(top + 0.08, 0.98)
        pen.dot(x, y, 0.02, rng.choice([(255, 250, 236), (250, 206, 84), (246, 160, 186)]))
        pen.dot(x, y, 0.008, (240, 180, 60))


def desert(image: Image.Image, pen: Pen, rng: random.Random) -> None:
    sky(image, vary((250, 196, 120), rng), (255, 236, 190))
    pen.fill(oval(rng.uniform(0.15, 0.85), rng.uniform(0.14, 0.24), 0.1, 0.1), (255, 250, 220))
    top = rng.uniform(0.5, 0.6)
    for _ in range(2):
        x = rng.random()
        pen.fill(
            curve((x - 0.5, top + 0.2), (x - 0.1, top - 0.1), (x + 0.14, top - 0.04),
                  (x + 0.6, top + 0.2)),
            vary((230, 156, 88), rng),
        )
    ground(pen, rng, top, vary((236, 176, 104), rng))
    for _ in range(5):
        x, y = rng.random(), rng.uniform(top + 0.1, 0.98)
        pen.line(path((x - 0.14, y), (x, y - 0.02), (x + 0.14, y)), 0.012, (214, 148, 82))
    for x in rng.sample((0.08, 0.3, 0.7, 0.92), 2):
        _cactus(pen, x, top + rng.uniform(0.05, 0.12), rng.uniform(0.22, 0.32))


def _cactus(pen: Pen, x: float, foot: float, high: float) -> None:
    green = (86, 146, 84)
    arms = [
        [(x - 0.02, foot - high * 0.4), (x - 0.08, foot - high * 0.42),
         (x - 0.085, foot - high * 0.74)],
        [(x + 0.02, foot - high * 0.3), (x + 0.075, foot - high * 0.34),
         (x + 0.08, foot - high * 0.6)],
    ]
    shapes = [limb([(x, foot), (x, foot - high)], 0.034)] + [limb(arm, 0.02) for arm in arms]
    pen.blobs([(shape, green) for shape in shapes], tones=False, line=0.6)


def moon(image: Image.Image, pen: Pen, rng: random.Random) -> None:
    sky(image, (8, 8, 20), (26, 24, 48))
    for _ in range(26):
        pen.dot(rng.random(), rng.uniform(0, 0.62), rng.uniform(0.005, 0.011), WHITE)
    x, y, r = rng.uniform(0.14, 0.86), rng.uniform(0.15, 0.24), rng.uniform(0.1, 0.13)
    pen.fill(oval(x, y, r, r), (66, 138, 222))
    pen.fill(
        curve(*(circle(7) * (r * 0.55, r * 0.42) + (x - r * 0.3, y - r * 0.2)).round(4).tolist()),
        (104, 182, 100),
    )
    pen.fill(oval(x + r * 0.42, y + r * 0.4, r * 0.34, r * 0.26), (104, 182, 100))
    pen.fill(oval(x + r * 0.1, y - r * 0.72, r * 0.4, r * 0.14), WHITE)
    top = rng.uniform(0.56, 0.64)
    ground(pen, rng, top, vary((176, 176, 186), rng))
    for _ in range(7):
        x, y = rng.random(), rng.uniform(top + 0.05, 1)
        r = 0.025 + 0.16 * (y - top) * rng.uniform(0.6, 1.2)
        pen.fill(oval(x, y, r, r * 0.42), (136, 136, 150))
        pen.fill(oval(x + r * 0.06, y + r * 0.08, r * 0.88, r * 0.32), (158, 158, 170))
        pen.line(path((x - r, y + r * 0.1), (x, y + r * 0.45), (x + r, y + r * 0.1)), 0.008,
                 light((190, 190, 200)))
