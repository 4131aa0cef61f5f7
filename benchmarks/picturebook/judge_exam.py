"""Examines the judge on pictures that it can not know: all held-out subjects, evaluation seeds.

The threshold is fixed beforehand, on training-type individuals that were not in the training.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from ...demo.world import CLASSES, HELD_OUT, Looks, random_scene, scene_of, subject
from .judge import PLACES, Judge, likeness
from .judge_pictures import EVALUATION_SEED, degrade, draw_all, is_held_out, near_miss, to_unit

GOAL = 0.95
PROTOTYPES = 5
COUNT = 21  # pictures of each sort for each subject; 7 places are left for them
CALIBRATION_SEED = EVALUATION_SEED - 10_000_000  # no training goes that far
STRIDE = 10_000  # seeds of one case
SORTS = ("own", "others", "near")


@dataclass(frozen=True)
class Case:
    """Clean pictures of a subject, fp32, and by sort, in other places: of itself, of others of its
    class as pre-training shows them, of near-misses."""

    prototypes: Tensor
    pictures: dict[str, Tensor]
    places: list[int]
    """Of each sort's pictures."""
    kind: int


def make_case(looks: Looks, seed: int, count: int = COUNT) -> Case:
    rng = random.Random(f"case {seed}")
    places = rng.sample(PLACES, len(PLACES))
    shown, rest = places[:PROTOTYPES], places[PROTOTYPES:]

    def drawn(things: Iterable[Looks], first: int, where: Sequence[str]) -> Tensor:
        numbered = enumerate(things)
        return to_unit(
            draw_all(scene_of(t, seed + first + n, where[n % len(where)]) for n, t in numbered)
        )

    sorts = (
        [looks] * count,
        islice(_others(looks, seed), count),
        [near_miss(looks, rng) for _ in range(count)],
    )
    pictures = {
        name: drawn(things, 1000 * number, rest)
        for number, (name, things) in enumerate(zip(SORTS, sorts, strict=True), start=1)
    }
    where = [PLACES.index(rest[n % len(rest)]) for n in range(count)]
    return Case(drawn([looks] * PROTOTYPES, 0, shown), pictures, where, CLASSES.index(looks.kind))


def _others(looks: Looks, seed: int) -> Iterator[Looks]:
    for number in range(seed, seed + STRIDE):
        other = subject(number, looks.kind)
        if replace(other, jitter=looks.jitter) != looks:
            yield other


def held_out_cases(count: int = COUNT) -> dict[str, Case]:
    return {
        name: make_case(looks, EVALUATION_SEED + STRIDE * number, count)
        for number, (name, looks) in enumerate(HELD_OUT.items())
    }


@dataclass(frozen=True)
class Answers:
    """Of a case's pictures: by sort the likeness to the prototypes, and of the subject's own
    pictures whether class and setting are right. ``[count]`` each."""

    likeness: dict[str, Tensor]
    kinds: Tensor
    settings: Tensor


def ask(judge: Judge, case: Case, damage: torch.Generator | None = None) -> Answers:
    """Prototypes stay clean; the rest is damaged where a generator says how."""
    prototypes = judge(case.prototypes).embedding
    verdicts = {
        name: judge(pictures if damage is None else degrade(pictures, damage))
        for name, pictures in case.pictures.items()
    }
    own = verdicts["own"]
    return Answers(
        {name: likeness(verdict.embedding, prototypes) for name, verdict in verdicts.items()},
        own.kinds == case.kind,
        own.settings == torch.tensor(case.places),
    )


def fix_threshold(judge: Judge, individuals: int = 4, count: int = 7) -> float:
    """Where own pictures and others part best, over all classes; half of them damaged."""
    own, others = [], []
    g = torch.Generator().manual_seed(CALIBRATION_SEED)
    for number in range(len(CLASSES) * individuals):
        seed, kind = CALIBRATION_SEED + STRIDE * number, CLASSES[number % len(CLASSES)]
        looks = subject(seed, kind, held_out=number // len(CLASSES) % 2 == 1)
        if is_held_out(looks):
            continue
        case = make_case(looks, seed, count)
        for damage in (None, g):
            answers = ask(judge, case, damage)
            own.append(answers.likeness["own"])
            others.append(answers.likeness["others"])
    grid = torch.linspace(-1, 1, 401)
    told = [(torch.cat(own) > t).sum() + (torch.cat(others) <= t).sum() for t in grid]
    best = torch.stack(told)
    return round(float(grid[best == best.max()].mean()), 4)


@dataclass(frozen=True)
class Share:
    """``right`` of ``of``, with its Wilson 95 % interval (Wilson 1927)."""

    right: int
    of: int

    @classmethod
    def count(cls, *right: Tensor) -> Share:
        """Of all entries of some ``[B]`` bool."""
        return cls(sum(int(r.sum()) for r in right), sum(map(len, right)))

    @property
    def value(self) -> float:
        return self.right / self.of

    @property
    def interval(self) -> tuple[float, float]:
        z, n, p = 1.959964, self.of, self.value
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:6.1%}  {self.right}/{self.of}  [{low:.1%}, {high:.1%}]"


def auc(own: Tensor, others: Tensor) -> float:
    """How often an own picture is more like the subject than another thing; ties count half."""
    above = (own[:, None] > others).double() + 0.5 * (own[:, None] == others)
    return float(above.mean())


@dataclass(frozen=True)
class Report:
    """Shares of rightly told pictures; there are as many own as other ones, so those of
    individuals and of near-misses are balanced accuracies."""

    individuals: Share
    near_misses: Share
    classes: Share
    settings: Share
    auc: float
    auc_near: float

    @property
    def goals(self) -> tuple[Share, Share, Share]:
        return self.individuals, self.classes, self.settings

    def to_json(self) -> dict[str, object]:
        shares = ("individuals", "near_misses", "classes", "settings")
        counts = {name: [getattr(self, name).right, getattr(self, name).of] for name in shares}
        return {**counts, "auc": round(self.auc, 4), "auc_near": round(self.auc_near, 4)}

    def __str__(self) -> str:
        return (f"  subject or another of its class  {self.individuals}  AUC {self.auc:.4f}\n"
                f"  subject or a near-miss of it     {self.near_misses}  AUC {self.auc_near:.4f}\n"
                f"  class                            {self.classes}\n"
                f"  setting                          {self.settings}")  # fmt: skip


def report(answers: Sequence[Answers], threshold: float) -> Report:
    own, others, near = (torch.cat([a.likeness[name] for a in answers]) for name in SORTS)
    hits = int((own > threshold).sum())

    def told(wrong: Tensor) -> Share:
        return Share(hits + int((wrong <= threshold).sum()), len(own) + len(wrong))

    return Report(
        told(others),
        told(near),
        Share.count(*(a.kinds for a in answers)),
        Share.count(*(a.settings for a in answers)),
        sum(auc(a.likeness["own"], a.likeness["others"]) for a in answers) / len(answers),
        sum(auc(a.likeness["own"], a.likeness["near"]) for a in answers) / len(answers),
    )


def any_scenes(judge: Judge, count: int) -> tuple[Share, Share]:
    """Class and setting of random scenes of all classes, clean."""
    scenes = [random_scene(EVALUATION_SEED + n) for n in range(count)]
    verdict = judge(to_unit(draw_all(scenes)))
    kinds = torch.tensor([CLASSES.index(s.kind) for s in scenes])
    settings = torch.tensor([PLACES.index(s.setting) for s in scenes])
    return Share.count(verdict.kinds == kinds), Share.count(verdict.settings == settings)


def examine(judge: Judge, cases: Mapping[str, Case], damaged: bool) -> Report:
    g = torch.Generator().manual_seed(EVALUATION_SEED) if damaged else None
    return report([ask(judge, case, g) for case in cases.values()], judge.threshold)


def show(judge: Judge) -> bool:
    """Prints the whole exam; whether every share of clean pictures reaches the goal."""
    cases = held_out_cases()
    clean, damaged = (examine(judge, cases, damaged) for damaged in (False, True))
    kinds, settings = any_scenes(judge, 200)
    print(f"{len(cases)} held-out subjects, likeness above {judge.threshold} counts as the subject")
    print(f"clean pictures\n{clean}\ndamaged pictures\n{damaged}")
    print(f"random scenes of all classes\n  class    {kinds}\n  setting  {settings}")
    return all(share.value >= GOAL for share in clean.goals)
