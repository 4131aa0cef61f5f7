"""Dropout whose masks are a function of (seed, layer, row): a step that is cut up keeps them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .randomness import generator


class RowDropout(nn.Module):
    """Dropout (Srivastava et al. 2014) with a mask of its own for each row of a batch.

    Attributes:
        rows: what names each row of the batch that goes through; None: nothing is dropped.
    """

    def __init__(self, probability: float, seed: int, layer: str) -> None:
        super().__init__()
        self.rows: Sequence[str] | None = None
        self._probability = probability
        self._seed = seed
        self._layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """``[B, ...]`` → the same shape; what stays is scaled to keep the mean."""
        if self.rows is None:
            return x
        draws = [
            torch.rand(x.shape[1:], generator=generator(self._seed, f"dropout {self._layer} {row}"))
            for row in self.rows
        ]
        kept = torch.stack(draws) >= self._probability
        return x * kept.to(x.device) / (1.0 - self._probability)
