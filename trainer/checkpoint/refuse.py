"""Refuses, by name and before anything is built, every model that is not a trainable SD 1.x.

Only names, shapes and dtypes are looked at. The names are those that ComfyUI's
``comfy/model_detection.py`` and the upstream repositories use."""

from collections.abc import Callable, Mapping

import torch

from .errors import UnsupportedModel
from .shapes import TEXT, UNET, VAE, Shapes, context_width, has, shapes_of

USE_SD1 = "use a full Stable Diffusion 1.x checkpoint"


def refuse_unsupported(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises UnsupportedModel, in one sentence, unless this is a complete SD 1.x checkpoint."""
    shapes = shapes_of(tensors)
    for belongs, what in _OTHER_NETS:
        if belongs(shapes):
            raise UnsupportedModel(f"This is {what}, which is not supported: {USE_SD1}.")
    _refuse_without_unet(shapes)
    _refuse_quantised(tensors)
    for belongs, what in _OTHER_UNETS:
        if belongs(shapes):
            raise UnsupportedModel(f"This is {what}, which is not supported: {USE_SD1}.")
    _refuse_incomplete(shapes)


def _names(part: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(part in name for name in shapes)


def _unet_shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    return shapes.get(UNET + name, ())


def _in_channels(count: int) -> Callable[[Shapes], bool]:
    return lambda shapes: _unet_shape(shapes, "input_blocks.0.0.weight")[1:2] == (count,)


def _linear_projections(shapes: Shapes) -> bool:
    """SD 2.x and SDXL have 2-D weights where SD 1.x has 1x1 convolutions."""
    return any(
        len(shape) == 2
        for name, shape in shapes.items()
        if name.startswith(UNET) and name.endswith(".proj_in.weight")
    )


def _extra_embedding(width: int) -> Callable[[Shapes], bool]:
    return lambda shapes: UNET + "label_emb.0.0.weight" in shapes and context_width(shapes) == width


def _any_extra_embedding(shapes: Shapes) -> bool:
    return has(shapes, UNET + "label_emb.")


def _temporal(shapes: Shapes) -> bool:
    marks = (".time_stack.", ".time_mix_blocks.", ".time_mixer.", ".motion_")
    return any(
        name.startswith(UNET) and (len(shape) == 5 or any(mark in name for mark in marks))
        for name, shape in shapes.items()
    )


def _lora(shapes: Shapes) -> bool:
    ends = (".lora_down.weight", ".lora_A.weight", ".hada_w1_a", ".lokr_w1")
    return any(name.endswith(ends) for name in shapes)


# (belongs to it, what it is), the first match wins.
_OTHER_NETS: tuple[tuple[Callable[[Shapes], bool], str], ...] = (
    (_lora, "a LoRA file and not a checkpoint"),
    (_names("double_blocks.0.img_attn."), "a Flux model"),
    (_names("joint_blocks.0.context_block."), "a Stable Diffusion 3 model"),
    (
        lambda shapes: has(shapes, "down_blocks."),
        "a UNet in the diffusers folder layout and not a single-file checkpoint",
    ),
    (
        lambda shapes: "input_blocks.0.0.weight" in shapes,
        "a bare UNet file without text encoder and VAE",
    ),
)

# Video before the image families: SVD also has label_emb.
_OTHER_UNETS: tuple[tuple[Callable[[Shapes], bool], str], ...] = (
    (_temporal, "a video model (its UNet has temporal layers)"),
    (_extra_embedding(2048), "a Stable Diffusion XL model"),
    (_extra_embedding(1280), "a Stable Diffusion XL refiner"),
    (_extra_embedding(1024), "an unCLIP (image variation) model"),
    (_any_extra_embedding, "a model with an extra label embedding (SDXL, unCLIP or an upscaler)"),
    (_in_channels(9), "an inpainting model (its UNet takes 9 input channels)"),
    (_in_channels(8), "an instruct-pix2pix model (its UNet takes 8 input channels)"),
    (_linear_projections, "a Stable Diffusion 2.x model"),
)


def _refuse_without_unet(shapes: Shapes) -> None:
    if UNET + "input_blocks.0.0.weight" in shapes:
        return
    if has(shapes, UNET):
        raise UnsupportedModel(
            "This diffusion model is not a Stable Diffusion UNet "
            f"(there is no {UNET}input_blocks.0.0.weight): {USE_SD1}."
        )
    raise UnsupportedModel(f"There is no UNet here (no tensor named {UNET}*): {USE_SD1}.")


def _refuse_quantised(tensors: Mapping[str, torch.Tensor]) -> None:
    """fp8, int8 and 4-bit weights cannot be trained, and casting them back would lose the model."""
    for name, tensor in tensors.items():
        one_byte = tensor.dtype.itemsize == 1 and tensor.dtype != torch.bool
        if one_byte and name.startswith((UNET, TEXT, VAE)):
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise UnsupportedModel(
                f"This checkpoint is quantised ({name} is {dtype}), and quantised weights cannot "
                "be trained: use its float32, float16 or bfloat16 version."
            )


def _refuse_incomplete(shapes: Shapes) -> None:
    if not has(shapes, TEXT + "transformer."):
        raise UnsupportedModel(
            f"There is no CLIP text encoder here (no tensor named {TEXT}transformer.*): use a "
            "checkpoint that holds its text encoder, or connect one."
        )
    if not has(shapes, VAE):
        raise UnsupportedModel(
            f"There is no VAE here (no tensor named {VAE}*): use a checkpoint that holds its VAE, "
            "or connect one."
        )
