"""The DreamBooth objective as arithmetic: noising, row losses, row weights, their combination.

Ho et al. 2020 (DDPM), eq. 4 and 14; Ruiz et al. 2022 (DreamBooth), eq. 2:
L = E‖ε − ε̂(x_t, t, c)‖² + λ E‖ε' − ε̂(x'_t', t', c_class)‖².
"""

from collections.abc import Sequence

import torch

from .randomness import generator


def alphas_cumprod(
    steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012
) -> torch.Tensor:
    """ᾱ_t of Stable Diffusion's "scaled linear" schedule, ``[steps]`` float64.

    β is linear in its square root (CompVis ``make_beta_schedule("linear")``).
    """
    betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
    return torch.cumprod(1.0 - betas, dim=0)


def zero_terminal_snr(acp: torch.Tensor) -> torch.Tensor:
    """ᾱ_t shifted and scaled so that the last step holds no signal: ᾱ_T = 0, ᾱ_1 as before.

    Lin et al. 2023 (Common Diffusion Noise Schedules and Sample Steps are Flawed), algorithm 1.
    """
    root = acp.sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * first / (first - last)).square()


def draw_row(
    shape: Sequence[int], timesteps: range, seed: int, row: int, is_class: bool
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """What one row draws: (noise for the posterior, noise ε, timestep).

    Args:
        shape: of one latent, ``[C, h, w]``.
        timesteps: to choose from, each as likely.
        row: instance rows of the run before this one; a class row has its partner's number and
            draws for itself.
    """
    g = generator(seed, "class row" if is_class else "instance row", row)
    posterior = torch.randn(*shape, generator=g)
    noise = torch.randn(*shape, generator=g)
    timestep = int(torch.randint(timesteps.start, timesteps.stop, (), generator=g))
    return posterior, noise, timestep


def add_noise(
    latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, acp: torch.Tensor
) -> torch.Tensor:
    """x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε with each row's own t (DDPM, eq. 4). All ``[B, C, h, w]``."""
    signal = acp[timesteps].view(-1, 1, 1, 1)
    return signal.sqrt().to(latents) * latents + (1.0 - signal).sqrt().to(latents) * noise


def target(
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    acp: torch.Tensor,
    prediction: str,
) -> torch.Tensor:
    """What the UNet should answer, ``[B, C, h, w]``.

    "epsilon": ε. "v_prediction": v = √ᾱ_t ε − √(1−ᾱ_t) x_0 (Salimans & Ho 2022, appendix D).
    """
    if prediction == "epsilon":
        return noise
    signal = acp[timesteps].view(-1, 1, 1, 1)
    return signal.sqrt().to(noise) * noise - (1.0 - signal).sqrt().to(noise) * latents


def row_losses(
    prediction: torch.Tensor, target: torch.Tensor, pixels: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean squared error of each row in fp32: ``[B, C, h, w]`` twice → ``[B]``.

    Args:
        pixels: see :func:`mean_over_row`.
    """
    return mean_over_row((prediction.float() - target.float()).square(), pixels)


def mean_over_row(errors: torch.Tensor, pixels: torch.Tensor | None) -> torch.Tensor:
    """Σ w e / Σ w over each row's channels and pixels: ``[B, C, h, w]`` → ``[B]``.

    A row's loss has the same size whatever part of the picture counts, and where all of it counts
    it is the plain mean. A row of which nothing counts has loss 0.

    Args:
        pixels: w, the weight of each pixel, ``[B, 1, h, w]``; None: 1 everywhere.
    """
    if pixels is None:
        return errors.mean(dim=(1, 2, 3))
    tiny = torch.finfo(torch.float32).tiny
    return (errors * pixels).mean(dim=(1, 2, 3)) / pixels.mean(dim=(1, 2, 3)).clamp_min(tiny)


def pixel_weights(masks: torch.Tensor, unmasked: float) -> torch.Tensor:
    """w = u + (1 − u) m: 1 where the mask is white, ``unmasked`` where it is black."""
    return unmasked + (1.0 - unmasked) * masks


def pseudo_huber(
    prediction: torch.Tensor,
    target: torch.Tensor,
    c: torch.Tensor,
    pixels: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean of 2c (√(d² + c²) − c) over each row's errors d, with its own c: ``[B, …]`` → ``[B]``.

    The pseudo-Huber loss (Charbonnier et al. 1997; Khrapov et al. 2024) in the scale of
    sd-scripts: d² where d is well below c, 2c|d| where it is well above, and so the mean squared
    error for a large c. In float32: for d ≪ c the difference of two roots would lose all its
    digits, hence 2c d² / (√(d² + c²) + c).

    Args:
        c: ``[B]``.
        pixels: see :func:`mean_over_row`.
    """
    squared = (prediction.float() - target.float()).square()
    c = c.float().view(-1, 1, 1, 1)
    errors = 2 * c * squared / ((squared + c.square()).sqrt() + c)
    return mean_over_row(errors, pixels)


def combine(losses: torch.Tensor, weights: torch.Tensor, instance_rows: int) -> torch.Tensor:
    """Σ_i w_i L_i / (instance rows of the whole optimizer step): a scalar.

    Instance rows weigh 1, class rows λ. With as many class rows as instance rows this is the
    paper's L_instance + λ L_class; without class rows, or with λ = 0, the plain mean. Dividing
    by the rows of the *step* makes the micro-batches of an accumulated step add up to exactly
    the one large batch.
    """
    return (losses * weights).sum() / instance_rows
