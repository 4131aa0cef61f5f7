"""One stage of training: steps, a running mean of the weights, and a state that resumes exactly."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from ...trainer.checkpoint import read_checkpoint, write_checkpoint
from .recipe import BaseFailed, Recipe, learning_rate

PROBE = (6, 30)  # the steps between which the pace is measured
LOG_EVERY = 20
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass
class Budget:
    """How far a stage goes and when this process leaves it."""

    steps: int | None = None
    seconds: float | None = None
    """Instead of steps: what the whole stage may take; the steps follow from the pace."""
    leave_at: float = float("inf")
    """``time.monotonic()`` at which to save and stop; the same command goes on later."""
    save_every: float = 120.0
    pictures: int = 5
    """Sample grids on the way, the last at the end."""


@dataclass
class Stage:
    """A module that learns and where it stands."""

    name: str
    module: nn.Module
    loss: Callable[[int], Tensor]
    """The loss of a step, a function of the step alone."""
    lr: float
    batch: int
    recipe: Recipe
    folder: Path
    decay: float
    show: Callable[[str], None] = lambda line: None
    origin: str = ""
    """What it learns from, where that is a result, too: a state of another's is refused."""
    step: int = 0
    steps: int | None = None
    seconds: float = 0.0
    ema: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parameters = dict(self.module.named_parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=self.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.ema = {name: value.detach().clone() for name, value in self.parameters.items()}
        if self.file.is_file():
            self._load()

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.safetensors"

    @property
    def finished(self) -> bool:
        return self.steps is not None and self.step >= self.steps

    def aim(self, budget: Budget) -> None:
        """Takes the budget's steps, where it names any: also more, or fewer, than it began with."""
        if budget.steps:
            self.steps = max(budget.steps, self.step)

    def advance(self) -> Tensor:
        """One step; the loss, still on its device."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.lr, self.step, self.steps)
        loss = self.loss(self.step)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        keep = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.ema.values()), list(self.parameters.values()), 1.0 - keep
            )
        return loss.detach()

    def averaged(self) -> dict[str, Tensor]:
        """The module's state with the mean weights."""
        return {**self.module.state_dict(), **self.ema}

    # ---- on disk ---------------------------------------------------------------------------------

    def save(self) -> None:
        """The whole stage in one file, replaced in one move."""
        tensors = {f"ema.{name}": value for name, value in self.ema.items()}
        for name, parameter in self.parameters.items():
            tensors[f"weight.{name}"] = parameter.detach()
            for moment in MOMENTS if self.step else ():
                tensors[f"{moment}.{name}"] = self.optimizer.state[parameter][moment]
        position = {"step": self.step, "steps": self.steps, "seconds": round(self.seconds, 1)}
        metadata = {"recipe": self.recipe.to_json(), "position": json.dumps(position)}
        if self.origin:
            metadata["origin"] = self.origin
        self.folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(self.file, tensors, metadata)

    def _load(self) -> None:
        tensors, metadata = read_checkpoint(self.file)
        self.recipe.check(metadata["recipe"], self.name)
        if metadata.get("origin", "") != self.origin:
            raise BaseFailed(
                f"{self.file} learned from another autoencoder than the one beside it, or began"
                " with another --start: give the same, or move it away, and it begins anew"
            )
        for name, value in json.loads(metadata["position"]).items():
            setattr(self, name, value)
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(tensors[f"weight.{name}"])
                self.ema[name].copy_(tensors[f"ema.{name}"])
                if self.step:
                    self.optimizer.state[parameter] = self._moments(tensors, name, parameter)

    def _moments(self, tensors: dict[str, Tensor], name: str, parameter: Tensor) -> dict:
        moments = {m: tensors[f"{m}.{name}"].to(parameter.device).clone() for m in MOMENTS}
        if parameter.dim() == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
            like = {"memory_format": torch.channels_last}
            moments = {m: value.contiguous(**like) for m, value in moments.items()}
        return {"step": torch.tensor(float(self.step), device=parameter.device), **moments}


def run(stage: Stage, budget: Budget, picture: Callable[[], None]) -> bool:
    """Trains until the stage is finished (True) or it is time to leave (False); always saves."""
    stage.aim(budget)
    begun, before, saved = time.monotonic(), stage.seconds, time.monotonic()
    first, total, count, since = stage.step, 0.0, 0, begun
    while not stage.finished and time.monotonic() < budget.leave_at:
        total, count = total + stage.advance(), count + 1
        if stage.steps is None and stage.step - first in PROBE:
            float(total)  # waits for the card
            since = _plan(stage, budget, first, since)
        if stage.step % LOG_EVERY == 0 or stage.finished:
            stage.seconds = before + time.monotonic() - begun
            _report(stage, float(total) / count, stage.step - first, time.monotonic() - begun)
            total, count = 0.0, 0
            if time.monotonic() - saved > budget.save_every:
                stage.save()
                saved = time.monotonic()
        if stage.steps and _due(stage, budget.pictures):
            picture()
    if count and not math.isfinite(float(total)):
        raise BaseFailed(f"{stage.name}: the loss is not finite at step {stage.step}")
    stage.seconds = before + time.monotonic() - begun
    stage.save()
    return stage.finished


def _plan(stage: Stage, budget: Budget, first: int, since: float) -> float:
    """After the first steps: how many fit into the budget."""
    now = time.monotonic()
    if stage.step - first == PROBE[1]:
        pace = (now - since) / (PROBE[1] - PROBE[0])
        assert budget.seconds is not None
        stage.steps = max(stage.step, round(0.94 * budget.seconds / pace))  # rest: grids, saves
        stage.show(f"{stage.name}: {pace * 1000:.0f} ms a step, so {stage.steps} steps")
    return now


def _due(stage: Stage, pictures: int) -> bool:
    assert stage.steps
    return stage.step * pictures // stage.steps > (stage.step - 1) * pictures // stage.steps


def _report(stage: Stage, loss: float, done: int, seconds: float) -> None:
    if not math.isfinite(loss):
        raise BaseFailed(f"{stage.name}: the loss is {loss} at step {stage.step}: lower the rate")
    rate = done / max(seconds, 1e-9)
    with (stage.folder / "log.jsonl").open("a", encoding="utf-8") as log:
        line = {"stage": stage.name, "step": stage.step, "loss": round(loss, 6)}
        log.write(json.dumps(line) + "\n")
    left = (stage.steps - stage.step) / rate if stage.steps else float("nan")
    clock = f"{int(left) // 60}:{int(left) % 60:02d} left" if left == left else "measuring"
    stage.show(
        f"{stage.name} {stage.step}/{stage.steps or '?'}  loss {loss:.4f}  "
        f"{rate * stage.batch:.0f} images/s  {clock}"
    )
