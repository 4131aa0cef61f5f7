"""The textbook DreamBooth loop: what diffusers' ``train_dreambooth.py`` does, written anew.

Its published semantics and defaults: UNet only, fp32, AdamW (5e-6, weight decay 0.01), constant
rate, gradient norm 1, one instance row beside one class row, pictures paired by index modulo,
``loss = mse(instance) + prior_loss_weight * mse(class)``. Latents are encoded anew each step, as
there; text states are computed once, as its ``--pre_compute_text_embeddings`` does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor

from ...trainer.model import StableDiffusion


@dataclass(frozen=True)
class TextbookConfig:
    """The script's own option names and defaults; steps and batch as its README has them."""

    learning_rate: float = 5e-6
    max_train_steps: int = 800
    train_batch_size: int = 1
    prior_loss_weight: float = 1.0
    adam_weight_decay: float = 1e-2
    max_grad_norm: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Draw:
    """What chance decides of one step: ``own`` and ``other`` ``[B]`` are indices of pictures, all
    else has 2B rows, instance rows first.

    Attributes:
        posterior, noise: ``[2B, 4, h, w]``; for the latents' samples, and ε.
        times: ``[2B]``.
    """

    own: Tensor
    other: Tensor
    posterior: Tensor
    noise: Tensor
    times: Tensor


def schedule() -> DDPMScheduler:
    """Stable Diffusion 1.5's ``scheduler_config.json``."""
    return DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )


def train_textbook(
    model: StableDiffusion,
    instance: Tensor,
    classes: Tensor,
    prompts: tuple[str, str],
    config: TextbookConfig,
    draws: Iterator[Draw] | None = None,
) -> Iterator[tuple[int, float]]:
    """Trains ``model.unet`` in place; yields finished steps and the seconds spent in them.

    Args:
        instance, classes: pictures ``[N, 3, h, w]`` in −1…1, on the model's device.
        prompts: of the instance and of the class pictures.
        draws: of each step; None: the loop's own.
    """
    device = instance.device
    scheduler, unet = schedule(), model.unet.requires_grad_(True).train()
    with torch.no_grad():
        text = model.encode_prompts(prompts, device)
    text = text[torch.arange(2).repeat_interleave(config.train_batch_size)]
    optimizer = torch.optim.AdamW(
        unet.parameters(), lr=config.learning_rate, weight_decay=config.adam_weight_decay
    )
    shape = model.latent_shape((instance.shape[3], instance.shape[2]))
    own_draws = draw_steps(len(instance), len(classes), shape, model.timesteps, config)
    draws, seconds = draws or own_draws, 0.0
    for step in range(1, config.max_train_steps + 1):
        began = time.perf_counter()
        drawn = next(draws)
        mean, deviation = model.encode_images(
            torch.cat([instance[drawn.own], classes[drawn.other]])
        )
        latents = mean + deviation * drawn.posterior.to(device)
        noise, times = drawn.noise.to(device), drawn.times.to(device)
        noisy = scheduler.add_noise(latents, noise, times)
        answer = model.predict(noisy, times, text, torch.zeros(len(noisy), 6, device=device))
        textbook_loss(answer, noise, config.prior_loss_weight).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds += time.perf_counter() - began
        yield step, seconds


def draw_steps(
    instances: int,
    classes: int,
    shape: tuple[int, ...],
    timesteps: int,
    config: TextbookConfig,
) -> Iterator[Draw]:
    """All from one generator, step by step. ``shape``: of one latent."""
    g = torch.Generator().manual_seed(config.seed)
    rows = 2 * config.train_batch_size
    for own, other in pairs(instances, classes, config.train_batch_size, g):
        posterior, noise = (torch.randn(rows, *shape, generator=g) for _ in range(2))
        yield Draw(own, other, posterior, noise, torch.randint(0, timesteps, (rows,), generator=g))


def textbook_loss(answer: Tensor, noise: Tensor, prior_loss_weight: float) -> Tensor:
    """First half of the rows: instance; second half: class."""
    mine, prior = answer.float().chunk(2)
    noise_mine, noise_prior = noise.chunk(2)
    return F.mse_loss(mine, noise_mine) + prior_loss_weight * F.mse_loss(prior, noise_prior)


def pairs(
    instances: int, classes: int, batch: int, g: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Indices of each batch: shuffled epochs over the longer side, both taken modulo."""
    length = max(instances, classes)
    while True:
        for rows in torch.randperm(length, generator=g).split(batch):
            if len(rows) == batch:
                yield rows % instances, rows % classes
