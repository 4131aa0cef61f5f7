"""What a prompt gives the UNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """Some prompts, encoded.

    Attributes:
        states: ``[B, 77, C]``, for the cross-attention.
        pooled: ``[B, P]``, a vector of the whole prompt; None where the family has none.
    """

    states: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: Sequence[int] | Tensor | slice) -> Conditioning:
        """Some of the prompts, or one of them several times."""
        return Conditioning(self.states[rows], None if self.pooled is None else self.pooled[rows])

    def to(self, device: torch.device) -> Conditioning:
        return Conditioning(
            self.states.to(device), None if self.pooled is None else self.pooled.to(device)
        )

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """The prompts of all parts, in order."""
        states = torch.cat([part.states for part in parts])
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return Conditioning(states, torch.cat(pooled) if pooled else None)
