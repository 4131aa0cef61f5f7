"""AdamW on bf16 weights: exact with their remainders beside them, or lean without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.adamw import adamw

from .in_backward import clip_scale, gradient_norms
from .moments import Moments, in_memory
from .randomness import generator
from .split import join, round_at_random, split
from .to_device import bring, pinned, put_back

if TYPE_CHECKING:
    from .one_pass import OnePass, Update

REMAINDER = "remainder"
# values that are updated at a time: on a processor as many as stay in its caches
PART, WHOLE = {"cpu": 1 << 18}, 1 << 22


class SplitAdamW(torch.optim.Optimizer):
    """torch's own AdamW on parts of each weight in fp32, one at a time; the parameters are bf16.

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
        super().__init__(groups, {"betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._moments = moments
        self.lean = lean
        self._seed = seed
        self._places = {id(p): place for place, p in enumerate(self._parameters())}
        self._scale: Tensor | None = None
        self.one_pass: OnePass | None = None
        self.slow_because = ""
        for parameter in self._parameters():
            parameter.data, remainder = split(parameter.data.to(device or parameter.device))
            if not lean:
                self.state[parameter][REMAINDER] = pinned(remainder) if self.in_ram else remainder

    @property
    def in_ram(self) -> bool:
        return self._moments.in_ram

    @property
    def maps(self) -> Sequence[Tensor]:
        """Of 8-bit moments, see :class:`moments.Moments`."""
        return self._moments.maps

    def _parameters(self) -> Iterator[Parameter]:
        for group in self.param_groups:
            yield from group["params"]

    def value(self, parameter: Parameter) -> Tensor:
        """A weight in fp32."""
        if self.lean:
            return parameter.detach().float()
        return join(parameter.detach(), bring(self.state[parameter][REMAINDER], parameter.device))

    def clip(self, limit: float) -> float:
        """The gradients' norm in fp32; above ``limit`` the next update scales them down to it.

        As torch's ``clip_grad_norm_``, but they stay as they are: scaled bf16 would be rounded.
        """
        gradients = [p.grad for p in self._parameters() if p.grad is not None]
        norm, scale = clip_scale(gradient_norms(gradients), limit)
        self.scale_by(scale)
        return norm

    def scale_by(self, scale: Tensor) -> None:
        """What the next update multiplies the gradients with, ``[1]``."""
        self._scale = scale

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Every weight that has a gradient."""
        assert closure is None
        updates = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                # on the CPU: to read it there is to wait for nothing
                state["step"] = state.get("step", torch.zeros(())) + 1
                if self.one_pass:
                    updates.append(self._for_one_pass(parameter, group))
                else:
                    self._update(parameter, group)
        if updates:
            self.one_pass(updates, self._scale)
        if self.in_ram and torch.cuda.is_available():
            torch.cuda.synchronize()  # whoever reads the states there does not know of the card

    def _for_one_pass(self, parameter: Parameter, group: dict[str, Any]) -> Update:
        from .one_pass import Update

        seed = 0
        if self.lean:
            seed = generator(self._seed, "rounding", self._places[id(parameter)]).initial_seed()
        # in its place: copies of them all would be as large as the gradients
        parameter.grad = _alike(parameter.grad, parameter)
        return Update(parameter.data, parameter.grad, self.state[parameter], group, seed)

    def _update(self, parameter: Parameter, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        gradient = in_memory(_alike(parameter.grad, parameter))
        random = in_memory(self._random(parameter, state["step"])) if self.lean else None
        count, size = parameter.numel(), PART.get(parameter.device.type, WHOLE)
        for start in range(0, count, size):
            part = slice(start, min(start + size, count))
            weight = self._updated(parameter, gradient[part], part, group)
            own = in_memory(parameter.data)[part]
            if random is not None:
                own.copy_(round_at_random(weight, random[part]))
            else:
                upper, remainder = split(weight)
                own.copy_(upper)
                put_back(remainder, in_memory(state[REMAINDER])[part])

    def _updated(
        self, parameter: Parameter, gradient: Tensor, part: slice, group: dict[str, Any]
    ) -> Tensor:
        """A part of a weight after torch's update, in fp32, ``[values]``."""
        state, own = self.state[parameter], in_memory(parameter.data)[part]
        if self.lean:
            weight = own.float()
        else:
            weight = join(own, bring(in_memory(state[REMAINDER])[part], own.device))
        gradient = gradient.to(torch.float32, copy=True)
        if self._scale is not None:
            gradient.mul_(self._scale)
        mean, square = self._moments.read(state, parameter, part)
        beta1, beta2 = group["betas"]
        adamw(
            [weight],
            [gradient],
            [mean],
            [square],
            [],
            [_number(float(state["step"]) - 1, parameter.device)],  # which adamw counts up
            # where there is no fused kernel the loop over tensors has the smallest temporaries
            fused=parameter.device.type in ("cpu", "cuda"),
            foreach=False,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        self._moments.write(state, part, mean, square)
        return weight

    def _random(self, parameter: Parameter, step: Tensor) -> Tensor:
        """int32 in 0…65535, in the weight's shape and memory layout."""
        place = (self._places[id(parameter)], int(step))
        seed = generator(self._seed, "rounding", *place).initial_seed()
        g = torch.Generator(parameter.device).manual_seed(seed)
        drawn = torch.empty_like(parameter, dtype=torch.int32, requires_grad=False)
        return drawn.random_(0, 1 << 16, generator=g)

    @contextmanager
    def remainders_in_place(self) -> Iterator[None]:
        """Inside the block the parameters hold their remainders' bits, for whoever lays out
        weights as files do."""
        own = {p: p.data for p in self._parameters()}
        try:
            for parameter in own:
                parameter.data = self.state[parameter][REMAINDER].view(torch.bfloat16)
            yield
        finally:
            for parameter, weight in own.items():
                parameter.data = weight

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As it is: torch's own would round every moment to the weight's dtype."""
        order = list(self._parameters())
        self.state.clear()
        for index, held in state_dict["state"].items():
            device = order[index].device
            self.state[order[index]] = {
                key: value.cpu() if key == "step" else self._placed(value, device)
                for key, value in held.items()
            }

    def _placed(self, value: Tensor, device: torch.device) -> Tensor:
        return pinned(value) if self.in_ram else value.to(device)


def _number(value: float, device: torch.device) -> Tensor:
    """On the device, without a copy to it, for which everything would be waited for."""
    return torch.full((), value, dtype=torch.float32, device=device)


def _alike(gradient: Tensor, parameter: Parameter) -> Tensor:
    """In the weight's own memory layout: fused updates walk both side by side."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, dtype=gradient.dtype, requires_grad=False).copy_(gradient)
