"""From a scene to pixels: drawn four times as large, then reduced."""

from __future__ import annotations

import math
import random
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from .geometry import oval
from .kinds import KINDS, PLACES, Place
from .pen import Pen, page
from .scene import Scene

FINE = 4
WASHES = 16  # different sheets of paper


def draw(scene: Scene, size: int = 64) -> Image.Image:
    """The picture, ``size`` × ``size`` RGB; the same scene gives the same picture."""
    side = size * FINE
    place, rng = PLACES[scene.setting], random.Random(scene.detail)
    image = Image.new("RGB", (side, side))
    place.back(image, page(image), rng)
    image = ImageChops.multiply(image, _wash(side, scene.detail % WASHES))
    _shadow(image, scene, place)
    thing = _thing(scene, place, side)
    image.paste(thing, (0, 0), thing)
    if place.front:
        place.front(page(image), rng)
    return image.reduce(FINE)


def _thing(scene: Scene, place: Place, side: int) -> Image.Image:
    """The thing alone on a transparent page, its lower right in shade."""
    layer = Image.new("RGBA", (side, side), (60, 50, 58, 0))
    pen = Pen(layer, *_frame(scene, side), place.tint)
    KINDS[scene.kind].draw(pen, scene.looks, scene.pose, scene.phase)
    return _rounded(layer, scene.size)


def _frame(scene: Scene, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Matrix and origin: the thing's (0, 1) stands on (scene.x, scene.y)."""
    half = scene.size * side / 2
    c, s = math.cos(math.radians(scene.tilt)), math.sin(math.radians(scene.tilt))
    flip = -1 if scene.flip else 1
    matrix = np.array([[c * flip, -s], [s * flip, c]]) * half
    foot = np.array([scene.x, scene.y]) * side
    return matrix, foot - matrix @ (0, 1)


def _rounded(layer: Image.Image, size: float) -> Image.Image:
    """A soft shade inside the edge that is away from the light; worked out in little."""
    little = layer.getchannel("A").reduce(FINE)
    reach = max(1, round(little.width * size * 0.07))
    moved = ImageChops.offset(little, -reach, -reach).filter(ImageFilter.BoxBlur(reach * 0.8))
    shade = ImageChops.subtract(little, moved).point(lambda v: v * 5 // 16)
    alpha = layer.getchannel("A")
    layer.paste((44, 26, 66, 255), (0, 0), shade.resize(layer.size, Image.Resampling.NEAREST))
    layer.putalpha(alpha)
    return layer


def _shadow(image: Image.Image, scene: Scene, place: Place) -> None:
    """On the ground under the thing, to the right of it."""
    if scene.pose == "face":
        return
    aloft = max(0.0, place.feet[0] - scene.y)
    pen, half = page(image), scene.size / 2
    ground = max(scene.y, place.feet[0]) - 0.005
    alpha = place.shadow * 255 * (1 - 2 * aloft)
    for grow, share in ((1.12, 0.45), (0.9, 0.55)):
        shape = oval(scene.x + 0.05 * half, ground, half * 0.86 * grow, half * 0.15 * grow)
        pen.fill(shape, (40, 34, 60), round(alpha * share))


@lru_cache(maxsize=4 * WASHES)
def _wash(side: int, number: int) -> Image.Image:
    """Uneven watercolour: a sheet that darkens by up to a tenth, in blots and fine grain."""
    rng = np.random.RandomState(number)
    sheet = np.zeros((side, side), dtype=np.float32)
    for cells, strength in ((5, 1.0), (11, 0.8), (24, 0.5)):
        coarse = Image.fromarray((rng.randint(0, 256, (cells, cells))).astype(np.uint8))
        sheet += strength * np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
    sheet = 255 - (sheet - sheet.min()) / (sheet.max() - sheet.min()) * 30
    return Image.fromarray(sheet.round().astype(np.uint8)).convert("RGB")
