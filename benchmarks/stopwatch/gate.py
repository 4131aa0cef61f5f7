"""The numerical gate: how far a row's learning is from plain fp32's, from the same draws.

‖ΔW − ΔW_ref‖ / ‖ΔW_ref‖ over the UNet, ΔW = W after the run − W before. A speed is worth little
where this is not small. The reference is the textbook loop in fp32 with the draws of our trainer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ...trainer.checkpoint import Layout, key_map
from ...trainer.config import Job
from ...trainer.dataset import PairedRows
from ...trainer.objective import draw_row
from ...trainer.views import Frames

IN_FOLDER = "unet/diffusion_pytorch_model.safetensors"


def write_draws(job: Job, shape: tuple[int, ...], path: Path) -> None:
    """What our trainer draws in each step of a job with one concept, as the textbook's ``Draw``.

    Args:
        shape: of one latent, ``(4, h, w)``.
    """
    config, concept = job.config, job.concepts[0]
    rows = PairedRows(
        job.concepts, config.seed, Frames(config.resolution, config.seed),
        batch_size=config.batch_size,
    )  # fmt: skip
    stacks: dict[str, list[Tensor]] = {
        name: [] for name in ("own", "other", "posterior", "noise", "times")
    }
    for step in range(config.steps):
        at = range(step * config.batch_size, (step + 1) * config.batch_size)
        drawn = [
            draw_row(shape, range(1000), config.seed, position, is_class)
            for is_class in (False, True)
            for position in at
        ]
        own = [rows.instance(position).view.photo.path for position in at]
        other = [rows.class_(position).view.photo.path for position in at]
        stacks["own"].append(torch.tensor([concept.instance_images.index(p) for p in own]))
        stacks["other"].append(torch.tensor([concept.class_images.index(p) for p in other]))
        stacks["posterior"].append(torch.stack([posterior for posterior, _, _ in drawn]))
        stacks["noise"].append(torch.stack([noise for _, noise, _ in drawn]))
        stacks["times"].append(torch.tensor([time for _, _, time in drawn]))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: torch.stack(tensors) for name, tensors in stacks.items()}, path)


def distance(trained: Path, reference: Path, base: Path, layout: Layout) -> float:
    """‖ΔW − ΔW_ref‖ / ‖ΔW_ref‖ over the UNet, in float64; infinite where nothing was learned.

    Args:
        trained, reference, base: each a single file, or a diffusers folder that holds ``unet``.
    """
    apart = length = 0.0
    with ExitStack() as stack:
        read = [open_unet(path, layout, stack) for path in (trained, reference, base)]
        for key in key_map(layout, "unet"):
            after, wanted, before = (one(key).double().flatten() for one in read)
            apart += float((after - wanted).square().sum())
            length += float((wanted - before).square().sum())
    return math.sqrt(apart / length) if length else math.inf


def open_unet(path: Path, layout: Layout, stack: ExitStack) -> Callable[[str], Tensor]:
    """Tensors of a UNet on disk by diffusers' names, one at a time."""
    if path.is_dir():
        return stack.enter_context(safe_open(path / IN_FOLDER, "pt")).get_tensor
    file, names = stack.enter_context(safe_open(path, "pt")), key_map(layout, "unet")
    return lambda key: file.get_tensor(names[key])
