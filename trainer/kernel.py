"""Whether the update in one pass works here: it is tried on a small weight before it is trusted."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import Parameter

from .split_adamw import SplitAdamW

SIDE = 80  # of the tried weight: more values than stay in fp32, and no whole number of blocks
STEPS, RATE = 3, 1e-3
NEAR = 0.02  # of a step: 8-bit numbers at a tie may go either way, a wrong formula goes far


def use_one_pass(optimizer: SplitAdamW, like: Callable[[list[Parameter]], SplitAdamW]) -> None:
    """Gives ``optimizer`` the kernel where its device has one and it does what torch does.

    Args:
        like: makes an optimizer of the same options for other weights.
    """
    device = optimizer.param_groups[0]["params"][0].device
    if device.type != "cuda":
        return
    try:
        from .one_pass import TritonError, make_one_pass
    except ImportError as error:
        optimizer.slow_because = f"Triton is not installed ({error})"
        return
    try:
        difference = compare(like, device)
        if difference > NEAR:
            raise ValueError(f"it is {difference:.2g} of a step from what torch computes")
    except (RuntimeError, OSError, ValueError, TritonError, subprocess.SubprocessError) as error:
        reason = str(error).strip().splitlines()
        optimizer.slow_because = f"Triton does not work on {device}: {(reason or [''])[-1]}"
        return
    optimizer.one_pass = make_one_pass(optimizer)


def compare(like: Callable[[list[Parameter]], SplitAdamW], device: torch.device) -> float:
    """The largest distance between both after a few updates, in steps of the learning rate."""
    from .one_pass import make_one_pass

    values = []
    for by_kernel in (False, True):
        g = torch.Generator().manual_seed(0)
        weight = Parameter((0.03 * torch.randn(SIDE, SIDE, generator=g)).to(device))
        optimizer = like([weight])
        for group in optimizer.param_groups:
            group["lr"] = RATE
        optimizer.one_pass = make_one_pass(optimizer) if by_kernel else None
        for _ in range(STEPS):
            weight.grad = torch.randn(SIDE, SIDE, generator=g).to(device, weight.dtype)
            optimizer.clip(1.0)
            optimizer.step()
        values.append(optimizer.value(weight))
    return float(_distance(*values, lean=optimizer.lean))


def _distance(torchs: Tensor, kernels: Tensor, lean: bool) -> Tensor:
    """Weights rounded at random agree on average alone."""
    difference = (torchs - kernels) / (RATE * STEPS)
    return difference.mean().abs() if lean else difference.abs().max()
