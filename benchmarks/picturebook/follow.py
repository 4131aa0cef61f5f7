"""Whether the base draws what it is asked for: each class in each new setting, told by the judge.

Beside it what the judge says of true pictures behind the base's autoencoder: where it errs there,
the autoencoder lost the class or the judge is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...demo.base.pool import EVALUATION_SEED
from ...demo.recipe import PICTURE_BOOK
from ...demo.world import CLASSES, PLACES, draw, scene_of, subject
from ...trainer.model import StableDiffusion
from .cases import NEW_SETTINGS, SIZE, pixels_of
from .judge import PLACES as NAMED
from .judge import Judge
from .judge_exam import Share
from .sampling import from_bytes, load_model, sample_all, to_bytes

COLUMNS = ("class", "setting", "both", "class, true pictures")


@dataclass(frozen=True)
class Followed:
    """One class: how many of its pictures the judge told right."""

    kind: str
    classes: Share
    settings: Share
    both: Share
    true_classes: Share

    @property
    def shares(self) -> tuple[Share, ...]:
        """In the order of ``COLUMNS``."""
        return self.classes, self.settings, self.both, self.true_classes

    def __str__(self) -> str:
        return f"{self.kind:10}" + "".join(
            f"{f'{s.right}/{s.of}':>10} {s.value:4.0%}     " for s in self.shares
        )

    def to_json(self) -> dict[str, object]:
        found = {
            name: {"right": share.right, "of": share.of, "low": round(share.interval[0], 4),
                   "high": round(share.interval[1], 4)}
            for name, share in zip(COLUMNS, self.shares, strict=True)
        }  # fmt: skip
        return {"name": self.kind, **found}


def follow(
    base: Path,
    each: int,
    device: torch.device,
    kinds: Iterable[str] = CLASSES,
    show: Callable[[str], None] = print,
) -> list[Followed]:
    """A line for each class, all together last.

    Args:
        each: pictures of a class in a setting.

    Raises:
        CheckpointError, JudgeError, OSError: the base's file or the judge's cannot be read.
    """
    model, judge = load_model(base, device), Judge.load()
    asked, rows = [s for s in NEW_SETTINGS for _ in range(each)], []
    show(" " * 10 + "".join(f"{name:20}" for name in COLUMNS))
    for kind in kinds:
        rows.append(follow_kind(model, judge, kind, asked, device))
        show(str(rows[-1]))
    columns = zip(*(row.shares for row in rows), strict=True)
    sums = (Share(sum(s.right for s in c), sum(s.of for s in c)) for c in columns)
    rows.append(Followed("all", *sums))
    show(str(rows[-1]))
    return rows


def follow_kind(
    model: StableDiffusion, judge: Judge, kind: str, asked: list[str], device: torch.device
) -> Followed:
    drawn = sample_all(
        model, [f"a photo of a {kind} {PLACES[setting].phrases[0]}" for setting in asked],
        size=SIZE, steps=PICTURE_BOOK.sampling_steps, cfg=PICTURE_BOOK.cfg, seed=0, device=device,
    )  # fmt: skip
    kinds, settings = told_right(judge, from_bytes(drawn), kind, asked)
    true, _ = told_right(judge, true_pictures(model, kind, asked, device), kind, asked)
    told = (kinds, settings, kinds & settings, true)
    return Followed(kind, *(Share.count(right) for right in told))


@torch.no_grad()
def true_pictures(
    model: StableDiffusion, kind: str, asked: list[str], device: torch.device
) -> Tensor:
    """Of individuals that are all different, through the autoencoder, in 0…1."""
    scenes = [
        scene_of(subject(EVALUATION_SEED + n, kind), EVALUATION_SEED + n, setting)
        for n, setting in enumerate(asked)
    ]
    mean, _ = model.encode_images(pixels_of([draw(s, SIZE) for s in scenes]).to(device))
    return from_bytes(to_bytes(model.decode_latents(mean)))


def told_right(
    judge: Judge, pictures: Tensor, kind: str, asked: list[str]
) -> tuple[Tensor, Tensor]:
    """Class and setting of each picture, ``[B]`` bool."""
    verdict = judge(pictures)
    wanted = torch.tensor([NAMED.index(setting) for setting in asked])
    return verdict.kinds == CLASSES.index(kind), verdict.settings == wanted
