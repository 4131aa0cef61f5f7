"""The gradients of one optimizer step, in as many forward passes as the memory asks for."""

import gc
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from .batch import Batch, make_batch
from .capture import Captured
from .cuda_graphs import recorder_for, why_not
from .errors import TrainingError
from .events import Listener, Note
from .forward import ForwardBackward
from .in_backward import InBackward
from .ladder import Ladder, is_out_of_memory
from .memory_plan import ways_out
from .orders import Orders, Stopped
from .setup import Prepared
from .training_state import learning


@dataclass(frozen=True)
class Losses:
    """Of one step: the objective, and its rows' mean squared errors, whatever is learned from.
    Of all its rows, whichever process had them.

    ``class_`` is None where no class image took part.
    """

    objective: float
    instance: float
    class_: float | None


class Gradients:
    """Adds up a step's gradients; where they do not fit, the same step is tried again, cut finer.

    Its rows and their noise are functions of the step alone, so nothing of a failed try remains.
    """

    def __init__(
        self,
        prepared: Prepared,
        accelerate: Accelerator,
        listener: Listener,
        orders: Orders,
        ladder: Ladder,
        in_backward: InBackward,
    ) -> None:
        """
        Args:
            ladder: at the rung to begin with.
            in_backward: looks at the gradients on the rung that keeps none.
        """
        self._p = prepared
        self._config = prepared.job.config
        self._model = prepared.model
        self._device = prepared.device
        self._listener = listener
        self._orders = orders
        self._ranks = prepared.ranks
        self._parameters = [p for _, p in learning(prepared.trained.modules)]
        self._passes = ForwardBackward(prepared, accelerate)
        self._ladder = ladder
        self._in_backward = in_backward
        self._captured = self._capture() if self._config.cuda_graph else None

    def fill(self, step: int, tries: Callable[[], object] | None = None) -> Losses:
        """The gradients of the step after ``step`` finished ones, in the parameters' ``grad``.

        On the lowest rung they were only looked at, and :meth:`again` makes them again.

        Several processes are told here how it went in each of them: then all add up their
        gradients, or all try again, or all stop.

        Args:
            tries: this is no step of the run but tries how it fits, and that, beside its gradients.

        Raises:
            TrainingError: memory runs out on the lowest rung, too, or another process is gone.
            Stopped: between two pieces of work.
        """
        self._passes.let_text_learn(self._p.text_steps is None or step < self._p.text_steps)
        while True:
            reason = ""
            look = self._in_backward.looking() if self._ladder.in_backward else nullcontext()
            try:
                with look:
                    sums = self._accumulate(step)
                    if tries:
                        tries()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                sums, reason = [0.0] * 4, str(error).splitlines()[0]
            said = [bool(reason), self._orders.stopping]
            *sums, is_too_large, is_stopped = self._ranks.total([*sums, *said])
            if is_stopped:
                raise Stopped
            if not is_too_large:
                self._ranks.add_gradients(self._parameters)
                return self._losses(*sums)
            # only here, where the error and with it the frames that hold tensors are gone
            for module in self._p.trained.modules.values():
                module.zero_grad(set_to_none=True)
            if not (self._captured and self._captured.give_up("memory ran out")):
                self._go_lower(
                    "the largest step" if tries else f"step {step + 1}",
                    reason or "in another process",
                    "No step was taken." if tries else "The finished steps are kept.",
                )

    def again(self, step: int) -> None:
        """The pass of a step that has one, as :meth:`fill` has just made it."""
        for batch in self._batches(step):
            self.forward_backward(batch)

    def make_room(self) -> None:
        """Before other work on the device: nothing is held between two steps."""
        if self._captured:
            self._captured.release()

    def _capture(self) -> Captured | None:
        """What records passes, where something can."""

        def say(reason: str) -> None:
            self._listener(Note(f"cuda_graph: {reason}, so each kernel is started by itself"))

        recorder, reason = recorder_for(self._p, self._ladder)
        if recorder is None:
            say(reason)
            return None
        weights = [p for module in self._p.trained.modules.values() for p in module.parameters()]
        return Captured(self._passes, self._passes.other_numbers, weights, recorder, say)

    def _go_lower(self, what: str, reason: str, otherwise: str) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        before = self._ladder.recomputed
        change = self._ladder.lower()
        if change is None:
            raise TrainingError(
                f"{what} does not fit into the memory, not even row by row with gradient"
                f" checkpointing ({reason}): {ways_out(self._p)}. {otherwise}"
            )
        if (levels := self._ladder.recomputed) > before:
            self._model.recompute_activations(self._config.trains_text_encoder, levels)
            if self._captured:
                self._captured.give_up(why_not(self._p, self._ladder))
        self._listener(
            Note(f"{what} did not fit into the memory ({reason}): from here on {change}")
        )

    def _accumulate(self, step: int) -> list[float]:
        """Of this process's rows: [objective, Σ instance loss, Σ class loss, class rows]."""
        totals, class_rows, first = torch.zeros(3, device=self._device), 0, True
        for batch in self._batches(step):
            totals += self.forward_backward(batch, first)
            first = False
            class_rows += int(batch.is_class.sum())
            self._orders.check()
        return [*totals.tolist(), class_rows]

    def _batches(self, step: int) -> Iterator[Batch]:
        """This process's rows of a step, one forward pass each."""
        count = self._config.rows_per_step
        rows = self._ranks.share(range(step * count, (step + 1) * count))
        for positions in self._ladder.cut(rows.start, len(rows)):
            yield from self._ladder.passes(self.batch(positions))

    def _losses(self, objective: float, instance: float, class_: float, class_rows: int) -> Losses:
        rows = self._config.rows_per_step
        return Losses(objective, instance / rows, class_ / class_rows if class_rows else None)

    def batch(self, positions: range) -> Batch:
        """The instance rows at these positions with their class rows."""
        return make_batch(
            self._p.rows,
            self._p.latents,
            positions,
            loss=self._config.loss,
            seed=self._config.seed,
        )

    def forward_backward(self, batch: Batch, first: bool = True) -> Tensor:
        """Add one forward pass's gradients; returns [objective, Σ instance loss, Σ class loss].

        Args:
            first: of its step: there are no gradients yet.
        """
        inputs = self._passes.inputs(batch)
        if self._captured:
            return self._captured(inputs, first)
        with self._passes.dropping(batch):
            return self._passes(inputs)
