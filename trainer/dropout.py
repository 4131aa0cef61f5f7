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
        draws = [self._draw(row, x) for row in self.rows]
        kept = torch.stack(draws) >= self._probability
        return x * kept / (1.0 - self._probability)

    def _draw(self, row: str, x: Tensor) -> Tensor:
        """Where the activations are: a full-size net takes too many numbers to bring them there.

        So another kind of device draws other masks from the same seed.
        """
        seed = generator(self._seed, f"dropout {self._layer} {row}").initial_seed()
        made = torch.Generator(x.device).manual_seed(seed)
        return torch.rand(x.shape[1:], generator=made, device=x.device)
