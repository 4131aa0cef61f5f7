"""Who competes: the base, the textbook loop, and our trainer in several settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ...demo.recipe import PICTURE_BOOK
from ...trainer.checkpoint import read_checkpoint
from ...trainer.config import UNET_AND_TEXT_ENCODER, Concept, Job, TrainConfig
from ...trainer.events import Event, Saved, Step
from ...trainer.loop import train
from ...trainer.model import StableDiffusion
from .cases import SIZE, Case, read_photos
from .sampling import load_model
from .textbook import TextbookConfig, train_textbook


@dataclass(frozen=True)
class Material:
    """What every contender is given for a subject."""

    case: Case
    base: Path
    photos: list[str]
    classes: list[str]
    folder: Path
    """For the contender's own files."""
    device: torch.device

    def model(self, file: Path | None = None) -> StableDiffusion:
        return load_model(file or self.base, self.device)


@dataclass(frozen=True)
class Mark:
    """A model on the way: after so many steps and so many seconds inside them."""

    steps: int
    seconds: float
    model: Callable[[], StableDiffusion]


Run = Callable[[Material], Iterator[Mark]]


@dataclass(frozen=True)
class Contender:
    """One line of the table; ``options`` say everything that decides its result."""

    name: str
    run: Run
    options: dict[str, object]
    identifier: bool = True
    """Whether it is asked for the subject by its identifier; the base is asked for its class."""

    @property
    def learns(self) -> bool:
        return bool(self.options)


def base() -> Contender:
    """The untrained model, asked for the class: 0 on the scale of fidelity."""
    return Contender("base", lambda given: iter([Mark(0, 0.0, given.model)]), {}, identifier=False)


def textbook(name: str, marks: tuple[int, ...], **options: float) -> Contender:
    config = TextbookConfig(max_train_steps=max(marks), **options)

    def run(given: Material) -> Iterator[Mark]:
        model, case = given.model(), given.case
        prompts = (case.instance_prompt, case.class_prompt)
        photos, classes = (read_photos(p).to(given.device) for p in (given.photos, given.classes))
        for steps, seconds in train_textbook(model, photos, classes, prompts, config):
            if steps in marks:
                yield Mark(steps, seconds, lambda: model)

    return Contender(name, run, {"marks": marks, **dataclasses.asdict(config)})


def ours(name: str, marks: tuple[int, ...], prior_weight: float = 1.0, **options) -> Contender:
    """Our trainer as the node runs it; only its files are kept."""
    every = marks[0] if len(marks) > 1 else 0
    assert all(mark % marks[0] == 0 for mark in marks), "extra files are saved at a fixed distance"
    values = {**PICTURE_BOOK.settings, **options, "steps": max(marks)}
    config = TrainConfig(
        **{**values, "resolution": SIZE, "preview_every": 0, "save_every": every, "keep": 1000}
    )

    def run(given: Material) -> Iterator[Mark]:
        seconds, files = {0: 0.0}, {}

        def listen(event: Event) -> None:
            if isinstance(event, Step):
                seconds[event.step] = seconds[event.step - 1] + event.step_seconds
            elif isinstance(event, Saved):
                files[event.step] = event.path

        job = make_job(given, config, prior_weight)
        tensors, _ = read_checkpoint(given.base)
        train(job, tensors, device=given.device, listener=listen)
        for steps in marks:
            yield Mark(steps, seconds[steps], lambda path=files[steps]: given.model(path))
        for path in files.values():
            path.unlink()

    return Contender(
        name, run, {"marks": marks, "prior_weight": prior_weight, **dataclasses.asdict(config)}
    )


def make_job(given: Material, config: TrainConfig, prior_weight: float) -> Job:
    """The graph's job: one concept, class images only where they weigh something."""
    concept = Concept(
        instance_prompt=given.case.instance_prompt,
        instance_images=tuple(given.photos),
        class_prompt=given.case.class_prompt,
        class_images=tuple(given.classes) if prior_weight else (),
        class_noun=given.case.kind,
        prior_weight=prior_weight,
    )
    return Job(
        name="bench",
        checkpoints=str(given.folder / "checkpoints"),
        runs=str(given.folder / "runs"),
        cache=str(given.folder / "cache"),
        concepts=(concept,),
        config=config,
        base=str(given.base),
    )


def field(steps: int) -> list[Contender]:
    """The table's rows. ``steps``: of our trainer; the textbook loop runs its README's 800."""
    half, rate = steps // 2, PICTURE_BOOK.settings["learning_rate"]
    return [
        base(),
        textbook("textbook", (800,)),
        textbook("textbook, our rate", (steps, 2 * steps), learning_rate=rate),
        ours("ours", (half, steps)),
        ours("ours, no prior", (steps,), prior_weight=0.0),
        ours("ours, with text encoder", (steps,), trains=UNET_AND_TEXT_ENCODER,
             text_encoder_learning_rate=rate / 10),
    ]  # fmt: skip
