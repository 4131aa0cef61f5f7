"""The save is rehearsed before the first step, and the end is compared with the beginning."""

import shutil
from pathlib import Path

import pytest
import torch
from pack.trainer import room
from pack.trainer.checkpoint import CheckpointError, read_checkpoint
from pack.trainer.events import Note, Saved, Step
from pack.trainer.rehearsal import RehearsalFailed
from toy import make_job, run, same, toy_base


def test_what_is_rehearsed_is_the_base_in_the_form_of_the_end(tmp_path) -> None:
    seen = []

    def load(path: Path) -> None:
        tensors, metadata = read_checkpoint(path)
        seen.append((path, {k: v.clone() for k, v in tensors.items()}, metadata))

    made = run(make_job(tmp_path), load=load)
    ((path, tensors, metadata),) = seen
    assert not path.exists() and path.parent == tmp_path / "runs"
    base = {key: tensor.to(tensors[key].dtype) for key, tensor in toy_base().items()}
    assert same(tensors, base)
    end = made.tensors
    assert {k: (v.shape, v.dtype) for k, v in end.items()} == {
        k: (v.shape, v.dtype) for k, v in tensors.items()
    }
    assert {**metadata, "dreambooth.steps": "2"} == made.metadata
    assert not any("no weight" in note.text for note in made.of(Note))


def test_a_file_that_does_not_load_starts_no_run(tmp_path) -> None:
    def load(path: Path) -> None:
        raise KeyError("unknown model type")

    with pytest.raises(RehearsalFailed, match="unknown model type.*nothing was trained"):
        run(make_job(tmp_path), load=load)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".rehearsal.lock"]
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_what_a_killed_rehearsal_left_goes_with_the_next(tmp_path) -> None:
    job = make_job(tmp_path)
    left = [".rehearsal-0a1b2c3d.safetensors", "..rehearsal-0a1b2c3d.4e5f6a7b.partial"]
    (tmp_path / "runs").mkdir()
    for name in left:
        (tmp_path / "runs" / name).write_bytes(b"half")
    run(job)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"toy", ".rehearsal.lock"}


def test_a_rehearsal_that_windows_does_not_let_go_of_goes_with_a_later_one(
    tmp_path, monkeypatch
) -> None:
    """A current ComfyUI keeps a file open as long as it remembers one of its layers."""
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".safetensors" and path.name.startswith(".rehearsal"):
            raise PermissionError(13, "used by another process", str(path))
        real(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        for _ in range(2):
            run(make_job(tmp_path, steps=1))
    assert len(list((tmp_path / "runs").glob(".rehearsal-*"))) == 2
    run(make_job(tmp_path, steps=1))
    assert not list((tmp_path / "runs").glob(".rehearsal-*"))


def test_a_base_that_the_precision_cannot_hold_starts_no_run(tmp_path) -> None:
    base = toy_base()
    base["model.diffusion_model.out.2.bias"] = base["model.diffusion_model.out.2.bias"].float()
    base["model.diffusion_model.out.2.bias"][0] = 1e6
    with pytest.raises(CheckpointError, match="fp16|float16"):
        run(make_job(tmp_path, save_precision="fp16"), base)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".rehearsal.lock"]


def test_a_run_that_goes_on_is_not_rehearsed_again(tmp_path) -> None:
    run(make_job(tmp_path, steps=1))

    def load(path: Path) -> None:
        raise AssertionError("rehearsed")

    assert run(make_job(tmp_path, steps=2), load=load, train_again=False).result.steps == 2


def test_training_that_leaves_no_trace_is_said(tmp_path) -> None:
    made = run(make_job(tmp_path, learning_rate=0.0, weight_decay=0.0))
    (note,) = [note.text for note in made.of(Note) if "no weight" in note.text]
    assert note.startswith("the unet") and "fp16" in note  # the text encoder did learn
    again = run(make_job(tmp_path, learning_rate=0.0, weight_decay=0.0, steps=3), train_again=False)
    assert any("no weight" in note.text for note in again.of(Note))


def test_an_extra_file_that_finds_no_room_ends_no_run(tmp_path, monkeypatch) -> None:
    real = shutil.disk_usage(tmp_path)
    full = []

    def usage(folder: Path) -> object:
        return real._replace(free=0) if full else real

    monkeypatch.setattr(room.shutil, "disk_usage", usage)

    def listener(event: object) -> None:
        if isinstance(event, Step):
            full[:] = [True] * (event.step == 2)  # full at step 2, and only then

    from pack.trainer.loop import train

    events = []
    job = make_job(tmp_path, steps=4, save_every=1)
    train(
        job, toy_base(), device=torch.device("cpu"),
        listener=lambda event: (events.append(event), listener(event)),
    )  # fmt: skip
    assert [e.step for e in events if isinstance(e, Saved)] == [1, 3, 4]
    assert any("step 2 was not written" in e.text for e in events if isinstance(e, Note))
