"""Five pictures of one toy dog, drawn: what the demo trains on where the user brings no photos.

The dog always looks the same (brown ears, a patch round one eye, a red collar with a golden tag);
place, size, tilt and surroundings differ, as they should in a set of photos.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

SIDE = 512
FINE = 2  # drawn twice as large, then scaled down: smooth edges
FUR, SHADE, BROWN, DARK = "#f3dfba", "#dfc293", "#8a5530", "#5f3719"
NOSE, COLLAR, TAG, TONGUE = "#2c211c", "#d23c3c", "#f4c542", "#ef8a93"

Colour = tuple[int, int, int]


def draw_photos(folder: Path, seed: int = 0) -> list[Path]:
    """Writes the pictures into ``folder`` and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, (scene, x, y, size, tilt, flip) in enumerate(SHOTS):
        picture = scene(random.Random(seed + number))
        place_dog(picture, x, y, size, tilt, flip)
        path = folder / f"toy_dog_{number + 1}.png"
        picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(path)
        paths.append(path)
    return paths


def place_dog(
    picture: Image.Image, x: float, y: float, size: float, tilt: float, flip: bool
) -> None:
    """Puts the dog's middle at (x, y) with its shadow on the ground; fractions of the side."""
    dog = draw_dog()
    if flip:
        dog = dog.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    side = round(picture.width * size)
    dog = dog.resize((side, side), Image.Resampling.LANCZOS)
    dog = dog.rotate(tilt, Image.Resampling.BICUBIC)
    left, top = round(picture.width * x - side / 2), round(picture.height * y - side / 2)
    shadow = Image.new("L", picture.size, 0)
    foot = top + side * 0.93
    ImageDraw.Draw(shadow).ellipse(
        (left + side * 0.12, foot - side * 0.07, left + side * 0.92, foot + side * 0.07), fill=120
    )
    shadow = shadow.filter(ImageFilter.GaussianBlur(side * 0.025))
    picture.paste((30, 22, 18), (0, 0), shadow)
    picture.paste(dog, (left, top), dog)


def draw_dog() -> Image.Image:
    """The dog on a transparent square, in units of a hundredth of its side."""
    side = 1100
    unit = side / 100
    image = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(image)

    def oval(x: float, y: float, w: float, h: float, fill: str) -> None:
        draw.ellipse(tuple(unit * v for v in (x - w, y - h, x + w, y + h)), fill=fill)

    tail = [(77, 72), (88, 66), (92, 54), (89, 47), (85, 50), (84, 58), (76, 62)]
    draw.polygon([(unit * x, unit * y) for x, y in tail], fill=FUR)
    oval(87.5, 49, 4.2, 4.6, BROWN)
    oval(56, 74, 25, 20, FUR)  # body
    oval(67, 69, 12, 12, BROWN)  # a patch on the back
    for x, shade in ((76, SHADE), (38, FUR), (55, FUR)):
        oval(x, 86, 8, 9.5, shade)
        oval(x - 1, 92, 9, 4.5, shade)
    for x in (34.5, 37.5, 51.5, 54.5):
        draw.line([(unit * x, unit * 91), (unit * x, unit * 94.5)], SHADE, round(unit * 0.8))
    oval(46, 70, 13, 15, FUR)
    draw.rounded_rectangle(tuple(unit * v for v in (27, 55, 62, 61.5)), unit * 3, COLLAR)
    draw_head(oval, draw, unit)
    oval(45, 63.5, 4, 4, "#c8962a")
    oval(45, 63.2, 3.3, 3.3, TAG)
    return shaded_edge(image, unit)


def draw_head(oval, draw: ImageDraw.ImageDraw, unit: float) -> None:
    """Ears behind, face, the patch round one eye, muzzle and tongue."""
    oval(44, 36, 24, 22, FUR)
    oval(54, 32, 9.5, 10.5, BROWN)
    oval(21, 37, 8, 18, BROWN)
    oval(67, 37, 8, 18, BROWN)
    oval(21.5, 40, 5, 13, DARK)
    oval(66.5, 40, 5, 13, DARK)
    oval(44, 45, 13.5, 10, "#fdf3dd")
    oval(44, 53.2, 4, 5, TONGUE)
    oval(44, 47.5, 9, 4.4, "#fdf3dd")
    for x in (35, 53.5):
        oval(x, 33, 4.3, 5, NOSE)
        oval(x - 1.3, 31.2, 1.5, 1.7, "white")
        oval(x + 1.4, 35, 0.7, 0.8, "#b9aaa0")
    oval(44, 41, 5, 3.6, NOSE)
    oval(42.6, 39.8, 1.6, 0.9, "#8d7a70")
    arc = unit * 0.9
    for left, right in ((36, 44), (44, 52)):
        box = tuple(unit * v for v in (left, 43, right, 51))
        draw.arc(box, 20, 160, NOSE, round(arc))


def shaded_edge(image: Image.Image, unit: float) -> Image.Image:
    """Light from the upper left: the same outline, darker towards the lower right."""
    alpha = image.getchannel("A")
    inner = ImageChops.offset(alpha, round(-3.2 * unit), round(-3.2 * unit))
    edge = ImageChops.subtract(alpha, inner).filter(ImageFilter.GaussianBlur(1.6 * unit))
    edge = ImageChops.multiply(edge.point(lambda v: v // 3), alpha.point(lambda v: 255 * (v > 0)))
    shaded = image.copy()
    shaded.paste((70, 35, 10, 255), (0, 0), edge)
    shaded.putalpha(alpha)
    return shaded


def gradient(top: Colour, bottom: Colour) -> Image.Image:
    """A vertical blend over the whole picture."""
    side = SIDE * FINE
    ramp = Image.linear_gradient("L").resize((side, side))
    return Image.composite(
        Image.new("RGB", ramp.size, bottom), Image.new("RGB", ramp.size, top), ramp
    )


def living_room(rng: random.Random) -> Image.Image:
    picture = gradient((196, 214, 214), (222, 230, 224))
    draw, side = ImageDraw.Draw(picture), picture.width
    floor = round(side * 0.62)
    for row in range(6):
        top = floor + round((side - floor) * (row / 6) ** 1.25)
        shift = rng.randrange(side // 3)
        for x in range(-1, 4):
            tone = rng.randrange(-9, 10)
            colour = (184 + tone, 138 + tone, 96 + tone)
            left = x * side // 3 + shift
            draw.rectangle((left, top, left + side // 3 - 4, side), fill=colour)
    draw.rectangle((0, floor - 18, side, floor), fill=(246, 244, 238))
    frame = (side * 0.62, side * 0.1, side * 0.9, side * 0.4)
    draw.rectangle(frame, fill=(250, 248, 242), outline=(120, 92, 66), width=12)
    draw.ellipse((side * 0.7, side * 0.17, side * 0.82, side * 0.33), fill=(231, 150, 92))
    return picture


def meadow(rng: random.Random) -> Image.Image:
    picture = gradient((116, 184, 236), (214, 236, 246))
    draw, side = ImageDraw.Draw(picture), picture.width
    for x, y in ((0.2, 0.16), (0.74, 0.24)):
        for dx, dy, r in ((-0.09, 0.02, 0.05), (0, 0, 0.075), (0.09, 0.02, 0.055)):
            box = (x + dx - r, y + dy - r * 0.7, x + dx + r, y + dy + r * 0.7)
            draw.ellipse(tuple(side * v for v in box), fill=(250, 252, 255))
    draw.ellipse((-side * 0.4, side * 0.5, side * 1.1, side * 1.9), fill=(126, 184, 92))
    draw.ellipse((side * 0.1, side * 0.56, side * 1.7, side * 2), fill=(104, 168, 78))
    for _ in range(420):
        x, y = rng.random() * side, side * (0.62 + 0.38 * rng.random())
        green = rng.randrange(-18, 19)
        draw.line((x, y, x + rng.randrange(-8, 9), y - 26), (92 + green, 156 + green, 70), 4)
    for _ in range(26):
        x, y, r = rng.random() * side, side * (0.66 + 0.32 * rng.random()), 9
        draw.ellipse((x - r, y - r, x + r, y + r), fill=rng.choice(("#fff6d8", "#f6b8c8", "#fff")))
    return picture


def beach(rng: random.Random) -> Image.Image:
    picture = gradient((250, 206, 160), (250, 232, 206))
    draw, side = ImageDraw.Draw(picture), picture.width
    draw.ellipse((side * 0.66, side * 0.14, side * 0.86, side * 0.34), fill=(255, 244, 206))
    draw.rectangle((0, side * 0.4, side, side * 0.62), fill=(70, 150, 176))
    for row in range(7):
        y = side * (0.42 + row * 0.028)
        x = rng.random() * side * 0.7
        draw.line((x, y, x + side * 0.24, y), (150, 206, 218), 5)
    shore = [(x, side * 0.6 + 16 * math.sin(x / 90)) for x in range(0, side + 20, 20)]
    draw.polygon([*shore, (side, side), (0, side)], fill=(234, 208, 160))
    draw.line(shore, (252, 250, 244), 14, joint="curve")
    for _ in range(500):
        x, y = rng.random() * side, side * (0.65 + 0.35 * rng.random())
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(212, 182, 132))
    return picture


def blanket(rng: random.Random) -> Image.Image:
    picture = gradient((238, 226, 232), (226, 208, 220))
    side = picture.width
    stripes = Image.new("RGBA", picture.size)
    draw = ImageDraw.Draw(stripes)
    step = side // 8
    for i in range(-1, 9):
        draw.rectangle((i * step, 0, i * step + step // 2, side), fill=(112, 132, 190, 90))
        draw.rectangle((0, i * step, side, i * step + step // 2), fill=(112, 132, 190, 90))
    stripes = stripes.rotate(12, Image.Resampling.BICUBIC, expand=False).resize(
        (round(side * 1.5), round(side * 1.5))
    )
    picture.paste(stripes, (-side // 4, -side // 4), stripes)
    return picture


def night_shelf(rng: random.Random) -> Image.Image:
    picture = gradient((52, 60, 92), (84, 84, 118))
    draw, side = ImageDraw.Draw(picture), picture.width
    for _ in range(10):
        x, y, r = rng.random() * side, rng.random() * side * 0.5, rng.uniform(14, 44)
        glow = Image.new("L", picture.size, 0)
        ImageDraw.Draw(glow).ellipse((x - r, y - r, x + r, y + r), fill=110)
        picture.paste((255, 212, 140), (0, 0), glow.filter(ImageFilter.GaussianBlur(8)))
    draw.rectangle((0, side * 0.74, side, side), fill=(122, 82, 56))
    draw.rectangle((0, side * 0.74, side, side * 0.77), fill=(150, 104, 72))
    for left, wide, high, fill in (
        (0.04, 0.06, 0.3, "#b4534a"),
        (0.11, 0.05, 0.26, "#4a8a86"),
        (0.17, 0.07, 0.33, "#d8b25a"),
    ):
        box = (left, 0.74 - high, left + wide, 0.74)
        draw.rounded_rectangle(tuple(side * v for v in box), 8, fill=fill)
    return picture


# Scene, the dog's middle, its size, its tilt in degrees, mirrored or not.
SHOTS = (
    (living_room, 0.42, 0.60, 0.72, 0, False),
    (meadow, 0.56, 0.58, 0.66, -4, True),
    (beach, 0.38, 0.62, 0.58, 3, False),
    (blanket, 0.52, 0.54, 0.88, 7, True),
    (night_shelf, 0.60, 0.53, 0.62, -2, False),
)
