"""AdamW on bf16 weights: exact with their remainders beside them, or lean without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter

from .in_backward import clip_scale, gradient_norms
from .moments import Moments, in_memory
from .parted_adamw import PartedAdamW, alike
from .randomness import generator
from .split import join, round_at_random, split
from .to_device import bring, pinned, put_back

if TYPE_CHECKING:
    from .one_pass import OnePass, Update

REMAINDER = "remainder"


class SplitAdamW(PartedAdamW):
    """AdamW in fp32 for parameters that are bf16.

    A kernel that does the same in one pass takes its place where there is one (:mod:`kernel`).

    Exact: with its remainder a weight is the fp32 that torch's AdamW would hold, to the last bit.
    Lean: it is rounded at random (Gupta et al. 2015, "stochastic rounding"), right on average;
    the draws are functions of the seed, the weight's place and its step.

    Remainders and moments may lie in pinned memory instead of beside their weights: only updates
    need them, a part at a time.

    Attributes:
        lean: there are no remainders.
        one_pass: the kernel, if one does the updates.
        slow_because: why none does on a device that could have one.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        moments: Moments,
        lean: bool,
        seed: int,
        device: torch.device | None = None,
    ) -> None:
        """The groups' fp32 parameters become bf16 here, each after the other.

        Args:
            groups: each with its ``lr``.
            device: where they go meanwhile: all of them in fp32 may have no room there. None: they
                stay where they are.
        """
        super().__init__(groups, betas=betas, eps=eps, weight_decay=weight_decay, moments=moments)
        self.lean = lean
        self._seed = seed
        self._places = {id(p): place for place, p in enumerate(self.parameters())}
        self._drawn: Tensor | None = None  # for the weight that is updated
        self.one_pass: OnePass | None = None
        self.slow_because = ""
        for parameter in self.parameters():
            parameter.data, remainder = split(parameter.data.to(device or parameter.device))
            if not lean:
                self.state[parameter][REMAINDER] = pinned(remainder) if self.in_ram else remainder

    def value(self, parameter: Parameter) -> Tensor:
        """A weight in fp32."""
        if self.lean:
            return parameter.detach().float()
        return join(parameter.detach(), bring(self.state[parameter][REMAINDER], parameter.device))

    def clip(self, limit: float) -> float:
        """The gradients' norm in fp32; above ``limit`` the next update scales them down to it.

        As torch's ``clip_grad_norm_``, but they stay as they are: scaled bf16 would be rounded.
        """
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm, scale = clip_scale(gradient_norms(gradients), limit)
        self.scale_by(scale)
        return norm

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Every weight that has a gradient."""
        if self.one_pass:
            self._step_at_once(self.one_pass)
        else:
            super().step(closure)
        if self.in_ram and torch.cuda.is_available():
            torch.cuda.synchronize()  # whoever reads the states there does not know of the card

    def _step_at_once(self, one_pass: OnePass) -> None:
        updates = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.count(parameter)
                    updates.append(self._for_one_pass(parameter, group))
        if updates:
            one_pass(updates, self._scale)

    def _for_one_pass(self, parameter: Parameter, group: dict[str, Any]) -> Update:
        from .one_pass import Update

        seed = 0
        if self.lean:
            seed = generator(self._seed, "rounding", self._places[id(parameter)]).initial_seed()
        # in its place: copies of them all would be as large as the gradients
        parameter.grad = alike(parameter.grad, parameter)
        return Update(parameter.data, parameter.grad, self.state[parameter], group, seed)

    def update(self, parameter: Parameter, group: dict[str, Any]) -> None:
        self._drawn = in_memory(self._random(parameter)) if self.lean else None
        super().update(parameter, group)
        self._drawn = None

    def read(self, parameter: Parameter, part: slice) -> Tensor:
        own = in_memory(parameter.data)[part]
        if self.lean:
            return own.float()
        return join(own, bring(in_memory(self.state[parameter][REMAINDER])[part], own.device))

    def write(self, parameter: Parameter, part: slice, weight: Tensor) -> None:
        own = in_memory(parameter.data)[part]
        if self._drawn is not None:
            own.copy_(round_at_random(weight, self._drawn[part]))
        else:
            upper, remainder = split(weight)
            own.copy_(upper)
            put_back(remainder, in_memory(self.state[parameter][REMAINDER])[part])

    def _random(self, parameter: Parameter) -> Tensor:
        """int32 in 0…65535, in the weight's shape and memory layout."""
        place = (self._places[id(parameter)], int(self.state[parameter]["step"]))
        seed = generator(self._seed, "rounding", *place).initial_seed()
        g = torch.Generator(parameter.device).manual_seed(seed)
        drawn = torch.empty_like(parameter, dtype=torch.int32, requires_grad=False)
        return drawn.random_(0, 1 << 16, generator=g)

    @contextmanager
    def remainders_in_place(self) -> Iterator[None]:
        """Inside the block the parameters hold their remainders' bits, for whoever lays out
        weights as files do."""
        own = {p: p.data for p in self.parameters()}
        try:
            for parameter in own:
                parameter.data = self.state[parameter][REMAINDER].view(torch.bfloat16)
            yield
        finally:
            for parameter, weight in own.items():
                parameter.data = weight
