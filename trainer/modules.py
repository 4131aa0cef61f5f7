"""How a run's modules compute: memory layout, attention, kernels of ours, what is recomputed."""

from collections.abc import Iterable

import torch

from .attention import FASTEST, Choices, FastestAttention
from .checks import Plan
from .config import Job
from .events import Listener, Note
from .fused import use_fused_layers
from .model import StableDiffusion
from .trainable import Trainable
from .training_state import SavedState


def set_up_modules(model: StableDiffusion, trained: Trainable, job: Job) -> None:
    """All that needs no device."""
    config = job.config
    if config.attention == "xformers":
        model.unet.enable_xformers_memory_efficient_attention()
    if config.channels_last:
        model.unet.to(memory_format=torch.channels_last)
    if config.gradient_checkpointing:
        model.recompute_activations(config.trains_text_encoder)
    for module in trained.modules.values():
        # train() switches recomputation on in transformers; neither part has any dropout
        module.train()


def choose_attention(
    model: StableDiffusion, plan: Plan, state: SavedState | None, listener: Listener
) -> Choices | None:
    """Set up, where the ways of computing it are to be chosen from; as they were in ``state``."""
    if plan.job.config.attention != FASTEST:
        return None
    numbers = state.numbers if state else {}
    choices = Choices(plan.device, lambda text: listener(Note(text)), numbers)
    if not choices.ways:
        listener(Note(f"attention = fastest: torch has one way alone on {plan.device.type}"))
        return None
    model.unet.set_attn_processor(FastestAttention(choices))
    return choices


def fuse_layers(
    model: StableDiffusion, sizes: Iterable[tuple[int, int]], plan: Plan, listener: Listener
) -> None:
    """Where that was chosen; if it cannot be done, it is said why.

    Args:
        sizes: widths and heights of the run's pictures.
    """
    config = plan.job.config
    if not config.fused_layers:
        return
    lower = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(plan.precision, torch.float32)
    dtypes = (lower, lower if config.has_split_weights else torch.float32)
    latents = [model.latent_shape(size)[1:] for size in sizes]
    if reason := use_fused_layers(model.unet, latents, plan.device, dtypes):
        listener(Note(f"fused_layers: {reason}, so layers are computed by torch's own kernels"))
