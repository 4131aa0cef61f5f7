"""Files → upright RGB pictures and their masks: the one image reader; pictures ↔ tensors."""

import hashlib
import secrets
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from .config import Photo, background
from .files import move

MAX_PIXELS = 150_000_000  # a bound, so that a small file cannot fill the memory


class ImageError(ValueError):
    """A picture or a folder that cannot be used; the message says which and why."""


@dataclass(frozen=True)
class ImageFile:
    """A picture that was read once and found good.

    Attributes:
        digest: over its oriented RGB pixels and, where it has one, its mask.
        mask: the file of its mask; "" without one.
        masked: whether some of it counts less, by a file or by its alpha.
    """

    path: str
    width: int
    height: int
    digest: str
    mask: str = ""
    masked: bool = False


def read_image(path: str | Path, transparent: str = "white") -> Image.Image:
    """Decode a picture as a person sees it: turned upright, opaque, 8-bit RGB, first frame.

    16-bit grey is scaled, not cut.

    Args:
        transparent: what lies under transparent pixels, see :func:`config.background`.

    Raises:
        ImageError: not a picture, damaged, or larger than ``MAX_PIXELS``.
    """
    colour = background(transparent)
    return _decode(path, lambda image: _to_rgb(image, colour))


def read_photo(photo: Photo) -> tuple[Image.Image, Image.Image | None]:
    """A picture and its mask: "L" of the same size, white where it counts; None: all counts.

    Raises:
        ImageError: see :func:`read_image`; a mask of another size, or one that is all black.
    """
    colour = background(photo.transparent)
    with_alpha = colour is None and not photo.mask
    picture, mask = _decode(
        photo.path, lambda image: (_to_rgb(image, colour), _alpha(image) if with_alpha else None)
    )
    if photo.mask:
        mask = read_image(photo.mask, "black").convert("L")
        if mask.size != picture.size:
            raise ImageError(
                f"its mask {Path(photo.mask).name} is {mask.width}×{mask.height}, the picture"
                f" {picture.width}×{picture.height}: make them one size"
            )
    low, high = mask.getextrema() if mask else (255, 255)
    if not high:
        raise ImageError("its mask is black all over (or it is transparent): nothing would count")
    return picture, mask if low < 255 else None


def _decode(path: str | Path, use: Callable[[Image.Image], Any]) -> Any:
    """What ``use`` makes of a picture that is turned upright.

    Raises:
        ImageError: see :func:`read_image`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(
                        f"{image.width}×{image.height} pixels is more than"
                        f" {MAX_PIXELS // 1_000_000} megapixels: make it smaller"
                    )
                image.load()
                return use(ImageOps.exif_transpose(image))
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(f"too many pixels: {error}") from error
    except Exception as error:  # Pillow's readers let through whatever a damaged file provokes
        reason = "not a picture that can be read" if _is_unknown(error) else "damaged file"
        said = str(error)[:300]
        raise ImageError(f"{reason} ({said})" if said else reason) from error


def _is_unknown(error: Exception) -> bool:
    return type(error).__name__ == "UnidentifiedImageError"


def _to_rgb(image: Image.Image, colour: tuple[int, int, int] | None) -> Image.Image:
    """Onto ``colour``; without one, alpha is dropped and every pixel keeps its own."""
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit grey: convert() would clip it
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        image = Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if colour is None:
            return rgba.convert("RGB")
        canvas = Image.new("RGBA", rgba.size, (*colour, 255))
        return Image.alpha_composite(canvas, rgba).convert("RGB")
    return image.convert("RGB")


def _alpha(image: Image.Image) -> Image.Image | None:
    if not image.has_transparency_data:
        return None
    return image.convert("RGBA").getchannel("A")


def pixel_digest(image: Image.Image) -> str:
    """SHA-256 of the size and the bytes of the pixels."""
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def check_image(path: str | Path) -> ImageFile:
    """Read a picture once and describe it; see :func:`check_photo`."""
    return check_photo(Photo(str(path)))


def check_photo(photo: Photo) -> ImageFile:
    """Read a picture and its mask once and describe them.

    Raises:
        ImageError: see :func:`read_photo`.
    """
    picture, mask = read_photo(photo)
    digest = pixel_digest(picture)
    if mask:
        digest = hashlib.sha256(f"{digest}, mask {pixel_digest(mask)}".encode()).hexdigest()
    width, height = picture.size
    return ImageFile(photo.path, width, height, digest, photo.mask, mask is not None)


def fit_square(image: Image.Image, resolution: int) -> Image.Image:
    """Scale so that the shorter side is ``resolution`` and crop the middle square."""
    return ImageOps.fit(image, (resolution, resolution), Image.Resampling.LANCZOS)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """RGB → float32 ``[3, H, W]`` in −1…1, as the VAE takes it."""
    pixels = torch.from_numpy(np.asarray(image, dtype=np.uint8).copy())
    return pixels.permute(2, 0, 1).to(torch.float32) / 127.5 - 1.0


def to_image(tensor: torch.Tensor) -> Image.Image:
    """Float ``[3, H, W]`` in −1…1 → RGB, clipped and rounded."""
    pixels = ((tensor.detach().to("cpu", torch.float32) + 1.0) * 127.5).round().clamp(0, 255)
    return Image.fromarray(pixels.to(torch.uint8).permute(1, 2, 0).numpy())


def save_png(picture: Image.Image, path: Path, **options: Any) -> None:
    """Write a PNG whole or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        picture.save(temporary, format="PNG", **options)
        move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
