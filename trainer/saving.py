"""What a run leaves on disk while it goes and when it ends: checkpoints, states, the result."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .checkpoint import V_PREDICTION_SPREAD, CheckpointError, FileInUse, prediction_spread
from .config import ConfigError
from .events import Listener, Note, Phase, Saved
from .files import sha256
from .room import check_room
from .setup import Prepared
from .state import DTYPES, Result, drop_finished_states
from .training_state import Progress

_CLOSE = 0.005  # to the number by which the host tells predictions apart
FINISHED_KEPT = 2  # runs that can still be asked for more steps


class Saver:
    """Writes for one run; asks for the weights as they are at that moment."""

    def __init__(
        self, prepared: Prepared, tensors: Callable[[], Mapping[str, Tensor]], listener: Listener
    ) -> None:
        """
        Args:
            tensors: what learns, under its names in the file.
        """
        self._p = prepared
        self._tensors = tensors
        self._config = prepared.job.config
        self._folder = prepared.folder
        self._listener = listener
        self._kept_at = time.monotonic()

    def extra(self, step: int) -> None:
        """A checkpoint on the way; that it cannot be written ends no run."""
        try:
            self._folder.save_extra(step, self._write, self._config.keep)
        except (CheckpointError, ConfigError, OSError) as error:
            self._listener(Note(f"the checkpoint after step {step} was not written: {error}"))

    def final(self, step: int) -> Path:
        """The checkpoint; a file of fewer steps that this run wrote before is replaced.

        Where Windows does not let go of that one, because a model of it is still loaded, the new
        one stands beside it.
        """
        path = self._folder.checkpoint
        try:
            sums = self._write(path, step)
        except FileInUse:
            if not path.exists():
                raise
            path = self._folder.extra(step)
            sums = self._write(path, step)
            text = f"{self._folder.checkpoint.name} is in use and stays: the new one is {path.name}"
            self._listener(Note(text))
        self._compare(sums)
        self._look_at_prediction()
        return path

    def _write(self, path: Path, step: int) -> dict[str, int]:
        self._listener(Phase("Saving", 0, 1))
        trained = self._tensors()
        check_room(path.parent, self._p.writer.size(trained))
        sums = self._p.writer.write(path, trained, step)
        self._listener(Phase("Saving", 1, 1))
        self._listener(Saved(step, path))
        return sums

    def _compare(self, sums: Mapping[str, int]) -> None:
        """Say so if training left no trace in the file, or in one of the parts."""
        before = self._folder.base_sums
        for part, names in self._p.trained.names.items():
            known = [name for name in names if name in before and name in sums]
            if known and all(sums[name] == before[name] for name in known):
                self._listener(
                    Note(
                        f"the {part.replace('_', ' ')} in the file is that of the base: training"
                        f" moved no weight by as much as {self._config.save_precision} tells"
                        " apart. Raise the learning rate or the steps, or save in fp32"
                    )
                )

    def _look_at_prediction(self) -> None:
        """Say so if the host will take the trained weights for a model of another prediction."""
        layout = self._p.model.layout
        dtype = DTYPES[self._config.save_precision]
        tensors = {key: t.to(dtype) for key, t in self._tensors().items() if t.ndim == 1}
        spread = prediction_spread(tensors)
        if layout.family != "sd2" or spread is None:
            return
        taken = "v_prediction" if spread > V_PREDICTION_SPREAD else "epsilon"
        said = (
            f"every loader tells what an SD 2.x model predicts by one number of its weights: above"
            f" {V_PREDICTION_SPREAD} it is v_prediction, here it is {spread:.4f}"
        )
        if taken != layout.prediction:
            self._listener(
                Note(
                    f"{said}, though it predicts {layout.prediction}: put ModelSamplingDiscrete"
                    f" with {layout.prediction} behind its Load Checkpoint"
                )
            )
        elif abs(spread - V_PREDICTION_SPREAD) < _CLOSE:
            self._listener(Note(f"{said}, which is close: training on may take it across"))

    def state_is_due(self) -> bool:
        minutes = self._config.state_minutes
        return bool(minutes) and time.monotonic() - self._kept_at >= minutes * 60

    def state(
        self, step: int, seconds: float, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
    ) -> None:
        """Keep what the run can go on from; that it cannot be kept ends no run."""
        states = self._folder.states
        if not self._p.states_kept or step in states.steps()[-1:]:
            return
        self._listener(Phase("Keeping the state", 0, 1))
        try:
            states.write(Progress(step, seconds, self._p.schedule), tensors, numbers)
            states.prune(self._p.states_kept, step)
        except (CheckpointError, OSError) as error:
            self._listener(Note(f"the state after step {step} was not kept: {error}"))
        self._listener(Phase("Keeping the state", 1, 1))
        self._kept_at = time.monotonic()

    def result(
        self, path: Path | None, step: int, stopped: bool, seconds: float, *, enough: bool = False
    ) -> Result:
        """Write down how the run ended; a finished one needs no more than one state.

        Args:
            enough: the user has ended it and takes what there is for its result.
        """
        if enough or not stopped:
            self._folder.states.prune(1 if self._config.keep_state else 0, step)
        older = self._folder.checkpoint
        is_beside = path is not None and path != older and older.exists()
        self._folder.save_result(
            {
                "checkpoint": str(path) if path else None,
                "sha256": sha256(path) if path else None,
                # of the file that was in use, so that it is known as this run's
                "beside": sha256(older) if is_beside else None,
                "fingerprint": self._p.fingerprint,
                "steps": step,
                "asked": self._config.steps,
                "schedule": self._p.schedule,
                "stopped": stopped,
                "enough": enough,
                "seconds": round(seconds, 3),
            }
        )
        drop_finished_states(self._p.job, FINISHED_KEPT)
        return Result(self._folder.name, self._folder.folder, path, step, stopped, seconds)
