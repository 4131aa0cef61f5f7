"""The averaged weights: their arithmetic, and that they are what a run saves and shows."""

import math
from pathlib import Path

import pytest
import torch
from diffusers.training_utils import EMAModel
from pack.trainer import forward, saving
from pack.trainer.checkpoint import read_checkpoint
from pack.trainer.config import Concept
from pack.trainer.ema import Ema
from pack.trainer.errors import TrainingError
from pack.trainer.events import Preview
from torch import nn
from toy import make_job, run, same

OPTIONS = {"trains": "unet", "save_precision": "fp32"}


def decays(limit: float, updates: int) -> list[float]:
    return [0.0] + [min(limit, (1 + n) / (10 + n)) for n in range(1, updates)]


@pytest.mark.parametrize("limit", [0.2, 0.999])
def test_it_equals_diffusers_and_float64(limit: float) -> None:
    g = torch.Generator().manual_seed(0)
    part = nn.Linear(3, 2)
    ours, theirs = Ema({"unet": part}, limit), EMAModel(part.parameters(), decay=limit)
    expected = part.weight.detach().double()
    for decay in decays(limit, 30):
        with torch.no_grad():
            part.weight += torch.randn(2, 3, generator=g)
        ours.update()
        theirs.step(part.parameters())
        expected = decay * expected + (1 - decay) * part.weight.detach().double()
    got = ours.state()[0]["ema.unet.weight"]
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got, theirs.shadow_params[0], rtol=1e-5, atol=1e-5)


def test_it_stands_in_for_the_weights_and_leaves_again() -> None:
    part = nn.Linear(3, 2)
    ema = Ema({"unet": part}, 0.5)
    before = part.weight.detach().clone()
    with torch.no_grad():
        part.weight += 1
    parameter = part.weight
    with pytest.raises(KeyError), ema.in_place():
        assert torch.equal(part.weight, before)
        raise KeyError
    assert part.weight is parameter and torch.equal(part.weight, before + 1)


def test_what_does_not_learn_is_not_averaged() -> None:
    part = nn.Linear(3, 2)
    part.bias.requires_grad_(False)
    assert list(Ema({"unet": part}, 0.5).state()[0]) == ["ema.unet.weight"]


def test_the_file_holds_the_average_of_the_steps(tmp_path: Path, concept: Concept) -> None:
    """The optimizer goes on from its own weights: a run without averages has the same ones."""
    options = OPTIONS | {"steps": 4, "preview_every": 4, "preview_steps": 2}
    plain = run(make_job(tmp_path / "plain", (concept,), save_every=1, keep=4, **options))
    made = run(make_job(tmp_path / "ema", (concept,), ema_decay=0.25, **options))
    folder = plain.result.checkpoint.parent
    raw = [read_checkpoint(folder / f"toy-step{n:06d}.safetensors")[0] for n in (1, 2, 3)]
    raw.append(plain.tensors)
    averaged = made.tensors
    assert not same(averaged, raw[-1], "model.diffusion_model.")
    for key, got in averaged.items():
        expected = raw[0][key].double()
        for weights, decay in zip(raw, decays(0.25, 4), strict=True):
            expected = decay * expected + (1 - decay) * weights[key].double()
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-6)
    # the last preview is a picture of the file: as the first one of a run that starts from it
    after = run(make_job(tmp_path / "after", (concept,), **options | {"steps": 1}), averaged)
    assert after.of(Preview)[0].image.tobytes() == made.of(Preview)[-1].image.tobytes()


def test_bad_steps_leave_no_trace_in_it(
    tmp_path: Path, concept: Concept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those that are skipped nor those that are rolled back."""
    options = OPTIONS | {"ema_decay": 0.9}
    two = run(make_job(tmp_path / "two", (concept,), steps=2, **options))
    monkeypatch.setattr(saving.Saver, "state_is_due", lambda self: True)
    calls, real = [], forward.row_losses

    def row_losses(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(real(*arguments))
        return calls[-1] * (1.0 if len(calls) <= 2 else math.nan)

    monkeypatch.setattr(forward, "row_losses", row_losses)
    with pytest.raises(TrainingError, match="Step 2 is kept"):
        run(make_job(tmp_path / "bad", (concept,), steps=20, **options))
    kept, _ = read_checkpoint(tmp_path / "bad" / "checkpoints" / "toy.safetensors")
    assert same(two.tensors, kept) and len(calls) == 8
