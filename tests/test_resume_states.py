"""The states that a run goes on from: damaged, too many, without room, locked."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from pack.trainer import room as disk
from pack.trainer import setup
from pack.trainer.config import Concept, Job
from pack.trainer.events import Command, Step
from pack.trainer.loop import train
from pack.trainer.resume import Start
from pack.trainer.training_state import StateFolder
from runs import OFTEN, begin, files, logged, notes, queue, states, stopped
from toy import CPU, make_job, run, toy_base

# ---- states ------------------------------------------------------------------------------------


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-50] ^= 1
    path.write_bytes(data)


def make_nonsense(path: Path) -> None:
    path.with_suffix(".json").write_text('{"format": 1, "crc32": 3}')


def lose(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [cut_short, flip_a_bit, make_nonsense, lose])
def test_a_damaged_state_is_passed_over(broken_off: Job, damage: Callable[[Path], None]) -> None:
    folder = Path(broken_off.runs) / "toy" / "state"
    damage(folder / "step000002.safetensors")
    start, said = begin(broken_off)
    assert "the state of toy after step 2 cannot be used" in said
    assert "goes on from step 1 of toy" in said and start.state.progress.step == 1
    damage(folder / "step000001.safetensors")
    start, said = begin(broken_off)
    assert "begins anew under another name" in said and start == Start()


def test_from_the_older_state_the_same_bytes(broken_off: Job, kept: dict) -> None:
    cut_short(Path(broken_off.runs) / "toy" / "state" / "step000002.safetensors")
    resumed = queue(broken_off)
    assert resumed.sha == kept["finished"][1].sha and logged(resumed) == [1, 2, 3]


def test_a_state_of_other_names_is_given_up(
    broken_off: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another version of diffusers may name its weights."""
    monkeypatch.setattr(setup, "fits", lambda state, parts: False)
    fresh = queue(broken_off)
    assert "other versions of the libraries" in notes(fresh)
    assert fresh.result.name == "toy-2" and len(fresh.of(Step)) == 3


def test_two_states_stay_while_it_runs_and_one_at_the_end(tmp_path: Path, concept: Concept) -> None:
    job = make_job(tmp_path, (concept,), trains="unet", steps=5, state_minutes=OFTEN)
    seen = []
    run(job, control=lambda: seen.append(states(job)) or Command.GO_ON)
    assert max(len(steps) for steps in seen) == 2 and [3, 4] in seen
    assert set(files(tmp_path / "runs" / "toy" / "state")) == {
        "step000005.json",
        "step000005.safetensors",
    }


def test_without_state_nothing_is_kept(tmp_path: Path, concept: Concept) -> None:
    job = make_job(tmp_path, (concept,), trains="unet", keep_state=False)
    stopped(job, 1)
    assert not (tmp_path / "runs" / "toy" / "state").exists()
    fresh = queue(job)
    assert fresh.result.name == "toy-2" and "toy cannot go on: it kept no state" in notes(fresh)
    assert begin(job)[0].result.name == "toy-2"


@pytest.mark.parametrize(("room", "count"), [(1, 0), (2.5, 1), (9, 2)])
def test_the_room_for_states_is_counted(
    tmp_path: Path, concept: Concept, kept: dict, monkeypatch, room: float, count: int
) -> None:
    """With too little no state is kept, which is said; the run itself is not refused."""
    job, made = kept["stopped"]
    size = (made.result.folder / "state" / "step000002.safetensors").stat().st_size
    free = made.result.checkpoint.stat().st_size + int(room * size)
    monkeypatch.setattr(disk, "free_room", lambda folder: free)
    short = make_job(tmp_path, (concept,), trains="unet", steps=4, state_minutes=OFTEN)
    said = notes(stopped(short, 3))
    assert len(states(short)) == count
    assert ("no room on disk for this run's state" in said) == (count == 0)


def test_a_state_that_cannot_be_written_costs_no_run(
    tmp_path: Path, concept: Concept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: StateFolder, *arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StateFolder, "write", full)
    made = queue(make_job(tmp_path, (concept,), trains="unet"))
    assert "the state after step 2 was not kept" in notes(made) and made.result.steps == 2


# ---- the lock ----------------------------------------------------------------------------------


def test_a_run_that_another_process_trains_is_left_alone(broken_off: Job) -> None:
    with FileLock(Path(broken_off.runs) / "toy" / "lock"):
        beside = queue(broken_off)
    assert "toy is being trained right now" in notes(beside)
    assert beside.result.name == "toy-2" and len(beside.of(Step)) == 3


def test_a_stop_while_it_loads_leaves_the_run_as_it_was(broken_off: Job) -> None:
    folder = Path(broken_off.runs) / "toy"
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    shut = queue(broken_off, control=lambda: Command.STOP)
    assert shut.result.stopped and shut.result.steps == 0
    with pytest.raises(ZeroDivisionError):
        queue(broken_off, control=lambda: 1 / 0)
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert begin(broken_off)[0].folder.name == "toy"  # the lock was given back


def test_only_the_newest_finished_runs_keep_their_state(tmp_path: Path) -> None:
    job = make_job(tmp_path, steps=3)

    def stop_after_two(event: object) -> None:
        if isinstance(event, Step) and event.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # unfinished: keeps its state, however old
        train(
            dataclasses.replace(job, name="broken"), toy_base(), device=CPU, listener=stop_after_two
        )
    for name in ("a", "b", "c"):
        run(dataclasses.replace(job, name=name))
    held = {p.parent.name for p in (tmp_path / "runs").glob("*/state") if any(p.iterdir())}
    assert held == {"broken", "b", "c"}
    assert (tmp_path / "checkpoints" / "a.safetensors").is_file()
    # the run that lost its state is still handed over, but more steps begin anew
    assert run(dataclasses.replace(job, name="a"), train_again=False).result.reused
