"""Runs on disk as the page lists them: what they were, however badly their files fared."""

import json
import os
from pathlib import Path

import pytest
from filelock import FileLock
from pack.trainer.config import ConfigError
from pack.trainer.curve import read_points, thin
from pack.trainer.history import History, RunInUse, UnknownRun, list_pictures
from PIL import Image
from toy import make_concept, make_job

DAMAGED = ["", "null", "[1, 2]", "{", '{"name": 7, "config": 3, "concepts": [4, null]}', "[" * 9999]


@pytest.fixture
def history(tmp_path: Path) -> History:
    (tmp_path / "runs").mkdir()
    places = [tmp_path / kind / "dreambooth" for kind in ("checkpoints", "loras")]
    for place in places:
        place.mkdir(parents=True)
    return History(tmp_path / "runs", *places)


def make_run(history: History, name: str, at: int = 1000, steps: int = 4, stopped=False) -> Path:
    """A finished run of ``steps`` steps, written by hand; ``at``: when, in seconds."""
    folder = history.runs / name
    (folder / "samples").mkdir(parents=True)
    job = make_job(history.runs.parent, (make_concept(history.runs.parent / "pictures"),))
    text = job.to_json().replace('"name": "toy"', f'"name": "{name.split("-")[0]}"')
    (folder / "job.json").write_text(text.replace('"steps": 2', f'"steps": {steps}'))
    losses = [json.dumps({"step": n, "instance_loss": n / 10, "class_loss": None}) for n in
              range(1, steps + 1)]  # fmt: skip
    (folder / "log.jsonl").write_text("\n".join(losses) + "\n")
    (folder / "result.json").write_text(json.dumps({"stopped": stopped, "steps": steps}))
    for step in (0, steps):
        Image.new("RGB", (8, 8)).save(folder / "samples" / f"step{step:06d}_00.png")
    (history.checkpoints / f"{name}.safetensors").write_bytes(b"x" * 100)
    (history.checkpoints / f"{name}-step000002.safetensors").write_bytes(b"x" * 50)
    for path in folder.iterdir():
        os.utime(path, (at, at))
    return folder


def test_newest_first_and_only_runs(history: History) -> None:
    for name, at in (("old", 100), ("new", 300), ("middle", 200)):
        make_run(history, name, at)
    (history.runs / "cache").mkdir()
    (history.runs / "a file").write_text("")
    (history.runs / "linked").symlink_to(history.runs / "old", target_is_directory=True)
    assert history.names() == ["new", "middle", "old"]
    assert History(history.runs / "nowhere", history.checkpoints, history.loras).names() == []


def test_the_summary(history: History) -> None:
    make_run(history, "dog", at=500, stopped=True)
    found = history.summary("dog")
    assert found.pop("bytes") > 150
    assert found == {
        "name": "dog",
        "subject": "zwx dog",
        "state": "stopped",
        "steps": 4,
        "asked": 4,
        "loss": pytest.approx(0.25),
        "changed": 500.0,
        "picture": [4, 0],
        "checkpoints": [
            {"file": "dog.safetensors", "kind": "checkpoint", "step": None, "bytes": 100},
            {"file": "dog-step000002.safetensors", "kind": "checkpoint", "step": 2, "bytes": 50},
        ],
    }


def test_the_details_tell_what_was_changed(history: History) -> None:
    make_run(history, "dog")
    found = history.details("dog")
    assert found["prompts"] == ["a photo of zwx dog"]
    assert found["pictures"] == [[0, 0], [4, 0]]
    settings = {name: (value, usual) for name, value, usual in found["settings"]}
    assert settings["learning_rate"] == (1e-3, 1e-6)
    assert settings["seed"] == (0, 0)


def test_a_name_with_a_number_is_the_newest_of_its_name(history: History) -> None:
    make_run(history, "dog", 100)
    make_run(history, "dog-2", 300)
    make_run(history, "doge", 900)
    assert history.newest("dog") == "dog-2"
    assert history.newest("do") is None
    assert history.newest("") is None


@pytest.mark.parametrize("name", ["..", "../dog", "a/b", "a\\b", "", ".", "con", "x" * 300, "a\0b"])
def test_no_path_comes_in_by_a_name(history: History, name: str) -> None:
    make_run(history, "dog")
    for ask in (history.folder, history.summary, history.details):
        with pytest.raises(ConfigError):
            ask(name)
    with pytest.raises(ConfigError):
        history.delete(name, checkpoints=True)
    assert history.names() == ["dog"]


@pytest.mark.parametrize("text", DAMAGED)
def test_damaged_files_make_a_poorer_entry(history: History, text: str) -> None:
    folder = make_run(history, "dog")
    for name in ("job.json", "result.json", "log.jsonl"):
        (folder / name).write_text(text)
    (folder / "samples" / "step1_0.png").write_text("")
    found = history.details("dog")
    json.dumps(found, allow_nan=False)
    assert found["state"] == "unfinished" and found["loss"] is None
    assert found["pictures"] == [[0, 0], [4, 0]]
    assert history.newest("dog") is None


def test_numbers_that_are_none_are_left_out(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    lines = ['{"step": 1, "instance_loss": NaN}', '{"step": 2, "instance_loss": 1e999}']
    lines += ['{"step": 3, "instance_loss": 5, "class_loss": "x"}', "cut o", '{"step": true}']
    lines += ['{"step": 4, "instance_loss": ' + "9" * 400 + "}"]
    log.write_text("\n".join(lines))
    assert read_points(log) == [
        [1, None, None, None],
        [2, None, None, None],
        [3, 5, None, None],
        [4, None, None, None],
    ]
    assert [point[0] for point in read_points(log, tail=500)] == [4]
    assert read_points(tmp_path / "none") == []


def test_thinned_points_are_means() -> None:
    points = [[n, float(n), None if n % 2 else 1.0, 0.5] for n in range(1, 8)]
    assert thin(points, 10) == {"every": 1, "points": points}
    assert thin(points, 3) == {
        "every": 3,
        "points": [[3, 2.0, 1.0, 0.5], [6, 5.0, 1.0, 0.5], [7, 7.0, None, 0.5]],
    }
    assert thin([], 3) == {"every": 1, "points": []}


def test_delete_with_and_without_the_checkpoints(history: History) -> None:
    for name in ("dog", "dog-2", "cat"):
        make_run(history, name)
    history.delete("dog", checkpoints=False)
    assert history.names() == ["dog-2", "cat"]
    assert (history.checkpoints / "dog.safetensors").exists()
    history.delete("cat", checkpoints=True)
    left = sorted(path.name for path in history.checkpoints.iterdir())
    assert left == [
        "dog-2-step000002.safetensors",
        "dog-2.safetensors",
        "dog-step000002.safetensors",
        "dog.safetensors",
    ]
    assert [path.name for path in history.runs.iterdir()] == ["dog-2"]
    with pytest.raises(UnknownRun):
        history.delete("cat", checkpoints=True)


def test_a_lora_run_has_loras(history: History) -> None:
    """A checkpoint that happens to be called like it is not its own, and stays."""
    folder = make_run(history, "dog")
    job = json.loads((folder / "job.json").read_text())
    job["checkpoints"] = str(Path("elsewhere") / "loras" / "dreambooth")
    (folder / "job.json").write_text(json.dumps(job))
    (history.loras / "dog.safetensors").write_bytes(b"x" * 10)
    (entry,) = history.checkpoints_of("dog")
    assert (entry["kind"], entry["bytes"]) == ("lora", 10)
    history.delete("dog", checkpoints=True)
    assert (history.checkpoints / "dog.safetensors").exists()
    assert not (history.loras / "dog.safetensors").exists()


def test_a_deletion_that_fails_can_be_repeated(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows keeps what another program reads."""
    folder = make_run(history, "dog")
    real = Path.unlink

    def unlink(path: Path, *given: object, **options: object) -> None:
        if path.suffix == ".safetensors":
            raise PermissionError(13, "used by another process", str(path))
        real(path, *given, **options)

    with monkeypatch.context() as patch, pytest.raises(PermissionError):
        patch.setattr(Path, "unlink", unlink)
        history.delete("dog", checkpoints=True)
    assert history.names() == ["dog"]
    history.delete("dog", checkpoints=True)
    assert history.names() == [] and not folder.exists()


def test_what_a_link_leads_to_stays(history: History, tmp_path: Path) -> None:
    """Somebody may keep the large states on another disk."""
    folder, elsewhere = make_run(history, "dog"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    try:
        (folder / "state").symlink_to(elsewhere, target_is_directory=True)
    except OSError:
        pytest.skip("this machine makes no links")
    history.delete("dog", checkpoints=True)
    assert not folder.exists() and (elsewhere / "kept").exists()


def test_a_run_in_use_is_not_deleted(history: History) -> None:
    folder = make_run(history, "dog")
    with FileLock(folder / "lock"), pytest.raises(RunInUse, match="'dog'.*stop it"):
        history.delete("dog", checkpoints=True)
    assert list_pictures(folder) == [[0, 0], [4, 0]]


@pytest.mark.parametrize("error", [NotImplementedError, PermissionError])
def test_what_keeps_a_lock_away_is_not_taken_for_training(
    history: History, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """File systems without locks, and folders of another user."""
    folder = make_run(history, "dog")

    def refuse(*_: object, **__: object) -> None:
        raise error("no lock")

    monkeypatch.setattr(FileLock, "acquire", refuse)
    if error is PermissionError:
        with pytest.raises(PermissionError):
            history.delete("dog", checkpoints=True)
        assert (folder / "job.json").is_file()
    else:
        history.delete("dog", checkpoints=True)
        assert not folder.exists()


def test_a_picture_goes_by_its_numbers(history: History) -> None:
    folder = make_run(history, "dog")
    assert history.picture("dog", 4, 0) == folder / "samples" / "step000004_00.png"
    for step, prompt in ((1, 0), (4, 1)):
        with pytest.raises(UnknownRun, match="no picture"):
            history.picture("dog", step, prompt)
