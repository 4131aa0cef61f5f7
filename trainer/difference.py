"""The difference between a model and the one that was trained from it, whole or as a LoRA."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from .checkpoint import file_size, write_checkpoint
from .config import ConfigError, DifferenceConfig
from .config.difference import EXTRACTED
from .names import check_name
from .provenance import VERSION
from .room import check_room
from .state import DTYPES


@dataclass(frozen=True)
class Pair:
    """One tensor of both models, fp32 on the CPU.

    Attributes:
        name: what a loader calls its difference: ``<layer>.diff``, ``<layer>.diff_b``.
        lora: what a LoRA of its layer is called; None: it can have none.
    """

    name: str
    lora: str | None
    base: Tensor
    trained: Tensor

    @property
    def delta(self) -> Tensor:
        return self.trained - self.base


@dataclass(frozen=True)
class Difference:
    """What goes into the file.

    Attributes:
        changed: how many tensors differ between the models.
        share: of the difference's squared size that the file holds, 0…1, before it is rounded.
    """

    tensors: dict[str, Tensor]
    changed: int
    share: float


def take_difference(
    pairs: Iterable[Pair], config: DifferenceConfig, device: torch.device
) -> Difference:
    """Of all pairs what changed, one tensor at a time, in the file's precision.

    Args:
        device: where singular values are computed.

    Raises:
        ConfigError: nothing changed.
    """
    tensors: dict[str, Tensor] = {}
    changed, whole, kept = 0, 0.0, 0.0
    dtype = DTYPES[config.save_precision]
    for pair in pairs:
        if torch.equal(pair.base, pair.trained):
            continue
        changed += 1
        delta = pair.delta
        size = float(delta.double().square().sum())
        whole += size
        if config.kind != EXTRACTED:
            tensors[pair.name] = delta.to(dtype)
            kept += size
        elif pair.lora:
            up, down = low_rank(delta.to(device), config.rank)
            lost = delta - (up.flatten(1) @ down.flatten(1)).reshape(delta.shape).cpu()
            kept += size - float(lost.double().square().sum())
            tensors[f"{pair.lora}.lora_up.weight"] = up.to("cpu", dtype)
            tensors[f"{pair.lora}.lora_down.weight"] = down.to("cpu", dtype)
            tensors[f"{pair.lora}.alpha"] = torch.tensor(float(len(down)))
    if not tensors:
        raise ConfigError(
            "there is nothing to save: the checkpoint has the weights of the model on the wires;"
            " choose a checkpoint that was trained from it"
        )
    return Difference(tensors, changed, max(0.0, kept / whole))


def low_rank(delta: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The LoRA (up, down) of this rank that is nearest to a weight's change.

    The truncated singular value decomposition has the least squared error of all matrices of its
    rank (Eckart and Young 1936); its singular values go in equal parts to both sides.

    Args:
        delta: ``[out, in]`` or ``[out, in, h, w]``.

    Returns:
        ``[out, r]`` and ``[r, in]``, or ``[out, r, 1, 1]`` and ``[r, in, h, w]``; r is at most
        what the change has.
    """
    left, values, right = torch.linalg.svd(delta.flatten(1), full_matrices=False)
    rank = min(rank, len(values))
    root = values[:rank].sqrt()
    up, down = left[:, :rank] * root, root[:, None] * right[:rank]
    if delta.ndim == 2:
        return up, down
    return up[:, :, None, None], down.reshape(rank, *delta.shape[1:])


def save_difference(
    difference: Difference, config: DifferenceConfig, folder: Path, name: str
) -> Path:
    """Written, read back and compared; a taken name gets a number.

    Raises:
        ConfigError: the name is none, or the disk has no room.
        CheckpointError: it cannot be written.
    """
    check_name(name)
    folder.mkdir(parents=True, exist_ok=True)
    numbered = (name if number == 1 else f"{name}-{number}" for number in count(1))
    path = next(p for n in numbered if not (p := folder / f"{n}.safetensors").exists())
    check_room(folder, file_size(difference.tensors, {}))
    about = {
        "modelspec.title": path.stem,
        "dreambooth.version": VERSION,
        "dreambooth.difference": json.dumps(
            {"kind": config.kind, "changed": difference.changed, "share": difference.share}
        ),
    }
    if config.kind == EXTRACTED:
        about |= {
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(config.rank),
            "ss_network_alpha": str(float(config.rank)),
        }
    write_checkpoint(path, difference.tensors, about)
    return path
