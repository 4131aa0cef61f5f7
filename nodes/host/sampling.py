"""The host's own sampler and text encoder."""

import dataclasses
from collections.abc import Callable
from typing import Any

import comfy.model_management as management
import comfy.sample
import comfy.samplers
import torch
from torch import Tensor

SAMPLERS = comfy.samplers.KSampler.SAMPLERS
SCHEDULERS = comfy.samplers.KSampler.SCHEDULERS


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How the host samples pictures."""

    width: int
    height: int
    sampler_name: str
    scheduler: str
    steps: int
    cfg: float


def sample_pictures(
    model: Any,
    vae: Any,
    positive: Any,
    negative: Any,
    seeds: list[int],
    how: Sampling,
    on_step: Callable[[int], None],
) -> Tensor:
    """One picture per seed in one batch: ``[N, H, W, 3]`` in 0…1.

    Every picture's first noise comes from its own seed. What an ancestral sampler adds on its way
    comes from the batch's first seed, so there a picture also depends on its batch.
    """
    shape = (len(seeds), 4, how.height // 8, how.width // 8)
    empty = torch.zeros(shape, device=management.intermediate_device())
    empty = comfy.sample.fix_empty_latent_channels(model, empty)
    noise = torch.cat([comfy.sample.prepare_noise(empty[:1], seed) for seed in seeds])
    latents = comfy.sample.sample(
        model,
        noise,
        how.steps,
        how.cfg,
        how.sampler_name,
        how.scheduler,
        positive,
        negative,
        empty,
        callback=lambda step, x0, x, total: on_step(step + 1),
        disable_pbar=True,
        seed=seeds[0],
    )
    return vae.decode(latents)


def encode_text(clip: Any, text: str) -> Any:
    """CONDITIONING of a prompt, as *CLIP Text Encode* makes it."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))
