"""The autoencoder in TAESD's layout and its loss on pictures of the world.

Its latents are the UNet's own: the file's ``vae_scale`` undoes the host's factor 0.18215, so they
are asked to have mean 0 and standard deviation 1 in each channel.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor, nn

from ...trainer.checkpoint import Layout
from ...trainer.checkpoint.convert import make_module
from ...trainer.randomness import generator
from ..random_base import LAYOUT, own_convolutions, wire_vae
from .pool import to_pixels
from .recipe import Recipe

EDGES, SPREAD = 1.0, 0.1  # weights beside the plain L1
LATENT_NOISE = 0.05  # what the decoder learns to bear: the UNet's answers are not exact


def fresh(part: str, seed: int, layout: Layout = LAYOUT) -> nn.Module:
    """A module with its own initialisation from the seed; global random state untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_module(layout, part, "cpu")


@torch.no_grad()
def head_start(vae: AutoencoderTiny) -> AutoencoderTiny:
    """Lets a fresh autoencoder begin as a box average and a smooth way up.

    A few channels are wired by hand as in the random base and the residual blocks begin as the
    identity; everything else keeps its random start and learns the detail from the first step.
    """
    wired = wire_vae(copy.deepcopy(vae))
    for side, model in ((vae.encoder, wired.encoder), (vae.decoder, wired.decoder)):
        pairs = list(zip(own_convolutions(side), own_convolutions(model), strict=True))
        for conv, model_conv in pairs:
            weight = model_conv.weight
            by_hand = weight.flatten(1).any(dim=1).view(-1, 1, 1, 1)
            rest = 0.1 * conv.weight * (weight == 0) if conv is pairs[-1][0] else 0.0
            conv.weight.copy_(torch.where(by_hand, weight + rest, conv.weight))
            if conv.bias is not None:
                conv.bias.copy_(model_conv.bias)
        for layer in side.layers:
            if hasattr(layer, "fuse"):  # a residual block
                layer.conv[-1].weight.zero_()
                layer.conv[-1].bias.zero_()
    return vae


@torch.no_grad()
def balance(vae: AutoencoderTiny, pictures: Tensor, device: torch.device) -> None:
    """Gives the latents mean 0 and spread 1 in each channel, and tells the decoder."""
    latents = vae.encode(to_pixels(pictures[:32], device)).latents
    mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    last, first = own_convolutions(vae.encoder)[-1], own_convolutions(vae.decoder)[0]
    last.weight.div_(deviation.view(-1, 1, 1, 1))
    last.bias.copy_((last.bias - mean) / deviation)
    first.bias.add_((first.weight.sum(dim=(2, 3)) * mean).sum(dim=1))
    first.weight.mul_(deviation.view(1, -1, 1, 1))


class AutoencoderLoss:
    """L1 of pixels and of their differences to the neighbours, and the latents' spread."""

    def __init__(
        self,
        vae: AutoencoderTiny,
        pictures: Tensor,
        recipe: Recipe,
        device: torch.device,
        bf16: bool,
    ) -> None:
        self._vae, self._pictures, self._recipe = vae, pictures, recipe
        self._device, self._bf16 = device, bf16

    def __call__(self, step: int) -> Tensor:
        g = generator(self._recipe.seed, "autoencoder", step)
        rows = torch.randint(len(self._pictures), (self._recipe.vae_batch,), generator=g)
        crop = self._recipe.vae_crop or self._recipe.size
        left, top = torch.randint(self._recipe.size - crop + 1, (2,), generator=g).tolist()
        noise = torch.randn(len(rows), 4, crop // 8, crop // 8, generator=g).to(self._device)
        squares = self._pictures[:, top : top + crop, left : left + crop]
        pixels = to_pixels(squares[rows.to(self._pictures.device)], self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            latents = self._vae.encode(pixels).latents
            out = self._vae.decode(latents + LATENT_NOISE * noise).sample
        return reconstruction(out.float(), pixels) + SPREAD * spread(latents.float())


def reconstruction(out: Tensor, pixels: Tensor) -> Tensor:
    """Mean absolute error of values and of edges."""
    error = out - pixels
    across, down = error.diff(dim=3).abs().mean(), error.diff(dim=2).abs().mean()
    return F.l1_loss(out, pixels) + EDGES * (across + down)


def spread(latents: Tensor) -> Tensor:
    """How far each channel is from mean 0 and standard deviation 1."""
    mean = latents.mean(dim=(0, 2, 3))
    return (mean.square() + (latents.std(dim=(0, 2, 3)) - 1).square()).mean()


@torch.no_grad()
def encode_pool(
    vae: AutoencoderTiny, pictures: Tensor, device: torch.device, bf16: bool = False
) -> Tensor:
    """Latents of the whole pool, fp32 on ``device``; ``bf16`` moves them by 1.6 %."""
    batch = 512 if device.type == "cuda" else 16
    parts = []
    for some in pictures.split(batch):
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            parts.append(vae.encode(to_pixels(some, device)).latents.float())
    return torch.cat(parts)
