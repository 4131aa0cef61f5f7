"""Which of torch's ways to compute attention is fastest, for each shape that a UNet has.

Forward and backward, milliseconds, the least of the rounds. *chosen* is torch's own choice, which
is what the trainer leaves it to. A dash: it cannot compute this shape here.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from .net import Net

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "docs" / "results" / "step_attention.json", ROOT / "docs" / "BENCHMARKS.md"
WAYS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
CHOSEN = "chosen"
Shape = tuple[tuple[int, ...], tuple[int, ...]]


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """For each shape how often it comes, and the milliseconds of each way, where it has one."""
    net = Net(options.size, torch.device(options.device))
    found = {}
    for pairs in options.pairs:
        for (query, key), count in shapes(net, 2 * pairs, options.side).items():
            name = f"{query[0]} rows, {query[1]} heads of {query[3]}, {query[2]} × {key[2]}"
            ways = {CHOSEN: None, **WAYS}
            times = {way: milliseconds(net, (query, key), b, options) for way, b in ways.items()}
            found[name] = {"calls": count, **times}
    return found


def shapes(net: Net, rows: int, side: int) -> dict[Shape, int]:
    """Of queries and keys in a forward pass, ``(rows, heads, length, width)``; how often."""
    seen: dict[Shape, int] = {}
    real = functional.scaled_dot_product_attention

    def look(query: Tensor, key: Tensor, *given: Any, **options: Any) -> Tensor:
        shape = (tuple(query.shape), tuple(key.shape))
        seen[shape] = seen.get(shape, 0) + 1
        return real(query, key, *given, **options)

    functional.scaled_dot_product_attention = look
    try:
        net.forward_backward(rows, side)
    finally:
        functional.scaled_dot_product_attention = real
        net.unet.zero_grad(set_to_none=True)
    return seen


def milliseconds(
    net: Net, shape: Shape, backend: SDPBackend | None, options: argparse.Namespace
) -> float | None:
    """The least of the rounds; None where this way cannot compute it."""
    query, key = (
        # as the UNet's layers lay them out
        torch.randn(b, length, heads, width, device=net.device, dtype=net.dtype)
        .transpose(1, 2)
        .requires_grad_()
        for b, heads, length, width in shape
    )
    value = key.detach().clone().requires_grad_()

    def work() -> None:
        functional.scaled_dot_product_attention(query, key, value).sum().backward()

    try:
        with sdpa_kernel(list(WAYS.values()) if backend is None else backend):
            work()
            return min(1e3 * net.seconds(work) for _ in range(options.rounds))
    except RuntimeError:  # no kernel of this kind, or no memory for it
        return None


def table(rows: dict[str, dict[str, Any]]) -> str:
    head = ["", "calls", CHOSEN, *WAYS]
    lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
    for name, row in rows.items():
        times = [row[way] for way in (CHOSEN, *WAYS)]
        cells = ["–" if time is None else f"{time:.2f}" for time in times]
        lines.append(f"| {name} | {row['calls']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
