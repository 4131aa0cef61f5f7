"""Noise beyond the plain ε, drawn for one row: ``[C, h, w]`` in, ``[C, h, w]`` out."""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from .config import LossConfig
from .randomness import generator


def add_offset(noise: Tensor, strength: float, g: Generator) -> Tensor:
    """ε + strength · ξ with one ξ ~ N(0, 1) per channel (Guttenberg 2023, *offset noise*).

    The mean of a picture is otherwise hardly ever noised away, so nothing about it is learned.
    """
    return noise + strength * torch.randn(len(noise), 1, 1, generator=g)


def add_coarser(noise: Tensor, iterations: int, discount: float, g: Generator) -> Tensor:
    """Layers of noise of ever lower resolution on top (Whitaker 2023, *multi-resolution noise*).

    Layer i has the side h / r^i with its own r ~ U(2, 4), is scaled up bilinearly and counts
    discount^i; the last one is a single value wide or high. The sum is scaled back to a standard
    deviation of 1, over the row.
    """
    height, width = noise.shape[-2:]
    for i in range(iterations):
        r = float(torch.rand((), generator=g)) * 2 + 2
        h, w = max(1, int(height / r**i)), max(1, int(width / r**i))
        layer = torch.randn(1, len(noise), h, w, generator=g)
        noise = noise + F.interpolate(layer, (height, width), mode="bilinear")[0] * discount**i
        if 1 in (h, w):
            break
    return noise / noise.std()


def perturb(noise: Tensor, strength: float, g: Generator) -> Tensor:
    """ε + strength · ξ: what noises the input while ε stays the target (Ning et al. 2023)."""
    return noise + strength * torch.randn(noise.shape, generator=g)


def shaped(
    noise: Tensor, config: LossConfig, seed: int, row: int, is_class: bool
) -> tuple[Tensor, Tensor]:
    """A row's ε as the settings shape it: (the target, what noises the input).

    Each kind draws from a generator of its own, so that one more leaves the others' as they are.
    """

    def g(purpose: str) -> Generator:
        return generator(seed, f"{purpose}, {'class' if is_class else 'instance'} row", row)

    if config.noise_offset:
        noise = add_offset(noise, config.noise_offset, g("offset noise"))
    if config.multires_noise_iterations:
        iterations, discount = config.multires_noise_iterations, config.multires_noise_discount
        noise = add_coarser(noise, iterations, discount, g("multi-resolution noise"))
    if config.input_perturbation:
        return noise, perturb(noise, config.input_perturbation, g("input perturbation"))
    return noise, noise
