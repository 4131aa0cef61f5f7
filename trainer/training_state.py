"""The whole state between two steps, on disk: from it a run goes on as if nothing had happened.

Every random draw is a function of (seed, purpose, position), so the state is the weights that
learn, the optimizer's moments and remainders, the averaged weights if there are any, the loss
scaler's numbers under fp16, and how many steps are done.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.nn import Parameter

from .checkpoint import CheckpointError, checksums, read_checkpoint, write_checkpoint
from .config import TrainConfig
from .config.train import LEAN
from .files import read_json, write_text
from .to_device import pinned

FORMAT = 1
_STATE = re.compile(r"step(\d+)\.json")  # not "step000100 (1).json", as sync programs make it
# AdamW's two moments of a trained weight
_MOMENT_BYTES = {"adamw": 8, "adamw8bit": 2}


def state_bytes(config: TrainConfig) -> int:
    """What a state takes on disk of each weight that learns."""
    averages = 4 if config.ema_decay else 0
    return (2 if config.weights == LEAN else 4) + moment_bytes(config) + averages


def moment_bytes(config: TrainConfig) -> int:
    """What the optimizer keeps of each weight that learns."""
    return _MOMENT_BYTES[config.optimizer]


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: finished optimizer steps.
        seconds: that they took.
        schedule: the numbers of steps that were asked for one after the other, where what is
            learned depends on them: a learning rate that falls, a text encoder that stops; else
            none.
    """

    step: int = 0
    seconds: float = 0.0
    schedule: tuple[int, ...] = ()


@dataclass(frozen=True)
class SavedState:
    """A state that was read and checked."""

    progress: Progress
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]


class StateFolder:
    """``step000123.safetensors`` with the tensors, and ``step000123.json`` that makes it count.

    The JSON is written last and holds each tensor's checksum: a state without it was not finished.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def steps(self) -> list[int]:
        """Of the states that were finished, oldest first."""
        found = (_STATE.fullmatch(path.name) for path in self._folder.glob("step*.json"))
        return sorted(int(match[1]) for match in found if match)

    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self._folder.glob("*"))

    def write(
        self, progress: Progress, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]
    ) -> None:
        """Write, verify, and only then let it count.

        Raises:
            CheckpointError, OSError: what was kept before is untouched.
        """
        self._folder.mkdir(exist_ok=True)
        path = self._path(progress.step)
        sums = write_checkpoint(path, tensors, {})
        about = {
            "format": FORMAT,
            "seconds": progress.seconds,
            "schedule": progress.schedule,
            "numbers": numbers,
            "crc32": sums,
        }
        write_text(path.with_suffix(".json"), json.dumps(about) + "\n")

    def read(self, step: int) -> SavedState:
        """A state whose every byte is as it was written.

        Raises:
            CheckpointError: it is damaged, or of another version.
        """
        path = self._path(step)
        about = read_json(path.with_suffix(".json"))
        tensors, _ = read_checkpoint(path)
        if about.get("format") != FORMAT or checksums(tensors) != about.get("crc32"):
            raise CheckpointError(f"{path.name} is damaged or of another version.")
        progress = Progress(step, about["seconds"], tuple(about["schedule"]))
        return SavedState(progress, tensors, about["numbers"])

    def newest(self) -> SavedState | None:
        """The newest one that can be read; None if there is none."""
        for step in reversed(self.steps()):
            with contextlib.suppress(CheckpointError, OSError, KeyError, TypeError, ValueError):
                return self.read(step)
        return None

    def prune(self, keep: int, up_to: int) -> None:
        """Only the newest ``keep`` up to a step stay, and nothing that was not finished."""
        stay = [step for step in self.steps() if step <= up_to]
        names = {f"step{step:06d}" for step in stay[max(0, len(stay) - keep) :]}
        # of each pair the JSON goes first: alone, the tensors do not count
        for path in sorted(self._folder.glob("*")):
            if path.stem not in names:
                with contextlib.suppress(OSError):  # Windows keeps what someone still reads
                    path.unlink(missing_ok=True)

    def _path(self, step: int) -> Path:
        return self._folder / f"step{step:06d}.safetensors"


def capture(
    parts: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, scaler: GradScaler | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, numbers) of weights, optimizer and loss scaler by name, without copies."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for name, parameter in learning(parts):
        tensors[f"weights.{name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            kind = tensors if isinstance(value, Tensor) else numbers
            kind[f"optimizer.{name}:{key}"] = value
    for key, value in (scaler.state_dict() if scaler else {}).items():
        numbers[f"scaler:{key}"] = value
    return tensors, numbers


def fits(state: SavedState, parts: Mapping[str, nn.Module]) -> bool:
    """Whether the state's weights are these modules' by name and shape.

    Another version of diffusers or transformers may call them differently.
    """
    prefix = "weights."
    saved = {
        key.removeprefix(prefix): tensor.shape
        for key, tensor in state.tensors.items()
        if key.startswith(prefix)
    }
    return saved == {name: parameter.shape for name, parameter in learning(parts)}


def restore(
    state: SavedState,
    parts: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    scaler: GradScaler | None,
    in_ram: bool = False,
) -> None:
    """Put a state that fits into modules that are on their device, optimizer and loss scaler.

    Args:
        in_ram: the optimizer keeps its own there; the device has no room for all of it.
    """
    names = {id(parameter): name for name, parameter in learning(parts)}
    held: dict[str, dict[str, Any]] = {name: {} for name in names.values()}
    for place, value in [*state.tensors.items(), *state.numbers.items()]:
        if place.startswith("optimizer."):
            name, key = place.removeprefix("optimizer.").rsplit(":", 1)
            held[name][key] = value
    order = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.state.clear()  # or the old moments would lie beside the new ones for a moment
    loaded = {}
    for index, parameter in enumerate(order):
        name = names[id(parameter)]
        with torch.no_grad():
            parameter.copy_(state.tensors[f"weights.{name}"])
        if held[name]:
            loaded[index] = {
                key: _as_held(value, parameter, in_ram) for key, value in held[name].items()
            }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": loaded, "param_groups": groups})
    prefix = "scaler:"
    scale = {k.removeprefix(prefix): v for k, v in state.numbers.items() if k.startswith(prefix)}
    if scaler and scale:
        scaler.load_state_dict(scale)


def learning(parts: Mapping[str, nn.Module]) -> Iterator[tuple[str, Parameter]]:
    """Every parameter that learns, by ``part.name``."""
    for part, module in parts.items():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                yield f"{part}.{name}", parameter


def _as_held(value: Any, parameter: Parameter, in_ram: bool) -> Any:
    """A copy, a moment in its weight's own memory layout: fused kernels walk both side by side."""
    if not isinstance(value, Tensor):
        return value
    if value.shape != parameter.shape:
        held = value.clone()
    else:
        device = "cpu" if in_ram else parameter.device
        held = torch.empty_like(parameter, dtype=value.dtype, device=device, requires_grad=False)
        held.copy_(value)
    # at once, or the optimizer would pin second copies beside all of them
    return pinned(held) if in_ram and held.dim() else held
