"""Sample pictures during a run: the weights as they train, no second copy, no trace left."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from PIL import Image
from torch import Tensor

from .images import to_image
from .model import StableDiffusion, placed
from .randomness import generator
from .tokenizer import tokenize


def scheduler(steps: int) -> DDIMScheduler:
    """DDIM (Song et al. 2020) with Stable Diffusion's published sampling settings."""
    made = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    made.set_timesteps(steps)
    return made


@torch.no_grad()
def sample(
    model: StableDiffusion,
    text: Tensor,
    empty: Tensor,
    *,
    resolution: int,
    steps: int,
    cfg: float,
    seed: int,
    device: torch.device,
    check_stop: Callable[[], None] = lambda: None,
) -> Image.Image:
    """One picture with classifier-free guidance, always from the same noise for the same seed.

    Args:
        text, empty: hidden states ``[77, C]`` of the prompt and of the empty prompt.
    """
    noise = torch.randn(
        1, *model.latent_shape(resolution), generator=generator(seed, "preview")
    ).to(device)
    ddim = scheduler(steps)
    latents = noise * ddim.init_noise_sigma
    states = torch.stack([empty, text])
    for t in ddim.timesteps:
        check_stop()
        timesteps = t.to(device).expand(2)
        uncond, cond = model.predict(latents.expand(2, -1, -1, -1), timesteps, states).chunk(2)
        guided = uncond.float() + cfg * (cond.float() - uncond.float())
        latents = ddim.step(guided, t, latents).prev_sample
    with placed(model.vae, device), torch.autocast(device.type, enabled=False):
        return to_image(model.decode_latents(latents.float())[0])


@torch.no_grad()
def encode_for_preview(
    model: StableDiffusion, prompts: list[str], device: torch.device
) -> list[Tensor]:
    """Hidden states of each prompt from the text encoder as it is now, ``[77, C]`` each."""
    return list(model.encode_prompts(tokenize(prompts).to(device)))


def save_picture(image: Image.Image, path: Path) -> None:
    """As PNG, whole or not at all: a run that goes on takes what is there as made."""
    temporary = path.with_name(f".{path.stem}.partial")
    try:
        image.save(temporary, format="PNG")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
