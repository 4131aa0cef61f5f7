"""A recorder of passes for processors, with a CUDA graph's own ways.

Every operation of torch's below autograd and autocast is written down with the tensors that it
reads and writes. A replay does the same operations on the same memory again: Python's branches, its
numbers and its allocations are those of the day of the recording. What a card would refuse while it
records is refused: to wait for a number, to bring one from Python, or to draw at random.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

REFUSED = ("_local_scalar_dense", "nonzero", "lift_fresh", "masked_select")
ATTENTION = "_scaled_dot_product"  # which would draw where it had a dropout; ours has none


class _Tape(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[object, list, object, list[Tensor]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        draws = torch.Tag.nondeterministic_seeded in func.tags and not name.startswith(ATTENTION)
        if name in REFUSED or draws:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        given, spec = tree_flatten((args, kwargs or {}))
        result = func(*args, **(kwargs or {}))
        outs = [out for out in tree_flatten(result)[0] if isinstance(out, Tensor)]
        self.calls.append((func, given, spec, outs))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for func, given, spec, outs in self.calls:
            if func.is_view:
                continue  # of memory that is written elsewhere
            args, kwargs = tree_unflatten(given, spec)
            result = func(*args, **kwargs)
            news = [out for out in tree_flatten(result)[0] if isinstance(out, Tensor)]
            for old, new in zip(outs, news, strict=True):
                if new is not old:
                    old.copy_(new)


class Tapes:
    """Counts what it is asked for.

    Attributes:
        recorded, replayed, apart_, forgotten: how often.
        fails: raised by the next recording.
    """

    def __init__(self) -> None:
        self.recorded = self.replayed = self.apart_ = self.forgotten = 0
        self.fails: Exception | None = None

    def apart(self, work: Callable[[], Tensor]) -> Tensor:
        self.apart_ += 1
        return work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        if self.fails:
            error, self.fails = self.fails, None
            raise error
        with _Tape() as tape:
            work()
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            tape.replay()

        return replay

    def forget(self) -> None:
        self.forgotten += 1
