"""A run's events as the state that a page is shown: JSON at any moment."""

import json
import math
from pathlib import Path

from pack.trainer.events import Begun, Note, Phase, Planned, Preview, Saved, Step
from pack.trainer.status import MAX_NOTES, MAX_POINTS, Status
from PIL import Image
from toy import make_job, run


def step(number: int, loss: float = 0.5, total: int = 10) -> Step:
    return Step(number, total, loss, loss, None, 1e-3, 1.0, False, 0.5, number * 2.0)


def shown(status: Status) -> dict:
    """What goes over the wire: strict JSON."""
    return json.loads(json.dumps(status.shown(), allow_nan=False))


def test_from_the_first_phase_to_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "dog-2"
    (folder / "samples").mkdir(parents=True)
    (folder / "job.json").write_text('{"concepts": [{"instance_prompt": "a zwx dog"}]}')
    status = Status("dog")
    status(Phase("Encoding pictures", 2, 5))
    assert shown(status)["state"] == "preparing"
    assert (status.phase, status.done, status.of) == ("Encoding pictures", 2, 5)
    status(Begun(folder, 3, 10))
    assert (status.run, status.state, status.step, status.total) == ("dog-2", "training", 3, 10)
    assert status.prompts == ["a zwx dog"]
    status(step(4))
    assert (status.speed, status.left) == (2.0, 12.0)  # 0.5 s a step; 6 to go at 2 s, all told
    status(Phase("Sampling previews", 0, 1))
    assert status.phase == "Sampling previews"
    (folder / "samples" / "step000004_00.png").write_bytes(b"")
    picture = folder / "samples" / "step000004_00.png"
    status(Preview(4, "a zwx dog", Image.new("RGB", (8, 8)), picture))
    assert (status.phase, status.pictures) == ("", [[4, 0]])
    status(Saved(4, Path("dog-2-step000004.safetensors")))
    assert shown(status)["saved"] == [[4, "dog-2-step000004.safetensors"]]
    status.end("finished", "well done")
    assert (status.state, status.left, status.notes) == ("finished", None, ["well done"])


def test_numbers_that_are_not_finite_become_none() -> None:
    status = Status("dog")
    status(step(1, math.nan))
    status(step(2, math.inf))
    assert shown(status)["instance_loss"] is None
    assert status.take_points() == [[1, None, None, 1e-3], [2, None, None, 1e-3]]
    assert status.take_points() == []


def test_a_plan_is_told_where_it_changes_the_steps() -> None:
    status, gib = Status("dog"), 1 << 30
    status(Planned(4 * gib, 8 * gib, change=""))
    assert status.notes == []
    status(Planned(7 * gib, 8 * gib, change="2 rows at a time"))
    assert len(status.notes) == 1
    assert "7.0 GiB" in status.notes[0] and "2 rows at a time" in status.notes[0]


def test_it_does_not_grow_without_end() -> None:
    status = Status("dog")
    for number in range(1, 2000):
        status(step(number, total=2000))
        status(Note(f"note {number}"))
    assert len(status.take_points()) == MAX_POINTS
    assert len(status.notes) == MAX_NOTES and status.notes[-1] == "note 1999"


def test_of_a_whole_run(tmp_path: Path) -> None:
    status = Status("toy")
    made = run(make_job(tmp_path, steps=3, preview_every=2, preview_steps=1, save_every=2))
    for event in made.events:
        status(event)
        shown(status)
    assert (status.run, status.step, status.phase) == ("toy", 3, "")
    assert status.pictures == [[0, 0], [2, 0], [3, 0]]
    assert [entry[0] for entry in status.saved] == [2, 3]
    assert [point[0] for point in status.take_points()] == [1, 2, 3]
