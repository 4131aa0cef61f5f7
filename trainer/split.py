"""fp32 weights in halves: bf16, which computes, and the 16 bits that it leaves out.

A DreamBooth update at a rate of 1e-6 is far smaller than a step of bf16, so weights that are bf16
alone hardly ever move. With the remainder beside them nothing is lost, in the memory of fp32 alone.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

_HALF = 0x8000  # of the last bit that bf16 keeps


def split(value: Tensor) -> tuple[Tensor, Tensor]:
    """fp32 → (the nearest bf16, ties away from zero; int16 remainder), in its memory layout.

    bf16 is the upper half of an fp32's bits; the remainder is what is missing, counted in the last
    of them, so that :func:`join` gives every bit again. For finite values below 3.38e38.
    """
    bits = value.view(torch.int32)
    # in place from here on: of the largest weight each further copy is 150 MB
    part = (bits + _HALF).bitwise_right_shift_(16)
    upper = part.to(torch.int16).view(torch.bfloat16)
    torch.sub(bits, part.bitwise_left_shift_(16), out=part)
    return upper, part.to(torch.int16)


def join(upper: Tensor, remainder: Tensor) -> Tensor:
    """The fp32 that :func:`split` took apart."""
    bits = upper.view(torch.int16).to(torch.int32).bitwise_left_shift_(16)
    return bits.add_(remainder).view(torch.float32)


def round_at_random(value: Tensor, random: Tensor) -> Tensor:
    """fp32 → one of the two bf16 around it, the nearer the likelier: on average the value itself.

    Args:
        random: int32, uniform in 0…65535.
    """
    bits = value.view(torch.int32) + random
    return bits.bitwise_right_shift_(16).to(torch.int16).view(torch.bfloat16)


class Joined(Mapping[str, Tensor]):
    """Weights by name, each put together when it is asked for: no second copy of them all."""

    def __init__(self, upper: Mapping[str, Tensor], remainder: Mapping[str, Tensor]) -> None:
        """
        Args:
            remainder: with the bits of int16 under the dtype bf16, which files' layouts know.
        """
        self._upper = upper
        self._remainder = remainder

    def __getitem__(self, name: str) -> Tensor:
        upper, remainder = self._upper[name], self._remainder[name].view(torch.int16)
        return join(upper.to(remainder.device), remainder)

    def __iter__(self) -> Iterator[str]:
        return iter(self._upper)

    def __len__(self) -> int:
        return len(self._upper)
