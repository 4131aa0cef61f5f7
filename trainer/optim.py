"""Parameter groups, optimizers, and the learning rate as a function of the step."""

import importlib
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch.nn import Parameter

from .config import ConfigError, TrainConfig
from .config.train import LEAN
from .kernel import use_one_pass
from .moments import EightBitMoments, WholeMoments
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


def _bitsandbytes(module: str) -> ModuleType:
    advice = "install bitsandbytes for this machine or choose optimizer = adamw"
    try:
        return importlib.import_module(f"bitsandbytes.{module}")
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise ConfigError(f"optimizer = adamw8bit: {error}; {advice}") from error


def check_optimizer(config: TrainConfig, device: torch.device) -> None:
    """One real step on a small tensor where the optimizer is not torch's own.

    Raises:
        ConfigError: bitsandbytes is missing or does not work on this device.
    """
    if config.optimizer == "adamw":
        return
    # larger than 4096 values: below that bitsandbytes keeps fp32 state and the probe proves nothing
    weight = Parameter(torch.ones(128, 64, device=device))
    try:
        optimizer = make_optimizer([weight], [], replace(config, learning_rate=0.1))
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        worked = bool((weight.detach() != 1).all())
    except ConfigError:
        raise
    except (RuntimeError, NotImplementedError, ValueError, AttributeError, OSError) as error:
        raise ConfigError(
            f"optimizer = adamw8bit does not work on {device} ({error}): choose adamw"
        ) from error
    if not worked:
        raise ConfigError(f"optimizer = adamw8bit changes nothing on {device}: choose adamw")


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
    make: Callable[..., torch.optim.Optimizer]
    if config.has_split_weights:
        return _split_optimizer(groups, options | {"device": device}, config, in_ram)
    if config.optimizer == "adamw8bit":
        make = _bitsandbytes("optim").AdamW8bit
    else:
        # torch's default (foreach) needs one more buffer of the size of all parameters
        device = groups[0]["params"][0].device.type
        make = torch.optim.AdamW
        options |= {"fused": True} if device in ("cpu", "cuda") else {"foreach": False}
    return make(groups, **options)


def _split_optimizer(
    groups: list[dict[str, Any]], options: dict[str, Any], config: TrainConfig, in_ram: bool
) -> SplitAdamW:
    if config.optimizer == "adamw":
        moments = WholeMoments(in_ram)
    else:
        moments = EightBitMoments(_bitsandbytes("functional"), in_ram)
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
