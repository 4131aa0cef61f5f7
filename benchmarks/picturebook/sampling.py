"""Pictures of a checkpoint for a list of prompts, in batches, always from the same noise."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...trainer.checkpoint import detect, read_checkpoint
from ...trainer.conditioning import Conditioning
from ...trainer.model import StableDiffusion
from ...trainer.preview import scheduler
from ...trainer.randomness import generator

BATCH = 8


def load_model(file: Path, device: torch.device) -> StableDiffusion:
    """A checkpoint, ready to compute with."""
    tensors, _ = read_checkpoint(file)
    model = StableDiffusion(tensors, detect(tensors))
    for module in model.parts.values():
        module.to(device).eval()
    return model


@torch.no_grad()
def sample_all(
    model: StableDiffusion,
    prompts: list[str],
    *,
    size: int,
    steps: int,
    cfg: float,
    seed: int,
    device: torch.device,
) -> Tensor:
    """uint8 ``[len(prompts), 3, size, size]``; picture n starts from the noise of (seed, n)."""
    shape = model.latent_shape((size, size))
    noise = torch.stack(
        [torch.randn(*shape, generator=generator(seed, "bench", n)) for n in range(len(prompts))]
    )
    distinct = list(dict.fromkeys(prompts)) + [""]
    states = model.encode_prompts(distinct, device)
    rows = torch.tensor([distinct.index(prompt) for prompt in prompts])
    parts = []
    for chosen in torch.arange(len(prompts)).split(BATCH):
        text, empty = states[rows[chosen]], states[[-1] * len(chosen)]
        latents = denoise(model, noise[chosen].to(device), text, empty, steps, cfg)
        parts.append(to_bytes(model.decode_latents(latents)))
    return torch.cat(parts)


def denoise(
    model: StableDiffusion,
    noise: Tensor,
    text: Conditioning,
    empty: Conditioning,
    steps: int,
    cfg: float,
) -> Tensor:
    """DDIM with classifier-free guidance; ``empty`` is the other half of the batch."""
    ddim = scheduler(steps)
    latents, states = noise * ddim.init_noise_sigma, Conditioning.cat([empty, text])
    sizes = torch.zeros(len(states), 6, device=noise.device)  # SD 1.x reads none
    for t in ddim.timesteps:
        times = t.to(noise.device).expand(2 * len(noise))
        answer = model.predict(torch.cat([latents] * 2), times, states, sizes)
        uncond, cond = answer.float().chunk(2)
        latents = ddim.step(uncond + cfg * (cond - uncond), t, latents).prev_sample
    return latents


def to_bytes(pixels: Tensor) -> Tensor:
    """−1…1 → uint8 on the CPU."""
    return pixels.add(1).mul(127.5).round().clamp(0, 255).to("cpu", torch.uint8)


def from_bytes(pictures: Tensor) -> Tensor:
    """uint8 → 0…1, what the judge reads."""
    return pictures.float().div(255)
