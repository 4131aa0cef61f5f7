"""How well a run's memory is estimated before it begins.

Trains two steps for each row in a process of its own and compares what the trainer said it would
hold with what it then held: of a card what torch's allocator took from it, without one what the
process has of its own in the RAM, weights included (Linux).
"""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import gc
import json
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

from ...trainer import events, loop, memory_plan
from ...trainer.checkpoint import read_checkpoint
from ...trainer.ladder import Ladder
from ...trainer.memory_need import Need
from ...trainer.setup import Prepared
from ..stopwatch.material import SIZES, Material, make_material
from ..stopwatch.tools import Task, make_job

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "docs" / "results" / "footprint.json", ROOT / "docs" / "BENCHMARKS.md"
MIB = 1 << 20
BOTH = "unet + text encoder"
ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "cpu": {
        "256 px": {"resolution": 256},
        "512 px": {"resolution": 512},
        "256 px, 2 + 2": {"resolution": 256, "batch_size": 2},
        "256 px, recomputed": {"resolution": 256, "gradient_checkpointing": True},
        "256 px, 2 x (1 + 1)": {"resolution": 256, "gradient_accumulation_steps": 2},
        "256 px, text encoder": {"resolution": 256, "trains": BOTH},
        "256 px, averaged": {"resolution": 256, "ema_decay": 0.9},
        "256 px, LoRA": {"resolution": 256, "lora": {"kind": "lora", "rank": 16}},
        "128 px, exact": {"resolution": 128, "weights": "exact"},
    },
    "cuda": {
        "exact": {"weights": "exact", "trains": BOTH},
        "exact, 8-bit moments": {"weights": "exact", "optimizer": "adamw8bit", "trains": BOTH},
        "lean, 8-bit moments, recomputed": {
            "weights": "lean", "optimizer": "adamw8bit", "trains": BOTH,
            "gradient_checkpointing": True,
        },
        "fp32 weights": {"weights": "fp32", "trains": BOTH},
        "fp32 weights, 4 + 4": {"weights": "fp32", "trains": BOTH, "batch_size": 4},
        "exact, 4 + 4": {"weights": "exact", "trains": BOTH, "batch_size": 4},
        "UNet alone, recomputed": {"gradient_checkpointing": True},
        "LoRA": {"lora": {"kind": "lora", "rank": 16}},
    },
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--rows", nargs="+", metavar="NAME", help="default: all of the device")
    add("--work", type=Path, default=ROOT / ".demo" / "footprint", metavar="DIR")
    add("--one", metavar="NAME", help=argparse.SUPPRESS)


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Every row's figures; nothing in the process that measures one, which prints them."""
    options.work = options.work.resolve()
    if options.one:
        print(json.dumps(one(options)))
        return {}
    material(options)
    rows = {}
    for name in options.rows or ROWS[options.device]:
        command = [sys.executable, "-m", "benchmarks.memory", "footprint", "--one", name]
        command += ["--device", options.device, "--work", str(options.work)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
        rows[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {rows[name]['ratio']:.3f}", file=sys.stderr, flush=True)
    return rows


def one(options: argparse.Namespace) -> dict[str, Any]:
    """A row's figures, in bytes: what was estimated and what was held."""
    device = torch.device(options.device, 0) if options.device == "cuda" else torch.device("cpu")
    task = Task(material(options), device.type, batch=1, steps=2)
    folder = options.work / "runs" / str(time.time_ns())
    job = make_job(task, folder, ROWS[options.device][options.one])
    held, found, estimate = OnDevice(device), {}, memory_plan.estimate

    def watched(prepared: Prepared, ladder: Ladder) -> Need:
        began = time.perf_counter()
        need = estimate(prepared, ladder)
        found["estimate_seconds"] = round(time.perf_counter() - began, 2)
        found["tensors"] = need.tensors
        if device.type == "cpu":  # they are there already
            parts = prepared.trained.modules.values()
            found["weights"] = sum(p.nbytes for module in parts for p in module.parameters())
        return need

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Planned):
            found["estimate"], found["before"] = event.need, held.begin()
        elif isinstance(event, events.Step):
            found["peak"] = held.peak()

    memory_plan.estimate = watched
    mapped, _ = read_checkpoint(Path(job.base))
    base = {name: tensor.clone() for name, tensor in mapped.items()}  # the process's own
    del mapped
    try:
        loop.train(job, base, device=device, listener=listen)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    held_bytes = found.pop("peak") - found.pop("before") + found.pop("weights", 0)
    return found | {"held": held_bytes, "ratio": found["estimate"] / held_bytes}


def material(options: argparse.Namespace) -> Material:
    small = dataclasses.replace(SIZES["small"], channels=(320, 640), instances=3, classes=4)
    size = SIZES["sd15"] if options.device == "cuda" else small
    return make_material(size, options.work / options.device)


class OnDevice:
    """What this process has of the device's memory, in bytes; its greatest since :meth:`begin`."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._peak = device, 0

    def begin(self) -> int:
        """Starts watching; returns what there is now."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
            return torch.cuda.memory_reserved(self._device)
        ctypes.CDLL(None).malloc_trim(0)  # what was freed is no part of it
        threading.Thread(target=self._watch, daemon=True).start()
        return self._own()

    def peak(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_reserved(self._device)
        return self._peak

    def _watch(self) -> None:
        while True:
            self._peak = max(self._peak, self._own())
            time.sleep(0.02)

    @staticmethod
    def _own() -> int:
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
        raise SystemExit("this system does not say how much memory a process has of its own")


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [
        "| | estimated, MiB | of it tensors | held, MiB | estimated / held | seconds to estimate |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        sizes = [f"{row[key] / MIB:.0f}" for key in ("estimate", "tensors", "held")]
        lines.append(
            f"| {name} | {' | '.join(sizes)} | {row['ratio']:.3f} | {row['estimate_seconds']} |"
        )
    return "\n".join(lines)
