"""Which model a state dict holds, read from names and shapes alone, as the host does."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .errors import CheckpointError, UnsupportedModel
from .refuse import refuse_unsupported
from .shapes import Shapes, context_width, shapes_of
from .text_map import detect_text
from .unet_map import detect_unet
from .vae_map import detect_vae, vae_affine

PARTS = ("unet", "text_encoder", "vae")


@dataclass(frozen=True)
class Layout:
    """The geometry of one checkpoint, enough to build its modules and to name its tensors.

    The prediction type (epsilon or v) is not here: SD 1.x files do not say it, and the host takes
    every SD 1.x file for epsilon (ComfyUI ``comfy/supported_models.py:SD15``).
    """

    family: str
    """Only "sd1" so far."""
    unet_config: dict
    """Keyword arguments of diffusers' UNet2DConditionModel."""
    text_config: dict
    """Keyword arguments of transformers' CLIPTextConfig."""
    vae_kind: str
    """"kl" (AutoencoderKL) or "tiny" (AutoencoderTiny, the TAESD network)."""
    vae_config: dict
    """Keyword arguments of AutoencoderKL or AutoencoderTiny."""
    latent_scale: float = 0.18215
    """The UNet sees VAE latents times this (ComfyUI ``latent_formats.SD15``, also for "tiny")."""
    vae_scale: float = 1.0
    """Of a "tiny" VAE: host latents = (encoder(x) / vae_scale + vae_shift) * latent_scale."""
    vae_shift: float = 0.0
    downscale: int = 8
    """Image pixels per latent pixel, in each direction."""


def detect(state_dict: Mapping[str, torch.Tensor]) -> Layout:
    """Names the model in a single-file state dict from its tensors' names and shapes.

    Raises UnsupportedModel, with one sentence, for anything that is not a complete SD 1.x model,
    and CheckpointError for one that is damaged. Reads no values but ``vae_scale``/``vae_shift``.
    """
    shapes = shapes_of(state_dict)
    try:
        refuse_unsupported(state_dict)
        unet = detect_unet(shapes)
        text = detect_text(shapes)
        kind, vae, downscale = detect_vae(shapes)
    except KeyError as missing:
        raise CheckpointError(
            f"The checkpoint is incomplete: {missing.args[0]} is missing. Get the file again."
        ) from None
    except IndexError:
        raise CheckpointError(
            "The checkpoint is damaged: some tensor has too few dimensions. Get the file again."
        ) from None
    _check_agreement(shapes, unet, text, vae)
    scale, shift = vae_affine(state_dict) if kind == "tiny" else (1.0, 0.0)
    return Layout(
        family="sd1",
        unet_config=unet,
        text_config=text,
        vae_kind=kind,
        vae_config=vae,
        vae_scale=scale,
        vae_shift=shift,
        downscale=downscale,
    )


def _check_agreement(shapes: Shapes, unet: dict, text: dict, vae: dict) -> None:
    """The three parts may come from different loaders: they must fit each other."""
    if context_width(shapes) != text["hidden_size"]:
        raise UnsupportedModel(
            f"The UNet reads text states of width {context_width(shapes)} but the text encoder "
            f"gives {text['hidden_size']}: use the text encoder that belongs to this UNet."
        )
    if unet["in_channels"] != vae["latent_channels"]:
        raise UnsupportedModel(
            f"The UNet takes {unet['in_channels']} latent channels but the VAE gives "
            f"{vae['latent_channels']}: use a VAE of the same family."
        )
