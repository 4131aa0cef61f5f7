"""Passes recorded once and then replayed: a card need not wait for Python between its kernels.

A step's forward and backward pass is some thousand kernels, each of which Python starts; a small
batch is computed faster than that. A CUDA graph starts them all at once, but replays them blindly:
with the memory addresses, the shapes and the branches of the day it was recorded. So each kind of
pass first goes as ever a few times, then is recorded, and a recording is believed only after it
gave what the pass itself gives, for two different inputs.
"""

import gc
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import Parameter

from .forward import Inputs
from .ladder import is_out_of_memory
from .moments import in_memory

WARM_UPS = 2  # libraries choose their kernels and make their workspaces in them
MOST = 8  # recordings at a time; each costs the driver some memory
NEAR = 0.02  # relative, of losses and gradients: in bf16 sums in another order give 2e-3
COMPARED = 4096  # values of each gradient; all of them would take as much memory again

Work = Callable[[Inputs], Tensor]
Replay = Callable[[], None]
Gradients = Sequence[Tensor | None]


class Recorder(Protocol):
    """What a device offers."""

    def apart(self, work: Callable[[], Tensor]) -> Tensor:
        """Computes at once, where a recording would compute."""

    def record(self, work: Callable[[], None]) -> Replay:
        """Writes down what ``work`` starts; what it computes meanwhile is not to be believed.

        Raises:
            RuntimeError: it can not be recorded.
        """

    def forget(self) -> None:
        """All recordings are gone: their memory is free."""


class Distrust(RuntimeError):
    """A recording does not do what was recorded."""


@dataclass
class Recording:
    """A kind of pass.

    Attributes:
        inputs: what it reads; other numbers are copied there.
        result: what it writes besides gradients.
    """

    inputs: Inputs
    result: Tensor
    replay: Replay

    def __call__(self, inputs: Inputs) -> Tensor:
        for name, values in inputs.tensors.items():
            self.inputs.tensors[name].copy_(values, non_blocking=True)
        self.replay()
        return self.result


class Captured:
    """Does the passes of a run, from recordings wherever it can.

    Attributes:
        given_up: why nothing is recorded any more; empty while it is.
    """

    def __init__(
        self,
        work: Work,
        others: Callable[[Inputs], Inputs],
        weights: Sequence[Parameter],
        recorder: Recorder,
        on_given_up: Callable[[str], None],
    ) -> None:
        """
        Args:
            work: adds a pass's gradients to the weights' and returns a tensor of a fixed shape.
            others: inputs of the same kind, every number of which is another.
            weights: all that a pass reads; those with ``requires_grad`` learn.
            on_given_up: is told why, once.
        """
        self._work, self._others, self._weights = work, others, weights
        self._parameters = [weight for weight in weights if weight.requires_grad]
        self._recorder, self._on_given_up = recorder, on_given_up
        self.given_up = ""
        self._seen: Counter[Hashable] = Counter()
        self._trusted: set[Hashable] = set()
        self._recordings: dict[Hashable, Recording] = {}
        self._gradients: Gradients = ()  # where recordings write
        self._places: Hashable = None  # where they read weights

    def __call__(self, inputs: Inputs, first: bool) -> Tensor:
        """
        Args:
            first: of its step: there are no gradients yet.
        """
        if self.given_up:
            return self._work(inputs)
        self._look_at_places(inputs)
        kind = (inputs.kind, first)
        if kind in self._recordings:
            return self._play(self._recordings[kind], inputs, first)
        self._seen[kind] += 1
        if self._seen[kind] <= WARM_UPS or len(self._recordings) == MOST:
            return self._as_ever(inputs, first)
        return self._try_to_record(kind, inputs, first)

    def release(self) -> None:
        """Let go of recordings and of their memory; what was believed is recorded again at once."""
        if self._recordings or self._gradients:
            self._recordings.clear()
            self._gradients = ()
            gc.collect()
            self._recorder.forget()

    def give_up(self, reason: str) -> bool:
        """From here on everything as ever; whether that frees anything."""
        frees = bool(self._recordings)
        if not self.given_up:
            self.given_up = reason
            self._on_given_up(reason)
        self.release()
        return frees

    def _look_at_places(self, inputs: Inputs) -> None:
        """Weights that have moved, or others that learn, make every recording worthless."""
        places = (inputs.text_learns, *(weight.data_ptr() for weight in self._weights))
        if places != self._places:
            self.release()
            self._places = places

    def _as_ever(self, inputs: Inputs, first: bool) -> Tensor:
        """Into the recordings' gradients where there are any: others would take as much again."""
        if first and self._gradients:
            self._clear()
            self._hand_out()
        return self._recorder.apart(lambda: self._work(inputs))

    def _hand_out(self) -> None:
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def _clear(self) -> None:
        torch._foreach_zero_([g for g in self._gradients if g is not None])

    # ---- recording -------------------------------------------------------------------------------

    def _try_to_record(self, kind: Hashable, inputs: Inputs, first: bool) -> Tensor:
        """The pass's result, recorded or not."""
        before = None if first else [_copy(p.grad) for p in self._parameters]
        try:
            return self._record(kind, inputs, first, before)
        except (RuntimeError, ValueError, TypeError) as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            reason = f"memory ran out ({said})" if is_out_of_memory(error) else said
        # only here, where the error and with it the frames that hold tensors are gone
        self._restore(before)
        self.give_up(reason)
        return self._work(inputs)

    def _record(
        self, kind: Hashable, inputs: Inputs, first: bool, before: Gradients | None
    ) -> Tensor:
        """Records the pass and does it, after a trial if it is the first of its kind."""
        trials = [] if kind in self._trusted else [self._others(inputs), inputs]
        expected = []
        for given in trials:
            self._restore(before)
            expected.append(self._measured(self._as_ever(given, first)))
        if not all(bool(part.isfinite().all()) for both in expected for part in both):
            self._seen[kind] -= 1  # they prove nothing: another time
            return expected[-1][0]
        self._restore(before)
        recording = self._write_down(inputs, first)
        for given, measured in zip(trials, expected, strict=True):
            self._restore(before)
            _compare(self._measured(self._play(recording, given, first)), measured)
        self._restore(before)
        result = self._play(recording, inputs, first)
        self._trusted.add(kind)
        self._recordings[kind] = recording
        return result

    def _write_down(self, inputs: Inputs, first: bool) -> Recording:
        held = replace(inputs, tensors={n: t.clone() for n, t in inputs.tensors.items()})
        results = []

        def work() -> None:
            if first and self._gradients:
                self._clear()
            results.append(self._work(held))

        if first and self._gradients:
            self._hand_out()
        replay = self._recorder.record(work)
        if not self._gradients:
            self._gradients = [p.grad for p in self._parameters]
        return Recording(held, results[0], replay)

    def _play(self, recording: Recording, inputs: Inputs, first: bool) -> Tensor:
        result = recording(inputs)
        if first:
            self._hand_out()
        return result

    def _measured(self, result: Tensor) -> tuple[Tensor, Tensor]:
        """A pass's result, and the first values of each gradient, ``[N]`` fp32."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        parts = [in_memory(gradient)[:COMPARED].float() for gradient in gradients]
        return result.float().clone(), torch.cat(parts)

    def _restore(self, before: Gradients | None) -> None:
        """The gradients from before the pass; None: it is the first, so there were none."""
        if before is None:
            for parameter in self._parameters:
                parameter.grad = None
            return
        for parameter, gradient in zip(self._parameters, before, strict=True):
            if gradient is None:
                parameter.grad = None
            else:
                parameter.grad.copy_(gradient)


def _copy(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.clone()


def _compare(got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    """Two of :meth:`Captured._measured`.

    Raises:
        Distrust: they are not alike.
    """
    for here, there, what in zip(got, expected, ("losses", "gradients"), strict=True):
        distance = float((here - there).norm() / there.norm().clamp_min(1e-30))
        if not distance <= NEAR:  # also where it is no number
            raise Distrust(f"replayed, a pass's {what} are {distance:.2g} from what they should be")
