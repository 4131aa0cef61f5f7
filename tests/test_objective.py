"""The objective's arithmetic against hand-computed cases, diffusers and float64."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from pack.trainer.objective import (
    add_noise,
    alphas_cumprod,
    combine,
    draw_row,
    row_losses,
    target,
    zero_terminal_snr,
)

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def test_noise_schedule_is_stable_diffusions() -> None:
    # β_t is linear in √β from √0.00085 to √0.012: by hand, in numpy
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    expected = np.cumprod(1.0 - betas)
    np.testing.assert_allclose(alphas_cumprod().numpy(), expected, rtol=1e-12)
    assert alphas_cumprod()[0] == pytest.approx(0.99915, abs=1e-9)
    diffusers = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    torch.testing.assert_close(
        alphas_cumprod().float(), diffusers.alphas_cumprod, rtol=2e-5, atol=1e-7
    )


def test_noising_uses_each_rows_own_timestep() -> None:
    acp = alphas_cumprod()
    g = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 2, 2, generator=g, dtype=torch.float64) for _ in "ab")
    times = torch.tensor([0, 500, 999])
    noisy = add_noise(latents, noise, times, acp)
    for row, t in enumerate(times.tolist()):
        expected = acp[t] ** 0.5 * latents[row] + (1 - acp[t]) ** 0.5 * noise[row]
        torch.testing.assert_close(noisy[row], expected, rtol=1e-14, atol=0)
    diffusers = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    theirs = diffusers.add_noise(latents.float(), noise.float(), times)
    torch.testing.assert_close(noisy.float(), theirs, rtol=1e-4, atol=1e-5)


def test_zero_terminal_snr_is_lins_algorithm() -> None:
    acp = zero_terminal_snr(alphas_cumprod())
    assert acp[-1] == 0 and acp[0] == pytest.approx(alphas_cumprod()[0].item(), rel=1e-12)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    theirs = torch.cumprod(1 - rescale_zero_terminal_snr(betas), 0)
    torch.testing.assert_close(acp, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_velocity_is_diffusers_and_solves_for_the_picture(zero_snr: bool) -> None:
    acp = zero_terminal_snr(alphas_cumprod()) if zero_snr else alphas_cumprod()
    g = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(4, 4, 2, 2, generator=g, dtype=torch.float64) for _ in "ab")
    times = torch.tensor([0, 300, 700, 999])
    v = target(latents, noise, times, acp, "v_prediction")
    scheduler = DDPMScheduler(**SD, rescale_betas_zero_snr=zero_snr)
    theirs = scheduler.get_velocity(latents.float(), noise.float(), times)
    torch.testing.assert_close(v.float(), theirs, rtol=1e-3, atol=2e-3 if zero_snr else 1e-4)
    # the sampler's way back: x_0 = √ᾱ x_t − √(1−ᾱ) v
    noisy, signal = add_noise(latents, noise, times, acp), acp[times].view(-1, 1, 1, 1)
    torch.testing.assert_close(signal.sqrt() * noisy - (1 - signal).sqrt() * v, latents)


def test_the_target_of_epsilon_is_the_noise_itself() -> None:
    noise = torch.randn(2, 4, 2, 2)
    assert target(torch.randn(2, 4, 2, 2), noise, torch.tensor([1, 2]), None, "epsilon") is noise


def test_row_losses_are_rows_and_fp32() -> None:
    prediction = torch.zeros(2, 1, 1, 2, dtype=torch.bfloat16)
    target = torch.tensor([[1.0, 3.0], [0.0, 2.0]]).reshape(2, 1, 1, 2)
    losses = row_losses(prediction, target)
    assert losses.dtype == torch.float32
    assert losses.tolist() == [5.0, 2.0]  # (1 + 9) / 2 and (0 + 4) / 2


def test_combination_by_hand() -> None:
    # two instance rows, one class row of weight 0.5: (1 + 3) / 2 + 0.5 · 4 / 2
    losses = torch.tensor([1.0, 3.0, 4.0])
    weights = torch.tensor([1.0, 1.0, 0.5])
    assert combine(losses, weights, 2).item() == pytest.approx(3.0)


def test_equal_halves_give_the_papers_sum() -> None:
    # L_instance + λ L_class with means over rows: Ruiz et al. 2022, eq. 2
    instance, class_ = torch.tensor([1.0, 2.0]), torch.tensor([5.0, 7.0])
    weights = torch.tensor([1.0, 1.0, 0.25, 0.25])
    total = combine(torch.cat([instance, class_]), weights, 2)
    assert total.item() == pytest.approx(instance.mean().item() + 0.25 * class_.mean().item())


def test_without_class_rows_it_is_the_plain_mean() -> None:
    losses = torch.tensor([1.0, 2.0, 6.0])
    assert combine(losses, torch.ones(3), 3).item() == pytest.approx(3.0)
    zero = torch.tensor([1.0, 1.0, 1.0, 0.0])
    with_zero = combine(torch.cat([losses, torch.tensor([9.0])]), zero, 3)
    assert with_zero.item() == pytest.approx(3.0)


def test_a_rows_draw_depends_on_its_number_alone() -> None:
    def draw(row: int, is_class: bool = False, seed: int = 7):
        return draw_row((4, 2, 2), range(1000), seed, row, is_class)

    first, again = draw(3), draw(3)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert first[2] == again[2]
    for other in (draw(4), draw(3, is_class=True), draw(3, seed=8)):
        assert not torch.equal(first[1], other[1])
    assert not torch.equal(first[0], first[1])  # the posterior's noise is not ε


def test_draws_are_uniform_and_normal() -> None:
    draws = [draw_row((4, 4, 4), range(1000), 0, row, False) for row in range(2000)]
    times = torch.tensor([t for *_, t in draws], dtype=torch.float64)
    assert times.min() >= 0 and times.max() <= 999
    assert times.mean().item() == pytest.approx(499.5, abs=4 * 288.7 / 2000**0.5)
    noise = torch.stack([n for _, n, _ in draws])
    assert abs(noise.mean().item()) < 0.02 and noise.std().item() == pytest.approx(1, abs=0.02)
