"""The pack's own wire types, and pictures for the host's IMAGE wire."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image

from ..trainer.images import fit_square, read_image

CATEGORY = "DreamBooth"
MAX_SHOWN = 24  # pictures on a preview wire: enough to judge, small in memory

Images = io.Custom("DREAMBOOTH_IMAGES")
Concepts = io.Custom("DREAMBOOTH_CONCEPTS")
Settings = io.Custom("DREAMBOOTH_SETTINGS")
Run = io.Custom("DREAMBOOTH_RUN")


def image_batch(pictures: Iterable[Image.Image]) -> torch.Tensor:
    """RGB pictures of one size → IMAGE: ``[N, H, W, 3]`` float32 in 0…1."""
    arrays = [np.asarray(picture, dtype=np.float32) / 255.0 for picture in pictures]
    return torch.from_numpy(np.stack(arrays))


def preview_batch(paths: Iterable[str], side: int = 512) -> torch.Tensor:
    """The first pictures as the trainer crops them."""
    shown = list(paths)[:MAX_SHOWN]
    return image_batch(fit_square(read_image(path), side) for path in shown)


def batch_to_pictures(images: torch.Tensor) -> list[Image.Image]:
    """IMAGE → RGB pictures, rounded as the host's Save Image rounds them."""
    arrays = (images.detach().cpu().float().numpy()[..., :3] * 255.0).clip(0, 255)
    return [Image.fromarray(array.astype(np.uint8)) for array in arrays]


def shown(preview: torch.Tensor, text: str) -> dict[str, Any]:
    """Pictures and a text under a node."""
    return ui.PreviewImage(preview).as_dict() | ui.PreviewText(text).as_dict()
