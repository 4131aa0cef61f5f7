"""Where AdamW's moments are kept between two updates: as they are, or in 8 bits."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

BLOCK = 256  # values that share a scale
WHOLE_BELOW = 4096  # values; of a smaller weight the moments stay fp32, as bitsandbytes keeps them
NAMES = ("exp_avg", "exp_avg_sq")


class Moments(Protocol):
    """Reads and writes the two moments of one weight in its optimizer state.

    Attributes:
        maps: the 256 values of signed and of unsigned 8-bit numbers; none where they are fp32.
    """

    maps: Sequence[Tensor]

    def read(self, state: dict[str, Any], like: Tensor) -> tuple[Tensor, Tensor]:
        """In fp32 and the memory layout of ``like``, zeros before the first update."""

    def write(self, state: dict[str, Any], mean: Tensor, square: Tensor) -> None:
        """What the update has made of them."""


class WholeMoments:
    """In fp32."""

    maps: Sequence[Tensor] = ()

    def read(self, state: dict[str, Any], like: Tensor) -> tuple[Tensor, Tensor]:
        for name in NAMES:
            if name not in state:
                state[name] = torch.zeros_like(like, dtype=torch.float32, requires_grad=False)
        return state[NAMES[0]], state[NAMES[1]]

    def write(self, state: dict[str, Any], mean: Tensor, square: Tensor) -> None:
        """They were changed in place."""


class EightBitMoments:
    """Block-wise in bitsandbytes' dynamic 8-bit numbers (Dettmers et al. 2022), and their scales.

    A block is 256 values that follow each other in the weight's own memory, whatever its layout.
    Small weights keep theirs in fp32, as under bitsandbytes' own optimizers.
    """

    def __init__(self, functional: ModuleType) -> None:
        """
        Args:
            functional: ``bitsandbytes.functional``.
        """
        self._functional = functional
        self._whole = WholeMoments()
        self.maps = [functional.create_dynamic_map(signed=signed) for signed in (True, False)]
        self._codes: dict[torch.device, list[Tensor]] = {}

    def read(self, state: dict[str, Any], like: Tensor) -> tuple[Tensor, Tensor]:
        if like.numel() < WHOLE_BELOW:
            return self._whole.read(state, like)
        mean, square = (torch.zeros_like(like, dtype=torch.float32) for _ in NAMES)
        codes = self._codes_on(like.device)
        for name, code, moment in zip(NAMES, codes, (mean, square), strict=True):
            if name in state:
                _in_memory(moment).copy_(
                    self._functional.dequantize_blockwise(
                        state[name], absmax=state[f"{name}_scale"], code=code, blocksize=BLOCK
                    )
                )
        return mean, square

    def write(self, state: dict[str, Any], mean: Tensor, square: Tensor) -> None:
        if mean.numel() < WHOLE_BELOW:
            return
        codes = self._codes_on(mean.device)
        for name, code, moment in zip(NAMES, codes, (mean, square), strict=True):
            state[name], how = self._functional.quantize_blockwise(
                _in_memory(moment), code=code, blocksize=BLOCK
            )
            state[f"{name}_scale"] = how.absmax

    def _codes_on(self, device: torch.device) -> list[Tensor]:
        """Copied once: a copy to a card for each weight would make each update wait for it."""
        if device not in self._codes:
            self._codes[device] = [code.to(device) for code in self.maps]
        return self._codes[device]


def _in_memory(moment: Tensor) -> Tensor:
    """Its values in the order in which they lie, ``[numel]``."""
    return moment.as_strided((moment.numel(),), (1,))
