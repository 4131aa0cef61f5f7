"""AdamW on a part of a weight at a time, wherever its moments are kept between two updates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim.adamw import adamw

from .moments import Moments, in_memory
from .to_device import pinned

# values that are updated at a time: on a processor as many as stay in its caches
PART, WHOLE = {"cpu": 1 << 18}, 1 << 22


class PartedAdamW(torch.optim.Optimizer):
    """torch's own AdamW on parts of each weight in fp32, one at a time."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        moments: Moments,
    ) -> None:
        """
        Args:
            groups: each with its ``lr``.
        """
        super().__init__(groups, {"betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._moments = moments
        self._scale: Tensor | None = None

    @property
    def in_ram(self) -> bool:
        return self._moments.in_ram

    @property
    def eight(self) -> bool:
        """See :class:`moments.Moments`."""
        return self._moments.eight

    def parameters(self) -> Iterator[Parameter]:
        for group in self.param_groups:
            yield from group["params"]

    def scale_by(self, scale: Tensor) -> None:
        """What the next update multiplies the gradients with, ``[1]``."""
        self._scale = scale

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Every weight that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.count(parameter)
                    self.update(parameter, group)

    def count(self, parameter: Parameter) -> None:
        """One more step of a weight."""
        state = self.state[parameter]
        # on the CPU: to read it there is to wait for nothing
        state["step"] = state.get("step", torch.zeros(())) + 1

    def update(self, parameter: Parameter, group: dict[str, Any]) -> None:
        gradient = in_memory(alike(parameter.grad, parameter))
        count, size = parameter.numel(), PART.get(parameter.device.type, WHOLE)
        for start in range(0, count, size):
            part = slice(start, min(start + size, count))
            weight = self.read(parameter, part)
            self._update_part(weight, gradient[part], part, parameter, group)
            self.write(parameter, part, weight)

    def read(self, parameter: Parameter, part: slice) -> Tensor:
        """A part of a weight in fp32, ``[values]``, to be changed in place and written."""
        return in_memory(parameter.data)[part]

    def write(self, parameter: Parameter, part: slice, weight: Tensor) -> None:
        """What :meth:`read` gave, updated."""

    def _update_part(
        self,
        weight: Tensor,
        gradient: Tensor,
        part: slice,
        parameter: Parameter,
        group: dict[str, Any],
    ) -> None:
        state = self.state[parameter]
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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As it is: torch's own would bring every number to the weight's dtype."""
        order = list(self.parameters())
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


def alike(gradient: Tensor, parameter: Parameter) -> Tensor:
    """In the weight's own memory layout: fused updates walk both side by side."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter, dtype=gradient.dtype, requires_grad=False).copy_(gradient)
