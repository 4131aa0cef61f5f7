"""Ways of computing attention: the fastest is found for each shape, and kept to."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pack.trainer import attention
from pack.trainer.attention import OWN, Choices
from pack.trainer.events import Note
from runs import stopped
from torch.nn import functional
from torch.nn.attention import SDPBackend
from toy import Run, make_job, run, same

CPU = torch.device("cpu")
SHAPE = (2, 4, 64, 16, 8)
NAME = "2x4x64x16x8 float32"


@pytest.fixture
def ways(monkeypatch) -> None:
    """Two that a processor has: its fused kernel and plain operations."""
    both = {"flash": SDPBackend.FLASH_ATTENTION, "math": SDPBackend.MATH}
    monkeypatch.setitem(attention.WAYS, "cpu", both)


def clock(monkeypatch, **seconds: float) -> list[int]:
    """Sets how long each way takes, torch's choice first; returns a count of what was timed."""
    real, calls = Choices._seconds, []

    def timed(choices: Choices, shape: attention.Shape, dtype: torch.dtype, way: str) -> float:
        assert real(choices, shape, dtype, way) > 0
        calls.append(1)
        return seconds[way or "own"]

    monkeypatch.setattr(Choices, "_seconds", timed)
    return calls


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"own": 1.0, "flash": 1.0, "math": 0.5}, "math"),
        ({"own": 1.0, "flash": 0.9, "math": 0.92}, "flash"),
        ({"own": 1.0, "flash": 0.97, "math": 2.0}, OWN),  # noise
        ({"own": 1.0, "flash": float("inf"), "math": 1.0}, OWN),
        ({"own": float("inf"), "flash": float("inf"), "math": float("inf")}, OWN),
    ],
)
def test_the_fastest_is_chosen_once(monkeypatch, ways, seconds: dict, chosen: str) -> None:
    calls, said = clock(monkeypatch, **seconds), []
    choices = Choices(CPU, said.append, {})
    with choices.keeping(SHAPE, torch.float32):
        pass
    assert choices.numbers() == {f"attention:{NAME}": chosen}
    assert len(said) == (chosen != OWN) and all(f"by {chosen}" in text for text in said)
    for _ in range(2):
        choices.keeping(SHAPE, torch.float32)
    assert len(calls) == 3
    choices.keeping(SHAPE, torch.bfloat16)
    assert len(calls) == 6


def test_what_a_state_holds_is_kept_to(monkeypatch, ways) -> None:
    calls = clock(monkeypatch, own=1.0, flash=0.1, math=2.0)
    kept = {f"attention:{NAME}": "math", "rate": 0.5, "attention:1x1x1x1x1 float32": "of a card"}
    choices = Choices(CPU, pytest.fail, kept)
    q, k = torch.randn(2, 4, 64, 8), torch.randn(2, 4, 16, 8)
    with choices.keeping(SHAPE, torch.float32), torch.profiler.profile() as profile:
        functional.scaled_dot_product_attention(q, k, k)
    names = {event.key for event in profile.key_averages()}
    assert not calls and any("math" in name for name in names)
    assert not any("flash" in name for name in names)
    assert choices.numbers() == {f"attention:{NAME}": "math"}  # ways that are not here are dropped


def test_timing_leaves_the_runs_draws_alone(ways) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    Choices(CPU, lambda _: None, {}).keeping(SHAPE, torch.float32)
    assert torch.equal(torch.rand(4), expected)


def test_a_run_keeps_to_it_and_goes_on_with_it(tmp_path: Path, monkeypatch, ways) -> None:
    """Plain operations for all: the same to rounding; broken off and gone on with, to the bit."""
    options = {"steps": 4, "save_precision": "fp32", "preview_every": 2, "preview_steps": 2}
    plain = run(make_job(tmp_path / "plain", **options))
    clock(monkeypatch, own=1.0, flash=1.0, math=0.1)
    whole = run(make_job(tmp_path / "whole", **options, attention="fastest"))
    said = [note.text for note in whole.of(Note) if note.text.startswith("attention of")]
    assert said and all("by math" in text for text in said)
    assert not same(plain.tensors, whole.tensors)
    assert near(plain, whole) < 1e-3

    broken = make_job(tmp_path / "broken", **options, attention="fastest")
    assert stopped(broken, 2).result.stopped
    clock(monkeypatch, own=1.0, flash=0.1, math=1.0)  # as if it were measured anew
    assert same(run(broken, train_again=False).tensors, whole.tensors)


def test_it_is_timed_apart_from_what_is_recomputed(tmp_path: Path, monkeypatch, ways) -> None:
    """Activations that are not kept are asked for by the first thing that needs them."""
    clock(monkeypatch, own=1.0, flash=1.0, math=0.1)
    options = {"steps": 2, "attention": "fastest", "save_precision": "fp32"}
    kept = run(make_job(tmp_path / "kept", **options))
    again = run(make_job(tmp_path / "again", **options, gradient_checkpointing=True))
    assert same(kept.tensors, again.tensors)
    said = [[note.text for note in made.of(Note) if note.text.startswith("attention of")]
            for made in (kept, again)]  # fmt: skip
    assert said[0] == said[1] and len(set(said[0])) == len(said[0])


def test_where_there_is_one_way_alone_that_is_said(tmp_path: Path) -> None:
    plain = run(make_job(tmp_path / "plain"))
    made = run(make_job(tmp_path / "made", attention="fastest"))
    assert "attention = fastest: torch has one way alone on cpu" in [
        note.text for note in made.of(Note)
    ]
    assert same(plain.tensors, made.tensors)


def near(a: Run, b: Run) -> float:
    """How far apart what they learned is, as a share of it."""
    apart = [(a.tensors[name].float() - b.tensors[name].float()).norm() for name in a.tensors]
    whole = [tensor.float().norm() for tensor in a.tensors.values()]
    return float(torch.stack(apart).norm() / torch.stack(whole).norm())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
def test_a_cards_ways_agree() -> None:
    choices: Callable[..., Choices] = Choices(torch.device("cuda"), lambda _: None, {})
    q, k, v = (torch.randn(2, 8, n, 40, device="cuda", dtype=torch.bfloat16) for n in (64, 77, 77))
    expected = functional.scaled_dot_product_attention(q.float(), k.float(), v.float())
    with choices.keeping((2, 8, 64, 77, 40), torch.bfloat16):
        got = functional.scaled_dot_product_attention(q, k, v)
    assert (got.float() - expected).norm() < 0.01 * expected.norm()
