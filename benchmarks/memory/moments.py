"""What moments in 8 bits change of what is learned.

The demo's base learns a subject of the quality bench in fp32, a picture a step, AdamW's moments
kept between two updates in several ways; all else is the same. What it has learned then is compared
with what fp32 moments teach: ‖ΔW − ΔW′‖ / ‖ΔW′‖ over the UNet. *dynamic* is the usual way (Dettmers
et al. 2022, as in bitsandbytes' AdamW8bit): both moments in dynamic 8-bit numbers, blocks of 256.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from ...demo.picture_book import ensure_base
from ...demo.recipe import PICTURE_BOOK
from ...trainer import optim
from ...trainer.checkpoint import read_checkpoint
from ...trainer.config import TrainConfig
from ...trainer.eight_bits import BLOCK, SIGNED, UNSIGNED, from_eight_bits, to_eight_bits
from ...trainer.events import Event, Saved
from ...trainer.loop import train
from ...trainer.moments import WHOLE_BELOW, EightBitMoments, WholeMoments
from ..picturebook.cases import SIZE, Case
from ..picturebook.contenders import Material, make_job

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "docs" / "results" / "moments.json", ROOT / "docs" / "BENCHMARKS.md"
UNET = "model.diffusion_model."


class Rounded(WholeMoments):
    """In fp32, but rounded after each update to what 8 bits would have kept."""

    eight = True

    def write(self, state: dict[str, Any], part: slice, mean: Tensor, square: Tensor) -> None:
        if state["exp_avg"].numel() >= WHOLE_BELOW:
            mean, square = self.rounded(mean, square)
            state["exp_avg"].as_strided((state["exp_avg"].numel(),), (1,))[part] = mean
            state["exp_avg_sq"].as_strided((state["exp_avg"].numel(),), (1,))[part] = square

    def rounded(self, mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class Dynamic(Rounded):
    """Both moments in dynamic 8-bit numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.signed, self.unsigned = dynamic_map(True), dynamic_map(False)

    def rounded(self, mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
        return nearest(mean, self.signed), nearest(square, self.unsigned)


class Roots(Rounded):
    """Our numbers, but of the first moment itself instead of its ratio to the second's root."""

    def rounded(self, mean: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
        root = from_eight_bits(*to_eight_bits(square.sqrt(), UNSIGNED), UNSIGNED)
        return from_eight_bits(*to_eight_bits(mean, SIGNED), SIGNED), root.square_()


WAYS: dict[str, type] = {
    "ours": EightBitMoments,
    "ours, without the ratio": Roots,
    "dynamic": Dynamic,
}


def dynamic_map(signed: bool) -> Tensor:
    """The 256 numbers: of each decade twice as many as of the one below, evenly spaced."""
    numbers = [0.0, 1.0]
    for decade in range(7):
        count = 2 ** (decade if signed else decade + 1)
        edges = torch.linspace(0.1, 1, count + 1)
        middles = ((edges[:-1] + edges[1:]) / 2 * 10.0 ** (decade - 6)).tolist()
        numbers += middles + [-middle for middle in middles] * signed
    return torch.tensor(sorted(numbers))


def nearest(values: Tensor, table: Tensor) -> Tensor:
    """Each of ``[N]`` as the nearest of the table's numbers times the largest of its block."""
    blocks = functional.pad(values, (0, -len(values) % BLOCK)).view(-1, BLOCK)
    largest = blocks.abs().amax(1, keepdim=True)
    share = blocks / torch.where(largest > 0, largest, 1.0)
    code = torch.bucketize(share, (table[1:] + table[:-1]) / 2)
    return (table[code] * largest).flatten()[: len(values)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--subject", default="car-1", metavar="NAME", help="(car-1)")
    add("--steps", type=int, default=60, metavar="N", help="a multiple of 4 (60)")


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """For each way, by the number of steps: how far it is from what fp32 moments teach."""
    base = ensure_base(ROOT / ".demo" / "quality" / "base.safetensors")
    before = unet_of(read_checkpoint(base)[0])
    with tempfile.TemporaryDirectory() as folder:
        reference = learned(options, base, Path(folder) / "fp32", before, optimizer="adamw")
        rows = {}
        for name, moments in WAYS.items():
            with patch.object(optim, "EightBitMoments", moments):
                deltas = learned(options, base, Path(folder) / name, before, optimizer="adamw8bit")
            rows[name] = {
                str(step): float((delta - reference[step]).norm() / reference[step].norm())
                for step, delta in deltas.items()
            }
            print(f"{name}: {rows[name]}", file=sys.stderr, flush=True)
    return rows


def learned(
    options: argparse.Namespace, base: Path, folder: Path, before: Tensor, **settings: object
) -> dict[int, Tensor]:
    """ΔW of the UNet, ``[N]``, after each quarter of the steps."""
    case = Case(options.subject)
    given = Material(
        case, base, case.photos(folder / "photos"), [], folder, torch.device(options.device)
    )
    values = {
        **PICTURE_BOOK.settings, "batch_size": 1, "steps": options.steps, "resolution": SIZE,
        "save_every": options.steps // 4, "keep": 4, "save_precision": "fp32", "preview_every": 0,
        "keep_state": False, "weights": "fp32", "precision": "fp32", **settings,
    }  # fmt: skip
    files: dict[int, Path] = {}

    def listen(event: Event) -> None:
        if isinstance(event, Saved):
            files[event.step] = event.path

    job = make_job(given, TrainConfig(**values), prior_weight=0.0)
    train(job, read_checkpoint(base)[0], device=given.device, listener=listen)
    return {step: unet_of(read_checkpoint(path)[0]) - before for step, path in files.items()}


def unet_of(tensors: Mapping[str, Tensor]) -> Tensor:
    """Its weights one after the other, ``[N]``."""
    names = sorted(name for name in tensors if name.startswith(UNET))
    return torch.cat([tensors[name].flatten().double() for name in names])


def table(rows: dict[str, dict[str, Any]]) -> str:
    steps = list(next(iter(rows.values())))
    lines = [
        "| moments | " + " | ".join(f"{step} steps" for step in steps) + " |",
        "| --- " * (len(steps) + 1) + "|",
    ]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[step]:.3f}" for step in steps) + " |")
    return "\n".join(lines)
