"""The little pictures on the cards of the template browser: what goes in, what comes out.

Three by three fields: the photos on the left, the large field what comes out, and two more below.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageFilter, ImageOps

from .world import HELD_OUT, Looks, draw, scene_of, subject

CELL, GAP = 120, 6
SIDE = 3 * CELL + 4 * GAP
LARGE = 2 * CELL + GAP
PAPER = (32, 34, 40)
QUALITY = 82
Picture = Image.Image


def shown(looks: Looks | str, place: str, seed: int = 0, side: int = CELL) -> Picture:
    """A subject in a place; a string names one of ``HELD_OUT``."""
    return draw(scene_of(HELD_OUT[looks] if isinstance(looks, str) else looks, seed, place), side)


def photos_of(looks: str) -> list[Picture]:
    return [shown(looks, place, seed) for seed, place in enumerate(("", "meadow", "room"))]


def sheet(photos: Sequence[Picture], large: Picture, below: Sequence[Picture]) -> Picture:
    """Photos down the left side, the outcome beside them, two fields under it."""
    made = Image.new("RGB", (SIDE, SIDE), PAPER)
    steps = [GAP + number * (CELL + GAP) for number in range(3)]
    for picture, top in zip(photos, steps, strict=True):
        made.paste(ImageOps.pad(picture, (CELL, CELL), color=PAPER), (GAP, top))
    made.paste(ImageOps.fit(large, (LARGE, LARGE)), (steps[1], GAP))
    for picture, left in zip(below, steps[1:], strict=True):
        made.paste(ImageOps.fit(picture, (CELL, CELL)), (left, steps[2]))
    return made


def quick_start() -> Picture:
    below = [shown("dog-1", "beach", 3), shown("dog-1", "snow", 4)]
    return sheet(photos_of("dog-1"), shown("dog-1", "moon", 5, LARGE), below)


def with_class_images() -> Picture:
    """Below: dogs that are not the subject."""
    below = [shown(subject(seed, "dog"), "meadow", seed) for seed in (1, 2)]
    return sheet(photos_of("dog-1"), shown("dog-1", "moon", 5, LARGE), below)


def two_subjects() -> Picture:
    photos = [*photos_of("dog-1")[:2], shown("backpack-1", "", 2)]
    below = [shown("dog-1", "beach", 3), shown("backpack-1", "beach", 3)]
    large = Image.new("RGB", (LARGE, LARGE))
    for left, name in ((0, "dog-1"), (LARGE // 2, "backpack-1")):
        large.paste(ImageOps.fit(shown(name, "moon", 5, LARGE), (LARGE // 2, LARGE)), (left, 0))
    return sheet(photos, large, below)


def lora() -> Picture:
    """Below: the same subject faintly and fully, as the file's strength has it."""
    base, learned = shown(subject(3, "cat"), "snow", 4), shown("cat-1", "snow", 4)
    below = [Image.blend(base, learned, 0.5), learned]
    return sheet(photos_of("cat-1"), shown("cat-1", "moon", 7, LARGE), below)


def shapes() -> Picture:
    """Photos of three shapes, each used whole."""
    sizes = ((CELL, CELL * 2 // 3), (CELL * 2 // 3, CELL), (CELL, CELL))
    photos = [
        ImageOps.fit(picture, size)
        for picture, size in zip(photos_of("robot-1"), sizes, strict=True)
    ]
    below = [shown("robot-1", "desert", 3), shown("robot-1", "night", 4)]
    return sheet(photos, shown("robot-1", "city", 5, LARGE), below)


def more_steps() -> Picture:
    """Below: what half of the steps give, and all of them."""
    blurred = shown("teapot-1", "forest", 5).filter(ImageFilter.GaussianBlur(7))
    below = [blurred, shown("teapot-1", "forest", 5)]
    return sheet(photos_of("teapot-1"), shown("teapot-1", "forest", 5, LARGE), below)


def style() -> Picture:
    """Different things in one manner: two inks."""

    def printed(picture: Picture) -> Picture:
        grey = ImageOps.posterize(ImageOps.autocontrast(picture.convert("L")), 2)
        return ImageOps.colorize(grey, (36, 30, 74), (252, 236, 208), (226, 96, 74))

    things = ((subject(1, "house"), "meadow"), (subject(2, "tree"), "snow"), ("car-1", "city"))
    photos = [printed(shown(looks, place, seed)) for seed, (looks, place) in enumerate(things)]
    below = [printed(shown("cat-2", "room", 3)), printed(shown("robot-1", "moon", 4))]
    return sheet(photos, printed(shown("dog-2", "beach", 5, LARGE)), below)
