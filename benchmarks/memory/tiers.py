"""Runs under a cap: each finishes within it, or is refused before its first step.

Trains two steps for each job and cap in a process of its own. On a card the cap is that of torch's
allocator (``set_per_process_memory_fraction``), for cards of several sizes less what the driver and
the desktop take. On a processor the system itself refuses the process more (``RLIMIT_DATA``,
Linux) until the last step is done, and the trainer is told of the cap as of a card's free memory;
there it tries the largest step, too, as it does on cards alone otherwise.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...trainer import dry_step, events, loop, memory_plan
from ...trainer.checkpoint import read_checkpoint
from ...trainer.errors import TrainingError
from ...trainer.setup import Prepared
from ..stopwatch.material import SIZES, make_material
from ..stopwatch.tools import Task, make_job
from .cards import TAKEN, cell
from .footprint import OnDevice

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "docs" / "results" / "tiers.json", ROOT / "docs" / "BENCHMARKS.md"
GIB = 1 << 30
STEPS = 2
BOTH = "unet + text encoder"
SMALL = {"trains": "unet", "resolution": 192, "batch_size": 4}
JOBS: dict[str, dict[str, dict[str, Any]]] = {
    "cpu": {
        "small net, `adamw`": {**SMALL, "optimizer": "adamw"},
        "small net, `adamw8bit`": {**SMALL, "optimizer": "adamw8bit"},
    },
    "cuda": {
        "SD 1.5: UNet + text encoder": {"trains": BOTH},
        "SD 1.5: UNet + text encoder, 4 + 4": {"trains": BOTH, "batch_size": 4},
        "SD 1.5: UNet + text encoder, `fp32`, `adamw`": {
            "trains": BOTH, "weights": "fp32", "optimizer": "adamw",
        },
    },
}  # fmt: skip
CAPS = {
    "cpu": (0.8, 0.9, 1.2, 1.5, 1.7, 2.4),
    "cuda": (6, 8, 12),
}  # GiB, on a card with what is taken


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--jobs", nargs="+", metavar="NAME", help="default: all of the device")
    add("--work", type=Path, default=ROOT / ".demo" / "tiers", metavar="DIR")
    add("--one", nargs=2, metavar=("NAME", "CAP"), help=argparse.SUPPRESS)


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """For each job, by cap: how it went; nothing in the process that tries one, which prints it."""
    options.work = options.work.resolve()
    if options.one:
        print(json.dumps(one(options)))
        return {}
    rows: dict[str, dict[str, Any]] = {}
    for name in options.jobs or JOBS[options.device]:
        rows[name] = {}
        for cap in CAPS[options.device]:
            command = [sys.executable, "-m", "benchmarks.memory", "tiers", "--one", name, str(cap)]
            command += ["--device", options.device, "--work", str(options.work)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
            said = done.stdout.splitlines()
            # a process that the system has ended says nothing: that is a row, too
            rows[name][str(cap)] = json.loads(said[-1]) if said and not done.returncode else {}
            print(f"{name}, {cap} GiB: {rows[name][str(cap)]}", file=sys.stderr, flush=True)
    return rows


def one(options: argparse.Namespace) -> dict[str, Any]:
    """How a job goes under a cap, in bytes and seconds."""
    name, cap = options.one[0], float(options.one[1])
    on_card = options.device == "cuda"
    device = torch.device("cuda", 0) if on_card else torch.device("cpu")
    small = replace(SIZES["small"], channels=(320, 640), instances=3, classes=4)
    material = make_material(SIZES["sd15"] if on_card else small, options.work / options.device)
    folder = options.work / "runs" / str(time.time_ns())
    settings = {"resolution": 512, **JOBS[options.device][name]}
    job = make_job(Task(material, device.type, batch=1, steps=STEPS), folder, settings)
    meter, found = OnDevice(device), {}
    limit = _limit_card if on_card else _limit_processor
    limit(device, cap, meter, found)

    def listen(event: events.Event) -> None:
        if isinstance(event, events.Planned):
            found["need"], found["change"] = event.need, event.change
        elif isinstance(event, events.Tried):
            found["tried"] = event.seconds
        elif isinstance(event, events.Note) and "fit into the memory" in event.text:
            found["notes"] = [*found.get("notes", []), event.text]
        elif isinstance(event, events.Step):
            found["steps"], found["seconds"] = event.step, event.step_seconds
            found["held"] = meter.peak() - found.get("before", 0)
            if event.step == STEPS and not on_card:
                _lift_limit()

    mapped, _ = read_checkpoint(Path(job.base))
    base = {key: tensor.clone() for key, tensor in mapped.items()}  # the process's own
    del mapped
    try:
        loop.train(job, base, device=device, listener=listen)
    except TrainingError as error:
        found["refused"] = str(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found.pop("before", None)
    return found


def _limit_card(device: torch.device, cap: float, meter: OnDevice, found: dict[str, Any]) -> None:
    total = torch.cuda.mem_get_info(device)[1]
    torch.cuda.set_per_process_memory_fraction((cap - TAKEN) * GIB / total, device)
    meter.begin()


def _limit_processor(
    device: torch.device, cap: float, meter: OnDevice, found: dict[str, Any]
) -> None:
    """From the moment on when the run is planned: its weights are part of what is capped."""
    import resource  # not on Windows

    def free_memory(prepared: Prepared) -> int:
        parts = prepared.trained.modules.values()
        weights = sum(p.nbytes for module in parts for p in module.parameters())
        found["before"] = meter.begin() - weights
        data = next(
            int(line.split()[1]) * 1024
            for line in Path("/proc/self/status").read_text("utf-8").splitlines()
            if line.startswith("VmData")
        )
        most = int(data - weights + cap * GIB)
        resource.setrlimit(resource.RLIMIT_DATA, (most, resource.RLIM_INFINITY))
        return int(cap * GIB)

    memory_plan.free_memory = free_memory
    dry_step.is_tried = lambda _: True


def _lift_limit() -> None:
    """For the save: the system counts the whole file that is mapped to be verified."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def table(rows: dict[str, dict[str, Any]]) -> str:
    caps = list(dict.fromkeys(cap for told in rows.values() for cap in told))
    lines = [
        "| | " + " | ".join(f"{cap} GiB" for cap in caps) + " |",
        "| --- " * len(caps) + "| --- |",
    ]
    for name, told in rows.items():
        lines.append(f"| {name} | " + " | ".join(_cell(told.get(cap, {})) for cap in caps) + " |")
    return "\n".join(lines)


def _cell(told: dict[str, Any]) -> str:
    if told.get("steps") == STEPS:
        planned = cell({"need": told["held"], "change": told.get("change", "")})
        found_later = len(told.get("notes", []))
        return planned + f" + {found_later}" * bool(found_later)
    return "refused" if told.get("refused") and not told.get("steps") else "**broke off**"
