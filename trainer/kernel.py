"""Whether the update in one pass works here: it is tried on small weights before it is trusted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import Parameter

from .split_adamw import SplitAdamW
from .trial import is_interpreted, why_not

# of each form that a model's weights have: moments in 8 bits, and too small for that; values that
# can be read several at once, and numbers of values that are no multiple of 16
SHAPES = ((96, 80), (81, 81), (32, 4), (7, 5))
STEPS, RATE = 3, 1e-3
NEAR = 0.01  # of a step; a tenth more or less of a rate is 0.05 and more away

Like = Callable[[list[Parameter]], SplitAdamW]
"""Makes an optimizer of the same options for other weights."""


def use_one_pass(optimizer: SplitAdamW, like: Like) -> None:
    """Gives ``optimizer`` the kernel where its device has one and it does what torch does."""
    device = optimizer.param_groups[0]["params"][0].device
    if device.type != "cuda":
        return
    if is_interpreted():
        optimizer.slow_because = "TRITON_INTERPRET is set"
        return
    optimizer.slow_because = fault(like, device)
    if not optimizer.slow_because:
        from .one_pass import make_one_pass  # not at the top: Triton may be missing

        optimizer.one_pass = make_one_pass(optimizer)


def fault(like: Like, device: torch.device) -> str:
    """Why the kernel can not be used on a device, see :func:`trial.why_not`."""
    what = "the update in one pass"
    return why_not(what, device, lambda: compare(like, device), NEAR, " of a step")


def compare(like: Like, device: torch.device) -> float:
    """How far both are apart after a few updates, in steps of the learning rate."""
    start = _updated(like, device, steps=0)
    torchs, kernels = (_updated(like, device, STEPS, by_kernel) for by_kernel in (False, True))
    difference = (_values(kernels) - _values(torchs)) / (RATE * STEPS)
    if torchs.lean:
        # rounded at random, weights agree on average: along the way that they went
        return float((difference * (_values(torchs) - _values(start)).sign()).mean().abs())
    # not the largest: an 8-bit number in the middle of two may go either way
    return float(difference.square().mean().sqrt())


def _updated(like: Like, device: torch.device, steps: int, by_kernel: bool = False) -> SplitAdamW:
    """An optimizer of the tried weights after some updates, the same draws each time."""
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
    return optimizer


def _values(optimizer: SplitAdamW) -> Tensor:
    """All weights, ``[N]`` fp32."""
    weights = optimizer.param_groups[0]["params"]
    return torch.cat([optimizer.value(weight).flatten() for weight in weights])
