"""What gradient checkpointing of a part of the UNet costs.

A full-size Stable Diffusion 1.5's UNet goes forward and backward with activations kept, computed
again in its finest resolution, in the two finest, and everywhere, and then twice, to keep no
gradients either (trainer/in_backward.py). Beside these rungs of the trainer's there is one that it
does not have: results of matrix products, convolutions and attention are kept, all else is computed
again. They take turns. The memory of each is counted for bf16 weights at 512 pixels
(trainer/footprint.py), the time is that of fp32 on a processor, of bf16 on a card.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from ...trainer.checkpoint.convert import make_module
from ...trainer.footprint import META, AsComputed, Held, backward, without_values
from ...trainer.in_backward import InBackward
from ...trainer.model import StableDiffusion
from ..stopwatch.material import SIZES

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "docs" / "results" / "rungs.json", ROOT / "docs" / "BENCHMARKS.md"
GIB = 1 << 30
TWICE, NO_PRODUCTS = "all, and no gradients kept", "all but products"
LEVELS = {"kept": 0, NO_PRODUCTS: 4, "finest": 1, "2 finest": 2, "all": 4, TWICE: 4}
PAIRS = (1, 4)  # instance rows, each with a class row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--side", type=int, metavar="PIXELS", help="of the timed step: 256, on a card 512")
    add("--rounds", type=int, default=3, metavar="N", help="(3)")


def measure(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """For each way the bytes held with each of `PAIRS`, and the times beside what is kept."""
    unet = make_module(SIZES["sd15"].layout, "unet", "cpu").train()
    held = {name: [bytes_held(unet, name, 2 * pairs) for pairs in PAIRS] for name in LEVELS}
    taken = seconds(unet, torch.device(options.device), options)
    return {
        name: {
            "bytes": held[name],
            "times": [a / b for a, b in zip(taken[name], taken["kept"], strict=True)],
        }
        for name in LEVELS
    }


def recompute(unet: UNet2DConditionModel, name: str) -> None:
    """As the trainer's ladder does it, but for the way that it has not."""
    bare = StableDiffusion.__new__(StableDiffusion)
    bare.unet, bare.text_encoders = unet, {}
    bare.recompute_activations(False, LEVELS[name])
    if name == NO_PRODUCTS:
        contexts = partial(create_selective_checkpoint_contexts, policy)
        again = partial(checkpoint, use_reentrant=False, context_fn=contexts)
        unet.enable_gradient_checkpointing(lambda module, *given: again(module.__call__, *given))


def policy(context: object, operation: object, *given: object, **options: object) -> Any:
    """What is done with an operation's results."""
    name = str(operation)
    # the last one is attention's, where there are no values
    products = ("convolution", "mm.", "scaled_dot_product", "new_empty")
    is_product = any(product in name for product in products)
    return CheckpointPolicy.MUST_SAVE if is_product else CheckpointPolicy.PREFER_RECOMPUTE


def forward_backward(
    unet: UNet2DConditionModel, rows: int, side: int, device: torch.device, dtype: torch.dtype
) -> None:
    make = torch.empty if device.type == "meta" else torch.randn
    noisy = make(rows, 4, side // 8, side // 8, device=device, dtype=dtype)
    text = make(rows, 77, unet.config.cross_attention_dim, device=device, dtype=dtype)
    timesteps = torch.zeros(rows, dtype=torch.long, device=device)
    answer = unet(noisy, timesteps, encoder_hidden_states=text).sample.float()
    backward(answer.square().mean())
    unet.zero_grad(set_to_none=True)


def step(unet: UNet2DConditionModel, name: str, one_pass: Callable[[], None]) -> None:
    """The passes of a step, with what is done to gradients on the way; no update."""
    if name != TWICE:
        return one_pass()
    passing = InBackward(list(unet.parameters()))
    with passing.looking():
        one_pass()
    passing.update(one_pass, lambda: None)


def bytes_held(unet: UNet2DConditionModel, name: str, rows: int) -> int:
    """Activations and gradients at the worst moment, in bytes; weights are bf16."""
    recompute(unet, name)
    bf16 = torch.bfloat16
    with without_values([unet], bf16), AsComputed(None, on_card=True), Held() as held:
        step(unet, name, lambda: forward_backward(unet, rows, 512, META, bf16))
    return held.peak


def seconds(
    unet: UNet2DConditionModel, device: torch.device, options: argparse.Namespace
) -> dict[str, list[float]]:
    """Of a step of one row, in turns."""
    is_card = device.type == "cuda"
    dtype = torch.bfloat16 if is_card else torch.float32
    unet.to(device, dtype)
    side = options.side or (512 if is_card else 256)
    taken: dict[str, list[float]] = {name: [] for name in LEVELS}
    for turn in range(options.rounds + 1):
        for name in LEVELS:
            recompute(unet, name)
            began = time.perf_counter()
            for _ in range(10 if is_card else 1):
                step(unet, name, lambda: forward_backward(unet, 1, side, device, dtype))
            if is_card:
                torch.cuda.synchronize()
            if turn:  # the first is for warming up
                taken[name].append(time.perf_counter() - began)
                print(f"{name}: {taken[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return taken


def table(rows: dict[str, dict[str, Any]]) -> str:
    head = [f"{pairs} + {pairs} at 512 px, GiB" for pairs in PAIRS]
    lines = ["| computed again | " + " | ".join([*head, "time"]) + " |", "| --- " * 4 + "|"]
    for name in LEVELS:
        row = rows[name]
        sizes = [f"{size / GIB:.2f}" for size in row["bytes"]]
        low, high = min(row["times"]), max(row["times"])
        pace = f"{statistics.median(row['times']):.2f} ({low:.2f} … {high:.2f})"
        lines.append(f"| {name} | {' | '.join(sizes)} | {pace} |")
    return "\n".join(lines)
