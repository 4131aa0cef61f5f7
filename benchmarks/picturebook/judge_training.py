"""Trains the judge on a processor: many individuals, each with near-misses, in several settings."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...demo.world import CLASSES, KINDS, Looks, Scene, scene_of, subject
from .judge import FEATURES, PLACES, Judge, JudgeNet, write_weights
from .judge_exam import examine, fix_threshold, held_out_cases
from .judge_pictures import degrade, draw_all, is_held_out, near_miss, to_unit

ATTRIBUTES = {
    "colour": tuple(sorted({c for of in KINDS.values() for c in of.colours})),
    "second": tuple(sorted({c for of in KINDS.values() for c in of.seconds})),
    "marking": tuple(sorted({m for of in KINDS.values() for m in of.markings})),
    "shape": tuple(sorted({s for of in KINDS.values() for s in of.shapes})),
    "extra": tuple(sorted({e for of in KINDS.values() for e in of.extras})),
}
DAMAGED = 0.8  # share of training pictures
WARMUP = 50


@dataclass(frozen=True)
class Stage:
    """Some steps with batches of one make."""

    steps: int
    lr: float
    temperature: float
    batch: tuple[int, int, int, int]
    """Classes, families of each, members of each, pictures of each."""
    attributes: float = 0.0
    """Weight of the attributes' losses beside the contrastive one."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """What decides the result. A family is an individual with its near-misses."""

    seed: int = 0
    families: int = 80
    """Of each class."""
    members: int = 3
    scenes: int = 6
    """Pictures of each member."""
    stages: tuple[Stage, ...] = (
        Stage(1300, 2e-3, 0.1, (8, 2, 2, 4), attributes=0.2),
        Stage(400, 1e-3, 0.05, (4, 4, 2, 4)),  # more of a class beside each other: harder
    )


def family(seed: int, kind: str, members: int) -> list[Looks]:
    """An individual, every second one of colours reserved for held-out ones, and near-misses."""
    rng = random.Random(f"family {kind} {seed}")
    tries = (subject(rng.randrange(10**9), kind, seed % 2 == 1) for _ in range(1000))
    found = [next(looks for looks in tries if not is_held_out(looks))]
    while len(found) < members:
        other = near_miss(found[0], rng)
        if other not in found:
            found.append(other)
    return found


def scenes_of(lesson: Lesson) -> list[Scene]:
    """By class, family, member; the seeds of all scenes are different and below 10⁹."""
    families = [
        family(lesson.seed * lesson.families + number, kind, lesson.members)
        for kind in CLASSES
        for number in range(lesson.families)
    ]
    everyone = [looks for members in families for looks in members]
    first = lesson.seed * len(everyone) * lesson.scenes
    return [
        scene_of(looks, first + number * lesson.scenes + n)
        for number, looks in enumerate(everyone)
        for n in range(lesson.scenes)
    ]


def batches(lesson: Lesson, stage: Stage, g: torch.Generator) -> Iterator[Tensor]:
    """Rows of the pool, ``[B]``: few classes, so that most of a batch is hard to tell apart."""
    kinds, families, members, scenes = stage.batch
    for _ in range(stage.steps):
        rows = _pick(len(CLASSES), kinds, 1, g)[0, :, None]
        for of, count in (
            (lesson.families, families), (lesson.members, members), (lesson.scenes, scenes)
        ):  # fmt: skip
            rows = (rows * of + _pick(of, count, len(rows), g)).reshape(-1, 1)
        yield rows[:, 0]


def _pick(of: int, count: int, rows: int, g: torch.Generator) -> Tensor:
    """``[rows, count]`` different numbers below ``of`` in each row."""
    return torch.rand(rows, of, generator=g).argsort(dim=1)[:, :count]


def contrastive_loss(embedding: Tensor, individuals: Tensor, temperature: float) -> Tensor:
    """SupCon, L_out of Khosla et al. 2020, of ``[B, D]`` rows with ``[B]`` individuals."""
    itself = torch.eye(len(embedding), dtype=torch.bool)
    logits = (embedding @ embedding.T / temperature).masked_fill(itself, -math.inf)
    same = (individuals[:, None] == individuals[None]) & ~itself
    shares = logits.log_softmax(dim=1).masked_fill(~same, 0.0)
    return -(shares.sum(dim=1) / same.sum(dim=1)).mean()


class Attributes(nn.Module):
    """Heads that name colours, marking, shape and extra: they teach and are not kept."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(FEATURES, len(v)) for v in ATTRIBUTES.values())

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Sum of the cross entropies; ``labels`` [B, 5]."""
        pairs = zip(self.heads, labels.T, strict=True)
        return sum(F.cross_entropy(head(features), label) for head, label in pairs)


@dataclass(frozen=True)
class Pool:
    """All pictures of a lesson and their labels, one row each."""

    pictures: Tensor
    kinds: Tensor
    settings: Tensor
    attributes: Tensor
    individuals: Tensor


def make_pool(lesson: Lesson) -> Pool:
    scenes = scenes_of(lesson)
    return Pool(
        draw_all(scenes),
        _numbers([scene.kind for scene in scenes], CLASSES),
        _numbers([scene.setting for scene in scenes], PLACES),
        torch.stack(
            [_numbers([getattr(s.looks, a) for s in scenes], v) for a, v in ATTRIBUTES.items()], 1
        ),
        torch.arange(len(scenes)) // lesson.scenes,
    )


def _numbers(words: Sequence[str], vocabulary: Sequence[str]) -> Tensor:
    return torch.tensor([vocabulary.index(word) for word in words])


def make(lesson: Lesson, path: Path, say=print) -> None:
    """Draws, trains, rounds to fp16, and keeps the result."""
    began = time.perf_counter()
    pool = make_pool(lesson)
    say(f"drew {len(pool.pictures)} pictures in {time.perf_counter() - began:.0f} s")
    net = learn(lesson, pool, say).half().float()
    say(f"trained after {time.perf_counter() - began:.0f} s")
    keep(lesson, pool, net, path)


def keep(lesson: Lesson, pool: Pool, net: JudgeNet, path: Path) -> None:
    """Fixes the threshold, examines, and writes weights and figures."""
    judge = Judge(net, fix_threshold(Judge(net, 0.0)))
    cases = held_out_cases()
    about = {
        "threshold": judge.threshold,
        "lesson": asdict(lesson),
        "pictures": len(pool.pictures),
        "individuals": int(pool.individuals[-1]) + 1,
        "parameters": sum(p.numel() for p in net.parameters()),
        "exam": {
            name: examine(judge, cases, name == "damaged").to_json()
            for name in ("clean", "damaged")
        },
    }
    write_weights(path, net, about)


def learn(lesson: Lesson, pool: Pool, say=print) -> JudgeNet:
    """The stages; the same lesson gives the same weights on the same machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lesson.seed)
        net, extra = JudgeNet(), Attributes()
    net.to(memory_format=torch.channels_last)
    for number, stage in enumerate(lesson.stages):
        g = torch.Generator().manual_seed(lesson.seed + number)
        learn_stage(lesson, stage, pool, net, extra, g, say)
    return net


def learn_stage(
    lesson: Lesson,
    stage: Stage,
    pool: Pool,
    net: JudgeNet,
    extra: Attributes,
    g: torch.Generator,
    say=print,
) -> None:
    """Moves ``net``; its heads for attributes learn only where they count."""
    parameters = [*net.parameters(), *(extra.parameters() if stage.attributes else ())]
    optimizer = torch.optim.AdamW(parameters, stage.lr, weight_decay=0.02)
    began, seen = time.perf_counter(), torch.zeros(3)
    for step, rows in enumerate(batches(lesson, stage, g), start=1):
        for group in optimizer.param_groups:
            group["lr"] = stage.lr * rate(step, stage.steps)
        losses = _losses(net, extra, pool, rows, stage.temperature, g)
        optimizer.zero_grad()
        (losses[0] + losses[1] + stage.attributes * losses[2]).backward()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()
        seen += torch.stack(losses).detach()
        if step % 50 == 0 or step == stage.steps:
            means = "individual {:.3f}, class and setting {:.3f}, attributes {:.3f}".format(
                *(seen / (step % 50 or 50)).tolist()
            )
            say(f"step {step}/{stage.steps}: {means}, {time.perf_counter() - began:.0f} s")
            seen.zero_()


def _losses(net: JudgeNet, extra: Attributes, pool: Pool, rows: Tensor, temperature: float,
            g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Of the individuals, of class and setting, of the attributes."""
    clean = to_unit(pool.pictures[rows])
    damaged = torch.rand(len(rows), 1, 1, 1, generator=g) < DAMAGED
    pictures = torch.where(damaged, degrade(clean, g), clean)
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    kinds, settings, embedding, features = net(pictures)
    scene = F.cross_entropy(kinds, pool.kinds[rows])
    scene = scene + F.cross_entropy(settings, pool.settings[rows])
    individual = contrastive_loss(embedding, pool.individuals[rows], temperature)
    return individual, scene, extra.loss(features, pool.attributes[rows])


def rate(step: int, steps: int) -> float:
    """Up over the first steps, then along a cosine to zero."""
    return min(step / WARMUP, (1 + math.cos(math.pi * step / steps)) / 2)
