"""Updates inside the backward pass, for devices that have no room for all gradients at once.

A step's pass is made twice. The first time the gradients are only looked at: their norm says how
far they are scaled down, and whether they may reach the weights at all. The second time each goes
to the optimizer as soon as it is whole, and is given up (LOMO's two passes: Lv et al. 2023, §3.3).
A step learns what it learns with all gradients at hand, to the bit where the device's sums have a
fixed order, and takes up to twice the time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter

# bytes of gradients that share an update: one for each weight would take long to start
WAITING = 1 << 25


class InBackward:
    """Takes each gradient away when it is whole; a pass gives a weight its gradient once.

    Attributes:
        has_looked: the norms are those of the step to come, whose gradients are not there.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self._parameters = parameters
        self._norms: dict[Parameter, Tensor] = {}

    @property
    def has_looked(self) -> bool:
        return bool(self._norms)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Inside, gradients leave nothing but their norms."""
        self._norms = {}
        with self._with_each(self._look):
            yield

    def clip(self, limit: float) -> tuple[float, Tensor]:
        """The norm of all that was seen, in fp32, and what scales it down to ``limit``, ``[1]``."""
        return clip_scale([self._norms[p] for p in self._parameters if p in self._norms], limit)

    def update(self, backward: Callable[[], object], step: Callable[[], object]) -> None:
        """Let the same pass's gradients reach the weights.

        Args:
            backward: makes the pass again.
            step: updates every weight that has a gradient.
        """
        self._norms = {}
        waiting: list[Parameter] = []

        def hand_over() -> None:
            step()
            for parameter in waiting:
                parameter.grad = None
            waiting.clear()

        def take(parameter: Parameter) -> None:
            waiting.append(parameter)
            if sum(p.grad.nbytes for p in waiting) >= WAITING:
                hand_over()

        with self._with_each(take):
            backward()
        if waiting:
            hand_over()

    def _look(self, parameter: Parameter) -> None:
        self._norms[parameter] = gradient_norms([parameter.grad])[0]
        parameter.grad = None

    @contextmanager
    def _with_each(self, hook: Callable[[Parameter], None]) -> Iterator[None]:
        """Inside, ``hook`` is given each weight whose gradient is whole."""
        hooks = [p.register_post_accumulate_grad_hook(hook) for p in self._parameters]
        try:
            yield
        finally:
            for handle in hooks:
                handle.remove()


def gradient_norms(gradients: Sequence[Tensor]) -> list[Tensor]:
    """Of each its norm in fp32, all together: a kernel each would take a card longer to start."""
    return list(torch._foreach_norm(gradients, 2, dtype=torch.float32))


def clip_scale(norms: Sequence[Tensor], limit: float) -> tuple[float, Tensor]:
    """The norm of all, and the factor of torch's ``clip_grad_norm_``, ``[1]``."""
    norm = torch.linalg.vector_norm(torch.stack(list(norms)))
    return float(norm), (limit / (norm + 1e-6)).clamp(max=1.0).view(1)
