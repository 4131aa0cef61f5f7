"""What is said about a photo before it trains."""

from pathlib import Path

import numpy as np
import pytest
from pack.trainer.image_set import read_folder
from pack.trainer.photo_marks import BLURRED, describe, marks_of, sharpness, square
from PIL import Image, ImageFilter

NOISE = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)


def photo(width: int = 600, height: int = 600) -> Image.Image:
    """Edges like a photograph's: squares of one colour each."""
    return Image.fromarray(NOISE).resize((width, height), Image.Resampling.NEAREST)


def kinds(folder: Path, name: str, **options: str) -> list[str]:
    found = read_folder(folder, **options)
    (file,) = [file for file in found.files if Path(file.path).name == name]
    return [mark.kind for mark in marks_of(file, found)]


def test_a_good_photo_has_no_mark(tmp_path: Path) -> None:
    photo().save(tmp_path / "good.png")
    assert kinds(tmp_path, "good.png") == []


def test_each_mark_by_itself(tmp_path: Path) -> None:
    photo(300, 600).filter(ImageFilter.SHARPEN).save(tmp_path / "small.png")
    photo(1700, 600).save(tmp_path / "odd.png")
    photo(640, 640).filter(ImageFilter.GaussianBlur(12)).save(tmp_path / "blurred.png")
    photo(650, 650).save(tmp_path / "twin.png")
    photo(650, 650).save(tmp_path / "twin2.png")
    clear = photo(660, 660).convert("RGBA")
    clear.putpixel((0, 0), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    photo(670, 670).convert("RGBA").save(tmp_path / "opaque.png")
    assert kinds(tmp_path, "small.png") == ["small"]
    assert kinds(tmp_path, "odd.png") == ["odd"]
    assert kinds(tmp_path, "blurred.png") == ["blurred"]
    assert kinds(tmp_path, "twin.png") == kinds(tmp_path, "twin2.png") == ["twice"]
    assert kinds(tmp_path, "clear.png") == ["transparent"]
    assert kinds(tmp_path, "clear.png", transparent="mask") == ["transparent", "masked"]
    assert kinds(tmp_path, "opaque.png") == []


def test_a_mark_says_its_number(tmp_path: Path) -> None:
    photo(1200, 300).save(tmp_path / "a.png")
    found = read_folder(tmp_path)
    small, odd = marks_of(found.files[0], found)
    assert "300 pixels" in small.text and "25 %" in odd.text


def test_photos_as_a_page_gets_them(tmp_path: Path) -> None:
    photo(1200, 600).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a zwx <dog>")
    photo(300, 300).save(tmp_path / "b.png")
    found = read_folder(tmp_path, caption_source="files")
    first, second = describe(found, 9)
    assert (first["name"], first["width"], first["height"]) == ("a.png", 1200, 600)
    assert (first["crop"], first["caption"], first["marks"]) == (
        (0.25, 0, 0.5, 1),
        "a zwx <dog>",
        [],
    )
    assert second["caption"] == "" and second["marks"][0][0] == "small"
    assert len(describe(found, 1)) == 1


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    """Against the definition, pixel by pixel."""
    picture = photo(512, 512).filter(ImageFilter.GaussianBlur(1))
    grey = np.asarray(picture.convert("L")).astype(int)
    values = [
        grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1] - 4 * grey[y, x]
        for y in range(1, 511)
        for x in range(1, 511)
    ]
    assert sharpness(picture) == pytest.approx(np.var(values))


def test_blur_lowers_it_and_enlarging_does_not_help() -> None:
    values = [sharpness(photo().filter(ImageFilter.GaussianBlur(r))) for r in (0, 1, 2, 4, 8)]
    assert values == sorted(values, reverse=True) and values[0] > 10 * BLURRED
    soft = Image.fromarray(NOISE).resize((600, 600), Image.Resampling.BICUBIC)
    assert sharpness(soft) < values[0] / 4


def test_photographs_in_focus_have_no_such_mark(photos: Path) -> None:
    folder = next(path for path in sorted(photos.rglob("*")) if any(path.glob("*.jpg")))
    found = read_folder(folder)
    marked = [m for file in found.files for m in marks_of(file, found) if m.kind == "blurred"]
    assert marked == []


def test_the_middle_square() -> None:
    assert square(100, 100) == (0, 0, 1, 1)
    assert square(400, 100) == pytest.approx((0.375, 0, 0.25, 1))
    assert square(100, 200) == pytest.approx((0, 0.25, 1, 0.5))
