"""What a checkpoint is, from names and shapes; what is refused, and in which words."""

import pytest
import torch
from nets import KINDS, make_layout, random_checkpoint
from pack.trainer.checkpoint import PARTS, CheckpointError, UnsupportedModel, detect, key_map

UNET = "model.diffusion_model."
TEXT = "cond_stage_model.transformer.text_model."
VAE = "first_stage_model."


def meta(kind: str = "toy", vae: str = "tiny") -> dict[str, torch.Tensor]:
    return random_checkpoint(kind, vae, device="meta")


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize("vae", ["tiny", "kl", "kl_toy"])
@pytest.mark.parametrize("kind", KINDS)
def test_detect_reads_the_geometry_back(kind: str, vae: str) -> None:
    assert detect(meta(kind, vae)) == make_layout(kind, vae)


def test_full_size_counts() -> None:
    layout = detect(meta("full", "kl"))
    assert [len(key_map(layout, part)) for part in PARTS] == [686, 196, 248]
    assert layout.downscale == 8
    assert layout.latent_scale == 0.18215


@pytest.mark.parametrize("vae", ["tiny", "kl"])
@pytest.mark.parametrize("kind", KINDS)
def test_key_maps_are_one_to_one(kind: str, vae: str) -> None:
    layout = make_layout(kind, vae)
    for part in PARTS:
        names = key_map(layout, part)
        assert len(set(names.values())) == len(names)


def test_names_match_the_published_layout() -> None:
    """Names that every Stable Diffusion 1.x file has, spelt out by hand."""
    names = {name for part in PARTS for name in key_map(make_layout("full", "kl"), part).values()}
    assert {
        UNET + "time_embed.2.bias",
        UNET + "input_blocks.3.0.op.weight",
        UNET + "input_blocks.4.0.skip_connection.weight",
        UNET + "input_blocks.11.0.emb_layers.1.weight",
        UNET + "middle_block.1.transformer_blocks.0.ff.net.0.proj.weight",
        UNET + "output_blocks.2.1.conv.weight",
        UNET + "output_blocks.5.2.conv.weight",
        UNET + "output_blocks.8.2.conv.weight",
        UNET + "output_blocks.11.1.proj_out.bias",
        UNET + "out.2.weight",
        TEXT + "encoder.layers.11.self_attn.out_proj.bias",
        VAE + "encoder.down.2.downsample.conv.weight",
        VAE + "decoder.up.3.upsample.conv.weight",
        VAE + "decoder.up.0.block.0.nin_shortcut.weight",
        VAE + "decoder.mid.attn_1.proj_out.weight",
        VAE + "post_quant_conv.bias",
    } <= names


def test_affine_of_a_tiny_vae_is_read() -> None:
    tensors = random_checkpoint()
    tensors[VAE + "vae_scale"] = torch.tensor(1.5, dtype=torch.float16)
    tensors[VAE + "vae_shift"] = torch.tensor(-0.25)
    layout = detect(tensors)
    assert (layout.vae_scale, layout.vae_shift) == (1.5, -0.25)
    del tensors[VAE + "vae_scale"], tensors[VAE + "vae_shift"]
    layout = detect(tensors)
    assert (layout.vae_scale, layout.vae_shift) == (1.0, 0.0)


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
    "sd2": (with_context(1024, linear=True, label=False), "Stable Diffusion 2"),
    "sdxl": (with_context(2048, linear=True, label=True), "Stable Diffusion XL model"),
    "refiner": (with_context(1280, linear=True, label=True), "XL refiner"),
    "unclip": (with_context(1024, linear=True, label=True), "unCLIP"),
    "upscaler": (changed(**{UNET + "label_emb.weight": empty(1000, 128)}), "label embedding"),
    "video": (video(), "video"),
    "3-d convolution": (changed(**{UNET + "x.weight": empty(1, 1, 3, 1, 1)}), "video"),
    "inpainting": (with_channels(9), "inpainting"),
    "pix2pix": (with_channels(8), "instruct-pix2pix"),
    "other channels": (with_channels(5), "5 latent channels"),
    "fp8": (
        changed(**{UNET + "out.2.weight": empty(4, 32, 3, 3, dtype=torch.float8_e4m3fn)}),
        r"quantised \(model.diffusion_model.out.2.weight is float8_e4m3fn\)",
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
