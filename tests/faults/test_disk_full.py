"""The disk fills up at each single write of a run: what was good stays good, and it goes on."""

import dataclasses
import errno
import hashlib
import io
import itertools
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pack.trainer import cache
from pack.trainer.__main__ import USER_ERRORS
from pack.trainer.checkpoint import read_checkpoint
from pack.trainer.config import Job
from pack.trainer.loop import Result
from record import record
from safetensors import SafetensorError
from toy import make_concept, make_job, run, same

SEED = 20261122
SAMPLE = 2  # moments of each kind in the short form
FIRST, LAST = 1, 2  # steps of the good run, and of the one whose disk fills up
ROOM = ("room", "space", "disk")


class Disk:
    """Counts what asks the disk for room below ``root``, and refuses from the ``full_at``-th on.

    Counted: a file opened for writing, each write to it (half of it arrives), fsync, rename, mkdir
    and safetensors' own writer. ``lasting``: every later one is refused, too.
    """

    def __init__(self, patch: pytest.MonkeyPatch, root: Path, full_at: int, lasting: bool) -> None:
        self.root, self.full_at, self.lasting = str(root), full_at, lasting
        self.asked: list[tuple[str, str]] = []  # (what for, of which file), in order
        self.refused = 0
        real_open = io.open

        def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
            if not isinstance(file, int) and set(mode) & set("wxa+") and self._is_ours(file):
                self._ask("open", file)
                return self._watched(real_open(file, mode, *args, **options), file)
            return real_open(file, mode, *args, **options)

        patch.setattr("builtins.open", opened)
        patch.setattr(io, "open", opened)  # pathlib's
        patch.setattr(os, "fsync", self._asking(os.fsync, None))
        patch.setattr(os, "replace", self._asking(os.replace, 1))
        patch.setattr(os, "mkdir", self._asking(os.mkdir, 0))
        patch.setattr(cache, "save_file", self._cache_writer(cache.save_file))

    def _is_ours(self, path: Any) -> bool:
        return os.fsdecode(path).startswith(self.root)

    def _ask(self, what: str, path: Any) -> None:
        self.asked.append((what, os.fsdecode(path)))
        count = len(self.asked)
        if count == self.full_at or (self.lasting and count > self.full_at > 0):
            self.refused += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fsdecode(path))

    def _asking(self, real: Callable, place: int | None) -> Callable:
        def asking(*args: Any, **options: Any) -> Any:
            path = self.root if place is None else args[place]
            if self._is_ours(path):
                self._ask(real.__name__, path)
            return real(*args, **options)

        return asking

    def _watched(self, file: Any, path: Any) -> Any:
        real = file.write

        def write(data: Any) -> int:
            try:
                self._ask("write", path)
            except OSError:
                real(data[: len(data) // 2])
                raise
            return real(data)

        file.write = write
        return file

    def _cache_writer(self, real: Callable) -> Callable:
        def save_file(tensors: dict, path: Path) -> None:
            try:
                self._ask("save_file", path)
            except OSError as error:  # as safetensors puts it, measured on a full tmpfs
                text = f"Error while serializing: I/O error: {error.strerror} (os error 28)"
                raise SafetensorError(text) from None
            real(tensors, path)

        return save_file


@dataclasses.dataclass
class Scene:
    """A finished good run, and the job whose disk fills up, with what it gives undisturbed.

    Attributes:
        good: the tensors of the good checkpoint, and of every step the job may end at.
        asked: what the job, undisturbed, asks the disk for.
    """

    kind: str
    folder: Path
    job: Job
    sha: str
    good: dict[int, dict[str, torch.Tensor]]
    asked: list[tuple[str, str]]

    def copied(self, folder: Path) -> Job:
        shutil.copytree(self.folder, folder)
        places = {key: str(folder / key) for key in ("checkpoints", "runs", "cache")}
        return dataclasses.replace(self.job, **places)


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def train(job: Job) -> Result:
    """As a user queues it: what is done is not done again, what is broken goes on."""
    return run(job, train_again=False).result


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scene]:
    """``more``: the same run asked for more steps; ``other``: the same name, other settings."""
    concept = make_concept(tmp_path_factory.mktemp("pictures"), photos=2, classes=1)
    made = {}
    for kind in ("more", "other"):
        folder = tmp_path_factory.mktemp(kind)
        options = {"trains": "unet", "save_every": 1, "keep": 3, "preview_every": 2}
        options |= {"preview_steps": 1, "state_minutes": 1e-9}
        first = make_job(folder, (concept,), steps=FIRST, **options)
        good = {FIRST: read_checkpoint(train(first).checkpoint)[0]}
        job = make_job(folder, (concept,), steps=LAST, **options)
        if kind == "other":
            shutil.rmtree(folder / "cache")  # so that its writes are among those that fail
            job = dataclasses.replace(job, config=dataclasses.replace(job.config, seed=7))
        scene = Scene(kind, folder, job, "", good, [])
        trial = scene.copied(tmp_path_factory.mktemp("unbroken") / "u")
        with pytest.MonkeyPatch.context() as patch:
            disk = Disk(patch, Path(trial.runs).parent, full_at=0, lasting=False)
            result = train(trial)
        scene.sha, scene.asked = sha(result.checkpoint), disk.asked
        good[LAST] = read_checkpoint(result.checkpoint)[0]
        for extra in sorted(Path(trial.checkpoints).glob(f"{result.name}-step*.safetensors")):
            good[int(extra.stem[-6:])] = read_checkpoint(extra)[0]
        made[kind] = scene
    return made


def moments(scene: Scene, lasting: bool, full: bool) -> list[int]:
    """Every request; of a file's uninterrupted series of writes (a tensor each) the first, the
    middle and the last."""
    every: list[int] = []
    for _, series in itertools.groupby(enumerate(scene.asked, 1), key=lambda item: item[1]):
        numbers = [number for number, _ in series]
        every += sorted({numbers[0], numbers[len(numbers) // 2], numbers[-1]})
    chosen = random.Random(f"{SEED} {scene.kind} {lasting}").sample(every, SAMPLE)
    return every if full else sorted(chosen)


def fail_at(scene: Scene, folder: Path, moment: int, lasting: bool) -> str:
    """One trial: the disk is full at one moment, then there is room again; how the run ended."""
    job, ended = scene.copied(folder), "went on"
    checkpoints = Path(job.checkpoints)
    before = sha(checkpoints / "toy.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(patch, folder, moment, lasting)
        try:
            train(job)
        except (*USER_ERRORS, OSError) as error:
            ended = type(error).__name__
            assert any(word in str(error).lower() for word in ROOM), repr(error)
    assert disk.refused, "nothing was refused"
    if scene.kind == "other":
        assert sha(checkpoints / "toy.safetensors") == before
    for path in checkpoints.glob("*.safetensors"):  # whatever a user can see is whole and good
        tensors, metadata = read_checkpoint(path)
        step = int(metadata["dreambooth.steps"])
        ours = scene.kind == "more" or path.name.startswith("toy-2")
        assert not ours or same(tensors, scene.good[step]), f"{path.name} of step {step}"
    assert (checkpoints / "toy.safetensors").is_file()
    assert not list(folder.rglob("*.partial")) and not list(folder.rglob("*.tmp"))
    again = train(job)
    assert again.steps == LAST and sha(again.checkpoint) == scene.sha, "not as the unbroken run"
    shutil.rmtree(folder)
    return ended


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("kind", ["more", "other"])
def test_a_disk_that_fills_up_costs_no_good_file(
    scenes: dict[str, Scene], tmp_path: Path, kind: str, lasting: bool, full: bool
) -> None:
    scene, began, outcomes, failed = scenes[kind], time.monotonic(), {}, []
    for moment in moments(scene, lasting, full):
        try:
            ended = fail_at(scene, tmp_path / f"{moment}", moment, lasting)
        except Exception as error:  # noqa: BLE001 (a finding, told at the end)
            failed.append(f"{moment} {scene.asked[moment - 1]}: {error!r}")
            ended = "failed"
        outcomes[ended] = outcomes.get(ended, 0) + 1
    if full:
        about = {"the earlier run": kind, "refused": "from then on" if lasting else "once"}
        counts = {
            "requests": len(scene.asked),
            "trials": sum(outcomes.values()),
            "outcomes": outcomes,
        }
        seconds = round(time.monotonic() - began)
        counts |= {"outcomes": outcomes, "failures": len(failed), "seconds": seconds}
        DONE.append({**about, **counts})
        trials, failures = (sum(done[key] for done in DONE) for key in ("trials", "failures"))
        record("disk full", trials=trials, failures=failures, parts=DONE)
    assert not failed, "\n".join(failed)


DONE: list[dict] = []  # the parts of a full run
