"""The fp16 path without a card: a processor has torch's loss scaler and autocast, too."""

import contextlib
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from accelerate import Accelerator
from pack.trainer import checks, dry_step, forward, loop, saving
from pack.trainer.events import Note, Step, Tried
from pack.trainer.sentinel import IN_A_ROW_FP16, LOWER_RATE
from toy import make_concept, make_job, run

START = 2.0**16


@pytest.fixture
def fp16(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets runs on the processor compute in fp16; called with a scale, they begin with it."""
    real, scale = loop.accelerator, [START]

    @contextlib.contextmanager
    def accelerator(precision: str, device: torch.device, ranks: int) -> Iterator[Accelerator]:
        with real("fp32", device, ranks) as made:  # accelerate itself refuses fp16 without a card
            made.state._mixed_precision, made.native_amp = precision, True
            made.scaler = torch.amp.GradScaler(device.type, init_scale=scale[0])
            yield made

    monkeypatch.setattr(loop, "accelerator", accelerator)
    monkeypatch.setattr(checks, "resolve_precision", lambda name, device, weights: "fp16")
    return lambda start: scale.__setitem__(0, start)


def test_it_is_fp16_and_learns(tmp_path, fp16) -> None:
    half = run(make_job(tmp_path, steps=3))
    assert half.metadata["dreambooth.precision"] == "fp16" and not half.of(Note)
    steps = half.of(Step)
    assert not any(step.skipped for step in steps)
    assert all(math.isfinite(step.grad_norm) and step.grad_norm < 100 for step in steps)  # unscaled


def test_a_scale_that_overflows_settles_without_a_word(tmp_path, fp16) -> None:
    fp16(2.0**34)  # a halving a step: fewer than the sentinel's patience
    made = run(make_job(tmp_path, steps=30))
    skipped = [step.skipped for step in made.of(Step)]
    settled = skipped.index(False)
    assert 5 < settled < IN_A_ROW_FP16 and not any(skipped[settled:]) and not made.of(Note)


def test_in_two_pieces_the_same_bytes_with_the_loss_scale(tmp_path, fp16) -> None:
    fp16(2.0**36)  # some steps are skipped first: the scale of the second piece is not the first's
    concepts = (make_concept(tmp_path / "p"),)
    whole = run(make_job(tmp_path / "whole", concepts, steps=24))
    run(make_job(tmp_path / "parts", concepts, steps=20))
    parts = run(make_job(tmp_path / "parts", concepts, steps=24), train_again=False)
    assert [step.step for step in parts.of(Step)] == [21, 22, 23, 24]
    assert parts.sha == whole.sha


def test_the_largest_step_is_tried_and_leaves_the_scale_alone(tmp_path, fp16, monkeypatch) -> None:
    fp16(2.0**36)  # its gradients overflow, too
    concepts = (make_concept(tmp_path / "p"),)
    plain = run(make_job(tmp_path / "plain", concepts, steps=24))
    monkeypatch.setattr(dry_step, "is_tried", lambda _: True)
    tried = run(make_job(tmp_path / "tried", concepts, steps=24))
    assert tried.of(Tried) and tried.sha == plain.sha
    assert [e.skipped for e in tried.of(Step)] == [e.skipped for e in plain.of(Step)]


def test_many_bad_losses_roll_back_and_go_on(tmp_path, fp16, monkeypatch) -> None:
    calls, real = [0], forward.row_losses

    def row_losses(*given: torch.Tensor | None) -> torch.Tensor:
        calls[0] += 1
        bad = 4 <= calls[0] < 4 + IN_A_ROW_FP16
        return real(*given) * (math.nan if bad else 1.0)

    monkeypatch.setattr(forward, "row_losses", row_losses)
    monkeypatch.setattr(saving.Saver, "state_is_due", lambda self: True)
    made = run(make_job(tmp_path, steps=30, trains="unet"))
    assert made.result.steps == 30 and any("back to step 3" in n.text for n in made.of(Note))
    rates = {step.step: step.learning_rate for step in made.of(Step)}
    assert rates[30] == pytest.approx(rates[1] * LOWER_RATE)
