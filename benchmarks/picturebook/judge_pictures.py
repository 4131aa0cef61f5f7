"""What the judge learns from and is examined on: individuals, their near-misses, and damage such
as small generative models do to a picture."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...demo.world import HELD_OUT, KINDS, Looks, Scene, draw
from .judge import SIDE

EVALUATION_SEED = 1_000_000_000  # scenes and subjects of seeds below it are for training

_HELD_OUT = {replace(looks, jitter=0) for looks in HELD_OUT.values()}


def is_held_out(looks: Looks) -> bool:
    """Whether these are a held-out subject's looks, whatever the proportions and shades."""
    return replace(looks, jitter=0) in _HELD_OUT


def near_misses(looks: Looks) -> dict[str, list[Looks]]:
    """By attribute: the same thing with just that one changed, never a held-out subject."""
    of = KINDS[looks.kind]
    choices = {
        "colour": of.colours,
        "second": () if looks.marking == "plain" else of.seconds,  # a plain thing may not show it
        "marking": of.markings,
        "shape": of.shapes,
        "extra": of.extras,
    }
    found: dict[str, list[Looks]] = {}
    for name, values in choices.items():
        others = [replace(looks, **{name: v}) for v in dict.fromkeys(values)]
        others = [o for o in others if o != looks and o.colour != o.second and not is_held_out(o)]
        if others:
            found[name] = others
    return found


def near_miss(looks: Looks, rng: random.Random) -> Looks:
    """One of them: any attribute that can change, evenly."""
    return rng.choice(rng.choice(list(near_misses(looks).values())))


def draw_all(scenes: Iterable[Scene]) -> Tensor:
    """``[N, 3, 64, 64]`` uint8."""
    pictures = np.stack([np.asarray(draw(scene, SIDE)) for scene in scenes])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def to_unit(pictures: Tensor) -> Tensor:
    """uint8 → fp32 in 0…1."""
    return pictures.float().div_(255)


def degrade(pictures: Tensor, g: torch.Generator) -> Tensor:
    """``[B, 3, h, w]`` in 0…1, each a little bent, blurred, discoloured and noisy."""
    pictures = _warped(pictures, g)
    pictures = _blurred(pictures, 1.2 * torch.rand(len(pictures), generator=g))
    coarse = F.interpolate(F.avg_pool2d(pictures, 2), scale_factor=2, mode="bilinear")
    pictures = torch.where(_some(pictures, 0.3, g), coarse, pictures)
    return _noisy(_discoloured(pictures, g), g).clamp_(0, 1)


def _some(pictures: Tensor, share: float, g: torch.Generator) -> Tensor:
    return torch.rand(len(pictures), 1, 1, 1, generator=g) < share


def _normal(pictures: Tensor, *shape: int, g: torch.Generator) -> Tensor:
    return torch.randn(len(pictures), *shape, generator=g)


def _warped(pictures: Tensor, g: torch.Generator) -> Tensor:
    """Moved by about one pixel, smoothly different over the picture."""
    side = pictures.shape[-1]
    moves = F.interpolate(_normal(pictures, 2, 5, 5, g=g), side, mode="bicubic")
    moves = (moves * (2 / side)).permute(0, 2, 3, 1)
    same = torch.eye(2, 3).expand(len(pictures), 2, 3)
    grid = F.affine_grid(same, list(pictures.shape), align_corners=False) + moves
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)


def _blurred(pictures: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of ``sigma`` [B] pixels."""
    rows, channels = pictures.shape[:2]
    kernel = torch.exp(-0.5 * (torch.arange(-3, 4) / sigma.clamp(min=0.1)[:, None]).square())
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(channels, dim=0)
    flat = F.pad(pictures, (3, 3, 3, 3), "reflect").flatten(0, 1)[None]
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=rows * channels)
    flat = F.conv2d(flat, kernel[:, None, None, :], groups=rows * channels)
    return flat.view(pictures.shape)


def _discoloured(pictures: Tensor, g: torch.Generator) -> Tensor:
    """A tint, another brightness and contrast, paler or stronger colours."""
    grey = pictures.mean(dim=1, keepdim=True)
    strength = 0.8 + 0.35 * torch.rand(len(pictures), 1, 1, 1, generator=g)
    pictures = grey + (pictures - grey) * strength
    pictures = pictures * (1 + 0.04 * _normal(pictures, 3, 1, 1, g=g))
    contrast = 1 + 0.07 * _normal(pictures, 1, 1, 1, g=g)
    return (pictures - 0.5) * contrast + 0.5 + 0.03 * _normal(pictures, 1, 1, 1, g=g)


def _noisy(pictures: Tensor, g: torch.Generator) -> Tensor:
    """Fine grain, and blots of a few pixels."""
    side = pictures.shape[-1]
    strength = 0.05 * torch.rand(2, len(pictures), 1, 1, 1, generator=g)
    blots = F.interpolate(_normal(pictures, 3, side // 4, side // 4, g=g), side, mode="bilinear")
    return pictures + strength[0] * _normal(pictures, 3, side, side, g=g) + strength[1] * blots
