"""Runs that a user stops, or a system asks to end, keep their steps and go on to the same bytes."""

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from forking import (
    OPTIONS,
    SEED,
    STEPS,
    Whole,
    check_end,
    ended,
    forked,
    kill_after,
    lines,
    place,
    unbroken,
)
from pack.trainer.checkpoint import read_checkpoint
from pack.trainer.config import Job
from pack.trainer.events import Command, Event, Phase, Step
from pack.trainer.loop import train
from pack.trainer.state import Result
from record import record
from toy import CPU, make_concept, make_job, same, toy_base

pytestmark = pytest.mark.skipif(os.name == "nt", reason="no fork, no SIGKILL")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    return unbroken(tmp_path_factory.mktemp("unbroken") / "forked")


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
