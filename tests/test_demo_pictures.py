"""What the demo draws: photos of its subject, the loss curve, the sheet."""

import itertools
from pathlib import Path

import numpy as np
from pack.demo.photos import PLACES_SHOWN, SIDE, draw_photos
from pack.demo.results import NEW_PLACES
from pack.demo.sheet import GAP, LEFT, PAPER, PHOTO, WIDTH, Comparison, draw_sheet
from pack.demo.sheet import SIDE as CELL
from pack.demo.world import PLACES
from PIL import Image

COLOURS = ["#aa0000", "#00aa00", "#0000aa", "#aa00aa"]


def test_the_drawn_photos_are_the_same_every_time(tmp_path: Path) -> None:
    first, again = (draw_photos(tmp_path / name) for name in "ab")
    assert len(first) == 5
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert Image.open(one).size == (SIDE, SIDE)


def test_photos_of_another_seed_subject_or_size_differ(tmp_path: Path) -> None:
    small = {"side": 32}
    sets = [
        draw_photos(tmp_path / "a", **small),
        draw_photos(tmp_path / "b", seed=1, **small),
        draw_photos(tmp_path / "c", "dog-1", **small),
    ]
    for one, other in itertools.combinations(sets, 2):
        assert all(a.read_bytes() != b.read_bytes() for a, b in zip(one, other, strict=True))
    assert Image.open(sets[2][0]).size == (32, 32)


def test_the_new_places_are_on_no_photo() -> None:
    assert len(set(NEW_PLACES)) == 4 and not {*NEW_PLACES} & {*PLACES_SHOWN}
    assert {*NEW_PLACES, *PLACES_SHOWN} <= PLACES.keys()


# ---- sheet ---------------------------------------------------------------------------------------


def plain(colour: str, side: int = 64) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def cells(sheet: np.ndarray, side: int) -> list[list[tuple]]:
    """The colours in the middle of each cell of ``side`` pixels, by rows from the top."""
    left = sheet[:, LEFT + side // 2].astype(int)
    inside = (np.abs(left - left[:1]).sum(axis=1) > 60).astype(int)
    edges = np.flatnonzero(np.diff(inside, prepend=0, append=0)).reshape(-1, 2)
    rows = [(a + b) // 2 for a, b in edges if b - a == side]
    across = range(LEFT + side // 2, WIDTH - side // 2, side + GAP)
    return [[tuple(sheet[y, x].tolist()) for x in across] for y in rows]


def test_the_sheet_has_every_picture_in_its_place(tmp_path: Path) -> None:
    photos = []
    for number in range(7):
        photos.append(tmp_path / f"{number}.png")
        Image.new("RGB", (90, 60), COLOURS[number % 4]).save(photos[-1])
    before, after = [plain(c) for c in COLOURS], [plain(c, 512) for c in reversed(COLOURS)]
    first = Comparison("new", [f"… number {n}" for n in range(4)], before, after)
    second = Comparison("class", (), before[:2], after[:2])
    target = tmp_path / "sheet.png"
    draw_sheet(photos, [first, second], "title", "subtitle", "", target)
    sheet = np.asarray(Image.open(target))
    red, green, blue, pink = (Image.new("RGB", (1, 1), c).getpixel((0, 0)) for c in COLOURS)
    paper = Image.new("RGB", (1, 1), PAPER).getpixel((0, 0))
    assert cells(sheet, PHOTO) == [[red, green, blue, pink, red]]
    assert cells(sheet, CELL) == [
        [red, green, blue, pink],
        [pink, blue, green, red],
        [red, green, paper, paper],
        [pink, blue, paper, paper],
    ]
    draw_sheet(photos, [first, second], "title", "subtitle", "a note", target)
    assert Image.open(target).height > sheet.shape[0]
