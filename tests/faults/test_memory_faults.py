"""Memory runs out at each kind of work of a run: the same curve as without, or a clear end."""

import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from pack.trainer import previews
from pack.trainer.config import Concept
from pack.trainer.errors import TrainingError
from pack.trainer.events import Step
from pack.trainer.model import StableDiffusion
from record import record
from toy import Run, make_concept, make_job, run

SEED = 20261122
STEPS = 4
FOREVER = 10**6
# what runs out, where it is patched, and whether only calls with gradients count
PLACES: dict[str, tuple[Any, str, bool]] = {
    "forward": (StableDiffusion, "predict", True),
    "backward": (Accelerator, "backward", False),
    "optimizer": (torch.optim.AdamW, "step", False),
    "preview": (previews, "sample", False),
    "encoding": (StableDiffusion, "encode_images", False),
}
CASES = [(first, times) for first in (1, 2, 3, 4) for times in (1, 2, FOREVER)]


def refuse(patch: pytest.MonkeyPatch, place: str, first: int, times: int) -> list[int]:
    """Out of memory at ``times`` calls from the ``first`` on; the calls, as they come."""
    owner, name, training = PLACES[place]
    real: Callable = getattr(owner, name)
    calls: list[int] = []

    def called(*args: Any, **options: Any) -> Any:
        if not training or (torch.is_grad_enabled() and not args[1].is_meta):  # no estimate
            calls.append(len(calls) + 1)
            if first <= calls[-1] < first + times:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        return real(*args, **options)

    patch.setattr(owner, name, called)
    return calls


def job_in(folder: Path, concept: Concept) -> Any:
    options = {"trains": "unet", "batch_size": 3, "state_minutes": 1e-9, "steps": STEPS}
    return make_job(folder, (concept,), preview_every=1, preview_steps=1, **options)


def same_curve(mine: list[Step], whole: Run) -> None:
    expected = {step.step: step.loss for step in whole.of(Step)}
    for step in mine:
        assert step.loss == pytest.approx(expected[step.step], rel=1e-4), step.step


def trial(folder: Path, concept: Concept, whole: Run, case: tuple[str, int, int]) -> str:
    """How one run ends; its curve, and that of the run that goes on, are the undisturbed one's."""
    place, first, times = case
    job = job_in(folder, concept)
    with pytest.MonkeyPatch.context() as patch:
        calls = refuse(patch, place, first, times)
        try:
            made = run(job)
            same_curve(made.of(Step), whole)
            assert made.result.steps == STEPS
            ended = "finished with the same curve"
        except TrainingError as error:
            ended = "stopped with TrainingError"
            assert "memory" in str(error)
    assert len(calls) >= first, "nothing was refused"
    if place == "optimizer" and first > 1 and times < FOREVER:
        assert ended.startswith("finished")  # from the newest state, again
    again = run(job, train_again=False)
    same_curve(again.of(Step), whole)
    assert again.result.steps == STEPS
    # an end at the optimizer costs the step that it broke, no other
    lost = {"optimizer": first - 1}.get(place, 0)
    assert not ended.startswith("stopped") or place != "optimizer" or (
        [step.step for step in again.of(Step)] == list(range(lost + 1, STEPS + 1))
    )  # fmt: skip
    return ended


def test_running_out_of_memory_changes_no_curve(tmp_path: Path, full: bool) -> None:
    rng, began = random.Random(SEED), time.monotonic()
    concept = make_concept(tmp_path / "pictures", photos=3, classes=2)
    whole = run(job_in(tmp_path / "whole", concept))
    places: dict[str, Counter[str]] = {}
    failed = []
    for place in PLACES:
        for number, (first, times) in enumerate(CASES if full else rng.sample(CASES, 1)):
            case = (place, first, times)
            try:
                ended = trial(tmp_path / f"{place}{number}", concept, whole, case)
            except Exception as error:  # noqa: BLE001 (a finding, told at the end)
                ended = "failed"
                failed.append(f"{case}: {error!r}")
            places.setdefault(place, Counter())[ended] += 1
    if full:
        counts = {"trials": sum(sum(c.values()) for c in places.values())}
        counts |= {"failures": len(failed), "seed": SEED}
        seconds = round(time.monotonic() - began)
        record("memory", **counts, places=places, seconds=seconds)
    assert not failed, f"seed {SEED}: " + "\n".join(failed)
