"""The image reader: pictures as a person sees them, bad files named."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pack.trainer import image_set, images
from pack.trainer.config import Concept, ConfigError, background
from pack.trainer.image_set import read_folder
from pack.trainer.images import ImageError, fit_square, read_image, to_image, to_tensor
from PIL import Image


def quarters(size: int = 32) -> Image.Image:
    """Red top left, green top right, blue below."""
    array = np.zeros((size, size, 3), np.uint8)
    array[: size // 2, : size // 2] = (255, 0, 0)
    array[: size // 2, size // 2 :] = (0, 255, 0)
    array[size // 2 :] = (0, 0, 255)
    return Image.fromarray(array)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    quarters().rotate(180).save(tmp_path / "a.png", exif=exif)
    assert read_image(tmp_path / "a.png").getpixel((2, 2)) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "RGBA", "LA", "RGB"])
def test_every_colour_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    quarters().convert(mode).save(path)
    assert read_image(path).mode == "RGB"


def test_transparency_goes_onto_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("transparent", "colour"),
    [
        ("white", (255, 255, 255)),
        ("black", (0, 0, 0)),
        (" Grey ", (128, 128, 128)),
        ("#ff8800", (255, 136, 0)),
        ("#FF8800", (255, 136, 0)),
    ],
)
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_goes_onto_a_chosen_colour(
    tmp_path: Path, mode: str, transparent: str, colour: tuple[int, int, int]
) -> None:
    image = Image.new("RGBA", (8, 8), (90, 90, 90, 0))
    image.paste((90, 90, 90, 255), (4, 0, 8, 8))
    if mode == "P":
        palette = image.convert("RGB").quantize(4)
        palette.info["transparency"] = palette.getpixel((6, 0))
        palette.paste(1 - palette.getpixel((6, 0)), (4, 0, 8, 8))
        palette.save(tmp_path / "a.png", transparency=palette.info["transparency"])
    else:
        image.convert(mode).save(tmp_path / "a.png")
    got = read_image(tmp_path / "a.png", transparent)
    assert got.mode == "RGB" and got.getpixel((1, 1)) == colour


def test_half_transparency_is_mixed(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (200, 0, 0, 51)).save(tmp_path / "a.png")  # a fifth
    assert read_image(tmp_path / "a.png", "black").getpixel((0, 0)) == (40, 0, 0)
    assert read_image(tmp_path / "a.png", "#0000ff").getpixel((0, 0)) == (40, 0, 204)


@pytest.mark.parametrize(
    "text", ["", "red", "#fff", "#12345g", "# 123456", "\0", 7, None, "x" * 999]
)
def test_no_other_colour_is_taken(text: object) -> None:
    with pytest.raises(ConfigError, match="transparent = ") as refused:
        background(text)
    assert len(str(refused.value)) < 500
    with pytest.raises(ConfigError):
        Concept(instance_prompt="a", instance_images=("b",), transparent=text)


def test_sixteen_bit_grey_is_scaled_not_cut(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    got = np.asarray(read_image(tmp_path / "a.png"))[..., 0]
    assert got[0, 0] == 0 and got[-1, -1] == 255 and abs(int(got[32, 0]) - 127) <= 2


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def test_a_huge_picture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quarters().save(tmp_path / "a.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    with pytest.raises(ImageError, match="32×32"):
        read_image(tmp_path / "a.png")


def test_folder_in_sorted_order_with_the_bad_ones_named(tmp_path: Path) -> None:
    for name in ("b.png", "a.PNG", "c.jpg"):
        quarters().save(tmp_path / name)
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "fake.jpg").write_text("not a jpeg")
    data = (tmp_path / "c.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    (tmp_path / "._a.png").write_bytes(b"mac")
    (tmp_path / "sub").mkdir()
    found = read_folder(tmp_path)
    assert [Path(p).name for p in found.paths] == ["a.PNG", "b.png", "c.jpg"]
    assert {name for name, _ in found.skipped} == {
        "empty.png",
        "text.txt",
        "fake.jpg",
        "cut.jpg",
        "sub/",
    }
    assert "3 images" in found.report() and "cut.jpg" in found.report()


def test_heic_is_read_where_a_decoder_is_and_explained_where_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quarters().save(tmp_path / "a.png")
    quarters().save(tmp_path / "b.HEIC", format="PNG")  # stands for what a plugin can open
    monkeypatch.setattr(image_set, "_reads_heif", lambda: False)
    found = read_folder(tmp_path)
    assert len(found.files) == 1 and "pillow-heif" in found.report()
    monkeypatch.setattr(image_set, "_reads_heif", lambda: True)
    assert len(read_folder(tmp_path).files) == 2


def test_a_picture_that_is_there_twice_is_named(tmp_path: Path) -> None:
    quarters().save(tmp_path / "a.png")
    quarters().save(tmp_path / "b.webp", lossless=True)
    quarters().resize((8, 8)).save(tmp_path / "c.png")
    report = read_folder(tmp_path).report()
    assert "3 images" in report and "the same picture: a.png, b.webp" in report


def test_long_and_foreign_names_are_read(tmp_path: Path) -> None:
    for name in ("犬🐶 é", "n" * 240):
        quarters().save(tmp_path / f"{name}.png")
    assert len(read_folder(tmp_path).files) == 2


def test_links_out_of_the_folder_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    quarters().save(tmp_path / "secret.png")
    quarters().save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").symlink_to(tmp_path / "secret.png")
    found = read_folder(tmp_path / "in")
    assert len(found.files) == 1 and found.skipped[0][0] == "b.png"


def test_nothing_usable_says_why(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="empty"):
        read_folder(tmp_path)
    (tmp_path / "x.png").write_text("no")
    with pytest.raises(ImageError, match=r"x\.png"):
        read_folder(tmp_path)
    with pytest.raises(ImageError, match="no folder"):
        read_folder(tmp_path / "absent")


def test_fit_square_covers_and_crops_the_middle() -> None:
    wide = Image.new("RGB", (300, 100), "black")
    wide.paste("white", (100, 0, 200, 100))
    assert fit_square(wide, 64).crop((4, 4, 60, 60)).getextrema() == ((255, 255),) * 3
    assert fit_square(Image.new("RGB", (30, 90)), 64).size == (64, 64)


def test_tensor_round_trip_is_exact() -> None:
    picture = Image.fromarray(np.arange(256 * 3, dtype=np.uint8).reshape(16, 16, 3))
    tensor = to_tensor(picture)
    assert tensor.shape == (3, 16, 16) and tensor.min() == -1 and tensor.max() == 1
    assert to_image(tensor).tobytes() == picture.tobytes()
    assert to_image(torch.full((3, 1, 1), 9.0)).getpixel((0, 0)) == (255, 255, 255)


def test_real_photographs(photos: Path) -> None:
    for subject in ("dog6", "cat2", "backpack", "clock"):
        found = read_folder(photos / subject)
        assert len(found.files) >= 5 and not found.skipped
