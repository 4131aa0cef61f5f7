"""Where AdamW's moments are kept between two updates: as they are, or in 8 bits."""

from typing import Any, Protocol

import torch
from torch import Tensor

from .eight_bits import BLOCK, SIGNED, UNSIGNED, from_eight_bits, to_eight_bits
from .to_device import bring, pinned, put_back

WHOLE_BELOW = 4096  # values; of a smaller weight the moments stay fp32, as under bitsandbytes
NAMES = ("exp_avg", "exp_avg_sq")
LEVELS = (SIGNED, UNSIGNED)  # of the two in 8 bits


class Moments(Protocol):
    """Reads and writes the two moments of a part of one weight in its optimizer state.

    A part is a range of the weight's values in the order in which they lie in its memory. It begins
    at a multiple of ``BLOCK``.

    Attributes:
        eight: they are in 8 bits; else in fp32.
        in_ram: they are kept in pinned memory, not beside their weight.
    """

    eight: bool
    in_ram: bool

    def read(self, state: dict[str, Any], weight: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """In fp32, ``[values]``, zeros before the first update."""

    def write(self, state: dict[str, Any], part: slice, mean: Tensor, square: Tensor) -> None:
        """What the update has made of what was read, which is of no more use afterwards."""


class WholeMoments:
    """In fp32."""

    eight = False

    def __init__(self, in_ram: bool = False) -> None:
        self.in_ram = in_ram

    def read(self, state: dict[str, Any], weight: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        parts = [in_memory(whole(state, weight, name, self.in_ram))[part] for name in NAMES]
        return bring(parts[0], weight.device), bring(parts[1], weight.device)

    def write(self, state: dict[str, Any], part: slice, mean: Tensor, square: Tensor) -> None:
        for name, values in zip(NAMES, (mean, square), strict=True):
            put_back(values, in_memory(state[name])[part])


class EightBitMoments:
    """In 8 bits, block by block, and the blocks' scales.

    Of the second moment its root is kept, and of the first its ratio to that root. This is what an
    update is made of: one number's rounding moves its weight by a part of the block's largest
    update, not by the block's largest gradient over its own small one. An update is 2.2 times
    nearer to fp32's than from the two moments in dynamic 8-bit numbers (docs/BENCHMARKS.md).

    A block is 256 values that follow each other in the weight's own memory, whatever its layout.
    Small weights keep theirs in fp32.
    """

    eight = True

    def __init__(self, in_ram: bool = False) -> None:
        self.in_ram = in_ram
        self._whole = WholeMoments(in_ram)

    def read(self, state: dict[str, Any], weight: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        if weight.numel() < WHOLE_BELOW:
            return self._whole.read(state, weight, part)
        ratio, root = (
            from_eight_bits(
                bring(codes[part], weight.device), bring(scales[_blocks(part)], weight.device), n
            )
            for name, n in zip(NAMES, LEVELS, strict=True)
            for codes, scales in [eight_bits(state, weight, name, self.in_ram)]
        )
        return ratio.mul_(root), root.square_()

    def write(self, state: dict[str, Any], part: slice, mean: Tensor, square: Tensor) -> None:
        if f"{NAMES[0]}_scale" not in state:
            return self._whole.write(state, part, mean, square)
        kept = to_eight_bits(square.sqrt_(), UNSIGNED)
        root = from_eight_bits(*kept, UNSIGNED)
        ratio = mean.div_(root.masked_fill_(root == 0, torch.inf))  # nothing, where the root is
        for name, (codes, scales) in zip(NAMES, (to_eight_bits(ratio, SIGNED), kept), strict=True):
            put_back(codes, state[name][part])
            put_back(scales, state[f"{name}_scale"][_blocks(part)])


def whole(state: dict[str, Any], weight: Tensor, name: str, in_ram: bool) -> Tensor:
    """A moment in fp32, in its weight's memory layout; zeros at first."""
    if name not in state:
        zeros = torch.zeros_like(weight, dtype=torch.float32, requires_grad=False)
        state[name] = pinned(zeros) if in_ram else zeros
    return state[name]


def eight_bits(
    state: dict[str, Any], weight: Tensor, name: str, in_ram: bool = False
) -> tuple[Tensor, Tensor]:
    """A moment's 8-bit codes, ``[numel]``, and a scale for each block; zeros at first."""
    if name not in state:
        blocks = -(-weight.numel() // BLOCK)
        zeros = (
            weight.new_zeros(weight.numel(), dtype=torch.int8 if name == NAMES[0] else torch.uint8),
            weight.new_zeros(blocks, dtype=torch.float32),
        )
        state[name], state[f"{name}_scale"] = map(pinned, zeros) if in_ram else zeros
    return state[name], state[f"{name}_scale"]


def _blocks(part: slice) -> slice:
    return slice(part.start // BLOCK, -(-part.stop // BLOCK))


def in_memory(tensor: Tensor) -> Tensor:
    """Its values in the order in which they lie, ``[numel]``."""
    return tensor.as_strided((tensor.numel(),), (1,))
