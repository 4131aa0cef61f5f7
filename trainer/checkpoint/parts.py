"""The parts of a checkpoint and what each is called in its file, by family."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from .clip_map import clip_extras, clip_names, flat_spellings
from .open_clip_map import is_open_clip_extra, open_clip_names, projection_spellings
from .shapes import TEXT, TEXT_G, TEXT_L, UNET, VAE
from .unet_map import unet_names
from .vae_map import is_vae_extra, vae_names, vae_spellings

if TYPE_CHECKING:
    from .layout import Layout


@dataclass(frozen=True)
class Naming:
    """How the file spells one part."""

    title: str
    """For messages."""
    root: str
    """Every tensor under it belongs to the part."""
    names: dict[str, str]
    """Module key → file key in the usual spelling; several keys with one name are stacked there."""
    spellings: Callable[[str], tuple[str, ...]] = lambda name: (name,)
    """File key → what a file may call it, the usual name first."""
    is_extra: Callable[[str], bool] = lambda name: False
    """Whether a file key belongs to the part but has no place in the module."""


def naming(layout: "Layout", part: str) -> Naming:
    """The names of ``part``, one of ``layout.parts``; ValueError for another."""
    if part not in layout.parts:
        raise ValueError(f"unknown part {part!r}: one of {', '.join(layout.parts)}")
    if part == "unet":
        return Naming("UNet", UNET, unet_names(layout.unet_config))
    if part == "vae":
        names = vae_names(layout.vae_kind, layout.vae_config)
        return Naming("VAE", VAE, names, vae_spellings, is_vae_extra)
    if part == "text_encoder_2":
        return _open_clip("second text encoder", TEXT_G, layout.text_config_2, projected=True)
    if layout.family == "sd2":
        return _open_clip("text encoder", TEXT, layout.text_config, projected=False)
    return _clip(TEXT_L if layout.family == "sdxl" else TEXT, layout.text_config)


def _clip(root: str, config: dict) -> Naming:
    flat = {"spellings": partial(flat_spellings, root=root)} if root == TEXT else {}
    extras = clip_extras(root)
    return Naming(
        "text encoder", root, clip_names(config, root), **flat, is_extra=extras.__contains__
    )


def _open_clip(title: str, root: str, config: dict, *, projected: bool) -> Naming:
    inner = root + "model."
    names = open_clip_names(config, inner, projected=projected)
    is_extra = partial(is_open_clip_extra, config=config, root=inner, projected=projected)
    return Naming(title, root, names, projection_spellings, is_extra)
