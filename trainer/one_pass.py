"""AdamW on bf16 weights in one pass: a Triton kernel that reads and writes every number once.

Clip scale, decay, moments, update and rounding of a weight, and its moments' way out of 8 bits and
back, without a temporary of the weight's size. All weights of a model go through in a few launches,
for one launch each would keep the card waiting for Python. It computes what :mod:`split_adamw`
computes with torch, which is its oracle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .eight_bits import BLOCK
from .moments import NAMES, WHOLE_BELOW, eight_bits, whole
from .one_pass_kernel import COUNT, ROWS, adamw
from .split_adamw import REMAINDER, SplitAdamW
from .to_device import bring


class Update(NamedTuple):
    """One weight's part of a step.

    Attributes:
        weight: bf16, dense; remainder, gradient and fp32 moments have its memory layout.
        gradient: bf16 or fp32.
        state: all that the optimizer holds of it; without a remainder it is rounded at random.
        group: its options.
        seed: of the rounding, with the step.
    """

    weight: Tensor
    gradient: Tensor
    state: dict[str, Any]
    group: Mapping[str, Any]
    seed: int


class Form(NamedTuple):
    """What weights of one launch have in common.

    Attributes:
        half: gradients are bf16.
        eight: moments are in 8 bits.
        lean: there are no remainders.
        aligned: addresses and counts are multiples of 16, so that several numbers are read at once.
    """

    half: bool
    eight: bool
    lean: bool
    aligned: bool


def make_one_pass(optimizer: SplitAdamW) -> OnePass:
    """With the options of an optimizer."""
    options = optimizer.defaults
    return OnePass(options["betas"], options["eps"], optimizer.eight, optimizer.in_ram)


class OnePass:
    """Launches the kernel for all weights of a device together."""

    def __init__(
        self,
        betas: tuple[float, float],
        eps: float,
        eight: bool = False,
        in_ram: bool = False,
    ) -> None:
        """
        Args:
            eight: moments are in 8 bits.
            in_ram: states are in pinned memory, which a card reads and writes over its bus.
        """
        self._in_ram = in_ram
        self._betas, self._eps = betas, eps
        self._eight = eight
        # of updates inside the backward pass there are dozens in a step, the same in each
        self._places = lru_cache(maxsize=256)(_places)

    def numbers(self, group: Mapping[str, Any], step: int) -> list[float]:
        """What the kernel has to know of a step, of all weights of a group."""
        beta1, beta2 = self._betas
        decay = 1 - group["lr"] * group["weight_decay"]
        rate = group["lr"] / (1 - beta1**step)
        return [decay, rate, (1 - beta2**step) ** 0.5, step]

    def __call__(self, updates: Sequence[Update], clip: Tensor | None) -> None:
        """All that the weights and their states hold, in place.

        Args:
            updates: of weights on one device.
            clip: ``[1]``, what the gradients are multiplied with; None: nothing.
        """
        device = updates[0].weight.device
        rows: dict[tuple[int, int], int] = {}  # of the numbers, by group and step
        told: list[list[float]] = []
        tables: dict[Form, list[list[int]]] = {}
        for update in updates:
            step = int(update.state["step"])
            row = rows.setdefault((id(update.group), step), len(told))
            if row == len(told):
                told.append(self.numbers(update.group, step))
            form, entry = self._entry(update)
            tables.setdefault(form, []).append([*entry, row])
        numbers = bring(torch.tensor(told, dtype=torch.float32), device)
        clip = torch.ones(1, device=device) if clip is None else clip
        with _on_device(device):
            for form, table in tables.items():
                self._launch(form, torch.tensor(table), numbers, clip)

    def _entry(self, update: Update) -> tuple[Form, list[int]]:
        """How it is updated, and its line of the table but for the last column."""
        weight, gradient, state = update.weight, update.gradient, update.state
        moments = [tensor for name in NAMES for tensor in self._moment(weight, state, name)]
        tensors = [weight, state.get(REMAINDER), gradient, *moments]
        entry = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        entry.append(weight.numel())
        form = Form(
            half=gradient.dtype == torch.bfloat16,
            eight=moments[1] is not None,
            lean=REMAINDER not in state,
            aligned=not any(value % 16 for value in entry),
        )
        return form, [*entry, update.seed]

    def _launch(self, form: Form, table: Tensor, numbers: Tensor, clip: Tensor) -> None:
        device = numbers.device
        places = self._places(tuple(table[:, COUNT.value].tolist()), device)
        beta1, beta2 = self._betas
        adamw[(len(places),)](
            bring(table, device), places, numbers, clip,
            1 - beta1, beta2, 1 - beta2, self._eps,
            HALF=form.half, EIGHT=form.eight, LEAN=form.lean, ALIGNED=form.aligned,
            ROWS=ROWS, BLOCK=BLOCK,
        )  # fmt: skip

    def _moment(
        self, weight: Tensor, state: dict[str, Any], name: str
    ) -> tuple[Tensor, Tensor | None]:
        """Its values, and their scales where they are in 8 bits; zeros at first."""
        if self._eight and weight.numel() >= WHOLE_BELOW:
            return eight_bits(state, weight, name, self._in_ram)
        return whole(state, weight, name, self._in_ram), None


def _places(counts: tuple[int, ...], device: torch.device) -> Tensor:
    """Of each program: which weight, and the how manieth of it. int32 ``[programs, 2]``."""
    programs = torch.tensor([-(-count // (ROWS * BLOCK)) for count in counts])
    first = programs.cumsum(0) - programs
    weight = torch.arange(len(counts)).repeat_interleave(programs)
    own = torch.arange(len(weight)) - first[weight]
    return torch.stack([weight, own], dim=1).int().to(device)


def _on_device(device: torch.device) -> AbstractContextManager:
    """Triton launches on the current card, not on the weights'."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
