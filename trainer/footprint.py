"""What a step holds in memory at its worst moment, found out without doing it.

The real forward and backward pass runs on tensors that have shapes but no values (torch's meta
device), while every storage is counted from its birth to its end.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
_GRAIN = 512  # bytes: torch's allocator for cards rounds up to it


class Held(TorchDispatchMode):
    """Counts the bytes of all storages that are born inside of it.

    Attributes:
        now: bytes of those that live.
        peak: the most there ever were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.peak = 0
        self._known: dict[int, weakref.ref] = {}

    def __torch_dispatch__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        # a view of a tensor from outside shows a storage that was not born here
        for value in tree_leaves(out) if _is_new(function) else ():
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, -(-storage.nbytes() // _GRAIN) * _GRAIN
        if key in self._known:
            return

        def gone(_: weakref.ref) -> None:
            del self._known[key]
            self.now -= size

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


@cache
def _is_new(function: torch._ops.OpOverload) -> bool:
    """Whether its results have storages of their own, by its schema."""
    return not any(result.alias_info for result in function._schema.returns)


class _Attention(torch.autograd.Function):
    """As every fused attention keeps it: its inputs, its output and one number for each query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, length, _ = query.shape
        # in the memory order of the fused kernels, which the layers behind them count on
        out = query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
        sums = query.new_empty(batch, heads, length, dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(saved) for saved in ctx.saved_tensors[:3])


class AsComputed(TorchFunctionMode):
    """The arithmetic of a device, for tensors that are on none: fused attention, and autocast.

    Under torch's autocast matrix products take their inputs in ``dtype``, weights cast once in a
    step, and a card computes norms in fp32.
    """

    PRODUCTS = frozenset(
        {functional.linear, functional.conv2d, torch.matmul, Tensor.matmul, Tensor.__matmul__,
         torch.bmm, torch.baddbmm, torch.addmm}
    )  # fmt: skip
    NORMS = frozenset({functional.layer_norm, functional.group_norm, functional.softmax})

    def __init__(self, dtype: torch.dtype | None, on_card: bool) -> None:
        """
        Args:
            dtype: autocast's; None: without.
        """
        super().__init__()
        self._dtype = dtype
        self._on_card = on_card
        self._weights: dict[nn.Parameter, Tensor] = {}
        self._keeps = True

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is functional.scaled_dot_product_attention:
            return _Attention.apply(*self._cast(args[:3], self._dtype))
        if self._dtype and function in self.PRODUCTS:
            args = self._cast(args, self._dtype)
            kwargs = dict(zip(kwargs, self._cast(kwargs.values(), self._dtype), strict=True))
        elif self._dtype and self._on_card and function in self.NORMS:
            args = self._cast(args, torch.float32)
        return function(*args, **kwargs)

    def forget(self) -> None:
        """The forward pass is over, and with it autocast: nothing is kept for a second use."""
        self._weights.clear()
        self._keeps = False

    def _cast(self, values: Iterable[Any], dtype: torch.dtype | None) -> tuple[Any, ...]:
        return tuple(
            self._one(value, dtype) if isinstance(value, Tensor) and dtype else value
            for value in values
        )

    def _one(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        if not value.is_floating_point() or value.dtype == dtype:
            return value
        if not (self._keeps and isinstance(value, nn.Parameter) and value.requires_grad):
            return value.to(dtype)
        if value not in self._weights:
            self._weights[value] = value.to(dtype)
        return self._weights[value]


def backward(loss: Tensor) -> None:
    """As the tensor's own, which switches function modes off: recomputed layers need them."""
    engine = torch.autograd.Variable._execution_engine
    seed, leaves = torch.ones_like(loss), ()
    engine.run_backward(
        (loss,), (seed,), False, False, leaves, allow_unreachable=True, accumulate_grad=True
    )


@contextmanager
def without_values(modules: Iterable[nn.Module], dtype: torch.dtype | None) -> Iterator[None]:
    """Inside, the modules' parameters and buffers have shapes but no values.

    Args:
        dtype: of the parameters; None: their own.
    """
    own: list[tuple[dict, str, Tensor]] = []
    twins: dict[int, Tensor] = {}
    try:
        for module in {m for root in modules for m in root.modules()}:
            for place in (module._parameters, module._buffers):
                for name, tensor in place.items():
                    if tensor is None:
                        continue
                    own.append((place, name, tensor))
                    if id(tensor) not in twins:
                        twins[id(tensor)] = _twin(tensor, dtype)
                    place[name] = twins[id(tensor)]
        yield
    finally:
        for place, name, tensor in own:
            place[name] = tensor


def _twin(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if not isinstance(tensor, nn.Parameter):
        return tensor.to(META)
    return nn.Parameter(
        torch.empty_like(tensor, device=META, dtype=dtype), requires_grad=tensor.requires_grad
    )
