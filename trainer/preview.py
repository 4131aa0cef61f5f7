"""Sample pictures during a run: the weights as they train, no second copy, no trace left."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import DDIMScheduler
from PIL import Image

from .conditioning import Conditioning
from .files import move
from .images import to_image
from .model import StableDiffusion, placed
from .randomness import generator


def scheduler(
    steps: int, prediction: str = "epsilon", zero_terminal_snr: bool = False
) -> DDIMScheduler:
    """DDIM (Song et al. 2020) with Stable Diffusion's published sampling settings.

    With zero terminal SNR it begins at the very last timestep, which alone is pure noise (Lin et
    al. 2023, section 3.3).
    """
    made = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction,
        rescale_betas_zero_snr=zero_terminal_snr,
        timestep_spacing="trailing" if zero_terminal_snr else "leading",
    )
    made.set_timesteps(steps)
    return made


@torch.no_grad()
def sample(
    model: StableDiffusion,
    text: Conditioning,
    empty: Conditioning,
    *,
    size: tuple[int, int],
    steps: int,
    cfg: float,
    seed: int,
    device: torch.device,
    check_stop: Callable[[], None] = lambda: None,
) -> Image.Image:
    """One picture with classifier-free guidance, always from the same noise for the same seed.

    Args:
        size: width and height in pixels.
        text, empty: of the prompt and of the empty prompt.
    """
    noise = torch.randn(1, *model.latent_shape(size), generator=generator(seed, "preview")).to(
        device
    )
    ddim = scheduler(steps, model.prediction, model.layout.zero_terminal_snr)
    latents = noise * ddim.init_noise_sigma
    both = Conditioning.cat([empty, text])
    width, height = map(float, size)
    sizes = torch.tensor([[height, width, 0.0, 0.0, height, width]] * 2, device=device)
    for t in ddim.timesteps:
        check_stop()
        timesteps = t.to(device).expand(2)
        answer = model.predict(latents.expand(2, -1, -1, -1), timesteps, both, sizes)
        uncond, cond = answer.chunk(2)
        guided = uncond.float() + cfg * (cond.float() - uncond.float())
        latents = ddim.step(guided, t, latents).prev_sample
    with placed(model.vae, device), torch.autocast(device.type, enabled=False):
        return to_image(model.decode_latents(latents.float())[0])


@torch.no_grad()
def encode_for_preview(
    model: StableDiffusion, prompts: list[str], device: torch.device
) -> list[Conditioning]:
    """Each prompt from the text encoders as they are now."""
    encoded = model.encode_prompts(prompts, device)
    return [encoded[row : row + 1] for row in range(len(prompts))]


def save_picture(image: Image.Image, path: Path) -> None:
    """As PNG, whole or not at all: a run that goes on takes what is there as made."""
    temporary = path.with_name(f".{path.stem}.partial")
    try:
        image.save(temporary, format="PNG")
        move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
