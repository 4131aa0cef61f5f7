"""AdamW on bf16 weights in one pass: a Triton kernel that reads and writes every number once.

Clip scale, decay, moments, update and rounding of a weight, and its moments' way out of 8 bits and
back, without a temporary of the weight's size. It computes what :mod:`split_adamw` computes with
torch, which is its oracle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError

from .moments import BLOCK, NAMES, WHOLE_BELOW
from .split_adamw import REMAINDER, SplitAdamW

__all__ = ["OnePass", "TritonError", "make_one_pass"]

ROWS = 4  # blocks of 8-bit numbers in one program
# where a step's numbers lie
DECAY, RATE, ROOT, STEP = (tl.constexpr(n) for n in range(4))


@triton.jit
def _nearest(value, table):
    """Index of the nearest of 256 rising numbers."""
    low = tl.zeros_like(value).to(tl.int32)
    for bit in tl.static_range(8):
        middle = low + (128 >> bit)
        low = tl.where(value >= tl.load(table + middle), middle, low)
    high = tl.minimum(low + 1, 255)
    is_nearer = tl.load(table + high) - value < value - tl.load(table + low)
    return tl.where(is_nearer, high, low)


@triton.jit
def _read(moment, scale, table, at, row, count, BLOCK: tl.constexpr, EIGHT: tl.constexpr):
    """A moment in fp32."""
    if EIGHT:
        code = tl.load(moment + at, mask=at < count, other=0).to(tl.int32)
        largest = tl.load(scale + row, mask=row * BLOCK < count, other=0.0)
        # nothing outside of the weight: it would count among the largest of its block
        value = tl.load(table + code, mask=at < count, other=0.0) * largest[:, None]
    else:
        value = tl.load(moment + at, mask=at < count, other=0.0)
    return value


@triton.jit
def _write(value, moment, scale, table, at, row, count, BLOCK: tl.constexpr, EIGHT: tl.constexpr):
    if EIGHT:
        largest = tl.max(tl.abs(value), axis=1)
        share = value / tl.where(largest > 0, largest, 1.0)[:, None]
        tl.store(moment + at, _nearest(share, table).to(tl.uint8), mask=at < count)
        tl.store(scale + row, largest, mask=row * BLOCK < count)
    else:
        tl.store(moment + at, value, mask=at < count)


@triton.jit(do_not_specialize=["seed"])
def _adamw(
    weight, remainder, gradient, mean, mean_scale, square, square_scale, signed, unsigned,
    numbers, clip, count, seed, share1, beta2, share2, eps,
    HALF: tl.constexpr, EIGHT: tl.constexpr, LEAN: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program's ``ROWS × BLOCK`` values; bf16 tensors come as int16, the bits they are.

    ``share1``, ``share2``: 1 − β, which fp32 would round if it were taken here.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    at = row[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = at < count
    bits = tl.load(weight + at, mask=inside, other=0).to(tl.int32) << 16
    if not LEAN:
        bits += tl.load(remainder + at, mask=inside, other=0).to(tl.int32)
    w = bits.to(tl.float32, bitcast=True)
    g = tl.load(gradient + at, mask=inside, other=0)
    if HALF:
        g = (g.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    g = g * tl.load(clip)

    m = _read(mean, mean_scale, signed, at, row, count, BLOCK, EIGHT)
    v = _read(square, square_scale, unsigned, at, row, count, BLOCK, EIGHT)
    m = m + (g - m) * share1
    v = v * beta2 + g * g * share2
    _write(m, mean, mean_scale, signed, at, row, count, BLOCK, EIGHT)
    _write(v, square, square_scale, unsigned, at, row, count, BLOCK, EIGHT)
    w = w * tl.load(numbers + DECAY)
    w -= tl.load(numbers + RATE) * (m / (tl.sqrt(v) / tl.load(numbers + ROOT) + eps))

    bits = w.to(tl.int32, bitcast=True)
    if LEAN:
        zero = (at * 0).to(tl.uint32)
        step = zero + tl.load(numbers + STEP).to(tl.uint32)
        drawn, _, _, _ = tl.philox(seed, at.to(tl.uint32), step, zero, zero)
        upper = (bits + (drawn >> 16).to(tl.int32)) >> 16
    else:
        upper = (bits + 0x8000) >> 16
        tl.store(remainder + at, (bits - (upper << 16)).to(tl.int16), mask=inside)
    tl.store(weight + at, upper.to(tl.int16), mask=inside)


def make_one_pass(optimizer: SplitAdamW) -> OnePass:
    """With the options of an optimizer."""
    options = optimizer.defaults
    return OnePass(options["betas"], options["eps"], optimizer.maps)


class OnePass:
    """Launches the kernel for one weight after the other."""

    def __init__(self, betas: tuple[float, float], eps: float, maps: Sequence[Tensor]) -> None:
        """
        Args:
            maps: the 256 values of signed and of unsigned 8-bit numbers; none: moments are fp32.
        """
        self._betas, self._eps = betas, eps
        self._maps = [table.float().cpu() for table in maps]
        self._on: dict[torch.device, list[Tensor]] = {}

    def numbers(self, group: Mapping[str, Any], step: int, device: torch.device) -> Tensor:
        """What the kernel has to know of a step, of all weights of a group."""
        beta1, beta2 = self._betas
        decay = 1 - group["lr"] * group["weight_decay"]
        rate = group["lr"] / (1 - beta1**step)
        told = torch.tensor([decay, rate, (1 - beta2**step) ** 0.5, step], dtype=torch.float32)
        return told.to(device, non_blocking=True)

    def __call__(
        self, weight: Tensor, gradient: Tensor, state: dict[str, Any], numbers: Tensor,
        clip: Tensor, seed: int,
    ) -> None:  # fmt: skip
        """One weight and all that its state holds, in place.

        Args:
            weight: bf16, dense; remainder, gradient and fp32 moments have its memory layout.
            state: of it; without a remainder it is rounded at random by ``seed`` and the step.
            clip: ``[1]``, what the gradient is multiplied with.
        """
        remainder = state.get(REMAINDER)
        (mean, mean_scale), (square, square_scale) = (self._moment(weight, state, n) for n in NAMES)
        half = gradient.dtype == torch.bfloat16
        eight = mean_scale is not None
        signed, unsigned = self._tables(weight.device) if eight else (numbers, numbers)
        count = weight.numel()
        beta1, beta2 = self._betas
        with _on_device_of(weight):
            _adamw[(triton.cdiv(count, ROWS * BLOCK),)](
                weight.view(torch.int16),
                numbers if remainder is None else remainder,
                gradient.view(torch.int16) if half else gradient,
                mean, numbers if mean_scale is None else mean_scale,
                square, numbers if square_scale is None else square_scale,
                signed, unsigned, numbers, clip, count, seed,
                1 - beta1, beta2, 1 - beta2, self._eps,
                HALF=half, EIGHT=eight, LEAN=remainder is None, ROWS=ROWS, BLOCK=BLOCK,
            )  # fmt: skip

    def _moment(
        self, weight: Tensor, state: dict[str, Any], name: str
    ) -> tuple[Tensor, Tensor | None]:
        """Its values, and their scales where they are in 8 bits; zeros at first."""
        is_small = not self._maps or weight.numel() < WHOLE_BELOW
        if name not in state and is_small:
            state[name] = torch.zeros_like(weight, dtype=torch.float32, requires_grad=False)
        elif name not in state:
            blocks = -(-weight.numel() // BLOCK)
            state[name] = weight.new_zeros(weight.numel(), dtype=torch.uint8)
            state[f"{name}_scale"] = weight.new_zeros(blocks, dtype=torch.float32)
        return state[name], state.get(f"{name}_scale")

    def _tables(self, device: torch.device) -> list[Tensor]:
        if device not in self._on:
            self._on[device] = [table.to(device) for table in self._maps]
        return self._on[device]


def _on_device_of(weight: Tensor) -> AbstractContextManager:
    """Triton launches on the current card, not on the weight's."""
    return torch.cuda.device(weight.device) if weight.is_cuda else nullcontext()
