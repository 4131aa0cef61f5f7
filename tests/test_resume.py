"""Runs that are broken off go on, to the bytes of an unbroken one."""

import dataclasses
import filecmp
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from pack.trainer import __main__
from pack.trainer.checkpoint import write_checkpoint
from pack.trainer.config import Concept, Job
from pack.trainer.events import Command, Event, Preview, Step, go_on
from pack.trainer.loop import train
from runs import OFTEN, begin, files, logged, notes, queue, states, stopped
from toy import CPU, make_job, run, same, toy_base

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
    "memory": {"channels_last": True, "gradient_checkpointing": True, "ema_decay": 0.9},
    "exact": {"weights": "exact", "text_encoder_until": 0.5, "save_precision": "fp32"},
    "adamw8bit": {"optimizer": "adamw8bit"},
    "exact with 8 bits": {"optimizer": "adamw8bit", "weights": "exact"},
    "lean": {"weights": "lean", "channels_last": True, "ema_decay": 0.9, "preview_every": 2},
}


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


def test_a_checkpoint_that_is_in_use_stays_and_the_new_one_stands_beside_it(
    tmp_path: Path, concept: Concept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, where a model of the file may be loaded and keeps it open."""
    real = os.replace

    def refused(source: Path, target: Path) -> None:
        if Path(target).name == "toy.safetensors" and Path(target).exists():
            raise PermissionError(13, "used by another process", str(target))
        real(source, target)

    options = {"trains": "unet"}
    whole = run(make_job(tmp_path / "whole", (concept,), steps=4, **options))
    before = queue(make_job(tmp_path, (concept,), steps=2, **options))
    job = make_job(tmp_path, (concept,), steps=4, **options)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refused)
        longer = queue(job)
    assert longer.result.checkpoint.name == "toy-step000004.safetensors"
    assert "toy.safetensors is in use and stays" in notes(longer)
    assert longer.sha == whole.sha and before.result.checkpoint.is_file()
    start, _ = begin(job)
    assert start.result.reused and start.result.checkpoint == longer.result.checkpoint
    more = queue(make_job(tmp_path, (concept,), steps=5, **options))
    assert more.result.checkpoint.name == "toy.safetensors"


def test_a_run_that_was_too_large_goes_on_with_less_kept(tmp_path: Path, concept: Concept) -> None:
    whole = run(make_job(tmp_path / "whole", (concept,), trains="unet", steps=3))
    stopped(make_job(tmp_path, (concept,), trains="unet", steps=3), 1)
    options = {"trains": "unet", "gradient_checkpointing": True}
    later = queue(make_job(tmp_path, (concept,), steps=3, **options))
    assert "goes on from step 1 of toy" in notes(later)
    assert same(later.tensors, whole.tensors)


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

    monkeypatch.setattr(__main__, "_stop_on_signal", lambda ranks: go_on)
    assert __main__.main(command[3:]) == 0
    assert "goes on from step" in capsys.readouterr().out
    # not the bytes themselves: pytest would spell out every difference of two models
    assert filecmp.cmp(tmp_path / "checkpoints" / "toy.safetensors", whole.result.checkpoint, False)
    assert __main__.main(command[3:]) == 0
    assert "toy is handed over" in capsys.readouterr().out
    assert __main__.main([*command[3:], "--again"]) == 0
    assert "toy-2.safetensors" in capsys.readouterr().out
