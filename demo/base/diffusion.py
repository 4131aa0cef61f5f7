"""The UNet's training objective on the pool's latents, and sampling of many pictures at once."""

from __future__ import annotations

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch import Tensor

from ...trainer.objective import add_noise, alphas_cumprod, row_losses
from ...trainer.preview import scheduler
from ...trainer.randomness import generator
from .recipe import Recipe
from .states import TextStates


class DiffusionLoss:
    """E‖ε − ε̂(x_t, t, c)‖² with the noise levels drawn as often as min-SNR-γ weighs them.

    One step's rows are spread evenly over that distribution.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        latents: Tensor,
        captions: Tensor,
        states: TextStates,
        recipe: Recipe,
        bf16: bool,
        often: Tensor | None = None,
    ) -> None:
        """``captions``: for each picture the rows of its captions in ``states``, ``[N, K]``;
        ``often``: how often it is drawn beside the others, ``[N]``, evenly if not given."""
        self._unet, self._latents, self._captions, self._states = unet, latents, captions, states
        self._recipe, self._bf16, self._often = recipe, bf16, often
        self._empty = int(states.rows([""]))
        self._levels = alphas_cumprod()
        snr = self._levels / (1 - self._levels)
        weights = (recipe.gamma / snr).clamp(max=1.0)
        self._share = weights.cumsum(0) / weights.sum()

    def __call__(self, step: int) -> Tensor:
        g, batch = generator(self._recipe.seed, "unet", step), self._recipe.unet_batch
        rows = self._rows(g, batch)
        which = torch.randint(self._captions.shape[1], (batch,), generator=g)
        text = self._captions[rows, which]
        text[torch.rand(batch, generator=g) < self._recipe.empty] = self._empty
        places = (torch.arange(batch) + torch.rand(batch, generator=g)) / batch
        timesteps = torch.searchsorted(self._share, places.to(self._share.dtype))
        timesteps.clamp_(max=len(self._levels) - 1)
        noise = torch.randn(batch, *self._latents.shape[1:], generator=g)

        device = self._latents.device
        clean, noise = self._latents[rows.to(device)], noise.to(device)
        noisy = add_noise(clean, noise, timesteps, self._levels)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bf16):
            answer = self._unet(
                noisy, timesteps.to(device), encoder_hidden_states=self._states[text]
            ).sample
        return row_losses(answer, noise).mean()

    def _rows(self, g: torch.Generator, batch: int) -> Tensor:
        if self._often is None:
            return torch.randint(len(self._latents), (batch,), generator=g)
        return torch.multinomial(self._often, batch, replacement=True, generator=g)


@torch.no_grad()
def sample(
    unet: UNet2DConditionModel,
    vae: AutoencoderTiny,
    text: Tensor,
    empty: Tensor,
    *,
    side: int,
    steps: int = 20,
    cfg: float = 4.0,
    seed: int = 0,
    bf16: bool = False,
) -> Tensor:
    """Pictures in about −1…1 for the states ``text`` ``[B, 77, C]``; ``side`` in latent pixels."""
    device, count = text.device, len(text)
    noise = torch.randn(count, 4, side, side, generator=generator(seed, "sample"))
    ddim = scheduler(steps)
    latents = noise.to(device) * ddim.init_noise_sigma
    states = torch.cat([empty.expand(count, -1, -1), text])
    for t in ddim.timesteps:
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            both = unet(torch.cat([latents] * 2), t.to(device), encoder_hidden_states=states).sample
        uncond, cond = both.float().chunk(2)
        latents = ddim.step(uncond + cfg * (cond - uncond), t, latents).prev_sample
    return vae.decode(latents).sample
