"""Looks at a step's numbers before they reach the weights, and says what to do about bad ones."""

import math
from enum import Enum

IN_A_ROW = 3
# Loss scaling starts at 2^16 and halves at each overflow: so many skipped steps are no illness.
IN_A_ROW_FP16 = 20
LOWER_RATE = 0.25  # what the learning rate is multiplied by after a roll-back


class Verdict(Enum):
    """What to do with the step that was looked at."""

    TAKE = "take"
    SKIP = "skip"
    ROLL_BACK = "roll back"
    STOP = "stop"


class Sentinel:
    """Counts bad steps in a row.

    A single one is skipped: its gradients never reach the weights. Several in a row mean that the
    weights themselves have gone astray, although each number of theirs is still finite: back to
    the last good state with a lower rate, once; after that, the end.

    Attributes:
        rate: what the learning rate is multiplied by from now on.
    """

    def __init__(self, precision: str, rate: float = 1.0) -> None:
        self.rate = rate
        self._limit = IN_A_ROW_FP16 if precision == "fp16" else IN_A_ROW
        self._bad = 0

    @property
    def calm(self) -> bool:
        """Whether the last step was good: only then is a state worth keeping."""
        return not self._bad

    def look(self, loss: float, grad_norm: float) -> Verdict:
        """Judge a step by its objective and its gradients' norm, both before the update."""
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self._bad = 0
            return Verdict.TAKE
        self._bad += 1
        if self._bad < self._limit:
            return Verdict.SKIP
        return self.weights_are_bad()

    def weights_are_bad(self) -> Verdict:
        """What is left to do where no skipped step can help."""
        return Verdict.ROLL_BACK if self.rate == 1.0 else Verdict.STOP

    def rolled_back(self) -> None:
        """The run stands at its last good state: go on more slowly."""
        self.rate *= LOWER_RATE
        self._bad = 0
