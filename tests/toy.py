"""A toy model and toy pictures: whole runs of the trainer in about a second."""

import dataclasses
import hashlib
from functools import cache
from pathlib import Path

import torch
from nets import random_checkpoint
from pack.trainer.checkpoint import read_checkpoint
from pack.trainer.config import Concept, Job, TrainConfig
from pack.trainer.events import Event
from pack.trainer.loop import Result, train
from PIL import Image

CPU = torch.device("cpu")
FAST = {"resolution": 64, "steps": 2, "preview_every": 0, "learning_rate": 1e-3}


@cache
def _toy(kind: str) -> dict[str, torch.Tensor]:
    return random_checkpoint(kind, vae="tiny", seed=0)


def toy_base(kind: str = "toy") -> dict[str, torch.Tensor]:
    """A fresh copy of a toy checkpoint: the trainer uses up what it is given."""
    return {key: tensor.clone() for key, tensor in _toy(kind).items()}


def picture(path: Path, seed: int, size: tuple[int, int] = (80, 72)) -> str:
    """A smooth random picture with a colour of its own."""
    g = torch.Generator().manual_seed(seed)
    small = (torch.rand(3, 4, 3, generator=g) * 255).to(torch.uint8).numpy()
    Image.fromarray(small, "RGB").resize(size, Image.Resampling.BICUBIC).save(path)
    return str(path)


def make_concept(
    folder: Path, photos: int = 2, classes: int = 3, name: str = "zwx", **options: object
) -> Concept:
    """Pictures on disk and the concept that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    instance = [picture(folder / f"{name}{i}.png", 100 + i) for i in range(photos)]
    class_ = [picture(folder / f"{name}_class{i}.png", 200 + i) for i in range(classes)]
    return Concept(
        instance_prompt=f"a photo of {name} dog",
        instance_images=tuple(instance),
        class_prompt="a photo of a dog",
        class_images=tuple(class_),
        identifier=name,
        **options,
    )


def make_job(folder: Path, concepts: tuple[Concept, ...] | None = None, **config: object) -> Job:
    return Job(
        name="toy",
        checkpoints=str(folder / "checkpoints"),
        runs=str(folder / "runs"),
        cache=str(folder / "cache"),
        concepts=concepts or (make_concept(folder / "pictures"),),
        config=TrainConfig(**{**FAST, **config}),
    )


@dataclasses.dataclass
class Run:
    """A finished toy run with what it said."""

    result: Result
    events: list[Event]

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        return read_checkpoint(self.result.checkpoint)[0]

    @property
    def metadata(self) -> dict[str, str]:
        return read_checkpoint(self.result.checkpoint)[1]

    @property
    def sha(self) -> str:
        return hashlib.sha256(self.result.checkpoint.read_bytes()).hexdigest()


def run(
    job: Job,
    base: dict[str, torch.Tensor] | None = None,
    *,
    train_again: bool = True,
    **options: object,
) -> Run:
    """Trains always, unless a test is about runs that are handed over or go on."""
    events: list[Event] = []
    options = {"device": CPU} | options
    options |= {"listener": events.append, "train_again": train_again}
    return Run(train(job, base or toy_base(), **options), events)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], prefix: str = "") -> bool:
    """Whether all tensors under ``prefix`` are equal, bit for bit."""
    keys = sorted(key for key in a if key.startswith(prefix))
    assert keys and keys == sorted(key for key in b if key.startswith(prefix))
    return all(torch.equal(a[key], b[key]) for key in keys)
