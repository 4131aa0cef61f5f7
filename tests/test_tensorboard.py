"""TensorBoard files: the numbers of the log where the package is, nothing where it is not."""

import importlib.util
import json
from pathlib import Path

import pytest
from pack.trainer import tensorboard
from pack.trainer.events import Begun, Note, Step
from toy import make_job, run

INSTALLED = importlib.util.find_spec("tensorboard") is not None


def test_without_the_package_nothing_is_written(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    made = run(make_job(tmp_path, preview_every=1, preview_steps=1))
    assert not (made.result.folder / "tensorboard").exists()
    assert made.of(Note) == []


def test_a_writer_that_fails_ends_no_run(tmp_path: Path, monkeypatch) -> None:
    def fail(folder: Path, step: int) -> None:
        raise OSError("no room")

    heard = []
    monkeypatch.setattr(tensorboard, "_open", fail)
    board = tensorboard._Board(heard.append)
    step = Step(1, 2, 0.5, 0.5, None, 1e-6, 1.0, False, 0.1, 0.1)
    events = [Begun(tmp_path, 0, 2), step]
    for event in events:
        board(event)
    board.close()
    notes = [event for event in heard if isinstance(event, Note)]
    assert [event for event in heard if not isinstance(event, Note)] == events
    assert len(notes) == 1 and "no room" in notes[0].text


@pytest.mark.skipif(not INSTALLED, reason="needs the package tensorboard")
def test_it_holds_what_the_log_holds(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    made = run(make_job(tmp_path, steps=3, preview_every=2, preview_steps=1))
    lines = (made.result.folder / "log.jsonl").read_text().splitlines()
    logged = [json.loads(line) for line in lines]
    found = EventAccumulator(str(made.result.folder / "tensorboard")).Reload()
    for name, field in tensorboard.SCALARS.items():
        scalars = {entry.step: entry.value for entry in found.Scalars(name)}
        assert scalars == pytest.approx({line["step"]: line[field] for line in logged})
    (prompt,) = found.Tags()["images"]
    assert prompt.startswith("a photo of zwx dog")
    assert [entry.step for entry in found.Images(prompt)] == [0, 2, 3]
