"""Runs that are killed, stopped or asked to end at random moments go on to the same bytes."""

import dataclasses
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from conftest import ROOT
from pack.trainer import __main__ as shell
from pack.trainer.checkpoint import read_checkpoint, write_checkpoint
from pack.trainer.config import Job
from pack.trainer.events import Command, Event, Note, Phase, Step
from pack.trainer.loop import train
from pack.trainer.state import Result
from record import record
from toy import CPU, make_concept, make_job, same, toy_base

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no fork, no SIGKILL")

SEED = 20261122
STEPS = 6
KILLS = 3  # of one run, at most
OPTIONS = {
    "steps": STEPS,
    "gradient_accumulation_steps": 2,
    "trains": "unet",
    "lr_schedule": "cosine",
    "preview_every": 4,
    "preview_steps": 1,
    "save_every": 2,
    "state_minutes": 1e-9,  # a state after every step
}
BETWEEN = "steps, and between phases"
# Calls that change what is on disk, as Python's audit names them: a kill just before one of them.
TOUCHES = {"os.rename", "os.remove", "os.mkdir"}


@dataclasses.dataclass
class Whole:
    """The unbroken run, and how long it is by each of the three measures."""

    folder: Path
    seconds: float
    shell_seconds: float
    events: int
    touches: int


def place(folder: Path) -> list[str]:
    """A job with its base in a folder of its own; the command's arguments."""
    base = folder / "base.safetensors"
    write_checkpoint(base, toy_base(), {})
    job = make_job(folder, (make_concept(folder.parent / "pictures"),), **OPTIONS)
    file = folder / "job.json"
    file.write_text(dataclasses.replace(job, base=str(base)).to_json())
    return [str(file), "--device", "cpu"]


class Diary:
    """What a child was doing, line by line in a file that outlives it."""

    def __init__(self, path: Path, die_at_event: int, die_at_touch: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._left = {"event": die_at_event, "touch": die_at_touch}
        self._done = 0

    def on_event(self, event: Event) -> None:
        if isinstance(event, Step):
            self._done = event.step
        if isinstance(event, Note) and event.text.startswith("goes on from step "):
            self._done = int(event.text.split()[4])
        self._write(self._activity(event))
        self._count("event")

    def on_audit(self, name: str, arguments: tuple) -> None:
        writes = name == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
        if writes or name in TOUCHES:
            self._count("touch")

    def _activity(self, event: Event) -> str:
        if not isinstance(event, Phase) or event.done == event.total:
            return BETWEEN
        if event.name == "Saving":
            return "Saving the end" if self._done == STEPS else "Saving an extra"
        return event.name

    def _count(self, kind: str) -> None:
        self._write(kind)
        self._left[kind] -= 1
        if not self._left[kind]:
            os.kill(os.getpid(), signal.SIGKILL)

    def _write(self, line: str) -> None:
        os.write(self._file, f"{line}\n".encode())


def forked(arguments: list[str], diary: Path, *, event: int = 0, touch: int = 0) -> int:
    """The shell's command in a child that need not import torch again; its process id.

    It kills itself at the ``event``-th thing it says or before the ``touch``-th change on disk.
    """
    if child := os.fork():
        return child
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(diary.with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        torch.set_num_threads(1)
        notes = Diary(diary, event, touch)
        shell._print = notes.on_event
        sys.addaudithook(notes.on_audit)
        code = shell.main(arguments)
    except Exception as error:  # noqa: BLE001
        os.write(2, f"{error!r}\n".encode())
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """As ``subprocess`` says it: the exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def lines(diary: Path) -> list[str]:
    return diary.read_text().splitlines() if diary.exists() else []


def doing(diary: Path) -> str:
    said = [line for line in lines(diary) if line not in ("event", "touch")]
    return said[-1] if said else "Reading the base"


def command(arguments: list[str]) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "trainer", *arguments],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, full: bool) -> Whole:
    """The unbroken run, in a forked child."""
    folder = tmp_path_factory.mktemp("unbroken") / "forked"
    folder.mkdir()
    arguments, diary = place(folder), folder / "diary"
    began = time.perf_counter()
    assert ended(forked(arguments, diary)) == 0, diary.with_suffix(".err").read_text()
    seconds = time.perf_counter() - began
    count = Counter(lines(diary))
    shell_seconds = command_seconds(folder) if full else math.nan
    return Whole(folder, seconds, shell_seconds, count["event"], count["touch"])


def command_seconds(whole: Path) -> float:
    """Of an unbroken ``python -m trainer``, which ends with the same bytes as a forked child."""
    folder = whole.parent / "command"
    folder.mkdir()
    began = time.perf_counter()
    running = command(place(folder))
    _, errors = running.communicate()
    assert running.returncode == 0, errors
    assert finished(folder) == finished(whole)
    return time.perf_counter() - began


def finished(folder: Path) -> dict[str, bytes]:
    """Everything that the finished run leaves to look at, as if its name were the first one."""
    run = finished_run(folder)
    found = {f"samples/{path.name}": path.read_bytes() for path in (run / "samples").iterdir()}
    for path in (folder / "checkpoints").iterdir():
        found[path.name.replace(f"{run.name}.", "toy.").replace(f"{run.name}-s", "toy-s")] = (
            path.read_bytes()
        )
    return found


def finished_run(folder: Path) -> Path:
    (result,) = (folder / "runs").glob("*/result.json")
    return result.parent


def check_end(folder: Path, whole: Path) -> int:
    """The same files as the unbroken run, nothing half-written; how many names were lost.

    Only a process that dies within the few milliseconds in which the run's folder is made leaves a
    name of which nobody knows whose it is.
    """
    run = finished_run(folder)
    found, wanted = finished(folder), finished(whole)
    differing = [name for name in found | wanted if found.get(name) != wanted.get(name)]
    assert not differing, differing
    log = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert log == list(range(1, STEPS + 1))
    result = json.loads((run / "result.json").read_text())
    assert result["steps"] == STEPS and not result["stopped"]
    states = {path.name for path in (run / "state").iterdir()}
    assert states == {f"step{STEPS:06d}.json", f"step{STEPS:06d}.safetensors"}
    others = [path for path in (folder / "runs").iterdir() if path != run]
    assert all(re.fullmatch(r"toy(-\d)?|\.rehearsal\.lock", path.name) for path in others), others
    lost = [path for path in others if path.is_dir()]
    assert not any((path / "fingerprint.json").exists() for path in lost), lost
    assert not list(run.rglob("*partial*"))
    return len(lost)


# ---- kill -9 -----------------------------------------------------------------------------------


def kill_forked(arguments: list[str], whole: Whole, chance: random.Random) -> tuple[str, str, int]:
    """One start that may be killed: by which measure, while doing what, and how it ended."""
    diary = Path(arguments[0]).with_name("diary")
    diary.unlink(missing_ok=True)
    how = chance.choice(["time", "event", "touch"])
    if how == "event":
        child = forked(arguments, diary, event=chance.randint(1, whole.events))
    elif how == "touch":
        child = forked(arguments, diary, touch=chance.randint(1, whole.touches))
    else:
        child = forked(arguments, diary)
        kill_after(child, chance.uniform(0, whole.seconds))
    code = ended(child)
    return how, doing(diary), code


def kill_after(child: int, seconds: float, number: int = signal.SIGKILL) -> None:
    """Unless it ends before; it stays a zombie until it is waited for, so the id is its own."""
    time.sleep(seconds)
    os.kill(child, number)


def kill_command(arguments: list[str], whole: Whole, chance: random.Random) -> tuple[str, str, int]:
    """The same of a real ``python -m trainer``, by time alone."""
    running = command(arguments)
    time.sleep(chance.uniform(0, whole.shell_seconds))
    running.kill()
    said, _ = running.communicate()
    return "command", told(said), running.returncode


def told(said: str) -> str:
    """What a command was doing, from the line that it showed last."""
    last = re.split(r"[\r\n]+", said.strip())[-1] if said.strip() else ""
    if not last:
        return "importing, reading the base"
    match = re.match(r"([A-Z][a-z ]+): (\d+)/(\d+)$", last)
    return match[1] if match and match[2] != match[3] else BETWEEN


def trial(folder: Path, whole: Whole, chance: random.Random, kill: Callable) -> tuple[list, int]:
    """Kills one run up to ``KILLS`` times, then lets it end; (the kills, names that were lost)."""
    folder.mkdir()
    arguments, kills = place(folder), []
    for _ in range(chance.randint(1, KILLS)):
        how, what, code = kill(arguments, whole, chance)
        assert code in (0, -signal.SIGKILL), (how, what, code)
        if code:
            kills.append((how, what))
    diary = folder / "diary"
    code = ended(forked(arguments, diary))
    assert code == 0, (kills, diary.with_suffix(".err").read_text())
    lost = check_end(folder, whole.folder)
    shutil.rmtree(folder)
    return kills, lost


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    whole: Whole, tmp_path: Path, full: bool
) -> None:
    began, kills, lost, failed = time.perf_counter(), [], 0, []
    trials, commands = (60, 6) if full else (2, 0)
    for number in range(trials):
        chance = random.Random(f"{SEED}/kill/{number}")
        kill = kill_command if number < commands else kill_forked
        try:
            found, names = trial(tmp_path / str(number), whole, chance, kill)
        except (AssertionError, ValueError, OSError) as error:
            failed.append(f"trial {number} of seed {SEED}: {error}")
            continue
        kills, lost = kills + found, lost + names
    assert not failed, "\n".join(failed)
    assert kills
    if full:
        record(
            "kill -9",
            trials=trials,
            failures=len(failed),
            kills=len(kills),
            moments=dict(sorted(Counter(how for how, _ in kills).items())),
            phases=dict(sorted(Counter(what for _, what in kills).items())),
            begun_anew_under_another_name=lost,
            seed=SEED,
            seconds=round(time.perf_counter() - began),
        )


def touches_of(diary: Path) -> dict[str, list[int]]:
    """The numbers of an unbroken run's changes on disk, by what the run was doing."""
    found, touch, activity = defaultdict(list), 0, "Reading the base"
    for line in lines(diary):
        if line == "touch":
            touch += 1
            found[activity].append(touch)
        elif line != "event":
            activity = line
    return found


def test_killed_within_a_save_it_goes_on_to_the_same_bytes(
    whole: Whole, tmp_path: Path, full: bool
) -> None:
    """Short moments that a random one seldom meets: before some change on disk of each save."""
    touches, chance = touches_of(whole.folder / "diary"), random.Random(f"{SEED}/within")
    saves = ["Saving the end", "Saving an extra", "Keeping the state", "Rehearsing the save"]
    for what in saves if full else saves[:1]:
        assert touches[what], what
        for touch in chance.sample(touches[what], min(len(touches[what]), 5 if full else 1)):
            folder = tmp_path / str(touch)
            folder.mkdir()
            arguments, diary = place(folder), folder / "diary"
            assert ended(forked(arguments, diary, touch=touch)) == -signal.SIGKILL
            assert doing(diary) == what
            assert ended(forked(arguments, diary)) == 0, diary.with_suffix(".err").read_text()
            assert check_end(folder, whole.folder) == 0, (what, touch)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Runs in this process are compared with forked ones, which have one: sums differ by it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# ---- cancel ------------------------------------------------------------------------------------


class Cancel:
    """A user who stops the run at the ``at``-th question, and the phase it had said last."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.asked, self.doing, self.done = at, 0, "Reading the base", 0

    def __call__(self) -> Command:
        self.asked += 1
        return Command.STOP if self.asked == self.at else Command.GO_ON

    def listener(self, event: Event) -> None:
        if self.asked != self.at or not self.at:
            self.doing = event.name if isinstance(event, Phase) else "steps"
        if isinstance(event, Step):
            self.done = event.step


def world() -> list:
    """What a run must leave as it found it: settings and random states of the whole process."""
    numbers = np.random.get_state()
    return [
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
        (numbers[0], numbers[1].tolist(), *numbers[2:]),
        random.getstate(),
        [dict(kind._shared_state) for kind in (PartialState, AcceleratorState, GradientState)],
        [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        dict(os.environ),
    ]


def queue(job: Job, user: Cancel) -> Result:
    before = world()
    result = train(job, toy_base(), device=CPU, listener=user.listener, control=user)
    assert world() == before
    return result


def check_kept(result: Result, job: Job, steps: dict[int, dict]) -> None:
    """After a stop: the weights of the finished steps, or nothing if there are none."""
    assert result.stopped
    ours = Path(job.checkpoints) / "toy.safetensors"
    if not result.steps:
        assert result.checkpoint is None and not ours.exists()
        return
    tensors, metadata = read_checkpoint(result.checkpoint)
    assert result.checkpoint == ours and metadata["dreambooth.steps"] == str(result.steps)
    assert same(tensors, steps[result.steps])
    assert not list(ours.parent.glob(".*"))


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[int, dict]]:
    """Of an unbroken run in this process: how often it asks, and the weights after each step."""
    folder, user = tmp_path_factory.mktemp("uncut"), Cancel()
    options = {**OPTIONS, "save_every": 1, "keep": STEPS}
    job = make_job(folder, (make_concept(folder / "pictures"),), **options)
    assert not queue(job, user).stopped
    found = [read_checkpoint(path) for path in Path(job.checkpoints).iterdir()]
    steps = {int(metadata["dreambooth.steps"]): tensors for tensors, metadata in found}
    assert sorted(steps) == list(range(1, STEPS + 1))
    return user.asked, steps


def test_stopped_at_any_moment_the_work_is_kept_and_goes_on(
    whole: Whole, uncut: tuple[int, dict[int, dict]], tmp_path: Path, full: bool
) -> None:
    began, where, failed = time.perf_counter(), Counter(), []
    questions, steps = uncut
    trials = 60 if full else 2
    for number in range(trials):
        at = random.Random(f"{SEED}/cancel/{number}").randint(1, questions)
        folder = tmp_path / str(number)
        job = make_job(folder, (make_concept(tmp_path / "pictures"),), **OPTIONS)
        try:
            user = Cancel(at)
            result = queue(job, user)
            assert result.steps == user.done
            check_kept(result, job, steps)
            where[user.doing] += 1
            assert not queue(job, Cancel()).stopped
            assert check_end(folder, whole.folder) == 0
        except (AssertionError, ValueError, OSError) as error:
            failed.append(f"trial {number} of seed {SEED}, question {at}: {error}")
            continue
        shutil.rmtree(folder)
    assert not failed, "\n".join(failed)
    if full:
        record(
            "cancel in the trainer",
            trials=trials,
            failures=len(failed),
            questions=questions,
            phase_said_last=dict(sorted(where.items())),
            seed=SEED,
            seconds=round(time.perf_counter() - began),
        )


# ---- a system that asks ------------------------------------------------------------------------


def test_a_shell_that_is_asked_to_end_keeps_the_steps(
    whole: Whole, tmp_path: Path, full: bool
) -> None:
    """From the moment the run begins: while it imports there is nothing to keep."""
    for trial in range(12 if full else 1):
        number = (signal.SIGTERM, signal.SIGINT)[trial % 2]
        chance = random.Random(f"{SEED}/signal/{trial}")
        folder = tmp_path / str(trial)
        folder.mkdir()
        arguments, diary = place(folder), folder / "diary"
        child = forked(arguments, diary)
        while not lines(diary):
            time.sleep(0.005)
        kill_after(child, chance.uniform(0, whole.seconds * 0.7), number)
        code = ended(child)
        assert code in (0, 130), (trial, code, diary.with_suffix(".err").read_text())
        assert ended(forked(arguments, diary)) == 0, diary.with_suffix(".err").read_text()
        assert check_end(folder, whole.folder) == 0
