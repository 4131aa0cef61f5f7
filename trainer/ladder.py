"""Out of memory: the same step in less memory, one rung lower each time.

A rung never changes what a step learns: the rows, their noise and their weights stay, and the
objective divides by the rows of the whole step (``objective.combine``), so that gradients of parts
add up to the gradient of the whole.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .batch import Batch
from .errors import TrainingError

_FINEST = 2  # resolutions, each a rung of its own; then everything
_MESSAGES = (
    "out of memory",  # CUDA, ROCm, XPU, MPS, and cuDNN's and cuBLAS's own refusals
    "can't allocate memory",  # torch's allocator on a processor
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "_allocation_failed",  # cuDNN 9, of the card's memory or the computer's
    # a full card refuses a library's handle, which each thread makes for itself
    "cublas_status_not_initialized",
    "cudnn_status_not_initialized",
    "unable to find an engine",  # cuDNN tried them all, and has swallowed what each of them said
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, whichever library raised it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(m in str(error).lower() for m in _MESSAGES)


@contextmanager
def must_fit(otherwise: str, raises: type[TrainingError] = TrainingError) -> Iterator[None]:
    """For work that cannot be cut finer.

    Raises:
        TrainingError: ``otherwise``, as ``raises``, if memory runs out inside the block.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise raises(otherwise) from error


class Ladder:
    """How a step is cut up now, and the rungs below.

    Attributes:
        rows: instance rows of one forward pass, at most.
        apart: class rows go through a pass of their own.
        recomputed: in how many of the UNet's resolutions, the finest first, activations are
            computed again instead of kept; in all of them everything is, text encoders included.
        in_backward: no gradient is kept, see :mod:`in_backward`; the step is one pass again.
    """

    def __init__(
        self,
        batch_size: int,
        has_classes: bool,
        checkpointing: bool,
        levels: int = 1,
        share: int | None = None,
        one_pass: bool = False,
    ) -> None:
        """
        Args:
            checkpointing: everything is computed again from the start.
            levels: of the UNet's resolutions.
            share: instance rows of a step that this process has, where it has not all of them.
            one_pass: a step that is not cut up is a single pass, which may be made twice.
        """
        self.rows = min(batch_size, share or batch_size)
        self._batch_size = batch_size
        self._has_classes = has_classes
        self._one_pass = one_pass
        self.apart = not has_classes
        self.in_backward = False
        self._levels = levels
        self.recomputed = levels if checkpointing else 0

    def lower(self) -> str | None:
        """Go one rung down; what changed, in words, or None at the bottom."""
        if self.in_backward:
            return None
        if self.rows > 1:
            self.rows = (self.rows + 1) // 2
            return f"{self.rows} instance rows at a time, with the same effective batch"
        if not self.apart:
            self.apart = True
            return "instance and class rows one after the other, with the same effective batch"
        if self.recomputed == self._levels:
            return self._update_in_backward()
        # where feature maps are finest they are most of the memory and least of the work
        self.recomputed = min(self.recomputed + 1, self._levels)
        if self.recomputed > _FINEST:
            self.recomputed = self._levels
        if self.recomputed == self._levels:
            return "gradient checkpointing, a third slower"
        which = "finest resolution" if self.recomputed == 1 else f"{self.recomputed} finest"
        return f"gradient checkpointing in the UNet's {which}"

    def _update_in_backward(self) -> str | None:
        if not self._one_pass:
            return None
        self.rows, self.apart, self.in_backward = self._batch_size, not self._has_classes, True
        return "no gradients are kept, so each step is computed twice"

    def cut(self, first: int, count: int) -> Iterator[range]:
        """Positions of a step's instance rows, or of some of them, in forward passes.

        None of them spans two batches, which may be of two sizes.
        """
        start, end = first, first + count
        while start < end:
            next_batch = (start // self._batch_size + 1) * self._batch_size
            stop = min(start + self.rows, next_batch, end)
            yield range(start, stop)
            start = stop

    def passes(self, batch: Batch) -> list[Batch]:
        """The rows of one cut as forward passes: together, or instance rows and then class rows."""
        if not self.apart or not batch.is_class.any():
            return [batch]
        return [batch.select(~batch.is_class), batch.select(batch.is_class)]
