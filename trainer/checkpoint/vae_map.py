"""The VAE's geometry and its names: AutoencoderKL or AutoencoderTiny ↔ the file.

KL: CompVis ``ldm/modules/diffusionmodules/model.py`` (the decoder's levels count from the largest
picture down). Tiny: ComfyUI ``comfy/taesd/taesd.py``, whose decoder starts with a Clamp layer that
diffusers has as a plain expression, so its numbers are one higher."""

from collections.abc import Iterator, Mapping

import torch

from .errors import CheckpointError, UnsupportedModel
from .shapes import VAE, Shapes, count, has

_PAIR = ("weight", "bias")
_TINY_ENCODER = VAE + "taesd_encoder."
_TINY_DECODER = VAE + "taesd_decoder."
_TINY_EXTRAS = (VAE + "vae_scale", VAE + "vae_shift")
# What training a VAE leaves in its file; neither the host nor we use it.
_KL_EXTRA_PREFIXES = (VAE + "loss.", VAE + "model_ema.")

_RESNET = {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2"}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
# Diffusers' earlier names, found in converted files.
_OLD_ATTENTION = {"q": "query", "k": "key", "v": "value", "proj_out": "proj_attn"}


def detect_vae(shapes: Shapes) -> tuple[str, dict, int]:
    """(kind, keyword arguments of its class, pixels per latent pixel); KeyError on a gap."""
    if has(shapes, _TINY_DECODER):
        channels = shapes[_TINY_DECODER + "1.weight"][1]
        return "tiny", {"latent_channels": channels}, 8
    channels = tuple(
        shapes[f"{VAE}encoder.down.{i}.block.0.conv1.weight"][0]
        # At least one, so that a VAE of another kind is named by the tensor it lacks.
        for i in range(max(1, count(shapes, VAE + "encoder.down.{}.")))
    )
    latent = shapes[VAE + "decoder.conv_in.weight"][1]
    if shapes[VAE + "post_quant_conv.weight"][:2] != (latent, latent):
        raise UnsupportedModel(
            "The VAE's embedding and latent widths differ, which diffusers cannot express: use a "
            "Stable Diffusion VAE."
        )
    config = {
        "in_channels": shapes[VAE + "encoder.conv_in.weight"][1],
        "out_channels": shapes[VAE + "decoder.conv_out.weight"][0],
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "block_out_channels": channels,
        "layers_per_block": count(shapes, VAE + "encoder.down.0.block.{}."),
        "latent_channels": latent,
        "sample_size": 512,
    }
    return "kl", config, 2 ** (len(channels) - 1)


def vae_affine(state_dict: Mapping[str, torch.Tensor]) -> tuple[float, float]:
    """(vae_scale, vae_shift) of a TAESD part, 1 and 0 where the file leaves them out."""
    values = [state_dict.get(name) for name in _TINY_EXTRAS]
    for name, value in zip(_TINY_EXTRAS, values, strict=True):
        if value is not None and value.numel() != 1:
            raise CheckpointError(f"{name} has {value.numel()} values instead of one: damaged.")
    scale, shift = (None if value is None else float(value) for value in values)
    return 1.0 if scale is None else scale, 0.0 if shift is None else shift


def affine_tensors(scale: float, shift: float) -> dict[str, torch.Tensor]:
    """The two scalars as the host stores them beside a TAESD part."""
    return dict(zip(_TINY_EXTRAS, (torch.tensor(scale), torch.tensor(shift)), strict=True))


def vae_names(kind: str, config: Mapping) -> dict[str, str]:
    """Module key → file key for a VAE of this kind and ``vae_config``."""
    return dict(_tiny_names() if kind == "tiny" else _kl_names(config))


def vae_spellings(file_key: str) -> tuple[str, ...]:
    """The names a file may use for ``file_key``: its attention may have diffusers' old names."""
    before, mark, after = file_key.partition(".mid.attn_1.")
    name, dot, kind = after.partition(".")
    if not mark or name not in _OLD_ATTENTION:
        return (file_key,)
    return (file_key, before + mark + _OLD_ATTENTION[name] + dot + kind)


def is_vae_extra(file_key: str) -> bool:
    """Whether the file has this tensor but the module has no place for it."""
    return file_key in _TINY_EXTRAS or file_key.startswith(_KL_EXTRA_PREFIXES)


def _pairs(names) -> Iterator[tuple[str, str]]:
    for module, file in names:
        for kind in _PAIR:
            yield f"{module}.{kind}", f"{VAE}{file}.{kind}"


def _kl_names(config: Mapping) -> Iterator[tuple[str, str]]:
    channels = config["block_out_channels"]
    layers = config["layers_per_block"]
    last = len(channels) - 1
    for side in ("encoder", "decoder"):
        yield from _pairs(
            (f"{side}.{ours}", f"{side}.{theirs}")
            for ours, theirs in (
                ("conv_in", "conv_in"),
                ("conv_norm_out", "norm_out"),
                ("conv_out", "conv_out"),
            )
        )
        yield from _kl_mid(f"{side}.mid_block", f"{side}.mid")
    yield from _pairs((name, name) for name in ("quant_conv", "post_quant_conv"))

    before = channels[0]
    for i, width in enumerate(channels):
        ours, theirs = f"encoder.down_blocks.{i}", f"encoder.down.{i}"
        yield from _kl_resnets(ours, theirs, layers, shortcut=before != width)
        if i < last:
            yield from _pairs([(f"{ours}.downsamplers.0.conv", f"{theirs}.downsample.conv")])
        before = width

    before = channels[-1]
    for i, width in enumerate(reversed(channels)):
        ours, theirs = f"decoder.up_blocks.{i}", f"decoder.up.{last - i}"
        yield from _kl_resnets(ours, theirs, layers + 1, shortcut=before != width)
        if i < last:
            yield from _pairs([(f"{ours}.upsamplers.0.conv", f"{theirs}.upsample.conv")])
        before = width


def _kl_resnets(
    module: str, file: str, blocks: int, *, shortcut: bool
) -> Iterator[tuple[str, str]]:
    for i in range(blocks):
        names = _RESNET | ({"conv_shortcut": "nin_shortcut"} if shortcut and i == 0 else {})
        yield from _pairs(
            (f"{module}.resnets.{i}.{ours}", f"{file}.block.{i}.{theirs}")
            for ours, theirs in names.items()
        )


def _kl_mid(module: str, file: str) -> Iterator[tuple[str, str]]:
    for i in (0, 1):
        yield from _pairs(
            (f"{module}.resnets.{i}.{ours}", f"{file}.block_{i + 1}.{theirs}")
            for ours, theirs in _RESNET.items()
        )
    yield from _pairs(
        (f"{module}.attentions.0.{ours}", f"{file}.attn_1.{theirs}")
        for ours, theirs in _ATTENTION.items()
    )


# Index of each layer in diffusers' Sequential → has it a bias (a convolution) or is it a block.
_TINY_CONVS = {
    "encoder": {0: True, 2: False, 6: False, 10: False, 14: True},
    "decoder": {0: True, 6: False, 11: False, 16: False, 18: True},
}
_TINY_BLOCKS = {
    "encoder": (1, 3, 4, 5, 7, 8, 9, 11, 12, 13),
    "decoder": (2, 3, 4, 7, 8, 9, 12, 13, 14, 17),
}


def _tiny_names() -> Iterator[tuple[str, str]]:
    for side, root, shift in (("encoder", _TINY_ENCODER, 0), ("decoder", _TINY_DECODER, 1)):
        for i, biased in _TINY_CONVS[side].items():
            for kind in _PAIR if biased else _PAIR[:1]:
                yield f"{side}.layers.{i}.{kind}", f"{root}{i + shift}.{kind}"
        for i in _TINY_BLOCKS[side]:
            for conv in (0, 2, 4):
                for kind in _PAIR:
                    name = f"conv.{conv}.{kind}"
                    yield f"{side}.layers.{i}.{name}", f"{root}{i + shift}.{name}"
