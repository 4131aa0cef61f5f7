"""The largest step, tried before the first one: what it changes (nothing), and what it finds out.

A processor goes without it, so the tests switch it on; what a card says of its memory is played.
"""

import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from pack.trainer import __main__ as shell
from pack.trainer import dry_step
from pack.trainer.config import LoraConfig
from pack.trainer.errors import TrainingError
from pack.trainer.events import Begun, Command, Event, Note, Phase, Step, Tried
from pack.trainer.free_memory import kept_on_card
from pack.trainer.gradients import Gradients
from pack.trainer.learner import Learner
from pack.trainer.loop import train
from pack.trainer.model import StableDiffusion
from pack.trainer.setup import Prepared
from test_bucket_runs import TOY, toy_concept
from test_ladder import Card
from test_ranks import OPTIONS, be_full, check_equal, needs_fork, placed, two
from toy import CPU, make_concept, make_job, run, same, toy_base

FULL = "CUDA out of memory. Tried to allocate 20 MiB"


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_step, "is_tried", lambda _: True)


@pytest.mark.parametrize(
    "options",
    [
        {"steps": 3},
        {"weights": "exact", "optimizer": "adamw8bit"},
        {"weights": "lean", "trains": "unet"},
        {"batch_size": 2, "gradient_accumulation_steps": 2, "ema_decay": 0.9},
        {"steps": 4, "text_encoder_until": 0.5},
        {"lora": LoraConfig(kind="lora", rank=4, dropout=0.3)},
        {"data": TOY["data"], "resolution": 128, "batch_size": 2},
    ],
    ids=lambda options: " ".join(options),
)
def test_a_run_learns_the_same_after_it(tmp_path: Path, monkeypatch, options: dict) -> None:
    one = toy_concept(tmp_path / "pictures")
    plain = run(make_job(tmp_path / "plain", (one,), **options))
    monkeypatch.setattr(dry_step, "is_tried", lambda _: True)
    made = run(make_job(tmp_path / "tried", (one,), **options))
    assert made.of(Tried) and not plain.of(Tried)
    assert same(made.tensors, plain.tensors)
    numbers = [[(e.loss, e.grad_norm) for e in of.of(Step)] for of in (made, plain)]
    assert numbers[0] == numbers[1]


def test_it_is_done_before_the_run_begins_and_tells_its_pace(tmp_path: Path, tried: None) -> None:
    made = run(make_job(tmp_path))
    kinds = [type(event) for event in made.events]
    assert kinds.index(Tried) < kinds.index(Begun)
    phases = [(e.done, e.total) for e in made.of(Phase) if e.name == "Trying the largest step"]
    assert phases == [(0, 1), (1, 1)]
    (event,) = made.of(Tried)
    assert event.peak is None and 0 < event.seconds < 60
    assert Tried(8 << 30, 0.125).text == (
        "tried: 8.0 GiB at most, 8.0 steps a second of the largest size, without the updates"
    )
    assert Tried(None, 2.5).text == "tried: 2.5 s a step of the largest size, without the updates"


def test_the_largest_step_is_that_of_the_most_pixels(tmp_path: Path, monkeypatch) -> None:
    """As the batches themselves say it, of all steps that are left."""
    held = []
    keep = StableDiffusion.predict

    def predict(model: StableDiffusion, noisy: torch.Tensor, *rest: torch.Tensor):
        if not noisy.is_meta:
            held.append(noisy.shape.numel())
        return keep(model, noisy, *rest)

    def look(prepared: Prepared, learner: Learner, gradients: Gradients, _: object) -> None:
        for done in (0, 3, 7):
            found.append(dry_step.largest_step(prepared, done))
            assert found[-1] >= done
            held.clear()
            for step in range(done, prepared.job.config.steps):
                gradients.fill(step)
                learner.drop_gradients()
            most = max(held)
            held.clear()
            gradients.fill(found[-1])
            learner.drop_gradients()
            assert max(held) == most

    found: list[int] = []
    monkeypatch.setattr(StableDiffusion, "predict", predict)
    monkeypatch.setattr("pack.trainer.loop.try_largest_step", look)
    one, two = toy_concept(tmp_path / "one"), make_concept(tmp_path / "two", prior_weight=0.0)
    job = make_job(tmp_path, (two, one), **TOY, batch_size=2, steps=8, trains="unet")
    assert run(job).result.steps == 8 and len(found) == 3


def test_after_the_text_encoder_has_stopped_steps_are_smaller(tmp_path: Path, monkeypatch) -> None:
    found = []
    monkeypatch.setattr(
        "pack.trainer.loop.try_largest_step",
        lambda prepared, *_: found.extend(dry_step.largest_step(prepared, n) for n in (0, 5)),
    )
    one = toy_concept(tmp_path / "pictures")
    run(make_job(tmp_path, (one,), **TOY, steps=8, text_encoder_until=0.25))
    assert found[0] < 2 and found[1] >= 5


def test_what_does_not_fit_is_cut_up_before_anything_is_learned(
    tmp_path: Path, monkeypatch, tried: None
) -> None:
    concepts = (make_concept(tmp_path / "p", photos=3),)
    whole = run(make_job(tmp_path / "a", concepts, batch_size=3))
    Card(monkeypatch, rows=2)
    cut = run(make_job(tmp_path / "b", concepts, batch_size=3))
    first, second = [note.text for note in cut.of(Note) if "memory" in note.text]
    assert first.startswith(f"the largest step did not fit into the memory ({FULL}): from here")
    assert "2 instance rows at a time" in first
    assert "1 instance rows at a time" in second
    kinds = [type(event) for event in cut.events]
    assert kinds.index(Note) < kinds.index(Tried) < kinds.index(Begun)
    for mine, theirs in zip(cut.of(Step), whole.of(Step), strict=True):
        assert mine.loss == pytest.approx(theirs.loss, rel=1e-5)


def test_what_fits_on_no_rung_is_refused_and_nothing_is_lost(
    tmp_path: Path, monkeypatch, tried: None
) -> None:
    run(make_job(tmp_path, steps=2))
    job, events = make_job(tmp_path, steps=4), []
    with monkeypatch.context() as patch:
        Card(patch, rows=0)
        with pytest.raises(TrainingError, match=r"the largest step.*resolution.*No step was taken"):
            train(job, toy_base(), device=CPU, listener=events.append)
    assert not any(isinstance(event, (Begun, Step)) for event in events)
    made = run(job, train_again=False)
    assert [event.step for event in made.of(Step)] == [3, 4]


def test_no_room_for_the_moments_is_said_before_the_first_step(
    tmp_path: Path, monkeypatch, tried: None
) -> None:
    empty = torch.empty

    def full(*shape: object, **options: object) -> torch.Tensor:
        if options.get("dtype") == torch.uint8:
            raise torch.OutOfMemoryError(FULL)
        return empty(*shape, **options)

    monkeypatch.setattr(torch, "empty", full)
    message = r"what the optimizer keeps does not fit.*no step was taken: choose optimizer = adamw8"
    with pytest.raises(TrainingError, match=message):
        run(make_job(tmp_path))


def test_no_room_for_an_update_beside_the_gradients_is_a_rung_lower(
    tmp_path: Path, monkeypatch, tried: None
) -> None:
    real, times = dry_step._bytes, []

    def full_at_first(count: int, device: torch.device) -> torch.Tensor:
        times.append(count)
        if len(times) == 1:
            raise torch.OutOfMemoryError(FULL)
        return real(count, device)

    monkeypatch.setattr(dry_step, "_bytes", full_at_first)
    made = run(make_job(tmp_path, weights="exact", optimizer="adamw8bit", batch_size=2))
    (said,) = [note.text for note in made.of(Note) if "largest step" in note.text]
    assert "1 instance rows at a time" in said and made.result.steps == 2
    assert len(times) == 3 and min(times) > 0


@pytest.mark.parametrize(
    ("options", "each"),
    [
        ({}, 8),
        ({"optimizer": "adamw8bit", "weights": "exact"}, 2),
        ({"optimizer": "adamw8bit"}, 2),
    ],
    ids=["whole", "eight bits", "eight bits beside fp32"],
)
def test_room_is_kept_for_the_moments_that_are_not_there_yet(
    tmp_path: Path, monkeypatch, tried: None, options: dict, each: int
) -> None:
    asked, ask = [], Learner.room_for_moments

    def asking(learner: Learner) -> list[torch.Tensor]:
        asked.append((ask(learner), sum(p.numel() for p in learner.parameters)))
        return asked[-1][0]

    monkeypatch.setattr(Learner, "room_for_moments", asking)
    for steps in (2, 3):  # goes on from the second
        run(make_job(tmp_path, steps=steps, **options), train_again=False)
    (room, weights), (none, _) = asked
    assert sum(part.nbytes for part in room) == each * weights and not none


def test_a_stop_while_it_is_tried_is_a_stop(tmp_path: Path, tried: None) -> None:
    events: list[Event] = []

    def control() -> Command:
        trying = any(isinstance(e, Phase) and e.name.startswith("Trying") for e in events)
        return Command.STOP if trying else Command.GO_ON

    job = make_job(tmp_path)
    stopped = train(job, toy_base(), device=CPU, listener=events.append, control=control)
    assert (stopped.stopped, stopped.steps, stopped.checkpoint) == (True, 0, None)
    assert run(job, train_again=False).result.steps == 2


@needs_fork
def test_where_one_process_has_no_room_all_cut_their_steps(
    tmp_path: Path, tried: None, monkeypatch
) -> None:
    """It changes how sums are made up and nothing else."""
    job, arguments = placed(tmp_path)
    codes = two(partial(shell.main, arguments), tmp_path / "said", step_1=be_full)
    first = (tmp_path / "said.0").read_text()
    assert codes == [0, 0], first
    assert "the largest step did not fit into the memory (in another process)" in first
    assert first.index("steps a second of the largest size") < first.index("step 1/8")
    (tmp_path / "alone").mkdir()
    monkeypatch.setattr(dry_step, "is_tried", lambda _: False)
    assert job.config.steps == OPTIONS["steps"]
    check_equal(tmp_path, run(placed(tmp_path / "alone")[0]))


GIB = 1 << 30


@pytest.mark.parametrize(
    ("system", "release", "shares"),
    [
        ("nt", "11", [5 / 8, 0.9]),
        ("posix", "5.15.153.1-microsoft-standard-WSL2", [5 / 8, 0.9]),
        ("posix", "6.8.0-45-generic", []),
    ],
    ids=["Windows", "WSL", "Linux"],
)
def test_torch_refuses_what_windows_would_put_into_ram(
    monkeypatch, system: str, release: str, shares: list[float]
) -> None:
    """3 of 8 GiB are free, and 2 are torch's own: it may have 5 until the run ends, as it may."""
    played: dict[str, Callable] = {
        "mem_get_info": lambda _: (3 * GIB, 8 * GIB),
        "memory_reserved": lambda _: 2 * GIB,
        "get_per_process_memory_fraction": lambda _: 0.9,
        "set_per_process_memory_fraction": lambda share, _: set_to.append(share),
    }
    set_to: list[float] = []
    for name, value in played.items():
        monkeypatch.setattr(torch.cuda, name, value, raising=False)
    monkeypatch.setattr(platform, "release", lambda: release)
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", system)
        with pytest.raises(KeyError), kept_on_card(torch.device("cuda", 0)):
            assert set_to == shares[:1]
            raise KeyError
    assert set_to == shares
    with kept_on_card(CPU):
        assert set_to == shares
