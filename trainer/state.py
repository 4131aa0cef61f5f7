"""A run on disk: its name, its folder, the room it needs, its checkpoints and its log."""

import contextlib
import dataclasses
import glob
import json
import math
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor

from .checkpoint import file_size, lossless_dtype, write_checkpoint
from .config import Job
from .events import Step
from .files import read_json, write_text
from .fingerprint import Fingerprint
from .names import check_name
from .training_state import StateFolder

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        checkpoint: the verified file; None if it was stopped before the first step, and in all
            but the first of several processes.
        steps: finished optimizer steps.
        stopped: whether the user ended it early.
        seconds: of all its steps, those before it was resumed included.
        reused: whether it was finished before and is handed over without training.
    """

    name: str
    folder: Path | None
    checkpoint: Path | None
    steps: int
    stopped: bool
    seconds: float
    reused: bool = False


class RunFolder:
    """Where a run writes. Two runs never share one: a taken name gets ``-2``, ``-3``…"""

    def __init__(self, job: Job, name: str) -> None:
        self.name = name
        self.folder = Path(job.runs) / name
        self.samples = self.folder / "samples"
        self.states = StateFolder(self.folder / "state")
        self._checkpoints = Path(job.checkpoints)
        # the system takes a lock back from a process that is gone, so none is ever left over
        self._lock = FileLock(self.folder / "lock")

    @classmethod
    def reserve(cls, job: Job) -> "RunFolder":
        """Take a free name and write ``job.json``.

        Raises:
            ConfigError: the name is not one.
            OSError: the folder cannot be made.
        """
        check_name(job.name)
        Path(job.runs).mkdir(parents=True, exist_ok=True)
        Path(job.checkpoints).mkdir(parents=True, exist_ok=True)
        for number in count(1):
            run = cls(job, job.name if number == 1 else f"{job.name}-{number}")
            if run.checkpoint.exists() or run._extras():
                continue
            try:
                run.folder.mkdir()
            except FileExistsError:
                continue
            break
        run.lock()
        run.samples.mkdir()
        write_text(run.folder / "job.json", job.to_json())
        return run

    def lock(self) -> bool:
        """Keep every other run out until :meth:`release`; False if one is in there."""
        try:
            self._lock.acquire(timeout=0)
        except (OSError, NotImplementedError):  # taken, or a file system that knows no locks
            return False
        return True

    def release(self) -> None:
        self._lock.release()

    def go_on(self, job: Job, step: int) -> None:
        """Set a locked run back to ``step``: what came later is forgotten, but for the samples."""
        (self.folder / "result.json").unlink(missing_ok=True)
        write_text(self.folder / "job.json", job.to_json())
        self.samples.mkdir(exist_ok=True)
        log = self.folder / "log.jsonl"
        write_text(log, "".join(line + "\n" for line in _lines_up_to(log, step)))
        self.states.prune(keep=2, up_to=step)

    def sweep(self) -> None:
        """Remove what a killed process left half-written of a locked run."""
        name, mark = glob.escape(self.name), "[0-9a-f]" * 8
        for folder, pattern in (
            (self.folder, f".*.{mark}.partial"),
            (self.samples, ".*.partial"),
            (self._checkpoints, f".{name}.{mark}.partial"),
            (self._checkpoints, f".{name}-step{'[0-9]' * 6}.{mark}.partial"),
        ):
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)

    @property
    def is_bare(self) -> bool:
        """Whether the run ended before it kept any weights: then nothing is lost with it."""
        return not (self.states.steps() or self.checkpoint.exists() or self._extras())

    def _extras(self) -> list[Path]:
        """Checkpoints on the way to this name, oldest first."""
        pattern = f"{glob.escape(self.name)}-step{'[0-9]' * 6}.safetensors"
        return sorted(self._checkpoints.glob(pattern))

    @property
    def checkpoint(self) -> Path:
        """The place of the finished file."""
        return self._checkpoints / f"{self.name}.safetensors"

    @property
    def finished(self) -> Path:
        """The file that the run ended with: beside an older one where that was in use."""
        name = Path(str(self.result.get("checkpoint"))).name
        return next((path for path in self._extras() if path.name == name), self.checkpoint)

    @property
    def result(self) -> dict[str, Any]:
        """How it ended; empty while it runs, and after an error."""
        return read_json(self.folder / "result.json")

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be done: all its steps are, or the user took fewer."""
        return self.result.get("stopped") is False or self.result.get("enough") is True

    @property
    def fingerprint(self) -> Fingerprint | None:
        """None if none was kept: the run is of an earlier version, or was never begun."""
        parts = read_json(self.folder / "fingerprint.json")
        return Fingerprint(parts) if parts else None

    def save_fingerprint(self, fingerprint: Fingerprint) -> None:
        text = json.dumps(fingerprint.parts, indent=2, ensure_ascii=False) + "\n"
        write_text(self.folder / "fingerprint.json", text)

    @property
    def base_sums(self) -> dict[str, int]:
        """Checksums of the file without any training; empty if they were not kept."""
        return read_json(self.folder / "base_sums.json")

    def save_base_sums(self, sums: Mapping[str, int]) -> None:
        write_text(self.folder / "base_sums.json", json.dumps(sums) + "\n")

    def log(self, step: Step) -> None:
        """Append a line to ``log.jsonl``; numbers that are not finite become null."""
        values = dataclasses.asdict(step)
        line = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def sample(self, step: int, index: int) -> Path:
        """A preview's place; the number of digits keeps them in order."""
        return self.samples / f"step{step:06d}_{index:02d}.png"

    def save_result(self, result: Mapping[str, object]) -> None:
        text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
        write_text(self.folder / "result.json", text)

    def save_extra(self, step: int, write: Callable[[Path, int], None], keep: int) -> Path:
        """A checkpoint on the way; beyond ``keep`` the oldest goes, after the new one stands."""
        path = self.extra(step)
        write(path, step)
        for old in self._extras()[:-keep]:
            with contextlib.suppress(OSError):  # Windows keeps what someone still reads
                old.unlink(missing_ok=True)
        return path

    def extra(self, step: int) -> Path:
        """The place of a checkpoint on the way."""
        return self._checkpoints / f"{self.name}-step{step:06d}.safetensors"


def drop_finished_states(job: Job, keep: int) -> None:
    """Of all finished runs only the newest ``keep`` stay able to go on to more steps.

    A state is several times its checkpoint, and finished runs add up. Unfinished ones keep theirs,
    and so does a run that another process has in hand.
    """
    runs = [RunFolder(job, path.name) for path in Path(job.runs).iterdir() if path.is_dir()]
    done = [run for run in runs if run.is_over and run.states.steps()]
    done.sort(key=lambda run: (run.folder / "result.json").stat().st_mtime, reverse=True)
    for run in done[keep:]:
        if run.lock():
            run.states.prune(0, up_to=run.states.steps()[-1])
            run.release()


def _lines_up_to(log: Path, step: int) -> Iterator[str]:
    """The lines of a log until a step, without one that was cut short."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    for line in text.splitlines():
        try:
            if json.loads(line)["step"] <= step:
                yield line
        except (ValueError, KeyError, TypeError):
            continue


class CheckpointWriter:
    """Writes the model as it is now: trained parts in the chosen dtype, the rest as it was.

    A tensor that did not train is stored in the chosen dtype only where that changes no value,
    so a base whose host holds it in fp32 gives the same file as its fp16 original.
    """

    def __init__(
        self,
        untrained: Mapping[str, Tensor],
        precision: str,
        metadata: Mapping[str, str],
        whole: tuple[str, ...] = (),
    ) -> None:
        """
        Args:
            whole: ends of names whose tensors stay as they are, whatever the precision.
        """
        self._whole = whole
        self._untrained = untrained
        self._dtype = DTYPES[precision]
        self._metadata = dict(metadata)
        self._kept = {key: self._kept_dtype(tensor) for key, tensor in untrained.items()}

    def _kept_dtype(self, tensor: Tensor) -> torch.dtype:
        return lossless_dtype(tensor, self._dtype) if tensor.is_floating_point() else tensor.dtype

    def dtypes(self, trained: Mapping[str, Tensor]) -> dict[str, torch.dtype]:
        return self._kept | {
            name: tensor.dtype if name.endswith(self._whole) else self._dtype
            for name, tensor in trained.items()
        }

    def size(self, trained: Mapping[str, Tensor]) -> int:
        """Bytes of one file."""
        return file_size(self._all(trained), self.dtypes(trained))

    def _all(self, trained: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """One mapping over both, so that what makes its tensors on demand goes on to."""
        return ChainMap(trained, self._untrained)

    def write(self, path: Path, trained: Mapping[str, Tensor], steps: int) -> dict[str, int]:
        """Write, verify, rename; the file's checksums by tensor.

        Raises:
            CheckpointError: a weight is not finite in the file's dtype, or the file reads back
                differently.
            OSError: the disk.
        """
        metadata = self._metadata | {"dreambooth.steps": str(steps)}
        tensors = self._all(trained)
        return write_checkpoint(path, tensors, metadata, dtypes=self.dtypes(trained))
