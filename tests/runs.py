"""Runs that are stopped, finished and queued again, for the tests of what a second queue does.

A plugin of pytest (``conftest.py``): its fixtures are everybody's.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from pack.trainer.checks import check
from pack.trainer.config import Concept, Job
from pack.trainer.events import Command, Event, Note, Step
from pack.trainer.loop import train
from pack.trainer.resume import Start, find_start
from pack.trainer.training_state import StateFolder
from toy import CPU, Run, make_concept, make_job, run, toy_base

OFTEN = 1e-9  # minutes: a state after every step


@pytest.fixture(scope="session")
def concept(tmp_path_factory: pytest.TempPathFactory) -> Concept:
    return make_concept(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory, concept: Concept) -> dict[str, tuple[Job, Run]]:
    return earlier_runs(tmp_path_factory.mktemp("kept"), concept)


@pytest.fixture
def broken_off(kept: dict[str, tuple[Job, Run]], tmp_path: Path) -> Job:
    """The job of a stopped run, in folders of the test's own."""
    return copied(kept["stopped"][0], tmp_path)


def queue(job: Job, **options: object) -> Run:
    """As a user queues: what is done is not done again."""
    return run(job, train_again=False, **options)


def stopped(job: Job, after: int) -> Run:
    """A run that a user stops after so many steps of this queue."""
    events: list[Event] = []

    def control() -> Command:
        steps = sum(isinstance(event, Step) for event in events)
        return Command.STOP if steps >= after else Command.GO_ON

    result = train(job, toy_base(), device=CPU, listener=events.append, control=control)
    assert result.stopped
    return Run(result, events)


def begin(job: Job, base: dict[str, torch.Tensor] | None = None) -> tuple[Start, str]:
    """Where a queue of this job would begin, and what it would say, without the training."""
    said: list[Event] = []
    plan = check(job, base or toy_base(), CPU, said.append, lambda: None)
    with find_start(plan, said.append, train_again=False) as start:
        return start, "\n".join(event.text for event in said if isinstance(event, Note))


def notes(made: Run) -> str:
    return "\n".join(note.text for note in made.of(Note))


def logged(made: Run) -> list[int]:
    lines = (made.result.folder / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def states(job: Job, name: str = "toy") -> list[int]:
    return StateFolder(Path(job.runs) / name / "state").steps()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def earlier_runs(folder: Path, concept: Concept) -> dict[str, tuple[Job, Run]]:
    """One run of three steps that was stopped after the second, and one that was finished."""
    made = {}
    for kind in ("stopped", "finished"):
        job = make_job(folder / kind, (concept,), trains="unet", steps=3, state_minutes=OFTEN)
        made[kind] = (job, stopped(job, 2) if kind == "stopped" else queue(job))
    assert states(made["stopped"][0]) == [1, 2] and states(made["finished"][0]) == [3]
    return made


def copied(job: Job, folder: Path) -> Job:
    """The job with its runs and checkpoints, in folders of a test's own."""
    places = {name: str(folder / name) for name in ("runs", "checkpoints")}
    for name, place in places.items():
        shutil.copytree(getattr(job, name), place)
    return dataclasses.replace(job, **places)


def changed(job: Job, **settings: object) -> Job:
    return dataclasses.replace(job, config=dataclasses.replace(job.config, **settings))


def with_concept(job: Job, **values: object) -> Job:
    return dataclasses.replace(job, concepts=(dataclasses.replace(job.concepts[0], **values),))
