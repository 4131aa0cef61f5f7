"""Surroundings made by people or under the sea, and the plain page."""

# fmt: off
from __future__ import annotations

import random

import numpy as np
from PIL import Image

from .geometry import box, curve, limb, oval, path
from .pen import WHITE, Colour, Pen, dark, light, mix
from .places import cloud, ground, sky, specks, vary

PAPERS: tuple[Colour, ...] = ((248, 240, 222), (226, 236, 244), (240, 226, 232), (228, 240, 224),
                              (246, 232, 210), (234, 230, 244), (238, 238, 236))


def page_of_paper(image: Image.Image, pen: Pen, rng: random.Random) -> None:
    """No place at all: a soft sheet, a little darker where the thing stands."""
    colour = vary(rng.choice(PAPERS), rng, 6)
    sky(image, light(colour), colour)
    if rng.random() < 0.6:
        pen.fill(box(0, rng.uniform(0.66, 0.76), 1, 1.1), mix(colour, dark(colour), 0.35))


def city(image: Image.Image, pen: Pen, rng: random.Random) -> None:
    sky(image, vary((150, 198, 232), rng), (236, 236, 226))
    cloud(pen, rng.random(), 0.12, 0.06, (250, 250, 250))
    street = rng.uniform(0.62, 0.7)
    tones = [(206, 124, 104), (226, 190, 132), (142, 160, 186), (186, 150, 170), (150, 178, 158)]
    x = -rng.uniform(0, 0.1)
    while x < 1:
        wide, top = rng.uniform(0.15, 0.24), rng.uniform(0.12, 0.4)
        colour = vary(rng.choice(tones), rng)
        pen.fill(box(x, top, x + wide - 0.008, street), colour)
        pen.fill(box(x, top - 0.02, x + wide - 0.008, top), dark(colour))
        pane = rng.choice([(250, 234, 168), (206, 228, 240)])
        columns = 2 if wide < 0.19 else 3
        for row in range(int((street - top - 0.04) / 0.09)):
            for column in range(columns):
                left = x + wide * (column + 0.28) / columns
                pen.fill(
                    box(left, top + 0.04 + row * 0.09, left + wide * 0.4 / columns,
                        top + 0.09 + row * 0.09),
                    pane,
                )
        x += wide
    pen.fill(box(0, street, 1, 1.1), (196, 190, 186))
    pen.fill(box(0, street + 0.07, 1, 1.1), vary((112, 114, 124), rng, 6))
    pen.fill(box(0, street + 0.07, 1, street + 0.085), (226, 222, 216))
    shift = rng.random() * 0.3
    for n in range(5):
        pen.fill(box(n * 0.3 - shift, 0.94, n * 0.3 - shift + 0.16, 0.965), (240, 236, 214))


def room(image: Image.Image, pen: Pen, rng: random.Random) -> None:
    wall = vary(
        rng.choice([(236, 206, 172), (190, 212, 206), (214, 196, 216), (240, 222, 170)]), rng, 6
    )
    sky(image, wall, light(wall))
    floor = rng.uniform(0.64, 0.7)
    for n in range(9):
        x = (n + 0.5) / 9
        pen.fill(box(x - 0.012, 0, x + 0.012, floor), mix(wall, dark(wall), 0.3))
    _window(pen, rng.choice((0.2, 0.8)) + rng.uniform(-0.05, 0.05), 0.24)
    if rng.random() < 0.7:
        _frame(pen, rng.uniform(0.42, 0.58), 0.2, rng)
    for row in range(4):
        top = floor + (1 - floor) * row / 4
        wood = vary((190, 138, 92), rng)
        pen.fill(box(0, top, 1, 1.05), wood)
        pen.line(np.array([(0, top), (1, top)]), 0.008, dark(wood))
        x = rng.random()
        pen.line(np.array([(x, top), (x, top + (1 - floor) / 4)]), 0.008, dark(wood))
    pen.fill(box(0, floor - 0.03, 1, floor), (250, 244, 232))
    rug = vary(rng.choice([(196, 92, 92), (88, 132, 168), (110, 150, 110)]), rng)
    pen.fill(oval(0.5, 0.93, 0.46, 0.13), rug)
    pen.fill(oval(0.5, 0.93, 0.38, 0.095), light(rug))


def _window(pen: Pen, x: float, y: float) -> None:
    pen.fill(box(x - 0.14, y - 0.16, x + 0.14, y + 0.16), (250, 246, 238))
    pen.fill(box(x - 0.115, y - 0.135, x + 0.115, y + 0.135), (166, 214, 242))
    pen.fill(
        curve((x - 0.11, y + 0.13), (x - 0.03, y + 0.03), (x + 0.11, y + 0.13)), (142, 196, 118)
    )
    pen.fill(box(x - 0.01, y - 0.14, x + 0.01, y + 0.14), (250, 246, 238))
    pen.fill(box(x - 0.12, y - 0.01, x + 0.12, y + 0.01), (250, 246, 238))


def _frame(pen: Pen, x: float, y: float, rng: random.Random) -> None:
    pen.fill(box(x - 0.1, y - 0.08, x + 0.1, y + 0.08), (142, 96, 62))
    pen.fill(box(x - 0.08, y - 0.06, x + 0.08, y + 0.06), (246, 238, 220))
    pen.fill(oval(x, y + 0.01, 0.035, 0.035), rng.choice([(226, 110, 90), (96, 150, 200)]))


def sea(image: Image.Image, pen: Pen, rng: random.Random) -> None:
    sky(image, vary((74, 190, 214), rng), (14, 84, 140))
    for _ in range(3):
        x = rng.uniform(-0.1, 1)
        ray = np.array([(x, 0), (x + 0.1, 0), (x + 0.32, 0.8), (x + 0.12, 0.8)])
        pen.fill(ray, (190, 240, 240), 46)
    top = rng.uniform(0.74, 0.82)
    for x in (rng.uniform(0, 0.24), rng.uniform(0.76, 1), rng.uniform(0.3, 0.7)):
        high, lean = rng.uniform(0.2, 0.4), rng.uniform(-0.06, 0.06)
        weed = vary(rng.choice([(44, 140, 104), (70, 156, 84), (206, 92, 110)]), rng)
        for dx in (-0.04, 0.02):
            pen.fill(
                limb(
                    [(x + dx, top + 0.1), (x + dx + lean, top - high * 0.4),
                     (x + dx - lean, top - high * 0.7), (x + dx * 2 + lean, top - high)],
                    0.022,
                    0.012,
                ),
                weed,
            )
    ground(pen, rng, top, vary((196, 184, 140), rng), 0.03)
    specks(pen, rng, 10, top + 0.04, [(164, 152, 116), (224, 212, 170), (216, 140, 120)], 0.018)


def bubbles(pen: Pen, rng: random.Random) -> None:
    for _ in range(9):
        x, y, r = rng.random(), rng.uniform(0.04, 0.8), rng.uniform(0.012, 0.032)
        pen.dot(x, y, r, (190, 232, 240))
        pen.dot(x, y, r * 0.72, (96, 180, 208))
        pen.dot(x - r * 0.3, y - r * 0.3, r * 0.3, WHITE)


def rain_town(image: Image.Image, pen: Pen, rng: random.Random) -> None:
    """A grey day with puddles."""
    sky(image, vary((120, 134, 154), rng), (176, 186, 196))
    for x in (0.2, 0.55, 0.9):
        cloud(pen, x + rng.uniform(-0.1, 0.1), rng.uniform(0.06, 0.16), 0.12,
              vary((98, 110, 132), rng))
    top = rng.uniform(0.58, 0.66)
    for _ in range(4):
        x = rng.random()
        pen.fill(oval(x, top, 0.16, 0.12), vary((112, 142, 124), rng))
    ground(pen, rng, top, vary((126, 144, 128), rng))
    for _ in range(4):
        x, y = rng.random(), rng.uniform(top + 0.1, 0.98)
        pen.fill(oval(x, y, 0.13, 0.03), (156, 178, 198))
        pen.line(path((x - 0.08, y), (x, y + 0.012), (x + 0.08, y)), 0.008, (206, 220, 230))


def rainfall(pen: Pen, rng: random.Random) -> None:
    for _ in range(30):
        x, y = rng.uniform(0, 1.1), rng.uniform(-0.1, 1)
        pen.line(np.array([(x, y), (x - 0.03, y + 0.1)]), 0.01, (206, 226, 242), 190)
