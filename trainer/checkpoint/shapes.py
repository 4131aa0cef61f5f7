"""Questions about a state dict that its names and shapes answer."""

from collections.abc import Mapping

import torch

UNET = "model.diffusion_model."
TEXT = "cond_stage_model."
VAE = "first_stage_model."
# SDXL's two text encoders, CLIP-L and OpenCLIP bigG.
TEXT_L = "conditioner.embedders.0."
TEXT_G = "conditioner.embedders.1."

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(state_dict: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Name → shape."""
    return {name: tuple(tensor.shape) for name, tensor in state_dict.items()}


def has(shapes: Shapes, prefix: str) -> bool:
    """Whether any tensor is under ``prefix``: one lost tensor does not make a block disappear."""
    return any(name.startswith(prefix) for name in shapes)


def count(shapes: Shapes, pattern: str) -> int:
    """How many of ``pattern.format(0)``, ``pattern.format(1)``, ... are there in a row."""
    number = 0
    while has(shapes, pattern.format(number)):
        number += 1
    return number


def context_width(shapes: Shapes) -> int | None:
    """Width of the text states that the UNet's cross-attention reads; None without attention."""
    for name, shape in shapes.items():
        if name.startswith(UNET) and name.endswith(".attn2.to_k.weight"):
            return shape[1]
    return None


def family_of(shapes: Shapes) -> str:
    """ "sd1", "sd2" or "sdxl": which of the three a Stable Diffusion UNet belongs to.

    The host compares the width of the text states, too (ComfyUI ``comfy/supported_models.py``);
    here that follows from the family's text encoders, which must fit the UNet.
    """
    if has(shapes, UNET + "label_emb.0."):
        return "sdxl"
    linear = any(
        len(shape) == 2
        for name, shape in shapes.items()
        if name.startswith(UNET) and name.endswith(".proj_in.weight")
    )
    return "sd2" if linear else "sd1"
