"""Numbers in 8 bits: shares of the largest of their block, whose roots are evenly spaced.

Blocks as in Dettmers et al. 2022 ("8-bit Optimizers via Block-wise Quantization"). A number x of
a block is kept as the nearest integer to n · sign(x) · √(|x| / largest): fine steps for small
numbers, which are the most of a block, coarse ones for large, and no table to look them up in.
"""

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 256  # numbers that share a scale
SIGNED, UNSIGNED = 127, 255  # n: of int8, and of uint8 for numbers that are never below zero


def to_eight_bits(values: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """fp32 ``[N]`` → ``[N]``, and the largest of each block, ``[ceil(N / BLOCK)]`` fp32.

    Args:
        levels: `SIGNED` or `UNSIGNED`.
    """
    blocks = _blocks(values)
    largest = blocks.abs().amax(1)
    share = blocks.abs().div_(torch.where(largest > 0, largest, 1.0)[:, None])
    codes = share.sqrt_().mul_(levels).round_().copysign_(blocks)
    kept = codes.to(torch.int8 if levels == SIGNED else torch.uint8)
    return kept.flatten()[: len(values)], largest


def from_eight_bits(codes: Tensor, largest: Tensor, levels: int) -> Tensor:
    """What :func:`to_eight_bits` kept, in fp32."""
    share = _blocks(codes.float().div_(levels))
    return share.mul_(share.abs()).mul_(largest[:, None]).flatten()[: len(codes)]


def _blocks(values: Tensor) -> Tensor:
    """``[blocks, BLOCK]``; the last one is filled up with zeros."""
    return functional.pad(values, (0, -len(values) % BLOCK)).view(-1, BLOCK)
