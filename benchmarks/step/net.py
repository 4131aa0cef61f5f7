"""A UNet of random weights that learns as the trainer has it learn on a device."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from diffusers import UNet2DConditionModel
from torch.nn import functional

from ...trainer.auto import resolve
from ...trainer.checkpoint.convert import make_module
from ...trainer.config import TrainConfig
from ...trainer.optim import make_optimizer
from ..stopwatch.material import SIZES


class Net:
    """The UNet and its optimizer, with what ``auto`` comes to on the device."""

    def __init__(self, size: str, device: torch.device) -> None:
        torch.manual_seed(0)
        config = resolve(TrainConfig(), device)
        self.device = device
        self.unet: UNet2DConditionModel = make_module(SIZES[size].layout, "unet", "cpu").train()
        self.unet.to(device)
        self._optimizer = make_optimizer(self.unet.parameters(), [], config)
        self.dtype = next(self.unet.parameters()).dtype

    def forward_backward(self, rows: int, side: int) -> None:
        """Of so many pictures; leaves gradients."""
        width = side // 8
        options = {"device": self.device, "dtype": self.dtype}
        noisy = torch.randn(rows, 4, width, width, **options)
        text = torch.randn(rows, 77, self.unet.config.cross_attention_dim, **options)
        steps = torch.zeros(rows, dtype=torch.long, device=self.device)
        answer = self.unet(noisy, steps, encoder_hidden_states=text).sample.float()
        functional.mse_loss(answer, torch.zeros_like(answer)).backward()

    def update(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def seconds(self, work: Callable[[], None]) -> float:
        """That some work takes, to its end."""
        self.wait()
        began = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - began

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
