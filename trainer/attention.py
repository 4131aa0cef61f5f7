"""A run's attention: torch's own, by the way of computing it that is fastest for each shape here.

Torch picks one of its kernels by rules; which is fastest depends on the card, the shape and the
library's version. Each is timed when a shape is seen first, and kept to from then on, also by a run
that goes on from a state: another kernel adds up in another order.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from .ladder import is_out_of_memory

FASTEST = "fastest"
Say = Callable[[str], None]
Shape = tuple[int, int, int, int, int]
"""Rows, heads, queries, keys, width of a head."""

# not by torch's plain operations: they keep every score, for which nothing has planned
WAYS = {
    "cuda": {
        "flash": SDPBackend.FLASH_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
        "cudnn": SDPBackend.CUDNN_ATTENTION,
    }
}
OWN = ""  # torch chooses
MUCH_FASTER = 0.95  # of the time of torch's choice; less of a gain is noise
_KEY = "attention:"  # in a state's numbers
_ROUNDS, _CALLS = 3, 5


class Choices:
    """Which way each shape goes.

    Attributes:
        ways: that there are on the device beside torch's own choice.
    """

    def __init__(self, device: torch.device, say: Say, numbers: Mapping[str, object]) -> None:
        """
        Args:
            say: is told of every shape for which another way than torch's is faster.
            numbers: of the state that the run goes on from.
        """
        self._device = device
        self._say = say
        self.ways = WAYS.get(device.type, {})
        self._chosen: dict[str, str] = {
            key.removeprefix(_KEY): str(way)
            for key, way in numbers.items()
            if key.startswith(_KEY) and way in (OWN, *self.ways)
        }

    def numbers(self) -> dict[str, str]:
        """What a state has to hold."""
        return {_KEY + name: way for name, way in self._chosen.items()}

    def keeping(self, shape: Shape, dtype: torch.dtype) -> AbstractContextManager:
        """Inside the block torch computes this shape as it was chosen, now or before."""
        name = f"{'x'.join(map(str, shape))} {str(dtype).removeprefix('torch.')}"
        if name not in self._chosen:
            self._chosen[name] = self._choose(shape, dtype)
        way = self._chosen[name]
        return nullcontext() if way == OWN else sdpa_kernel(self.ways[way])

    def _choose(self, shape: Shape, dtype: torch.dtype) -> str:
        times = {way: self._seconds(shape, dtype, way) for way in (OWN, *self.ways)}
        best = min(times, key=times.__getitem__)
        if best == OWN or times[best] > MUCH_FASTER * times[OWN]:
            return OWN
        rows, heads, queries, keys, width = shape
        self._say(
            f"attention of {rows} × {heads} heads of {width}, {queries} × {keys}, by {best}:"
            f" {1e3 * times[best]:.2f} ms, torch's own choice takes {1e3 * times[OWN]:.2f}"
        )
        return best

    def _seconds(self, shape: Shape, dtype: torch.dtype, way: str) -> float:
        """Of forward and backward, the least of some rounds; infinite where this way has none."""
        rows, heads, queries, keys, width = shape
        g = torch.Generator(self._device).manual_seed(0)  # the run's own draws are left alone
        query, key, value = (
            # as the UNet's layers lay them out
            torch.randn(rows, length, heads, width, generator=g, device=self._device, dtype=dtype)
            .transpose(1, 2)
            .requires_grad_()
            for length in (queries, keys, keys)
        )

        def work() -> None:
            out = functional.scaled_dot_product_attention(query, key, value)
            torch.autograd.grad(out, (query, key, value), out.detach())

        try:
            with _kept(), nullcontext() if way == OWN else sdpa_kernel(self.ways[way]):
                work()  # libraries make their plans
                return min(timed(work, self._device) for _ in range(_ROUNDS))
        except RuntimeError as error:  # no kernel of this kind
            if way == OWN and not is_out_of_memory(error):
                raise
            return float("inf")


def _kept() -> AbstractContextManager:
    """Inside, backward passes find what was kept for them, also where a layer's is recomputed."""
    return saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)


def timed(work: Callable[[], None], device: torch.device) -> float:
    """Seconds of one of several calls, to the end of what they have started."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    wait()
    began = time.perf_counter()
    for _ in range(_CALLS):
        work()
    wait()
    return (time.perf_counter() - began) / _CALLS


class FastestAttention(AttnProcessor2_0):
    """diffusers' processor, by the way that was chosen."""

    def __init__(self, choices: Choices) -> None:
        super().__init__()
        self._choices = choices

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        *given: object,
        **options: object,
    ) -> Tensor:
        told = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        # pictures on the way have no backward pass; the plan of memory has no values
        if torch.is_grad_enabled() and not hidden_states.is_meta:
            kind = hidden_states.device.type
            is_on = torch.is_autocast_enabled(kind)
            dtype = torch.get_autocast_dtype(kind) if is_on else hidden_states.dtype
            rows, queries, _ = hidden_states.shape
            shape = (rows, attn.heads, queries, told.shape[1], attn.inner_dim // attn.heads)
            keeping = self._choices.keeping(shape, dtype)
        else:
            keeping = nullcontext()
        with keeping:
            return super().__call__(attn, hidden_states, encoder_hidden_states, *given, **options)
