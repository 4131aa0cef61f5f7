"""Whether tensors are faster with channels last (the option channels_last) than as they are.

Forward and backward of a UNet of random weights, in turns.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

from .net import Net

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "docs" / "results" / "step_layouts.json", ROOT / "docs" / "BENCHMARKS.md"
LAYOUTS = {"usual": torch.contiguous_format, "channels last": torch.channels_last}


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """For each size of a pass the milliseconds of each layout, by round."""
    net = Net(options.size, torch.device(options.device))
    found = {}
    for pairs in options.pairs:
        taken: dict[str, list[float]] = {name: [] for name in LAYOUTS}
        for turn in range(options.rounds + 1):
            for name, layout in LAYOUTS.items():
                net.unet.to(memory_format=layout)
                passes = [
                    net.seconds(lambda rows=2 * pairs: net.forward_backward(rows, options.side))
                    for _ in range(3)
                ]
                net.unet.zero_grad(set_to_none=True)
                if turn:  # the first round is for warming up
                    taken[name].append(1e3 * min(passes))
        found[f"{options.size}, {pairs} + {pairs} at {options.side} px"] = taken
    return found


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = ["| | " + " | ".join([*LAYOUTS, "ratio"]) + " |", "| --- " * (len(LAYOUTS) + 2) + "|"]
    for name, taken in rows.items():
        cells = [f"{statistics.median(times):.1f} ms" for times in taken.values()]
        ratios = [last / usual for usual, last in zip(*taken.values(), strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
        lines.append(f"| {name} | " + " | ".join([*cells, spread]) + " |")
    return "\n".join(lines)
