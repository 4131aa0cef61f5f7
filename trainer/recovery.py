"""Bad numbers, and updates that broke off: a step is skipped, or the run returns to its newest
state, or ends."""

import contextlib
import gc
import math

import torch
from accelerate import Accelerator

from .errors import TrainingError
from .events import Listener, Note
from .ladder import must_fit
from .learner import Learner
from .precision import has_bf16
from .sentinel import Sentinel, Verdict
from .setup import Prepared
from .training_state import SavedState

_BAD_WEIGHTS = "weights became numbers that are not finite,"
_RATE = "rate"  # in a state's numbers: what bad steps left of the learning rate
_TRIES = 3  # of one update that does not fit


class Recovery:
    """Carries out what the sentinel says about a step's numbers, and tells the user."""

    def __init__(
        self, prepared: Prepared, learner: Learner, accelerate: Accelerator, listener: Listener
    ) -> None:
        """
        Args:
            prepared: if it has a state, the rate is as bad steps before it have left it.
        """
        self._job = prepared.job
        self._folder = prepared.folder
        self._ranks = prepared.ranks
        self._fp16 = prepared.precision == "fp16"
        self._learner = learner
        self._accelerate = accelerate
        self._listener = listener
        rate = prepared.state.numbers.get(_RATE, 1.0) if prepared.state else 1.0
        self._sentinel = Sentinel(prepared.precision, rate)
        self._device = prepared.device
        others = "bf16 or fp32" if has_bf16(prepared.device) else "fp32"
        self._mend = f"lower the learning rate, or choose precision = {others}"
        self._broken = (0, 0)  # a step whose update did not fit, and how often

    @property
    def rate(self) -> float:
        """What the learning rate is multiplied by."""
        return self._sentinel.rate

    @property
    def calm(self) -> bool:
        """Whether the last step was good: only then is a state worth keeping."""
        return self._sentinel.calm

    def numbers(self) -> dict[str, float]:
        """What a state has to hold of this."""
        return {_RATE: self.rate}

    def judge(self, loss: float, norm: float) -> Verdict:
        """What to do with a step, by its objective and its gradients' norm before the update.

        After ``ROLL_BACK`` the run already stands at an earlier step.

        Raises:
            TrainingError: there is no way on.
        """
        verdict = self._sentinel.look(loss, norm)
        bad = f"the {_bad_number(loss, norm)}, several steps in a row,"
        if not math.isfinite(loss) and not self._learner.is_finite():
            verdict, bad = self._sentinel.weights_are_bad(), _BAD_WEIGHTS
        if verdict in (Verdict.ROLL_BACK, Verdict.STOP):
            self._roll_back(verdict, bad)
        return verdict

    def check_weights(self) -> None:
        """For the last step's weights, which no loss looks at: roll back where they are bad.

        Raises:
            TrainingError: there is no way on.
        """
        if self._learner.learned and not self._learner.is_finite():
            self._roll_back(self._sentinel.weights_are_bad(), _BAD_WEIGHTS)

    def repeat(self, said: str) -> None:
        """Return from an update that did not fit, and may be half done, to the newest state.

        What the steps from there learn is what they had learned: nothing changes but the time.
        One of several processes gives up instead: the others have done this update.

        Args:
            said: why it did not fit, and what to do.

        Raises:
            TrainingError: ``said``; there is no state, or it did not fit several times.
        """
        step, times = self._learner.done, 1
        if self._broken[0] == step:
            times += self._broken[1]
        self._broken = (step, times)
        tried = times >= _TRIES or self._ranks.several
        state = None if tried else self._folder.states.newest()
        end = f"{said}. The finished steps up to the newest state are kept."
        if state is None:
            raise TrainingError(end)
        self._learner.drop_gradients()
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        with must_fit(end):
            self._return_to(state)
        self._listener(Note(f"{said}; tried again from step {self._learner.done}"))

    def say_skipped(self, loss: float, norm: float) -> None:
        """Of the step that has just been skipped."""
        # under fp16 gradients overflow until the loss scale has settled: no news
        if not (self._fp16 and math.isfinite(loss)):
            said = f"step {self._learner.done} was skipped: its {_bad_number(loss, norm)}"
            self._listener(Note(said))

    def _roll_back(self, verdict: Verdict, bad: str) -> None:
        """Return to the newest state; go on from it more slowly, or end there.

        Raises:
            TrainingError: there is no state, or it was not the first time.
        """
        learner = self._learner
        said = f"{bad} in step {min(learner.done + 1, self._job.config.steps)}"
        state = self._newest_state()
        if state is None:
            raise TrainingError(
                f"{said}: {self._mend}. The weights before these steps are kept, if there were any"
                " good steps; look at the pictures before you use them."
            )
        learner.drop_gradients()
        with must_fit(
            f"{said}, and the state before it does not fit into the memory: {self._mend}"
        ):
            self._return_to(state)
        if verdict is Verdict.STOP:
            raise TrainingError(
                f"{said}, also at a lower rate: {self._mend}. Step {learner.done} is kept."
            )
        self._sentinel.rolled_back()
        self._listener(Note(f"{said}: back to step {learner.done}, at {self.rate:g} of the rate"))

    def _newest_state(self) -> SavedState | None:
        """For all processes the same one: the first has written it."""
        states = self._folder.states
        state = states.newest() if self._ranks.is_first else None
        told = self._ranks.tell({"step": state.progress.step if state else None})
        if self._ranks.is_first or told["step"] is None:
            return state
        return states.read(told["step"])

    def _return_to(self, state: SavedState) -> None:
        if self._accelerate.scaler:
            # it holds on to a step until it is told of its end, and refuses where there was none
            with contextlib.suppress(AssertionError):
                self._accelerate.scaler.update()
        self._learner.restore(state)
        if self._ranks.is_first:
            self._folder.go_on(self._job, self._learner.done)


def _bad_number(loss: float, norm: float) -> str:
    """Which of a step's numbers is not finite, in words."""
    what, value = ("loss", loss) if not math.isfinite(loss) else ("gradient", norm)
    return f"{what} became {value}"
