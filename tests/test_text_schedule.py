"""A text encoder that learns for a share of the run, and then stays exactly as it is."""

import math
from pathlib import Path

import pytest
import torch
from pack.trainer import forward, saving
from pack.trainer.checkpoint import read_checkpoint
from pack.trainer.config import Concept
from pack.trainer.events import Command, Note, Step
from pack.trainer.loop import train
from pack.trainer.training_state import StateFolder
from toy import CPU, Run, make_job, run, same, toy_base

UNET, TEXT = "model.diffusion_model.", "cond_stage_model."
OPTIONS = {
    "text_encoder_learning_rate": 1e-3,
    "weight_decay": 0.5,
    "save_every": 1,
    "keep": 4,
    "save_precision": "fp32",
}


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, concept: Concept) -> Run:
    """Four steps, of which the text encoder learns from two."""
    folder = tmp_path_factory.mktemp("half")
    return run(make_job(folder, (concept,), steps=4, text_encoder_until=0.5, **OPTIONS))


def after(made: Run, step: int) -> dict[str, torch.Tensor]:
    file = made.result.checkpoint.with_name(f"toy-step{step:06d}.safetensors")
    return read_checkpoint(file)[0] if file.exists() else made.tensors


def moments(made: Run) -> set[str]:
    """The parts that the newest state has Adam's moments of."""
    names = StateFolder(made.result.folder / "state").newest().tensors
    return {name.split(".")[1] for name in names if name.startswith("optimizer.")}


def test_it_learns_as_before_and_then_not_at_all(
    tmp_path: Path, concept: Concept, half: Run
) -> None:
    """Not by weight decay or by Adam's moments either, while the UNet goes on."""
    whole = run(make_job(tmp_path, (concept,), steps=2, **OPTIONS))
    assert same(after(half, 2), whole.tensors)
    assert not same(after(half, 1), after(half, 2), TEXT)
    for step in (3, 4):
        assert same(after(half, step), after(half, 2), TEXT)
        assert not same(after(half, step), after(half, step - 1), UNET)
    assert moments(half) == {"unet"} and moments(whole) == {"unet", "text_encoder"}


def test_a_step_a_queue_gives_the_same_bytes(tmp_path: Path, concept: Concept, half: Run) -> None:
    """Broken off before the switch, on it and after it."""
    job = make_job(tmp_path, (concept,), steps=4, text_encoder_until=0.5, **OPTIONS)
    for step in (1, 2, 3):
        seen: list[Step] = []

        def control(seen: list[Step] = seen) -> Command:
            return Command.STOP if any(isinstance(e, Step) for e in seen) else Command.GO_ON

        result = train(job, toy_base(), device=CPU, listener=seen.append, control=control)
        assert result.stopped and result.steps == step
    assert run(job, train_again=False).sha == half.sha


def test_more_steps_leave_the_point_where_it_was(tmp_path: Path, concept: Concept) -> None:
    options = OPTIONS | {"text_encoder_until": 0.5}
    two = run(make_job(tmp_path, (concept,), steps=2, **options)).tensors
    four = run(make_job(tmp_path, (concept,), steps=4, **options), train_again=False)
    assert [step.step for step in four.of(Step)] == [3, 4]
    assert same(two, four.tensors, TEXT) and not same(two, four.tensors, UNET)
    assert any("ran to 2, then to 4 steps" in note.text for note in four.of(Note))
    assert four.metadata["dreambooth.schedule_steps"] == "2, 4"


def test_it_learns_again_where_the_run_is_rolled_back(
    tmp_path: Path, concept: Concept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving.Saver, "state_is_due", lambda self: not self._folder.states.steps())
    calls, real = [], forward.row_losses

    def row_losses(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(real(*arguments))
        return calls[-1] * (math.nan if 3 < len(calls) < 7 else 1.0)

    monkeypatch.setattr(forward, "row_losses", row_losses)
    options = OPTIONS | {"steps": 6, "text_encoder_until": 0.34, "keep": 10}
    made = run(make_job(tmp_path, (concept,), **options))
    assert any("back to step 1" in note.text for note in made.of(Note))
    assert [step.step for step in made.of(Step)] == [1, 2, 3, 4, 5, 2, 3, 4, 5, 6]
    assert not same(after(made, 1), after(made, 2), TEXT)
    assert same(after(made, 2), made.tensors, TEXT)
