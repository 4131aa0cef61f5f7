"""The pack's own wire types, and pictures for the host's IMAGE wire."""

import dataclasses
from collections.abc import Iterable
from types import UnionType
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image

from ..trainer.config import ConfigError, Photo, TrainConfig
from ..trainer.images import ImageError, fit_square, read_photo

CATEGORY = "DreamBooth"
MAX_SHOWN = 24  # pictures on a preview wire: enough to judge, small in memory

Images = io.Custom("DREAMBOOTH_IMAGES")
Concepts = io.Custom("DREAMBOOTH_CONCEPTS")
Settings = io.Custom("DREAMBOOTH_SETTINGS")
Run = io.Custom("DREAMBOOTH_RUN")


def check_wires(**wires: tuple[Any, type | UnionType]) -> None:
    """Only the page sees to it that a wire is one: a queued graph may hold any value instead.

    Args:
        wires: by input, what came and what has to come.

    Raises:
        ConfigError: something else came.
    """
    for name, (value, kind) in wires.items():
        if not isinstance(value, kind):
            raise ConfigError(f"{name} = {value!r:.80}: connect the output of a node")


def with_group(settings: TrainConfig | None, **group: Any) -> TrainConfig:
    """What came in on a settings wire, or the defaults, with one group of options replaced.

    Raises:
        ConfigError: no settings came in.
    """
    check_wires(settings=(settings, TrainConfig | None))
    return dataclasses.replace(settings or TrainConfig(), **group)


def image_batch(pictures: Iterable[Image.Image]) -> torch.Tensor:
    """RGB pictures of one size → IMAGE: ``[N, H, W, 3]`` float32 in 0…1."""
    arrays = [np.asarray(picture, dtype=np.float32) / 255.0 for picture in pictures]
    return torch.from_numpy(np.stack(arrays))


def preview_batch(photos: Iterable[Photo], side: int = 512) -> torch.Tensor:
    """The first pictures as the trainer cuts them; what a mask leaves out is darkened."""
    return image_batch(_preview(photo, side) for photo in list(photos)[:MAX_SHOWN])


def _preview(photo: Photo, side: int) -> Image.Image:
    picture, mask = read_photo(photo)
    if mask:
        picture = Image.composite(picture, picture.point(lambda value: value // 4), mask)
    return fit_square(picture, side)


def batch_to_pictures(images: torch.Tensor) -> list[Image.Image]:
    """IMAGE → RGB pictures, rounded as the host's Save Image rounds them."""
    arrays = (images.detach().cpu().float().numpy()[..., :3] * 255.0).clip(0, 255)
    return [Image.fromarray(array.astype(np.uint8)) for array in arrays]


def batch_to_masks(masks: torch.Tensor, count: int) -> list[Image.Image]:
    """MASK ``[N, H, W]`` or ``[H, W]`` → ``count`` pictures in "L"; one mask does for all.

    Raises:
        ImageError: neither one mask nor one for each.
    """
    arrays = (masks.detach().cpu().float().numpy() * 255.0).round().clip(0, 255).astype(np.uint8)
    arrays = arrays.reshape(-1, *arrays.shape[-2:])
    if len(arrays) not in (1, count):
        raise ImageError(f"{len(arrays)} masks for {count} images: give one for each, or one")
    return [Image.fromarray(arrays[n % len(arrays)]) for n in range(count)]


def shown(preview: torch.Tensor, text: str) -> dict[str, Any]:
    """Pictures and a text under a node."""
    return ui.PreviewImage(preview).as_dict() | ui.PreviewText(text).as_dict()
