"""Files → oriented RGB pictures: the one image reader, and what it says about a folder."""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"})
HEIF = frozenset({".heic", ".heif"})  # what phones write; Pillow reads it only with a plugin
MAX_PIXELS = 150_000_000  # a bound, so that a small file cannot fill the memory
BACKGROUND = (255, 255, 255)  # under transparent pixels


class ImageError(ValueError):
    """A picture or a folder that cannot be used; the message says which and why."""


@dataclass(frozen=True)
class ImageFile:
    """A picture that was read once and found good. ``digest`` covers its oriented RGB pixels."""

    path: str
    width: int
    height: int
    digest: str


@dataclass(frozen=True)
class ImageSet:
    """The pictures of one source, in order, and what was left out with the reason.

    ``prompt`` is set for class images: the text that made them.
    """

    files: tuple[ImageFile, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    prompt: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(file.path for file in self.files)

    @property
    def duplicates(self) -> list[list[str]]:
        """Names of files with the same pixels; all of them train, so the picture counts twice."""
        groups: dict[str, list[str]] = {}
        for file in self.files:
            groups.setdefault(file.digest, []).append(Path(file.path).name)
        return [names for names in groups.values() if len(names) > 1]

    def report(self) -> str:
        """One line for what is used, one per file that is not, one per picture there twice."""
        sizes = sorted({(file.width, file.height) for file in self.files})
        shapes = ", ".join(f"{w}×{h}" for w, h in sizes[:4]) + (" …" if len(sizes) > 4 else "")
        lines = [f"{len(self.files)} images" + (f" ({shapes})" if sizes else "")]
        lines += [f"skipped {name}: {reason}" for name, reason in self.skipped]
        lines += [f"the same picture: {', '.join(names)}" for names in self.duplicates]
        return "\n".join(lines)


def read_image(path: str | Path) -> Image.Image:
    """Decode a picture as a person sees it: turned upright, opaque, 8-bit RGB, first frame.

    Transparent pixels go onto white; 16-bit grey is scaled, not cut.

    Raises:
        ImageError: not a picture, damaged, or larger than ``MAX_PIXELS``.
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
                return _to_rgb(ImageOps.exif_transpose(image))
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


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16-bit grey: convert() would clip it
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if values.max(initial=0) > 255 else 255.0
        image = Image.fromarray(np.clip(values * (255.0 / top), 0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        canvas = Image.new("RGBA", rgba.size, (*BACKGROUND, 255))
        return Image.alpha_composite(canvas, rgba).convert("RGB")
    return image.convert("RGB")


def pixel_digest(image: Image.Image) -> str:
    """SHA-256 of the size and the RGB bytes."""
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def check_image(path: str | Path) -> ImageFile:
    """Read a picture once and describe it.

    Raises:
        ImageError: see :func:`read_image`.
    """
    image = read_image(path)
    return ImageFile(str(path), image.width, image.height, pixel_digest(image))


def list_images(folder: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """The candidates of a folder in sorted order, and the entries that are none, with reasons."""
    candidates, skipped = [], []
    for path in sorted(folder.iterdir(), key=lambda p: p.name):
        if path.name.startswith("."):
            continue  # .DS_Store, ._x.jpg: never the user's own pictures
        if path.is_dir():
            skipped.append((path.name + "/", "a folder: only pictures directly inside count"))
        elif path.suffix.lower() in HEIF and not _reads_heif():
            reason = "HEIC needs the package pillow-heif: install it, or save the photo as JPEG"
            skipped.append((path.name, reason))
        elif path.suffix.lower() not in SUFFIXES | HEIF:
            skipped.append((path.name, f"not a picture ({path.suffix or 'no ending'})"))
        elif path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            skipped.append((path.name, "a link that leaves the folder"))
        else:
            candidates.append(path)
    return candidates, skipped


def _reads_heif() -> bool:
    """Whether some pack of the host registered a decoder with Pillow."""
    return ".heic" in Image.registered_extensions()


def read_folder(
    folder: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> ImageSet:
    """Read every picture of a folder once; a bad one is skipped and named.

    Raises:
        ImageError: no such folder, or nothing in it can be used.
    """
    if not folder.is_dir():
        raise ImageError(f"no folder {str(folder)!r}: choose one that holds your photos")
    candidates, skipped = list_images(folder)
    files = []
    for done, path in enumerate(candidates, 1):
        try:
            files.append(check_image(path))
        except ImageError as error:
            skipped.append((path.name, str(error)))
        progress(done, len(candidates))
    if not files:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:5])
        detail = f" Skipped: {reasons}" if reasons else " It is empty."
        raise ImageError(f"no usable picture in {str(folder)!r}.{detail}")
    return ImageSet(tuple(files), tuple(skipped))


def read_files(paths: Iterable[str | Path]) -> list[ImageFile]:
    """Read pictures that must all be good.

    Raises:
        ImageError: the first bad one, by name.
    """
    files = []
    for path in paths:
        try:
            files.append(check_image(path))
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from error
    return files


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
    temporary = path.with_name(path.name + ".tmp")
    try:
        picture.save(temporary, format="PNG", **options)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
