"""What ``auto`` comes to on a device: of the weights, and of the optimizer's moments."""

import importlib.util
from dataclasses import replace

import torch

from .config import TrainConfig
from .config.train import AUTO, EXACT, FP32
from .precision import has_bf16

# bytes of a card: below them Stable Diffusion 1.5 and its text encoder, at 16 bytes a weight and
# with their activations, find no room in fp32
_SMALL_CARD = 22 * 2**30


def resolve(config: TrainConfig, device: torch.device) -> TrainConfig:
    """The options that a run trains with, and is known by, on this device.

    ``weights``: exact where a card computes in bf16 and all weights learn, else fp32. The passes
    compute in bf16 there either way: exact weights hold as much as fp32 ones, while gradients and
    activations take half the memory. Without Triton their update takes many more kernels than
    fp32's, which only a card that needs the memory has to pay for.

    ``optimizer``: adamw8bit on a card with such weights, and on a small one where all weights
    learn, else adamw. What it errs by is about what bf16 arithmetic errs by anyway
    (docs/BENCHMARKS.md), and the moments are most of the memory.
    """
    if config.weights == AUTO:
        config = replace(config, weights=EXACT if _suits_exact(config, device) else FP32)
    if config.optimizer == AUTO:
        is_eight = device.type == "cuda" and (
            config.has_split_weights or not config.lora.is_on and _is_small(device)
        )
        config = replace(config, optimizer="adamw8bit" if is_eight else "adamw")
    return config


def _suits_exact(config: TrainConfig, device: torch.device) -> bool:
    in_bf16 = config.precision in (AUTO, "bf16") and not config.lora.is_on
    if not in_bf16 or device.type != "cuda" or not has_bf16(device):
        return False
    return _has_triton() or _is_small(device)


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def _is_small(device: torch.device) -> bool:
    return torch.cuda.get_device_properties(device).total_memory < _SMALL_CARD
