"""Which model a state dict holds, read from names and shapes alone, as the host does."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .clip_map import detect_clip
from .errors import CheckpointError, UnsupportedModel
from .open_clip_map import detect_open_clip
from .prediction import detect_prediction
from .refuse import refuse_unsupported
from .shapes import TEXT, TEXT_G, TEXT_L, Shapes, context_width, family_of, shapes_of
from .unet_shape import TIME_IDS_WIDTH, detect_unet
from .vae_map import detect_vae, vae_affine

TITLES = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
}
_LATENT_SCALES = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}


@dataclass(frozen=True)
class Layout:
    """The geometry of one checkpoint, enough to build its modules and to name its tensors."""

    family: str
    """"sd1", "sd2" or "sdxl" (SDXL base and its distilled depths)."""
    unet_config: dict
    """Keyword arguments of diffusers' UNet2DConditionModel."""
    text_config: dict
    """Keyword arguments of transformers' CLIPTextConfig, the class is CLIPTextModel.

    OpenCLIP-H of SD 2.x without the last layer: final_layer_norm follows the last but one.
    ``pad_token_id`` is what the host fills a prompt up with.
    """
    vae_kind: str
    """"kl" (AutoencoderKL) or "tiny" (AutoencoderTiny, the TAESD network)."""
    vae_config: dict
    """Keyword arguments of AutoencoderKL or AutoencoderTiny."""
    text_config_2: dict | None = None
    """The same for SDXL's OpenCLIP bigG, whose class is CLIPTextModelWithProjection."""
    prediction: str = "epsilon"
    """"epsilon" or "v_prediction", as the host reads it from the file."""
    zero_terminal_snr: bool = False
    """Whether the host's noise schedule for this file ends in nothing but noise."""
    latent_scale: float = 0.18215
    """The UNet sees VAE latents times this (ComfyUI ``latent_formats``, also for "tiny")."""
    vae_scale: float = 1.0
    """Of a "tiny" VAE: host latents = (encoder(x) / vae_scale + vae_shift) * latent_scale."""
    vae_shift: float = 0.0
    downscale: int = 8
    """Image pixels per latent pixel, in each direction."""
    prediction: str = "epsilon"
    """What the UNet answers with: "epsilon" or "v_prediction"."""
    zero_terminal_snr: bool = False
    """Whether the noise schedule ends in pure noise."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What the file holds, in its usual order."""
        if self.text_config_2 is None:
            return ("unet", "text_encoder", "vae")
        return ("unet", "text_encoder", "text_encoder_2", "vae")


def detect(state_dict: Mapping[str, torch.Tensor]) -> Layout:
    """Names the model in a single-file state dict from its tensors' names and shapes.

    Raises UnsupportedModel, with one sentence, for anything that is not a complete SD 1.x, SD 2.x
    or SDXL model, and CheckpointError for one that is damaged. Reads no values but those of
    ``vae_scale``/``vae_shift`` and the one bias that tells what an SD 2.x model predicts.
    """
    shapes = shapes_of(state_dict)
    try:
        refuse_unsupported(state_dict)
        family = family_of(shapes)
        unet = detect_unet(shapes, family)
        text, text_2 = _detect_texts(shapes, family)
        kind, vae, downscale = detect_vae(shapes)
    except KeyError as missing:
        raise CheckpointError(
            f"The checkpoint is incomplete: {missing.args[0]} is missing. Get the file again."
        ) from None
    except IndexError:
        raise CheckpointError(
            "The checkpoint is damaged: some tensor has too few dimensions. Get the file again."
        ) from None
    _check_agreement(shapes, unet, text, text_2, vae)
    scale, shift = vae_affine(state_dict) if kind == "tiny" else (1.0, 0.0)
    prediction, zero_terminal_snr = detect_prediction(state_dict, family)
    return Layout(
        family=family,
        unet_config=unet,
        text_config=text,
        vae_kind=kind,
        vae_config=vae,
        text_config_2=text_2,
        prediction=prediction,
        zero_terminal_snr=zero_terminal_snr,
        latent_scale=_LATENT_SCALES[family],
        vae_scale=scale,
        vae_shift=shift,
        downscale=downscale,
    )


def _detect_texts(shapes: Shapes, family: str) -> tuple[dict, dict | None]:
    if family == "sd2":
        return detect_open_clip(shapes, TEXT + "model.", projected=False), None
    if family == "sdxl":
        text_2 = detect_open_clip(shapes, TEXT_G + "model.", projected=True)
        return detect_clip(shapes, TEXT_L), text_2
    return detect_clip(shapes, TEXT), None


def _check_agreement(
    shapes: Shapes, unet: dict, text: dict, text_2: dict | None, vae: dict
) -> None:
    """The parts may come from different loaders: they must fit each other."""
    width = text["hidden_size"] + (text_2["hidden_size"] if text_2 else 0)
    if context_width(shapes) != width:
        encoders, give = ("text encoders", "give") if text_2 else ("text encoder", "gives")
        raise UnsupportedModel(
            f"The UNet reads text states of width {context_width(shapes)} but the {encoders} "
            f"{give} {width}: use the {encoders} that {'belong' if text_2 else 'belongs'} to this "
            "UNet."
        )
    if text_2:
        pooled = unet["projection_class_embeddings_input_dim"] - TIME_IDS_WIDTH
        if pooled != text_2["projection_dim"]:
            raise UnsupportedModel(
                f"The UNet reads a pooled text vector of width {pooled} but the second text "
                f"encoder gives {text_2['projection_dim']}: use the text encoders that belong to "
                "this UNet."
            )
    if unet["in_channels"] != vae["latent_channels"]:
        raise UnsupportedModel(
            f"The UNet takes {unet['in_channels']} latent channels but the VAE gives "
            f"{vae['latent_channels']}: use a VAE of the same family."
        )
