"""Updates inside the backward pass: the same bits as with all gradients, and none of them kept."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pack.trainer import forward, in_backward, memory_plan, saving
from pack.trainer.config import Job, LoraConfig
from pack.trainer.config.lora import LORA
from pack.trainer.config.loss import LossConfig
from pack.trainer.errors import TrainingError
from pack.trainer.events import Command, Note, Planned, Step
from pack.trainer.footprint import Held
from pack.trainer.gradients import Gradients
from pack.trainer.in_backward import InBackward
from pack.trainer.ladder import Ladder
from pack.trainer.parted_adamw import PART
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from toy import make_concept, make_job, run, same, toy_base

TWICE = "no gradients are kept, so each step is computed twice"
BOTH = {"trains": "unet + text encoder", "text_encoder_learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    """Of a toy all gradients together would wait for each other."""
    monkeypatch.setattr(in_backward, "WAITING", 1 << 14)


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(40, 80), nn.SiLU(), nn.Linear(80, 80), nn.SiLU(),
                         nn.Linear(80, 3))  # fmt: skip


@pytest.mark.parametrize("limit", [0.01, 1e6, math.inf])
def test_it_is_torchs_own_clip_and_step(limit: float) -> None:
    """torch's ``clip_grad_norm_`` and AdamW on all gradients together; bit for bit."""
    mine, plain = net(), net()
    optimizers = [torch.optim.AdamW(n.parameters(), lr=1e-2) for n in (mine, plain)]
    passing = InBackward(list(mine.parameters()))
    for step in range(4):
        given = torch.randn(16, 40, generator=torch.Generator().manual_seed(step))
        plain(given).square().mean().backward()
        theirs = clip_grad_norm_(plain.parameters(), limit)
        optimizers[1].step()
        optimizers[1].zero_grad()

        def backward(given: Tensor = given) -> None:
            mine(given).square().mean().backward()

        with passing.looking():
            backward()
        assert all(p.grad is None for p in mine.parameters()) and passing.has_looked
        norm, scale = passing.clip(limit)
        assert norm == float(theirs) and (float(scale) < 1) == (norm > limit)

        def take(scale: Tensor = scale) -> None:
            for parameter in mine.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(scale)
            optimizers[0].step()

        passing.update(backward, take)
        assert not passing.has_looked
        pairs = zip(mine.parameters(), plain.parameters(), strict=True)
        assert all(torch.equal(a, b) and a.grad is None for a, b in pairs)
    backward()
    assert all(p.grad is not None for p in mine.parameters())  # nothing listens any more


def test_updates_begin_before_the_pass_has_ended_and_hold_few_gradients(monkeypatch) -> None:
    mine, given, seen = net(), torch.randn(4, 40), []
    weights = list(mine.parameters())
    passing = InBackward(weights)
    monkeypatch.setattr(in_backward, "WAITING", 1)
    passing.update(
        lambda: mine(given).square().mean().backward(),
        lambda: seen.append([n for n, p in enumerate(weights) if p.grad is not None]),
    )
    assert sorted(n for (n,) in seen) == list(range(6)) and seen[-1][0] in (0, 1)


@pytest.fixture
def last_rung(monkeypatch) -> Callable[[], None]:
    """From now on runs do not fit, and their next rung is the last one; also while they run."""

    real = Ladder.lower

    def lower(ladder: Ladder) -> str | None:
        changes = []
        while change := real(ladder):
            changes.append(change)
        return changes[-1] if changes else None

    def begin() -> None:
        monkeypatch.setattr(Ladder, "lower", lower)
        monkeypatch.setattr(memory_plan, "free_memory", lambda _: 0)
        monkeypatch.setattr(memory_plan, "_SURELY", 0.0)  # it is tried all the same

    return begin


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("toy", {"trains": "unet"}),
        ("toy", BOTH),
        ("toy", {**BOTH, "batch_size": 3, "max_grad_norm": 0.0}),
        ("toy", {**BOTH, "precision": "bf16", "max_grad_norm": 1e-3}),
        ("toy", {**BOTH, "weights": "exact", "max_grad_norm": 1e-3}),
        ("toy", {**BOTH, "weights": "lean"}),
        ("toy", {**BOTH, "text_encoder_until": 0.5, "ema_decay": 0.9}),
        ("toy", {"trains": "unet", "loss": LossConfig(loss_type="huber"), "channels_last": True}),
        ("toy", {"trains": "unet", "preview_every": 1, "preview_steps": 2, "save_every": 2}),
        ("toy_sdxl", BOTH),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_a_run_learns_the_same_bits(
    tmp_path: Path, last_rung: Callable, kind: str, options: dict
) -> None:
    concept = make_concept(tmp_path / "pictures", photos=3, classes=3)
    options = {"steps": 4, "gradient_checkpointing": True, "save_precision": "fp32", **options}

    def job(name: str) -> Job:
        return make_job(tmp_path / name, (concept,), **options)

    whole = run(job("whole"), toy_base(kind))
    last_rung()
    made = run(job("made"), toy_base(kind))
    (planned,) = made.of(Planned)
    assert planned.change == TWICE and planned.need < whole.of(Planned)[0].need
    assert same(whole.tensors, made.tensors)
    for mine, theirs in zip(made.of(Step), whole.of(Step), strict=True):
        assert (mine.loss, mine.grad_norm) == (theirs.loss, theirs.grad_norm)
    limit = options.get("max_grad_norm")
    assert not limit or made.of(Step)[0].grad_norm > limit  # or nothing was clipped


@pytest.mark.parametrize(
    "options", [{}, BOTH, {"weights": "exact", "resolution": 64}, {"batch_size": 3}]
)
def test_the_estimate_is_what_both_passes_hold(
    tmp_path: Path, last_rung: Callable, monkeypatch, options: dict
) -> None:
    # beside a toy's gradients that of a usual part is large
    monkeypatch.setitem(PART, "cpu", 1 << 12)
    needs, counted, estimate = [], [], memory_plan.estimate
    fill, again = Gradients.fill, Gradients.again

    def counting(real: Callable) -> Callable:
        def call(gradients: Gradients, step: int) -> object:
            with Held() as held:
                result = real(gradients, step)
            counted.append(held.peak)
            return result

        return call

    monkeypatch.setattr(memory_plan, "estimate", lambda *a: needs.append(estimate(*a)) or needs[-1])
    monkeypatch.setattr(Gradients, "fill", counting(fill))
    monkeypatch.setattr(Gradients, "again", counting(again))
    last_rung()
    concept = make_concept(tmp_path / "pictures", photos=4, classes=4)
    options = {"trains": "unet", "gradient_checkpointing": True, "resolution": 256} | options
    run(make_job(tmp_path, (concept,), **options), toy_base())
    assert len(needs) == 2 and len(counted) == 4
    # moments are born in the first update
    assert needs[1].step == pytest.approx(max(counted[2:]), rel=0.03)
    assert needs[1].tensors < needs[0].tensors


def test_a_bad_gradient_reaches_no_weight(tmp_path: Path, last_rung: Callable, monkeypatch) -> None:
    two = run(make_job(tmp_path / "two", steps=2, gradient_checkpointing=True))
    last_rung()
    real, calls = forward.row_losses, []

    def row_losses(*given: Tensor | None) -> Tensor:
        calls.append(1)
        losses = real(*given)
        if losses.requires_grad and len(calls) > 4:  # two passes of each good step
            losses.register_hook(lambda gradient: gradient * math.inf)
        return losses

    monkeypatch.setattr(forward, "row_losses", row_losses)
    four = run(make_job(tmp_path / "four", steps=4, gradient_checkpointing=True))
    assert [step.skipped for step in four.of(Step)] == [False, False, True, True]
    assert len(calls) == 4 + 2 and same(two.tensors, four.tensors)


def test_a_second_pass_that_does_not_fit_is_taken_back(
    tmp_path: Path, last_rung: Callable, monkeypatch
) -> None:
    """Some weights have their update by then, and others not."""
    last_rung()
    whole = run(make_job(tmp_path / "whole", steps=4))
    real, calls = torch.optim.AdamW.step, []

    def step(self: torch.optim.AdamW, *args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 3 * each + 2:  # in the fourth step
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        return real(self, *args, **options)

    each = 10**6
    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run(make_job(tmp_path / "one", steps=1))
    each = len(calls)
    calls.clear()
    assert each > 3
    monkeypatch.setattr(saving.Saver, "state_is_due", lambda self: len(calls) == 2 * each)
    made = run(make_job(tmp_path / "broken", steps=4))
    assert made.sha == whole.sha
    (said,) = (note.text for note in made.of(Note) if "optimizer" in note.text)
    assert "step 4" in said and "tried again from step 2" in said


def test_a_run_that_was_stopped_between_the_passes_goes_on(
    tmp_path: Path, last_rung: Callable
) -> None:
    last_rung()
    whole, asked = run(make_job(tmp_path / "whole", steps=4)), []

    def control() -> Command | None:
        asked.append(1)
        return Command.STOP if len(asked) == stop else None

    stop = 0
    run(make_job(tmp_path / "asked", steps=4), control=control)
    for stop in range(len(asked) - 6, len(asked)):
        asked.clear()
        job = make_job(tmp_path / f"at {stop}", steps=4)
        assert run(job, control=control).result.stopped
        assert run(job, train_again=False).sha == whole.sha


def test_memory_that_runs_out_on_the_way_leads_there(tmp_path: Path, monkeypatch) -> None:
    job = make_job(tmp_path / "a", steps=3, batch_size=2)
    whole = run(replace(job, runs=str(tmp_path / "whole")))
    real = Gradients.forward_backward

    def forward_backward(self: Gradients, *given: object) -> Tensor:
        if not self._ladder.in_backward:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        return real(self, *given)

    monkeypatch.setattr(Gradients, "forward_backward", forward_backward)
    made = run(make_job(tmp_path / "b", job.concepts, steps=3, batch_size=2))
    assert [n.text for n in made.of(Note) if "memory" in n.text][-1].endswith(TWICE)
    for mine, theirs in zip(made.of(Step), whole.of(Step), strict=True):
        assert mine.loss == pytest.approx(theirs.loss, rel=1e-5)
        assert mine.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)
    monkeypatch.setattr(Gradients, "forward_backward", lambda *_: refuse())
    with pytest.raises(TrainingError, match="does not fit into the memory"):
        run(make_job(tmp_path / "c", job.concepts))


def refuse() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_accumulation_steps": 2},
        {"lora": LoraConfig(kind=LORA, rank=2)},
    ],
)
def test_not_where_a_step_has_several_passes_or_small_gradients(
    tmp_path: Path, monkeypatch, options: dict
) -> None:
    tops, ladder = [], memory_plan.Ladder
    monkeypatch.setattr(memory_plan, "Ladder", lambda *a: tops.append(ladder(*a)) or tops[-1])
    run(make_job(tmp_path, steps=1, **options))
    while tops[0].lower():
        assert not tops[0].in_backward
