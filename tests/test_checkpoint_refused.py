"""Checkpoints that are refused: each by its name, in one sentence."""

import pytest
import torch
from nets import empty, meta
from pack.trainer.checkpoint import (
    CheckpointError,
    UnsupportedModel,
    detect,
)

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer.text_model."
VAE = "first_stage_model."


def without(prefix: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in meta().items() if not name.startswith(prefix)}


def changed(**tensors: torch.Tensor) -> dict[str, torch.Tensor]:
    return meta() | {name.replace("__", "."): tensor for name, tensor in tensors.items()}


def with_channels(count: int) -> dict[str, torch.Tensor]:
    return meta() | {UNET + "input_blocks.0.0.weight": empty(32, count, 3, 3)}


def with_context(width: int, *, linear: bool, label: bool) -> dict[str, torch.Tensor]:
    tensors = meta()
    for name, tensor in tensors.items():
        if name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight")):
            tensors[name] = empty(tensor.shape[0], width)
        if linear and name.endswith((".proj_in.weight", ".proj_out.weight")):
            tensors[name] = empty(*tensor.shape[:2])
    if label:
        tensors[UNET + "label_emb.0.0.weight"] = empty(128, 2816)
    return tensors


def video() -> dict[str, torch.Tensor]:
    name = UNET + "input_blocks.1.1.time_stack.0.attn1.to_q.weight"
    return with_context(1024, linear=True, label=True) | {name: empty(32, 32)}


def mixed_attention() -> dict[str, torch.Tensor]:
    """Two blocks in one level, one of them without attention."""
    name = UNET + "input_blocks.2.0."
    return meta() | {
        name + kind: tensor
        for kind, tensor in (
            ("in_layers.0.weight", empty(32)),
            ("out_layers.3.weight", empty(32, 32, 3, 3)),
        )
    }


def no_attention() -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in meta().items() if "transformer_blocks" not in name}


def other_way_up() -> dict[str, torch.Tensor]:
    mark = UNET + "output_blocks.1.1."
    return {name: tensor for name, tensor in meta().items() if not name.startswith(mark)}


def sdxl_without(prefix: str) -> dict[str, torch.Tensor]:
    tensors = meta("toy_sdxl")
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefix)}


def other_context() -> dict[str, torch.Tensor]:
    tensors = meta("toy_sdxl")
    for name, tensor in tensors.items():
        if name.endswith((".attn2.to_k.weight", ".attn2.to_v.weight")):
            tensors[name] = empty(tensor.shape[0], 2048)
    return tensors


REFUSED = {
    "lora": ({"lora_unet_x.lora_down.weight": empty(4, 32)}, "LoRA"),
    "flux": ({"double_blocks.0.img_attn.qkv.weight": empty(8, 8)}, "Flux"),
    "flux in a checkpoint": ({UNET + "double_blocks.0.img_attn.qkv.weight": empty(8, 8)}, "Flux"),
    "sd3": (
        {UNET + "joint_blocks.0.context_block.attn.qkv.weight": empty(8, 8)},
        "Stable Diffusion 3",
    ),
    "other transformer": ({UNET + "blocks.0.attn.weight": empty(8, 8)}, "not a Stable Diffusion"),
    "diffusers folder": ({"down_blocks.0.resnets.0.conv1.weight": empty(8, 8)}, "diffusers folder"),
    "bare unet": ({"input_blocks.0.0.weight": empty(8, 4, 3, 3)}, "bare UNet"),
    "nothing": ({}, "no UNet"),
    "no unet": (without(UNET), "no UNet"),
    "no text encoder": (without("cond_stage_model."), "no CLIP text encoder"),
    "no vae": (without(VAE), "no VAE"),
    "sd2 with another's text encoder": (
        with_context(1024, linear=True, label=False),
        "no OpenCLIP text encoder of Stable Diffusion 2.x",
    ),
    "sd2 in another spelling": (
        {
            key.replace("cond_stage_model.", "conditioner.embedders.0."): tensor
            for key, tensor in meta("toy_sd2").items()
        },
        "spells its text encoder conditioner.embedders.0.model.*",
    ),
    "sdxl with another's text encoder": (
        with_context(2048, linear=True, label=True),
        "no CLIP-L text encoder of Stable Diffusion XL",
    ),
    "sdxl without its second encoder": (
        sdxl_without("conditioner.embedders.1."),
        "no OpenCLIP bigG text encoder of Stable Diffusion XL",
    ),
    "sdxl with a narrow second encoder": (other_context(), "the text encoders give 96"),
    "sdxl with another pooled vector": (
        meta("toy_sdxl") | {UNET + "label_emb.0.0.weight": empty(128, 2816)},
        "pooled text vector of width 1280 but the second text encoder gives 64",
    ),
    "playground": (
        meta("toy_sdxl") | {"edm_mean": empty(4), "edm_std": empty(4)},
        "EDM model such as Playground v2.5",
    ),
    "cosxl": (meta("toy_sdxl") | {"edm_vpred.sigma_max": empty()}, "EDM v-prediction model"),
    "refiner": (with_context(1280, linear=True, label=True), "XL refiner"),
    "unclip": (with_context(1024, linear=True, label=True), "unCLIP"),
    "upscaler": (changed(**{UNET + "label_emb.weight": empty(1000, 128)}), "label embedding"),
    "video": (video(), "video"),
    "3-d convolution": (changed(**{UNET + "x.weight": empty(1, 1, 3, 1, 1)}), "video"),
    "inpainting": (with_channels(9), "inpainting"),
    "pix2pix": (with_channels(8), "instruct-pix2pix"),
    "depth": (with_channels(5), "depth-guided"),
    "sdxl inpainting": (
        meta("toy_sdxl") | {UNET + "input_blocks.0.0.weight": empty(32, 9, 3, 3)},
        "inpainting",
    ),
    "other channels": (with_channels(6), "6 latent channels"),
    "fp8": (
        changed(**{UNET + "out.2.weight": empty(4, 32, 3, 3, dtype=torch.float8_e4m3fn)}),
        r"quantised \(model.diffusion_model.out.2.weight is float8_e4m3fn\)",
    ),
    "fp8 text encoder": (
        meta("toy_sdxl") | {"conditioner.embedders.1.model.x": empty(3, dtype=torch.float8_e4m3fn)},
        "embedders.1.model.x is float8_e4m3fn",
    ),
    "int8": (changed(**{VAE + "x": empty(3, dtype=torch.int8)}), "is int8"),
    "mixed attention": (mixed_attention(), "within one resolution"),
    "no attention": (no_attention(), "no cross-attention"),
    "other way up": (other_way_up(), "way up"),
    "foreign text encoder": (
        with_context(768, linear=False, label=False),
        "width 768 but the text encoder gives 32",
    ),
    "other vocabulary": (
        changed(**{TEXT + "embeddings.token_embedding.weight": empty(50000, 32)}),
        "50000 tokens",
    ),
    "16-channel vae": (
        changed(**{VAE + "taesd_decoder.1.weight": empty(64, 16, 3, 3)}),
        "the VAE gives 16",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name_and_in_one_sentence(case: str) -> None:
    tensors, words = REFUSED[case]
    with pytest.raises(UnsupportedModel, match=words) as refusal:
        detect(tensors)
    message = str(refusal.value)
    assert message.endswith(".")
    assert ". " not in message
    assert "use " in message or "connect" in message


@pytest.mark.parametrize(
    "lost",
    [
        UNET + "out.2.weight",
        UNET + "input_blocks.1.0.out_layers.3.weight",
        TEXT + "embeddings.token_embedding.weight",
        VAE + "taesd_decoder.1.weight",
    ],
)
def test_a_lost_tensor_is_damage_not_another_model(lost: str) -> None:
    with pytest.raises(CheckpointError, match=lost):
        detect(without(lost))
