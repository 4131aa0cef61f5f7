"""Bad numbers never reach the weights: skip, roll back once with a lower rate, stop."""

import json
import math
from collections.abc import Callable

import pytest
import torch
from pack.trainer import forward, learner, saving, training_state
from pack.trainer.checkpoint import check_finite, read_checkpoint
from pack.trainer.errors import TrainingError
from pack.trainer.events import Note, Step
from pack.trainer.sentinel import IN_A_ROW, IN_A_ROW_FP16, LOWER_RATE, Sentinel, Verdict
from toy import make_job, run, same

GOOD, NAN = (0.1, 1.0), (math.nan, 1.0)


def test_one_bad_step_is_skipped_and_forgotten() -> None:
    sentinel = Sentinel("fp32")
    steps = [GOOD, NAN, GOOD, (0.1, math.inf), NAN, GOOD]
    verdicts = [sentinel.look(*step) for step in steps]
    take, skip = Verdict.TAKE, Verdict.SKIP
    assert verdicts == [take, skip, take, skip, skip, take]


def test_several_roll_back_once_then_stop() -> None:
    sentinel = Sentinel("bf16")
    assert [sentinel.look(*NAN) for _ in range(IN_A_ROW)][-1] is Verdict.ROLL_BACK
    sentinel.rolled_back()
    assert sentinel.rate == LOWER_RATE
    verdicts = [sentinel.look(*NAN) for _ in range(IN_A_ROW)]
    assert verdicts == [Verdict.SKIP] * (IN_A_ROW - 1) + [Verdict.STOP]


def test_a_loss_scale_may_need_many_steps_to_settle() -> None:
    sentinel = Sentinel("fp16")
    assert all(
        sentinel.look(0.1, math.inf) is Verdict.SKIP for _ in range(IN_A_ROW_FP16 - 1)
    )  # 2^16 halved sixteen times is 1


class Bad:
    """Turns the loss of some steps into NaN: of those whose call number ``when`` accepts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, when) -> None:
        self.calls, real = 0, forward.row_losses

        def row_losses(*given: torch.Tensor | None) -> torch.Tensor:
            self.calls += 1
            losses = real(*given)
            return losses * math.nan if when(self.calls) else losses

        monkeypatch.setattr(forward, "row_losses", row_losses)


def test_a_skipped_step_leaves_the_weights_and_the_run_goes_on(tmp_path, monkeypatch) -> None:
    two = run(make_job(tmp_path / "two", steps=2))
    Bad(monkeypatch, lambda call: call > 2)
    four = run(make_job(tmp_path / "four", steps=4))
    assert [step.skipped for step in four.of(Step)] == [False, False, True, True]
    assert same(two.tensors, four.tensors)  # nothing of the bad steps arrived
    assert any("step 3" in note.text and "skipped" in note.text for note in four.of(Note))


@pytest.fixture
def state_each_step(monkeypatch):
    monkeypatch.setattr(saving.Saver, "state_is_due", lambda self: True)


def test_several_bad_steps_roll_back_and_go_on_slower(
    tmp_path, monkeypatch, state_each_step
) -> None:
    bad = Bad(monkeypatch, lambda call: 4 <= call < 4 + IN_A_ROW)  # steps 4, 5, 6, once
    job = make_job(tmp_path, steps=6)
    made = run(job)
    assert made.result.steps == 6 and bad.calls == 3 + IN_A_ROW + 3
    rates = {step.step: step.learning_rate for step in made.of(Step)}
    assert rates[6] == pytest.approx(rates[1] * LOWER_RATE)
    assert any("back to step 3" in note.text for note in made.of(Note))
    log = (made.result.folder / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2, 3, 4, 5, 6]  # none twice
    # a run that goes on later keeps the lower rate
    monkeypatch.undo()
    more = run(make_job(tmp_path, steps=8), train_again=False)
    assert more.of(Step)[-1].learning_rate == pytest.approx(rates[6])


def test_after_one_roll_back_it_stops_with_the_last_good_weights(
    tmp_path, monkeypatch, state_each_step
) -> None:
    three = run(make_job(tmp_path / "three", steps=3))
    Bad(monkeypatch, lambda call: call >= 4)
    with pytest.raises(TrainingError, match=r"lower the learning rate.*Step 3"):
        run(make_job(tmp_path / "bad", steps=20))
    kept, _ = read_checkpoint(tmp_path / "bad" / "checkpoints" / "toy.safetensors")
    assert same(three.tensors, kept)


def test_a_state_that_does_not_fit_any_more_spoils_no_file(
    tmp_path, monkeypatch, state_each_step
) -> None:
    """Some weights are the state's by then, others not: they are no result."""
    Bad(monkeypatch, lambda call: call >= 4)
    real, places = training_state._as_held, []

    def as_held(*given: object) -> object:
        places.append(1)
        if len(places) == 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        return real(*given)

    monkeypatch.setattr(training_state, "_as_held", as_held)
    with pytest.raises(TrainingError, match="the state before it does not fit into the memory"):
        run(make_job(tmp_path, steps=20))
    assert not (tmp_path / "checkpoints" / "toy.safetensors").exists()
    monkeypatch.undo()
    whole = run(make_job(tmp_path / "whole", steps=5))
    assert run(make_job(tmp_path, steps=5), train_again=False).sha == whole.sha


def test_without_a_state_it_stops_and_says_so(tmp_path, monkeypatch) -> None:
    Bad(monkeypatch, lambda call: True)
    with pytest.raises(TrainingError, match="lower the learning rate"):
        run(make_job(tmp_path, steps=20))
    assert not (tmp_path / "checkpoints" / "toy.safetensors").exists()


@pytest.mark.parametrize("step", [4, 6])
def test_weights_that_went_bad_are_taken_back_at_once(
    tmp_path, monkeypatch, state_each_step, step
) -> None:
    """Also by the last update of all, which no loss looks at."""
    real, spoiled = learner.Learner.update, []

    def update(self: learner.Learner, verdict: Verdict, again: Callable) -> bool:
        skipped = real(self, verdict, again)
        if self.done == step and not spoiled:
            spoiled.append(step)
            with torch.no_grad():
                self.parameters[0].view(-1)[0] = math.nan
        return skipped

    monkeypatch.setattr(learner.Learner, "update", update)
    made = run(make_job(tmp_path, steps=6))
    assert made.result.steps == 6 and [s.step for s in made.of(Step)][-1] == 6
    (said,) = (note.text for note in made.of(Note) if "back to step" in note.text)
    assert "weights became numbers that are not finite" in said and f"step {step - 1}" in said
    check_finite(made.tensors)
