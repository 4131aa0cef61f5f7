"""Where a run begins: a finished one is handed over, a broken one goes on, else it is a new one."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint import CheckpointError, read_checkpoint
from .checks import Plan
from .config import ConfigError, Job, TrainConfig
from .events import Listener, Note
from .files import read_json, sha256
from .fingerprint import differences
from .ranks import ALONE, Ranks
from .state import Result, RunFolder
from .training_state import SavedState

# What may differ in the metadata of a file that is handed over; save_precision is looked at apart.
_BESIDE_THE_POINT = {
    "dreambooth.config",
    "dreambooth.libraries",
    "dreambooth.schedule_steps",
    "dreambooth.steps",
    "dreambooth.version",
}


_DIFFERENT = "the processes of this run do not see the same: {}. Give each machine the same files"


@dataclass
class Start:
    """Where a run begins; leaving it as a context lets go of its folder.

    Attributes:
        result: of a finished run that is handed over; then there is nothing else.
        folder: the locked run that goes on or begins anew; None: a new one is reserved when all is
            ready.
        state: what it goes on from; None: from the base.
    """

    result: Result | None = None
    folder: RunFolder | None = None
    state: SavedState | None = None

    def __enter__(self) -> "Start":
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder:
            self.folder.release()

    def schedule(self, config: TrainConfig) -> tuple[int, ...]:
        """Of this run, see :class:`training_state.Progress`."""
        if config.lr_schedule == "constant" and not config.text_encoder_stops:
            return ()
        before = self.state.progress.schedule if self.state else ()
        return before if before[-1:] == (config.steps,) else (*before, config.steps)

    def give_up(self, reason: str, listener: Listener) -> None:
        """Begin anew, and say why."""
        _say(listener, f"{self.folder.name} cannot go on: its state {reason}")
        self.folder.release()
        self.folder = self.state = None

    def open_folder(self, plan: Plan, ranks: Ranks = ALONE) -> RunFolder:
        """The run's own folder, at the step where it goes on.

        Raises:
            ConfigError: another process goes on from somewhere else.
        """
        step = self.state.progress.step if self.state else 0
        if not ranks.is_first:
            told = ranks.tell({})
            if told["step"] != step:
                raise ConfigError(_DIFFERENT.format(f"step {step} here, {told['step']} there"))
            self.folder = RunFolder(plan.job, told["run"])
            return self.folder
        if self.folder:
            self.folder.go_on(plan.job, step)
        else:
            self.folder = RunFolder.reserve(plan.job)
            self.folder.save_fingerprint(plan.fingerprint)
        ranks.tell({"run": self.folder.name, "step": step})
        return self.folder


def find_start(plan: Plan, listener: Listener, *, train_again: bool, ranks: Ranks = ALONE) -> Start:
    """Look through the earlier runs of this name, newest first.

    Of several processes the first looks, and the others follow it.

    Raises:
        ConfigError, CheckpointError: they do not see the same files.
        TrainingError: another process is gone.
    """
    if not ranks.is_first:
        return _follow(ranks.tell({}), plan)
    start = _look(plan, listener, train_again)
    ranks.tell(
        {
            "fingerprint": plan.fingerprint.digest,
            "run": start.folder.name if start.folder else None,
            "step": start.state.progress.step if start.state else None,
            "finished": bool(start.result),
        }
    )
    return start


def _follow(told: Mapping[str, Any], plan: Plan) -> Start:
    """Where the first process begins; its folder is not locked a second time."""
    if told["fingerprint"] != plan.fingerprint.digest:
        raise ConfigError(_DIFFERENT.format("other weights, pictures or settings"))
    name, step = told["run"], told["step"]
    if told["finished"]:
        result = Result(plan.job.name, None, None, plan.job.config.steps, False, 0.0, reused=True)
        return Start(result)
    if name is None:
        return Start()
    run = RunFolder(plan.job, name)
    try:
        return Start(None, run, None if step is None else run.states.read(step))
    except (CheckpointError, OSError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the state of {name} after step {step} cannot be read by every process ({error}):"
            f" {str(run.folder)!r} has to be on a disk that all machines share"
        ) from error


def _look(plan: Plan, listener: Listener, train_again: bool) -> Start:
    if train_again:
        return Start()
    runs = sorted(_runs_of(plan.job), key=_age, reverse=True)
    same = [run for run in runs if _digest(run) == plan.fingerprint.digest]
    for run in same:
        if result := _finished(run, plan):
            _say(listener, _handed_over(result, plan.job.config.steps))
            if len(schedule := run.result.get("schedule", ())) > 1:
                _say(listener, _uneven(schedule))
            return Start(result)
    for run in same:
        if state := _state_of(run, plan, listener):
            return _go_on(Start(None, run, state), plan, listener)
    for run in same:
        if run.is_bare and run.lock():
            _say(listener, f"{run.name} ended before it kept anything: it begins anew")
            return Start(None, run)
    if not same:
        _say_what_differs(runs, plan, listener)
    return Start()


def _runs_of(job: Job) -> Iterator[RunFolder]:
    """The runs of a job's name: ``name``, ``name-2``… but not those of a job called ``name-2``."""
    folder = Path(job.runs)
    for path in folder.iterdir() if folder.is_dir() else ():
        number = path.name.removeprefix(f"{job.name}-")
        ours = path.name == job.name or number.isdecimal()
        if ours and read_json(path / "job.json").get("name") == job.name:
            yield RunFolder(job, path.name)


def _age(run: RunFolder) -> tuple[float, int, str]:
    return (run.folder / "job.json").stat().st_mtime, len(run.name), run.name


def _digest(run: RunFolder) -> str | None:
    fingerprint = run.fingerprint
    return fingerprint.digest if fingerprint else None


def _finished(run: RunFolder, plan: Plan) -> Result | None:
    """The result of a run with just this job's file, byte for byte as it was written.

    Its steps are those that were asked for, or fewer that the user took for enough.
    """
    kept = run.result
    steps = kept.get("asked" if kept.get("enough") else "steps")
    if not run.is_over or steps != plan.job.config.steps:
        return None
    path = run.finished
    if not path.is_file() or sha256(path) != kept.get("sha256"):
        return None
    _, header = read_checkpoint(path)
    precision = json.loads(header["dreambooth.config"])["save_precision"]
    if precision != plan.job.config.save_precision or _essence(header) != _essence(plan.metadata):
        return None
    seconds = float(kept.get("seconds", 0.0))
    return Result(run.name, run.folder, path, kept["steps"], False, seconds, reused=True)


def _handed_over(result: Result, asked: int) -> str:
    if result.steps == asked:
        return (
            f"this very run is finished: {result.name} is handed over; switch train_again on to"
            " repeat it"
        )
    return (
        f"{result.name} was stopped and kept after {result.steps} of {asked} steps: it is handed"
        " over; ask for more steps to train on, or switch train_again on to repeat it"
    )


def _essence(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key not in _BESIDE_THE_POINT}


def _state_of(run: RunFolder, plan: Plan, listener: Listener) -> SavedState | None:
    """The newest good state of a run, which then is locked; else None, and the reason is said."""
    if not run.lock():
        _say(listener, f"{run.name} is being trained right now: this run takes another name")
        return None
    run.sweep()
    state, asked = None, plan.job.config.steps
    steps = run.states.steps()
    if not steps:
        if not run.is_bare:
            _say(listener, f"{run.name} cannot go on: it kept no state")
    elif steps[-1] > asked:
        _say(
            listener,
            f"{run.name} has {steps[-1]} steps, more than the {asked} asked for: begins anew",
        )
    elif not _is_ours(run):
        _say(listener, f"{run.checkpoint.name} was changed since {run.name} wrote it: begins anew")
    else:
        state = _newest_good(run, steps, listener)
    if state is None:
        run.release()
    return state


def _is_ours(run: RunFolder) -> bool:
    """Whether going on would replace nothing but the run's own file."""
    kept = run.result
    written = kept.get("beside") or kept.get("sha256")
    return not (written and run.checkpoint.exists()) or sha256(run.checkpoint) == written


def _newest_good(run: RunFolder, steps: list[int], listener: Listener) -> SavedState | None:
    for step in reversed(steps):
        try:
            return run.states.read(step)
        except (CheckpointError, OSError, KeyError, TypeError, ValueError) as error:
            _say(listener, f"the state of {run.name} after step {step} cannot be used: {error}")
    _say(listener, f"{run.name} cannot go on: it begins anew under another name")
    return None


def _go_on(start: Start, plan: Plan, listener: Listener) -> Start:
    step = start.state.progress.step
    _say(listener, f"goes on from step {step} of {start.folder.name}")
    if len(schedule := start.schedule(plan.job.config)) > 1:
        _say(listener, _uneven(schedule))
    return start


def _uneven(schedule: tuple[int, ...]) -> str:
    ends = ", then to ".join(map(str, schedule))
    return f"its schedule ran to {ends} steps: an unbroken run would differ"


def _say_what_differs(runs: list[RunFolder], plan: Plan, listener: Listener) -> None:
    """Only of the newest run, and only if it is not finished: else another setting is no news."""
    run = next(iter(runs), None)
    before = run.fingerprint if run else None
    if run is None or before is None or run.is_over:
        return
    said = "; ".join(differences(before, plan.fingerprint))
    _say(listener, f"{run.name} is not finished but cannot go on with other inputs: {said}")


def _say(listener: Listener, text: str) -> None:
    listener(Note(text))
