"""Whether the update in one pass works here: it is tried on small weights before it is trusted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import Parameter

from .split_adamw import SplitAdamW

# one of no whole number of blocks, and one whose moments stay in fp32
SHAPES = ((81, 81), (7, 5))
STEPS, RATE = 3, 1e-3
NEAR = 0.01  # of a step; a tenth more or less of a rate is 0.05 and more away

Like = Callable[[list[Parameter]], SplitAdamW]
"""Makes an optimizer of the same options for other weights."""


def use_one_pass(optimizer: SplitAdamW, like: Like) -> None:
    """Gives ``optimizer`` the kernel where its device has one and it does what torch does."""
    device = optimizer.param_groups[0]["params"][0].device
    if device.type != "cuda":
        return
    if os.environ.get("TRITON_INTERPRET") == "1":
        optimizer.slow_because = "TRITON_INTERPRET is set"
        return
    try:
        from .one_pass import TritonError, make_one_pass
    except ImportError as error:
        optimizer.slow_because = f"Triton is not installed ({error})"
        return
    # what Triton raises where it finds no compiler, no driver or no folder for its results
    failures = (RuntimeError, OSError, ValueError, AssertionError, ImportError, TritonError,
                subprocess.SubprocessError)  # fmt: skip
    try:
        distance = compare(like, device)
    except torch.OutOfMemoryError:
        raise
    except failures as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        optimizer.slow_because = f"the update in one pass does not work on {device}: {reason[-1]}"
        return
    if distance <= NEAR:  # not so if it is no number
        optimizer.one_pass = make_one_pass(optimizer)
    else:
        said = f"is {distance:.2g} of a step from what torch computes on {device}"
        optimizer.slow_because = f"the update in one pass {said}"


def compare(like: Like, device: torch.device) -> float:
    """How far both are apart after a few updates, in steps of the learning rate."""
    start = _updated(like, device, steps=0)
    torchs, kernels = (_updated(like, device, STEPS, k) for k in (False, True))
    difference = (kernels - torchs) / (RATE * STEPS)
    if like([Parameter(torch.ones(1))]).lean:
        # rounded at random, weights agree on average: along the way that they went
        return float((difference * (torchs - start).sign()).mean().abs())
    # not the largest: an 8-bit number in the middle of two may go either way
    return float(difference.square().mean().sqrt())


def _updated(like: Like, device: torch.device, steps: int, by_kernel: bool = False) -> Tensor:
    """All values of the tried weights, ``[N]`` fp32."""
    from .one_pass import make_one_pass

    g = torch.Generator().manual_seed(0)
    weights = [Parameter((0.03 * torch.randn(s, generator=g)).to(device)) for s in SHAPES]
    optimizer = like(weights)
    for group in optimizer.param_groups:
        group["lr"] = RATE
    optimizer.one_pass = make_one_pass(optimizer) if by_kernel else None
    for _ in range(steps):
        for weight in weights:
            gradient = torch.randn(weight.shape, generator=g)
            weight.grad = gradient.to(device, weight.dtype)
        optimizer.clip(1.0)
        optimizer.step()
    return torch.cat([optimizer.value(weight).flatten() for weight in weights])
