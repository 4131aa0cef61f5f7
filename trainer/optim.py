"""Parameter groups, optimizers, and the learning rate as a function of the step."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch.nn import Parameter

from .config import TrainConfig
from .config.train import LEAN
from .kernel import use_one_pass
from .moments import EightBitMoments, WholeMoments
from .parted_adamw import PartedAdamW
from .split_adamw import SplitAdamW


def lr_factor(schedule: str, step: int, steps: int, warmup: int) -> float:
    """What the learning rate is multiplied with in optimizer step ``step`` (counted from 0).

    The warm-up rises linearly and reaches 1 at ``warmup``; *linear* and *cosine* then fall and
    would reach 0 at ``steps``, so that the last step still learns. As diffusers'
    ``get_scheduler`` of the same names.
    """
    if step < warmup:
        return step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    if schedule == "linear":
        return max(0.0, 1.0 - progress)
    if schedule == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
    return 1.0


def make_optimizer(
    unet: Iterable[Parameter],
    text_encoder: Iterable[Parameter],
    config: TrainConfig,
    in_ram: bool = False,
    device: torch.device | None = None,
) -> torch.optim.Optimizer:
    """AdamW over one group per part; each group keeps its full rate in ``base_lr``.

    Where ``config.weights`` are split, the fp32 parameters become bf16 on ``device``.

    Args:
        in_ram, device: see :class:`split_adamw.SplitAdamW`.
    """
    rates = (config.learning_rate, config.text_encoder_learning_rate)
    groups = [
        {"params": list(parameters), "lr": rate, "base_lr": rate}
        for parameters, rate in zip((unet, text_encoder), rates, strict=True)
    ]
    groups = [group for group in groups if group["params"]]
    options = {
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
        "weight_decay": config.weight_decay,
    }
    if config.has_split_weights:
        return _split_optimizer(groups, options | {"device": device}, config, in_ram)
    if config.optimizer == "adamw8bit":
        return PartedAdamW(groups, moments=EightBitMoments(), **options)
    # torch's default (foreach) needs one more buffer of the size of all parameters
    is_fused = groups[0]["params"][0].device.type in ("cpu", "cuda")
    options |= {"fused": True} if is_fused else {"foreach": False}
    return torch.optim.AdamW(groups, **options)


def _split_optimizer(
    groups: list[dict[str, Any]], options: dict[str, Any], config: TrainConfig, in_ram: bool
) -> SplitAdamW:
    moments = WholeMoments(in_ram) if config.optimizer == "adamw" else EightBitMoments(in_ram)
    lean = config.weights == LEAN

    def make(groups: list[dict[str, Any]]) -> SplitAdamW:
        return SplitAdamW(groups, moments=moments, lean=lean, seed=config.seed, **options)

    optimizer = make(groups)
    rate = config.learning_rate
    use_one_pass(optimizer, lambda weights: make([{"params": weights, "lr": rate}]))
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set every group to ``factor`` of its full rate; returns the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return optimizer.param_groups[0]["lr"]
