"""Which kinds of operations take the time of a step.

The UNet alone learns, of random weights, as the trainer has it learn on the device: bf16 with exact
weights and 8-bit moments on a card, fp32 on a processor. Operations are torch's, timed by its
profiler; *waiting* is what they leave of the step without the profiler: a card that waits for
Python. The update is timed by itself.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from .net import Net

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "docs" / "results" / "step_kinds.json", ROOT / "docs" / "BENCHMARKS.md"
# the first whose words are in an operation's name has it
KINDS = {
    "convolutions": ("conv",),
    "attention": ("attention",),
    "matrix products": ("mm", "linear"),
    "norms": ("norm",),
    "copies and casts": ("copy_", "clone", "cat", "fill_", "zero_"),
}
REST, UPDATE, WAITING = "all other", "update", "waiting"


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """For each size of a step the milliseconds of each kind."""
    net = Net(options.size, torch.device(options.device))
    return {
        f"{options.size}, {pairs} + {pairs} at {options.side} px": one(net, 2 * pairs, options)
        for pairs in options.pairs
    }


def one(net: Net, rows: int, options: argparse.Namespace) -> dict[str, float]:
    passes, updates = [], []
    for turn in range(options.rounds + 2):
        taken = net.seconds(lambda: net.forward_backward(rows, options.side))
        updated = net.seconds(net.update)
        if turn > 1:  # the first ones are for warming up
            passes.append(1e3 * taken)
            updates.append(1e3 * updated)
    found = by_kind(net, rows, options.side)
    waiting = max(0.0, statistics.median(passes) - sum(found.values()))
    return found | {UPDATE: statistics.median(updates), WAITING: waiting}


def by_kind(net: Net, rows: int, side: int) -> dict[str, float]:
    """Milliseconds of a pass, each operation's own."""
    on_card = net.device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_card
    with profile(activities=activities) as profiled:
        net.forward_backward(rows, side)
        net.wait()
    net.update()
    found = dict.fromkeys([*KINDS, REST], 0.0)
    for event in profiled.key_averages():
        # a card's kernels count with the operation that has started them
        if event.device_type == DeviceType.CPU:
            own = event.self_device_time_total if on_card else event.self_cpu_time_total
            found[kind_of(event.key)] += own / 1e3
    return found


def kind_of(operation: str) -> str:
    name = operation.lower()
    return next((kind for kind, words in KINDS.items() if any(w in name for w in words)), REST)


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = ["| ms | " + " | ".join(rows) + " |", "| --- " * (len(rows) + 1) + "|"]
    for kind in next(iter(rows.values())):
        cells = [f"{row[kind]:.1f} ({row[kind] / sum(row.values()):.0%})" for row in rows.values()]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    lines.append("| step | " + " | ".join(f"{sum(r.values()):.1f}" for r in rows.values()) + " |")
    return "\n".join(lines)
