"""An exponential moving average of the weights: what is saved and shown instead of them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from .training_state import SavedState, learning

_PREFIX, _COUNT = "ema.", "ema:updates"  # in a state's tensors and numbers


class Ema:
    """Averages of all that learns: fp32, on the weights' device, as much memory again as they take.

    The decay of update n, counted from 0, is min(decay, (1 + n) / (10 + n)), as in TensorFlow's
    ``ExponentialMovingAverage`` and diffusers' ``EMAModel``; the first update takes the weights as
    they are, as diffusers does, so that nothing of the untrained ones stays.
    """

    def __init__(
        self,
        parts: Mapping[str, nn.Module],
        decay: float,
        value: Callable[[Parameter], Tensor] = Parameter.detach,
    ) -> None:
        """
        Args:
            value: a parameter's weight in fp32.
        """
        self._decay = decay
        self._value = value
        self._updates = 0
        self._weights = dict(learning(parts))
        self._averages = {name: value(p).clone() for name, p in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as an optimizer step has left them."""
        n = self._updates
        decay = min(self._decay, (1 + n) / (10 + n)) if n else 0.0
        for name, average in self._averages.items():
            average.lerp_(self._value(self._weights[name]), 1.0 - decay)
        self._updates += 1

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the block the modules hold the averages; nothing is copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, weight in self._weights.items():
            weight.data, self._averages[name] = self._averages[name], weight.data

    def state(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """(tensors, numbers) for the run's state, without copies."""
        tensors = {f"{_PREFIX}{name}": average for name, average in self._averages.items()}
        return tensors, {_COUNT: self._updates}

    def restore(self, state: SavedState) -> None:
        """Go back to a state of the same run."""
        self._updates = state.numbers[_COUNT]
        for name, average in self._averages.items():
            average.copy_(state.tensors[f"{_PREFIX}{name}"])
