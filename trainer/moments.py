"""Where AdamW's moments are kept between two updates: as they are, or in 8 bits."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from .to_device import bring, pinned, put_back

BLOCK = 256  # values that share a scale
WHOLE_BELOW = 4096  # values; of a smaller weight the moments stay fp32, as bitsandbytes keeps them
NAMES = ("exp_avg", "exp_avg_sq")


class Moments(Protocol):
    """Reads and writes the two moments of a part of one weight in its optimizer state.

    A part is a range of the weight's values in the order in which they lie in its memory. It begins
    at a multiple of ``BLOCK``.

    Attributes:
        maps: the 256 values of signed and of unsigned 8-bit numbers; none where they are fp32.
        in_ram: they are kept in pinned memory, not beside their weight.
    """

    maps: Sequence[Tensor]
    in_ram: bool

    def read(self, state: dict[str, Any], weight: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        """In fp32, ``[values]``, zeros before the first update."""

    def write(self, state: dict[str, Any], part: slice, mean: Tensor, square: Tensor) -> None:
        """What the update has made of them."""


class WholeMoments:
    """In fp32."""

    maps: Sequence[Tensor] = ()

    def __init__(self, in_ram: bool = False) -> None:
        self.in_ram = in_ram

    def read(self, state: dict[str, Any], weight: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        parts = [in_memory(whole(state, weight, name, self.in_ram))[part] for name in NAMES]
        return bring(parts[0], weight.device), bring(parts[1], weight.device)

    def write(self, state: dict[str, Any], part: slice, mean: Tensor, square: Tensor) -> None:
        for name, values in zip(NAMES, (mean, square), strict=True):
            put_back(values, in_memory(state[name])[part])


class EightBitMoments:
    """Block-wise in bitsandbytes' dynamic 8-bit numbers (Dettmers et al. 2022), and their scales.

    A block is 256 values that follow each other in the weight's own memory, whatever its layout.
    Small weights keep theirs in fp32, as under bitsandbytes' own optimizers.
    """

    def __init__(self, functional: ModuleType, in_ram: bool = False) -> None:
        """
        Args:
            functional: ``bitsandbytes.functional``.
        """
        self._functional = functional
        self.in_ram = in_ram
        self._whole = WholeMoments(in_ram)
        self.maps = [functional.create_dynamic_map(signed=signed) for signed in (True, False)]
        self._codes: dict[torch.device, list[Tensor]] = {}

    def read(self, state: dict[str, Any], weight: Tensor, part: slice) -> tuple[Tensor, Tensor]:
        if weight.numel() < WHOLE_BELOW:
            return self._whole.read(state, weight, part)
        mean, square = (
            self._functional.dequantize_blockwise(
                bring(values[part], weight.device),
                absmax=bring(scales[_blocks(part)], weight.device),
                code=code,
                blocksize=BLOCK,
            )
            for name, code in zip(NAMES, self._codes_on(weight.device), strict=True)
            for values, scales in [eight_bits(state, weight, name, self.in_ram)]
        )
        return mean, square

    def write(self, state: dict[str, Any], part: slice, mean: Tensor, square: Tensor) -> None:
        if f"{NAMES[0]}_scale" not in state:
            return self._whole.write(state, part, mean, square)
        codes = self._codes_on(mean.device)
        for name, code, moment in zip(NAMES, codes, (mean, square), strict=True):
            values, how = self._functional.quantize_blockwise(moment, code=code, blocksize=BLOCK)
            put_back(values, state[name][part])
            put_back(how.absmax, state[f"{name}_scale"][_blocks(part)])

    def _codes_on(self, device: torch.device) -> list[Tensor]:
        """Copied once: a copy to a card for each weight would make each update wait for it."""
        if device not in self._codes:
            self._codes[device] = [code.to(device) for code in self.maps]
        return self._codes[device]


def whole(state: dict[str, Any], weight: Tensor, name: str, in_ram: bool) -> Tensor:
    """A moment in fp32, in its weight's memory layout; zeros at first."""
    if name not in state:
        zeros = torch.zeros_like(weight, dtype=torch.float32, requires_grad=False)
        state[name] = pinned(zeros) if in_ram else zeros
    return state[name]


def eight_bits(
    state: dict[str, Any], weight: Tensor, name: str, in_ram: bool = False
) -> tuple[Tensor, Tensor]:
    """A moment's 8-bit values, ``[numel]``, and a scale for each block; zeros at first."""
    if name not in state:
        blocks = -(-weight.numel() // BLOCK)
        zeros = (
            weight.new_zeros(weight.numel(), dtype=torch.uint8),
            weight.new_zeros(blocks, dtype=torch.float32),
        )
        state[name], state[f"{name}_scale"] = map(pinned, zeros) if in_ram else zeros
    return state[name], state[f"{name}_scale"]


def _blocks(part: slice) -> slice:
    return slice(part.start // BLOCK, -(-part.stop // BLOCK))


def in_memory(tensor: Tensor) -> Tensor:
    """Its values in the order in which they lie, ``[numel]``."""
    return tensor.as_strided((tensor.numel(),), (1,))
