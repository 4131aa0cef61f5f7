"""Refuses, by name and before anything is built, every model of a kind that we do not train.

Only names, shapes and dtypes are looked at. The names are those that ComfyUI's
``comfy/model_detection.py`` and the upstream repositories use."""

from collections.abc import Callable, Mapping

import torch

from .errors import UnsupportedModel
from .shapes import (
    TEXT,
    TEXT_G,
    TEXT_L,
    UNET,
    VAE,
    Shapes,
    context_width,
    family_of,
    has,
    shapes_of,
)

_ADVICE = "use a full Stable Diffusion 1.x, 2.x or SDXL checkpoint"


def refuse_unsupported(tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises UnsupportedModel, in one sentence, unless this is a complete SD or SDXL checkpoint."""
    shapes = shapes_of(tensors)
    for belongs, what in _OTHER_NETS:
        if belongs(shapes):
            raise UnsupportedModel(f"This is {what}, which is not supported: {_ADVICE}.")
    _refuse_without_unet(shapes)
    _refuse_quantised(tensors)
    for belongs, what in _OTHER_UNETS:
        if belongs(shapes):
            raise UnsupportedModel(f"This is {what}, which is not supported: {_ADVICE}.")
    _refuse_incomplete(shapes)


def _names(part: str) -> Callable[[Shapes], bool]:
    return lambda shapes: any(part in name for name in shapes)


def _unet_shape(shapes: Shapes, name: str) -> tuple[int, ...]:
    return shapes.get(UNET + name, ())


def _in_channels(count: int) -> Callable[[Shapes], bool]:
    return lambda shapes: _unet_shape(shapes, "input_blocks.0.0.weight")[1:2] == (count,)


def _extra_embedding(width: int) -> Callable[[Shapes], bool]:
    return lambda shapes: UNET + "label_emb.0.0.weight" in shapes and context_width(shapes) == width


def _class_embedding(shapes: Shapes) -> bool:
    """An embedding table, where SDXL has linear layers."""
    return has(shapes, UNET + "label_emb.") and not has(shapes, UNET + "label_emb.0.")


def _marked(*names: str) -> Callable[[Shapes], bool]:
    """SDXL files say with tensors of their own if they were trained on another noise schedule."""
    return lambda shapes: (
        has(shapes, UNET + "label_emb.0.") and all(name in shapes for name in names)
    )


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
    (_extra_embedding(1280), "a Stable Diffusion XL refiner"),
    (_extra_embedding(1024), "an unCLIP (image variation) model"),
    (_class_embedding, "a model with a class or label embedding, such as an upscaler"),
    (_in_channels(9), "an inpainting model (its UNet takes 9 input channels)"),
    (_in_channels(8), "an instruct-pix2pix model (its UNet takes 8 input channels)"),
    (_in_channels(5), "a depth-guided model (its UNet takes 5 input channels)"),
    (_marked("edm_mean", "edm_std"), "an EDM model such as Playground v2.5 (it has edm_mean)"),
    (
        _marked("edm_vpred.sigma_max"),
        "an EDM v-prediction model such as CosXL (it has edm_vpred.sigma_max)",
    ),
)


def _refuse_without_unet(shapes: Shapes) -> None:
    if UNET + "input_blocks.0.0.weight" in shapes:
        return
    if has(shapes, UNET):
        raise UnsupportedModel(
            "This diffusion model is not a Stable Diffusion UNet "
            f"(there is no {UNET}input_blocks.0.0.weight): {_ADVICE}."
        )
    raise UnsupportedModel(f"There is no UNet here (no tensor named {UNET}*): {_ADVICE}.")


def _refuse_quantised(tensors: Mapping[str, torch.Tensor]) -> None:
    """fp8, int8 and 4-bit weights cannot be trained, and casting them back would lose the model."""
    for name, tensor in tensors.items():
        one_byte = tensor.dtype.itemsize == 1 and tensor.dtype != torch.bool
        if one_byte and name.startswith((UNET, TEXT, TEXT_L, TEXT_G, VAE)):
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise UnsupportedModel(
                f"This checkpoint is quantised ({name} is {dtype}), and quantised weights cannot "
                "be trained: use its float32, float16 or bfloat16 version."
            )


_TEXT_ENCODERS = {
    "sd1": {"CLIP text encoder": TEXT + "transformer."},
    "sd2": {"OpenCLIP text encoder of Stable Diffusion 2.x": TEXT + "model."},
    "sdxl": {
        "CLIP-L text encoder of Stable Diffusion XL": TEXT_L + "transformer.",
        "OpenCLIP bigG text encoder of Stable Diffusion XL": TEXT_G + "model.",
    },
}


def _refuse_incomplete(shapes: Shapes) -> None:
    if family_of(shapes) == "sd2" and has(shapes, TEXT_L + "model."):
        raise UnsupportedModel(
            f"This is a Stable Diffusion 2.x file that spells its text encoder {TEXT_L}model.*, "
            f"as Stability's generative-models does, and not {TEXT}model.*: use ComfyUI's Load "
            "Checkpoint, which reads both, and train there or save it anew with Save Checkpoint."
        )
    for what, prefix in _TEXT_ENCODERS[family_of(shapes)].items():
        if not has(shapes, prefix):
            raise UnsupportedModel(
                f"There is no {what} here (no tensor named {prefix}*): use a checkpoint that "
                "holds its text encoder, or connect one."
            )
    if not has(shapes, VAE):
        raise UnsupportedModel(
            f"There is no VAE here (no tensor named {VAE}*): use a checkpoint that holds its VAE, "
            "or connect one."
        )
