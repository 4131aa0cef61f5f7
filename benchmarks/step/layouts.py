"""Whether tensors are faster with channels last (the option channels_last) than as they are.

Forward and backward of a UNet of random weights, in turns; on a card also with its layers fused
(the option fused_layers).
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
USUAL = "usual"
LAYOUTS = {USUAL: torch.contiguous_format, "channels last": torch.channels_last}
FUSED = "fused, "


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """For each size of a pass the milliseconds of each layout, by round."""
    net = Net(options.size, torch.device(options.device))
    ways = [*LAYOUTS, *(FUSED + name for name in LAYOUTS)] if options.device == "cuda" else LAYOUTS
    found = {}
    for pairs in options.pairs:
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(options.rounds + 1):
            for name in ways:
                set_up(net, name)
                passes = [
                    net.seconds(lambda rows=2 * pairs: net.forward_backward(rows, options.side))
                    for _ in range(3)
                ]
                net.unet.zero_grad(set_to_none=True)
                if turn:  # the first round is for warming up
                    taken[name].append(1e3 * min(passes))
        found[f"{options.size}, {pairs} + {pairs} at {options.side} px"] = taken
    return found


def set_up(net: Net, way: str) -> None:
    net.unet.to(memory_format=LAYOUTS[way.removeprefix(FUSED)])
    for module in net.unet.modules():
        vars(module).pop("forward", None)  # what fusing has put there
    if way.startswith(FUSED):
        from ...trainer.fused_layers import fuse  # not at the top: Triton may be missing

        fuse(net.unet)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Each way's milliseconds, and their ratio to the usual layout's of the same round."""
    ways = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(ways) + " |", "| --- " * (len(ways) + 1) + "|"]
    for name, taken in rows.items():
        cells = []
        for way in ways:
            text = f"{statistics.median(taken[way]):.1f} ms"
            if way != USUAL:
                ratios = [a / b for a, b in zip(taken[way], taken[USUAL], strict=True)]
                text += f", {statistics.median(ratios):.2f} ({min(ratios):.2f} … {max(ratios):.2f})"
            cells.append(text)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
