"""From pictures to figures: likeness, prompts kept, drift, diversity; each with its interval.

Likeness is the cosine between the judge's embedding of a picture and the mean of the photos'. It is
put on a scale of each subject's own: 0 = what the base paints when asked for the class, 1 = other
true pictures of the subject, both as the base's autoencoder gives them back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...demo.world import CLASSES, SETTINGS
from .cases import Case
from .judge import Judge, likeness

RESAMPLES = 2000
NAMED_SETTINGS = ("", *SETTINGS)


@dataclass(frozen=True)
class Scale:
    """A subject's own zero and one."""

    prototypes: Tensor
    zero: float
    one: float

    def __call__(self, embedding: Tensor) -> Tensor:
        return (likeness(embedding, self.prototypes) - self.zero) / (self.one - self.zero)


@dataclass(frozen=True)
class Scores:
    """What the judge says of one contender's pictures of one subject, one entry a picture."""

    likeness: np.ndarray
    kind_right: np.ndarray
    setting_right: np.ndarray
    drift: np.ndarray
    """Likeness of the plain class pictures; the base's own is taken off."""
    diversity: float
    """Mean distance of two plain pictures; in units of the base's."""
    pixel_diversity: float
    """The same straight from the pixels."""


def make_scale(judge: Judge, photos: Tensor, true: Tensor, base: Tensor) -> Scale:
    """All pictures ``[B, 3, h, w]`` in 0…1; ``base``: the base's pictures of the class."""
    prototypes = judge(photos).embedding
    zero = float(likeness(judge(base).embedding, prototypes).mean())
    one = float(likeness(judge(true).embedding, prototypes).mean())
    return Scale(prototypes, zero, one)


def score(
    judge: Judge, scale: Scale, case: Case, settings: Sequence[str], placed: Tensor, plain: Tensor,
    base_plain: Tensor,
) -> Scores:  # fmt: skip
    """``settings``: of each picture in ``placed``."""
    verdict, plainly, before = judge(placed), judge(plain), judge(base_plain)
    wanted = torch.tensor([NAMED_SETTINGS.index(setting) for setting in settings])
    return Scores(
        likeness=scale(verdict.embedding).numpy(),
        kind_right=(verdict.kinds == CLASSES.index(case.kind)).float().numpy(),
        setting_right=(verdict.settings == wanted).float().numpy(),
        drift=(scale(plainly.embedding) - scale(before.embedding).mean()).numpy(),
        diversity=spread(plainly.embedding) / spread(before.embedding),
        pixel_diversity=pixel_spread(plain) / pixel_spread(base_plain),
    )


def spread(embedding: Tensor) -> float:
    """Mean of 1 − cosine over all pairs of unit rows ``[B, D]``."""
    count = len(embedding)
    cosines = embedding @ embedding.T
    others = (cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1))
    return float(1 - others)


def pixel_spread(pictures: Tensor) -> float:
    """Mean root-mean-square distance over all pairs of pictures ``[B, 3, h, w]``."""
    flat = pictures.flatten(1)
    distances = torch.pdist(flat) / flat.shape[1] ** 0.5
    return float(distances.mean())


FIGURES: dict[str, Callable[[Scores], np.ndarray]] = {
    "subject_fidelity": lambda s: s.likeness,
    "prompt_fidelity": lambda s: (s.kind_right + s.setting_right) / 2,
    "kind_right": lambda s: s.kind_right,
    "setting_right": lambda s: s.setting_right,
    "prior_drift": lambda s: s.drift,
    "diversity": lambda s: np.array([s.diversity]),
    "pixel_diversity": lambda s: np.array([s.pixel_diversity]),
}


def figure(values: list[np.ndarray], seed: int = 0) -> dict[str, float]:
    """Mean over subjects of the mean over pictures, with a 95 % interval.

    A bootstrap in two stages: subjects are drawn again, then the pictures of each (Davison &
    Hinkley 1997, §3.8): what varies between subjects counts, not only between pictures.
    """
    rng = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for n in range(RESAMPLES):
        chosen = rng.integers(len(values), size=len(values))
        means[n] = np.mean([values[i][rng.integers(len(values[i]), size=len(values[i]))].mean()
                            for i in chosen])  # fmt: skip
    low, high = np.percentile(means, (2.5, 97.5))
    value = float(np.mean([v.mean() for v in values]))
    return {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def row(name: str, steps: int, seconds: float, scores: list[Scores]) -> dict[str, object]:
    """One line of ``quality.json``."""
    figures = {key: figure([take(s) for s in scores]) for key, take in FIGURES.items()}
    return {"name": name, "steps": steps, "seconds": round(seconds, 1), **figures}
