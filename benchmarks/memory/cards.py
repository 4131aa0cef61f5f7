"""Which runs fit on cards of which size, as the trainer would plan them.

Each job is planned on a model without values (trainer/memory_plan.py), with weights, moments,
activations and gradients counted as on a card. No card is needed, and none was asked: the allowance
for what no tensor shows is a guess until one was measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from ...tests.nets import make_layout
from ...trainer import memory_plan
from ...trainer.checkpoint import export
from ...trainer.checkpoint.convert import make_module
from ...trainer.config import Concept, Job, TrainConfig
from ...trainer.errors import TrainingError
from ...trainer.events import Planned
from ...trainer.footprint import META
from ...trainer.ladder import Ladder
from ...trainer.memory_need import Need
from ...trainer.model import StableDiffusion
from ...trainer.modules import set_up_modules
from ...trainer.ranks import ALONE
from ...trainer.setup import Prepared, what_trains

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "docs" / "results" / "cards.json", ROOT / "docs" / "BENCHMARKS.md"
GIB = 1 << 30
CARDS = (6, 8, 12, 16, 24)  # GiB
TAKEN = 0.8  # GiB of them: the driver's, the desktop's
RAM = 24  # GiB of the computer's memory that are free
BOTH = "unet + text encoder"
ON_CARD: dict[str, Any] = {"weights": "exact", "optimizer": "adamw8bit"}  # what auto comes to
SDXL = {"resolution": 1024, "trains": "unet"}
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "SD 1.5: UNet + text encoder": ("full", {"trains": BOTH}),
    "SD 1.5: UNet + text encoder, 4 + 4": ("full", {"trains": BOTH, "batch_size": 4}),
    "SD 1.5: UNet + text encoder, `adamw`": ("full", {"trains": BOTH, "optimizer": "adamw"}),
    "SD 1.5: UNet": ("full", {"trains": "unet"}),
    "SDXL: UNet, 1024 px": ("full_sdxl", SDXL),
    "SDXL: UNet, `lean`, 1024 px": ("full_sdxl", {**SDXL, "weights": "lean"}),
}
# how a plan's words are told in a cell; the longest first
SAID = {
    "what only updates need in the computer's memory": "RAM",
    "no gradients are kept": "twice",
    "gradient checkpointing, a third": "all",
    "gradient checkpointing in the UNet's 2": "2 finest",
    "gradient checkpointing in the UNet's finest": "finest",
    "instance and class rows one after the other": "parted",
    "instance rows at a time": "fewer rows",
}


@dataclass(frozen=True)
class Rows:
    """As much of a run's rows as a plan asks for."""

    sizes: tuple[tuple[int, int], ...]
    draws_texts: bool = False

    def texts(self) -> list[str]:
        return ["a photo of zwx dog", "a photo of a dog"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", nargs="+", metavar="NAME", choices=list(ROWS), help="(all)")


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """For each job, by the size of the card: what it was told."""
    found = {}
    for name in options.rows or ROWS:
        kind, settings = ROWS[name]
        found[name] = plans(kind, TrainConfig(**{**ON_CARD, **settings}))
        print(f"{name}: {found[name]}", flush=True)
    return found


def plans(kind: str, config: TrainConfig) -> dict[str, dict[str, Any]]:
    """What a run is told on each card: bytes that it needs, how it goes; nothing where refused."""
    known: dict[tuple, Need] = {}
    estimate = memory_plan.estimate

    def once(prepared: Prepared, ladder: Ladder) -> Need:
        rung = tuple(vars(ladder).values())
        if rung not in known:
            known[rung] = estimate(prepared, ladder)
        return known[rung]

    told = {}
    for size in CARDS:
        with patch.object(memory_plan, "estimate", once), card(size):
            told[str(size)] = plan(kind, config)
    return told


@contextmanager
def card(size: int) -> Iterator[None]:
    """Inside, a card of so many GiB is there, and a computer around it."""
    free = int((size - TAKEN) * GIB)

    def has_room(device: torch.device, state: int) -> bool:
        return 1.5 * state < RAM * GIB

    with (
        patch.object(memory_plan, "free_memory", lambda prepared: free),
        patch.object(memory_plan, "has_room_in_ram", has_room),
    ):
        yield


def plan(kind: str, config: TrainConfig) -> dict[str, Any]:
    told: list[Planned] = []
    try:
        ready = without_values(kind, config, torch.device("cuda"), "bf16")
        memory_plan.plan_memory(ready, told.append)
    except TrainingError:
        return {}
    return {"need": told[0].need, "change": told[0].change}


def without_values(
    kind: str, config: TrainConfig, device: torch.device, precision: str
) -> Prepared:
    """A run that is ready to be planned, and for nothing else."""
    layout = make_layout(kind, vae="tiny")
    base = {}
    for part in layout.parts:
        base |= export(make_module(layout, part, META), layout, part)
    prior = {"class_prompt": "a photo of a dog", "class_images": ("dog.png",)}
    concept = Concept(instance_prompt="a photo of zwx dog", instance_images=("zwx.png",), **prior)
    job = Job(name="", checkpoints="", runs="", cache="", concepts=(concept,), config=config)
    model = StableDiffusion(base, layout)
    trained, adapters = what_trains(model, base, job, precision)
    set_up_modules(model, trained, job)
    frozen = None
    if not config.trains_text_encoder:
        frozen = {"": model.encode_prompts([""], META)}
    unused: dict[str, Any] = dict.fromkeys(
        ("latents", "writer", "folder", "state", "text_steps"), None
    )
    return Prepared(
        job=job, device=device, precision=precision, model=model,
        rows=Rows(((config.resolution, config.resolution),)), texts=frozen, previews=[],
        trained=trained, adapters=adapters, fingerprint="", schedule=(), states_kept=0,
        ranks=ALONE, **unused,
    )  # fmt: skip


def table(rows: dict[str, dict[str, Any]]) -> str:
    head = ["", *(f"{size} GB" for size in CARDS)]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for name, told in rows.items():
        lines.append(f"| {name} | " + " | ".join(cell(told[str(size)]) for size in CARDS) + " |")
    return "\n".join(lines)


def cell(told: dict[str, Any]) -> str:
    if not told:
        return "–"
    ways = [short for words, short in SAID.items() if words in told["change"]]
    return f"{told['need'] / GIB:.1f}, {' + '.join(reversed(ways)) or 'whole'}"
