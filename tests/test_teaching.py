"""The quality bench in short: our trainer teaches the demo's base a car, and the judge looks.

``--slow`` breaks the trainer in three ways, each of which must miss a threshold.
"""

import sys
from collections.abc import Callable

import pytest
import torch
from pack.benchmarks.picturebook.bench import judge_all
from pack.benchmarks.picturebook.cases import NEW_SETTINGS, Case
from pack.benchmarks.picturebook.contenders import Contender, base, ours
from pack.benchmarks.picturebook.measures import FIGURES
from pack.benchmarks.picturebook.trial import Bench, Plan
from pack.demo.picture_book import ensure_base
from pack.demo.recipe import PICTURE_BOOK
from pack.trainer import cache, dataset, forward

CASE = Case("car-1")
STEPS = 60
PLAN = Plan(
    settings=NEW_SETTINGS, seeds=1, plain=8, class_images=8, steps=12, cfg=PICTURE_BOOK.cfg
)  # fmt: skip
THRESHOLDS: dict[str, Callable[[float, float], bool]] = {  # of the figures taught and before
    "subject_fidelity": lambda taught, _: taught >= 0.5,
    "prompt_fidelity": lambda taught, before: taught >= before - 0.1,
    "prior_drift": lambda taught, _: taught <= 0.3,
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Bench:
    folder = tmp_path_factory.mktemp("teaching")
    return Bench(ensure_base(folder / "base.safetensors"), PLAN, folder, torch.device("cpu"))


def missed(bench: Bench, contender: Contender) -> dict[str, tuple[float, float]]:
    """The thresholds that it misses, with the figure after and before."""
    made = {
        (who.name, sampled.steps): {CASE.name: sampled}
        for who in (base(), contender)
        for sampled in bench.trials(who, CASE)
    }
    before, taught = judge_all(bench, [CASE], made)
    figures = {name: (taught[name]["value"], before[name]["value"]) for name in THRESHOLDS}
    # with -s: what docs/BENCHMARKS.md has
    said = {name: round(taught[name]["value"], 2) for name in FIGURES}
    sys.stdout.write(f"\n{contender.name}: {said}\n")
    return {name: values for name, values in figures.items() if not THRESHOLDS[name](*values)}


def test_a_subject_is_learned_and_its_class_is_kept(bench) -> None:
    assert missed(bench, ours("ours", (STEPS,))) == {}


# ---- broken on purpose ---------------------------------------------------------------------------


def weigh_class_rows_only(patch: pytest.MonkeyPatch) -> None:
    """The loss weighting: rows of weight 1, the instance's, count nothing."""
    combine = forward.combine

    def broken(losses: torch.Tensor, weights: torch.Tensor, rows: int) -> torch.Tensor:
        first = torch.arange(len(weights)) < len(weights) // 2
        return combine(losses, weights.masked_fill(first, 0.0), rows)

    patch.setattr(forward, "combine", broken)


def lose_the_prior(patch: pytest.MonkeyPatch) -> None:
    """The loss weighting, the other way: class rows count nothing."""
    class_ = dataset.PairedRows.class_

    def broken(self, position: int):
        row = class_(self, position)
        return dataset.Row(row.view, row.prompt, 0.0, is_class=True)

    patch.setattr(dataset.PairedRows, "class_", broken)


def swap_prompts(patch: pytest.MonkeyPatch) -> None:
    """The prompt pairing: photos are shown as the class, class images as the subject."""
    rows = dataset.PairedRows
    instance, class_ = rows.instance, rows.class_

    def text_of_the_other(own, other):
        def broken(self, position: int):
            row = own(self, position)
            text = other(self, position).prompt
            return dataset.Row(row.view, text, row.weight, is_class=row.is_class)

        return broken

    patch.setattr(rows, "instance", text_of_the_other(instance, class_))
    patch.setattr(rows, "class_", text_of_the_other(class_, instance))


def serve_one_picture(patch: pytest.MonkeyPatch) -> None:
    """The cache: one key for all, so that everything trains on the first photo."""
    sample = cache.LatentCache.sample

    def broken(self, view, noise: torch.Tensor) -> torch.Tensor:
        return sample(self, next(iter(self._latents)), noise)

    patch.setattr(cache.LatentCache, "sample", broken)


@pytest.mark.slow
@pytest.mark.parametrize(
    "breakage", [weigh_class_rows_only, lose_the_prior, swap_prompts, serve_one_picture]
)
def test_a_broken_trainer_is_caught(bench, monkeypatch, breakage) -> None:
    breakage(monkeypatch)
    assert missed(bench, ours(breakage.__name__, (STEPS,)))
