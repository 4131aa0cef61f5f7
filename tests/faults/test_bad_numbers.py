"""NaN and Inf put into a run at its loss, a gradient, a weight, a latent or a picture."""

import math
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pack.trainer.cache import LatentCache
from pack.trainer.checkpoint import check_finite, read_checkpoint
from pack.trainer.errors import TrainingError
from pack.trainer.events import Note
from pack.trainer.gradients import Gradients
from pack.trainer.model import StableDiffusion
from pack.trainer.views import View
from record import record
from toy import make_concept, make_job, run

SEED = 20261122
STEPS = 6
FOREVER = 10**6
VALUES = (math.nan, math.inf, -math.inf)

Patch = pytest.MonkeyPatch


def poison_loss(patch: Patch, value: float, first: int, times: int) -> None:
    from pack.trainer import forward

    real, calls = forward.row_losses, []

    def row_losses(*given: torch.Tensor | None) -> torch.Tensor:
        calls.append(1)
        losses = real(*given)
        return losses * value if first <= len(calls) < first + times else losses

    patch.setattr(forward, "row_losses", row_losses)


def poison_gradient(patch: Patch, value: float, first: int, times: int) -> None:
    real, calls = Gradients.fill, []

    def fill(self: Gradients, step: int) -> object:
        losses = real(self, step)
        calls.append(1)
        if first <= len(calls) < first + times:
            some_weight(self).grad.view(-1)[0] = value
        return losses

    patch.setattr(Gradients, "fill", fill)


def poison_weight(patch: Patch, value: float, first: int, times: int) -> None:
    """One number of one weight, before the step: from then on every loss is bad."""
    real, calls = Gradients.fill, []

    def fill(self: Gradients, step: int) -> object:
        calls.append(1)
        if first <= len(calls) < first + times:
            with torch.no_grad():
                some_weight(self).view(-1)[0] = value
        return real(self, step)

    patch.setattr(Gradients, "fill", fill)


def some_weight(gradients: Gradients) -> torch.Tensor:
    return next(gradients._p.model.unet.parameters())


def poison_latent(patch: Patch, value: float, first: int, times: int) -> None:
    real, calls = LatentCache.sample, []

    def sample(self: LatentCache, view: View, noise: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        latent = real(self, view, noise)
        return latent * value if first <= (len(calls) + 1) // 2 < first + times else latent

    patch.setattr(LatentCache, "sample", sample)


def poison_preview(patch: Patch, value: float, first: int, times: int) -> None:
    real, calls = StableDiffusion.decode_latents, []

    def decode(self: StableDiffusion, latents: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        picture = real(self, latents)
        return picture * value if first <= len(calls) < first + times else picture

    patch.setattr(StableDiffusion, "decode_latents", decode)


PLACES: dict[str, Callable[[Patch, float, int, int], None]] = {
    "loss": poison_loss,
    "gradient": poison_gradient,
    "weight": poison_weight,
    "latent": poison_latent,
    "preview": poison_preview,
}
CASES = [(first, times) for first in (1, 2, 4, 6) for times in (1, 2, 3, FOREVER)]


def trial(folder: Path, place: str, value: float, first: int, times: int) -> str:
    """How a run ends whose numbers go bad ``times`` times from the ``first`` step on."""
    concept = make_concept(folder / "pictures", photos=2, classes=1)
    options = {"trains": "unet", "state_minutes": 1e-9, "preview_every": 3, "preview_steps": 1}
    job = make_job(folder, (concept,), steps=STEPS, save_every=2, **options)
    with pytest.MonkeyPatch.context() as patch:
        PLACES[place](patch, value, first, times)
        try:
            made = run(job)
            assert made.result.steps == STEPS
            back = any("back to step" in note.text for note in made.of(Note))
            skipped = any("was skipped" in note.text for note in made.of(Note))
            ended = "rolled back" if back else "skipped" if skipped else "finished"
        except TrainingError as error:
            ended = "stopped with TrainingError"
            assert "learning rate" in str(error)
    files = [*folder.rglob("*.safetensors")]
    for path in files:  # checkpoints, states and latents
        check_finite(read_checkpoint(path)[0])
    if ended.startswith("stopped") and first > 1:
        assert (folder / "checkpoints" / "toy.safetensors").is_file()
    # without the fault the same job ends well, from what was kept or anew
    assert run(job, train_again=False).result.steps == STEPS
    return ended


def test_bad_numbers_reach_no_file(tmp_path: Path, full: bool) -> None:
    rng, began = random.Random(SEED), time.monotonic()
    places: dict[str, Counter[str]] = {}
    failed = []
    for place in PLACES:
        cases = CASES if full else rng.sample(CASES, 1)
        for number, (first, times) in enumerate(cases):
            value = VALUES[number % 3]
            about = f"{place} {value} from step {first}, {times} times"
            try:
                ended = trial(tmp_path / f"{place}{number}", place, value, first, times)
            except Exception as error:  # noqa: BLE001 (a finding, told at the end)
                ended = "failed"
                failed.append(f"{about}: {error!r}")
            places.setdefault(place, Counter())[ended] += 1
    if full:
        counts = {"trials": sum(sum(c.values()) for c in places.values())}
        counts |= {"failures": len(failed), "seed": SEED}
        seconds = round(time.monotonic() - began)
        record("numbers", **counts, places=places, seconds=seconds)
    assert not failed, f"seed {SEED}: " + "\n".join(failed)
