"""Runs that are broken off and go on, and finished ones that are handed over."""

import dataclasses
import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from filelock import FileLock
from pack.trainer import __main__, setup
from pack.trainer.checkpoint import write_checkpoint
from pack.trainer.checks import check
from pack.trainer.config import (
    WITHOUT_EFFECT_ON_WEIGHTS,
    Concept,
    Job,
    TrainConfig,
    option_fields,
)
from pack.trainer.events import Command, Event, Note, Preview, Saved, Step, go_on
from pack.trainer.fingerprint import Fingerprint, differences
from pack.trainer.loop import train
from pack.trainer.resume import Start, find_start
from pack.trainer.training_state import StateFolder
from toy import CPU, Run, make_concept, make_job, picture, run, toy_base

OFTEN = 1e-9  # minutes: a state after every step


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


@pytest.fixture(scope="module")
def concept(tmp_path_factory: pytest.TempPathFactory) -> Concept:
    return make_concept(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, concept: Concept) -> dict[str, tuple[Job, Run]]:
    """One run of three steps that was stopped after the second, and one that was finished."""
    made = {}
    for kind in ("stopped", "finished"):
        folder = tmp_path_factory.mktemp(kind)
        job = make_job(folder, (concept,), trains="unet", steps=3, state_minutes=OFTEN)
        made[kind] = (job, stopped(job, 2) if kind == "stopped" else queue(job))
    assert states(made["stopped"][0]) == [1, 2] and states(made["finished"][0]) == [3]
    return made


@pytest.fixture
def broken_off(kept: dict[str, tuple[Job, Run]], tmp_path: Path) -> Job:
    """The job of a stopped run, in folders of the test's own."""
    return copied(kept["stopped"][0], tmp_path)


@pytest.fixture
def finished(kept: dict[str, tuple[Job, Run]], tmp_path: Path) -> Job:
    return copied(kept["finished"][0], tmp_path)


def copied(job: Job, folder: Path) -> Job:
    places = {name: str(folder / name) for name in ("runs", "checkpoints")}
    for name, place in places.items():
        shutil.copytree(getattr(job, name), place)
    return dataclasses.replace(job, **places)


def changed(job: Job, **settings: object) -> Job:
    return dataclasses.replace(job, config=dataclasses.replace(job.config, **settings))


def with_concept(job: Job, **values: object) -> Job:
    return dataclasses.replace(job, concepts=(dataclasses.replace(job.concepts[0], **values),))


# ---- going on: the same bytes ------------------------------------------------------------------

VARIANTS = {
    "text encoder": {
        "text_encoder_learning_rate": 1e-3,
        "preview_every": 2,
        "preview_steps": 1,
        "save_every": 1,
        "keep": 2,
    },
    "unet": {
        "trains": "unet",
        "batch_size": 2,
        "gradient_accumulation_steps": 2,
        "lr_schedule": "cosine",
        "lr_warmup_steps": 2,
        "save_precision": "fp32",
    },
    "memory": {"channels_last": True, "gradient_checkpointing": True},
}
try:
    import bitsandbytes  # noqa: F401

    VARIANTS["adamw8bit"] = {"optimizer": "adamw8bit"}
except ImportError:
    pass


@pytest.mark.parametrize("name", VARIANTS)
def test_in_two_pieces_the_same_bytes(tmp_path: Path, concept: Concept, name: str) -> None:
    """Checkpoint, extra checkpoints, previews and log of an unbroken run."""
    whole = run(make_job(tmp_path / "whole", (concept,), steps=5, **VARIANTS[name]))
    job = make_job(tmp_path, (concept,), steps=5, **VARIANTS[name])
    stopped(job, 2)
    resumed = queue(job)
    assert "goes on from step 2 of toy" in notes(resumed)
    assert [step.step for step in resumed.of(Step)] == [3, 4, 5]
    assert resumed.result.name == "toy" and resumed.sha == whole.sha
    assert logged(resumed) == [1, 2, 3, 4, 5]
    assert files(resumed.result.folder / "samples") == files(whole.result.folder / "samples")
    assert files(resumed.result.checkpoint.parent) == files(whole.result.checkpoint.parent)
    assert resumed.result.seconds > sum(step.step_seconds for step in resumed.of(Step))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_one_step_a_queue(tmp_path: Path, concept: Concept) -> None:
    whole = run(make_job(tmp_path / "whole", (concept,), trains="unet", steps=4))
    job = make_job(tmp_path, (concept,), trains="unet", steps=4)
    for step in (1, 2, 3):
        assert stopped(job, 1).result.steps == step
        assert states(job) == [1, 2, 3][max(0, step - 2) : step]
    assert queue(job).sha == whole.sha


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_more_steps_go_on(tmp_path: Path, concept: Concept, schedule: str) -> None:
    options = {"trains": "unet", "lr_schedule": schedule}
    whole = run(make_job(tmp_path / "whole", (concept,), steps=4, **options))
    queue(make_job(tmp_path, (concept,), steps=2, **options))
    job = make_job(tmp_path, (concept,), steps=4, **options)
    longer = queue(job)
    assert "goes on from step 2 of toy" in notes(longer)
    assert [step.step for step in longer.of(Step)] == [3, 4]
    assert Job.read(longer.result.folder / "job.json").config.steps == 4
    falls = schedule == "linear"
    assert (longer.sha == whole.sha) == (not falls)
    assert ("ran to 2, then to 4 steps" in notes(longer)) == falls
    assert ("dreambooth.schedule_steps" in longer.metadata) == falls
    start, said = begin(job)
    assert start.result.reused and ("ran to 2, then to 4 steps" in said) == falls


def test_an_error_keeps_the_state(tmp_path: Path, concept: Concept) -> None:
    job = make_job(tmp_path, (concept,), trains="unet", steps=4)

    def listener(event: Event) -> None:
        if isinstance(event, Step) and event.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(job, toy_base(), device=CPU, listener=listener)
    assert (Path(job.checkpoints) / "toy.safetensors").is_file()
    start, _ = begin(job)
    assert start.folder.name == "toy" and start.state.progress.step == 2


KILLED = """
import os, signal, sys, types
pack = types.ModuleType("pack"); pack.__path__ = [{root!r}]; sys.modules["pack"] = pack
sys.path.insert(0, {tests!r})
from pathlib import Path
from pack.trainer.config import Job
from pack.trainer.events import Step
from pack.trainer.loop import train
from toy import CPU, toy_base
def listener(event):
    if isinstance(event, Step) and event.step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
train(Job.read(Path(sys.argv[1])), toy_base(), device=CPU, listener=listener)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_process_goes_on(tmp_path: Path, concept: Concept) -> None:
    """In step 4 after the log's line, before any state of it; with rubbish of half-done writes."""
    options = {"trains": "unet", "steps": 6, "preview_every": 1, "preview_steps": 1}
    options["state_minutes"] = OFTEN
    whole = run(make_job(tmp_path / "whole", (concept,), **options))
    job = make_job(tmp_path, (concept,), **options)
    file = tmp_path / "job.json"
    file.write_text(job.to_json())
    script = KILLED.format(root=str(ROOT), tests=str(ROOT / "tests"))
    ended = subprocess.run([sys.executable, "-c", script, str(file)], capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert states(job) == [2, 3]
    folder = tmp_path / "runs" / "toy"
    (folder / "state" / ".step000004.0a1b2c3d.partial").write_bytes(b"half")
    (folder / "state" / "step000004.safetensors").write_bytes(b"half")
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    (tmp_path / "checkpoints" / ".toy.0a1b2c3d.partial").write_bytes(b"half")
    with (folder / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "lo')
    resumed = queue(job)
    assert "goes on from step 3 of toy" in notes(resumed)
    assert resumed.sha == whole.sha and logged(resumed) == [1, 2, 3, 4, 5, 6]
    assert [p.step for p in resumed.of(Preview)] == [4, 5, 6]
    assert not list(tmp_path.rglob("*.partial"))


def test_a_run_that_kept_nothing_begins_anew_under_its_name(
    tmp_path: Path, concept: Concept
) -> None:
    """Stopped in the first step: no ``toy-2`` for a run that has nothing to lose."""
    job = make_job(tmp_path, (concept,), trains="unet")

    def control() -> Command:
        made = (tmp_path / "runs" / "toy" / "fingerprint.json").exists()
        return Command.STOP if made else Command.GO_ON

    assert run(job, control=control).result.steps == 0
    half = tmp_path / "checkpoints" / ".toy-step000001.0a1b2c3d.partial"
    half.write_bytes(b"half")
    again = queue(job)
    assert "toy ended before it kept anything: it begins anew" in notes(again)
    assert again.result.name == "toy" and logged(again) == [1, 2] and not half.exists()


def test_the_last_preview_is_made_up_for(tmp_path: Path, concept: Concept) -> None:
    """Stopped while it was painted, at a step that is not due otherwise."""
    options = {"trains": "unet", "steps": 3, "preview_every": 2, "preview_steps": 1}
    job = make_job(tmp_path, (concept,), **options)
    events: list[Event] = []

    def control() -> Command:
        steps = sum(isinstance(event, Step) for event in events)
        return Command.STOP if steps == 3 else Command.GO_ON

    train(job, toy_base(), device=CPU, listener=events.append, control=control)
    assert [shown.step for shown in events if isinstance(shown, Preview)] == [0, 2]
    assert [shown.step for shown in queue(job).of(Preview)] == [3]


def test_a_shell_is_killed_goes_on_and_hands_over(
    tmp_path: Path, concept: Concept, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """``python -m trainer``: killed at some step, then started again and again."""
    options = {"trains": "unet", "steps": 20, "state_minutes": OFTEN}
    whole = run(make_job(tmp_path / "whole", (concept,), **options))
    base = tmp_path / "base.safetensors"
    write_checkpoint(base, toy_base(), {})
    job = make_job(tmp_path, (concept,), **options)
    file = tmp_path / "job.json"
    file.write_text(dataclasses.replace(job, base=str(base)).to_json())
    command = [sys.executable, "-m", "trainer", str(file), "--device", "cpu"]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while not states(job) and running.poll() is None:
        time.sleep(0.02)
    running.kill()
    assert running.wait() != 0, "it was finished before it could be killed"

    monkeypatch.setattr(__main__, "_stop_on_signal", lambda: go_on)
    assert __main__.main(command[3:]) == 0
    assert "goes on from step" in capsys.readouterr().out
    # not the bytes themselves: pytest would spell out every difference of two models
    assert filecmp.cmp(tmp_path / "checkpoints" / "toy.safetensors", whole.result.checkpoint, False)
    assert __main__.main(command[3:]) == 0
    assert "toy is handed over" in capsys.readouterr().out
    assert __main__.main([*command[3:], "--again"]) == 0
    assert "toy-2.safetensors" in capsys.readouterr().out


# ---- handing over ------------------------------------------------------------------------------


def test_a_finished_run_is_handed_over(finished: Job) -> None:
    file = Path(finished.checkpoints) / "toy.safetensors"
    before = file.stat()
    again = queue(finished)
    assert "this very run is finished: toy is handed over" in notes(again)
    assert not again.of(Step) and not again.of(Saved)
    result = again.result
    assert result.reused and not result.stopped and result.checkpoint == file
    assert (result.name, result.steps) == ("toy", 3)
    after = file.stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_train_again_takes_a_fresh_name(finished: Job) -> None:
    again = run(finished, train_again=True)
    assert again.result.name == "toy-2" and len(again.of(Step)) == 3
    first = (Path(finished.checkpoints) / "toy.safetensors").read_bytes()
    assert again.result.checkpoint.read_bytes() == first
    assert begin(finished)[0].result.name == "toy-2"  # the newest


def test_the_fingerprint_is_in_every_place(finished: Job) -> None:
    folder = Path(finished.runs) / "toy"
    digest = Fingerprint(json.loads((folder / "fingerprint.json").read_text())).digest
    assert json.loads((folder / "result.json").read_text())["fingerprint"] == digest
    result = begin(finished)[0].result
    assert Run(result, []).metadata["dreambooth.fingerprint"] == digest


def test_another_name_is_another_run(finished: Job) -> None:
    """Also one that looks like a number of ours."""
    other = dataclasses.replace(finished, name="toy-2")
    assert begin(other) == (Start(), "")
    assert queue(other).result.name == "toy-2"
    assert begin(finished)[0].result.name == "toy"


def test_settings_of_the_file_alone_train_nothing(finished: Job, kept: dict, tmp_path: Path):
    """What does not touch the weights is written anew from the state, or not even that."""
    assert begin(changed(finished, preview_cfg=3.0, state_minutes=5.0))[0].result.reused
    wider = queue(changed(finished, save_precision="fp32"))
    assert wider.result.name == "toy" and not wider.result.reused and not wider.of(Step)
    assert {t.dtype for k, t in wider.tensors.items() if "model.diff" in k} == {torch.float32}
    silent = queue(changed(finished, save_prompts=False))
    assert not silent.of(Step) and "zwx" not in str(silent.metadata)
    assert queue(finished).sha == kept["finished"][1].sha


def test_a_lost_checkpoint_is_written_from_the_state(finished: Job, kept: dict) -> None:
    (Path(finished.checkpoints) / "toy.safetensors").unlink()
    again = queue(finished)
    assert not again.of(Step) and again.result.name == "toy"
    assert again.sha == kept["finished"][1].sha


def test_a_file_that_is_no_longer_ours_is_left_alone(finished: Job) -> None:
    write_checkpoint(Path(finished.checkpoints) / "toy.safetensors", {"x": torch.ones(3)}, {})
    start, said = begin(finished)
    assert "toy.safetensors was changed since toy wrote it" in said and start == Start()


# ---- beginning anew ----------------------------------------------------------------------------


def test_fewer_steps_are_a_fresh_run(finished: Job) -> None:
    shorter = queue(changed(finished, steps=2))
    assert "toy has 3 steps, more than the 2 asked for" in notes(shorter)
    assert shorter.result.name == "toy-2" and len(shorter.of(Step)) == 2


def test_other_settings_are_named(broken_off: Job) -> None:
    start, said = begin(changed(broken_off, learning_rate=2e-3, seed=7))
    assert start == Start()
    assert "toy is not finished but cannot go on with other inputs" in said
    assert "learning_rate 0.001 → 0.002; seed 0 → 7" in said
    assert begin(broken_off)[0].state.progress.step == 2


def test_another_setting_after_a_finished_run_is_no_news(finished: Job) -> None:
    assert begin(changed(finished, seed=7)) == (Start(), "")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"instance_prompt": "a picture of zwx dog"}, "instance_prompt 'a photo of zwx dog' →"),
        ({"class_prompt": "a dog"}, "class_prompt"),
        ({"prior_weight": 0.5}, "prior_weight 1 → 0.5"),
        ({"prior_weight": 0.0}, "prior_weight 1 → none"),
        ({"repeats": 2}, "repeats 1 → 2"),
    ],
)
def test_a_changed_concept_is_named(broken_off: Job, change: dict, said: str) -> None:
    start, notes = begin(with_concept(broken_off, **change))
    assert said in notes and start == Start()


def test_changed_pictures_train_anew(tmp_path: Path) -> None:
    """The same paths, other pixels."""
    job = make_job(tmp_path, trains="unet", steps=1)
    queue(job)
    assert begin(job)[0].result
    for place, file in enumerate(job.concepts[0].instance_images + job.concepts[0].class_images):
        picture(Path(file), seed=900 + place)
        assert begin(job) == (Start(), "")
    assert queue(job).result.name == "toy-2"


def test_pictures_and_base_of_a_broken_run_are_named(broken_off: Job, tmp_path: Path) -> None:
    other = picture(tmp_path / "other.png", seed=999)
    photos = broken_off.concepts[0].instance_images
    _, said = begin(with_concept(broken_off, instance_images=(photos[0], other)))
    assert "instance images: pictures changed" in said
    _, said = begin(with_concept(broken_off, instance_images=(*photos, other)))
    assert "instance images 2 → 3" in said
    base = toy_base()
    base["model.diffusion_model.out.2.bias"] += 1
    start, said = begin(broken_off, base)
    assert "the base's weights" in said and start == Start()


def test_every_setting_is_classified(finished: Job) -> None:
    """A setting either is in the fingerprint or is known to leave the weights alone."""
    names = {name for name, _ in option_fields(TrainConfig)}
    assert names > WITHOUT_EFFECT_ON_WEIGHTS
    written = json.loads((Path(finished.runs) / "toy" / "fingerprint.json").read_text())
    assert set(written["settings"]) == names - WITHOUT_EFFECT_ON_WEIGHTS


def test_differences_from_what_another_version_wrote() -> None:
    old = Fingerprint({"training": 0, "base": "a", "settings": {"gone": 1}})
    new = Fingerprint(
        {"training": 1, "base": "a", "clip_skip": 1, "settings": {"came": 2.5}, "concepts": []}
    )
    said = differences(old, new)
    assert said[0] == "another version of this trainer"
    assert {"gone 1 → none", "came none → 2.5"} <= set(said)
    assert old.digest != new.digest


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
    monkeypatch.setattr(setup, "free_room", lambda folder: free)
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
