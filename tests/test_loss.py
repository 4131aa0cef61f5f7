"""Weights by noise level, the Huber loss and other kinds of noise, against independent references.

Whole steps with them are in test_gradient.py.
"""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr
from diffusers.training_utils import compute_snr
from pack.trainer.config import ConfigError, LossConfig
from pack.trainer.noise import add_coarser, add_offset, perturb, shaped
from pack.trainer.objective import alphas_cumprod, draw_row, pseudo_huber, row_losses
from pack.trainer.randomness import generator
from pack.trainer.weighting import huber_widths, loss_weights

SD = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
TIMES = torch.arange(1000)


def zero_terminal() -> torch.Tensor:
    """ᾱ whose last SNR is 0 (Lin et al. 2024), by diffusers' own function."""
    acp = torch.cumprod(1 - rescale_zero_terminal_snr(SD.betas.double()), 0)
    assert acp[-1] == 0
    return acp


# ---- weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_min_snr_equals_diffusers_scripts(gamma: float) -> None:
    """The arithmetic of ``train_text_to_image.py`` on ``compute_snr``, for both predictions."""
    snr = compute_snr(SD, TIMES)
    least = torch.minimum(snr, torch.full_like(snr, gamma))
    for prediction, theirs in (("epsilon", least / snr), ("v_prediction", least / (snr + 1))):
        ours = loss_weights("min_snr", gamma, prediction, alphas_cumprod())
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-6)


def test_min_snr_by_hand() -> None:
    acp = torch.tensor([0.9, 0.5, 0.1, 0.0], dtype=torch.float64)  # SNR 9, 1, 1/9, 0
    assert loss_weights("min_snr", 3.0, "epsilon", acp).tolist() == pytest.approx([1 / 3, 1, 1, 1])
    assert loss_weights("min_snr", 3.0, "v_prediction", acp).tolist() == pytest.approx(
        [3 / 10, 1 / 2, 1 / 10, 0]
    )


def test_debiased_by_hand() -> None:
    acp = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    assert loss_weights("debiased", 5.0, "epsilon", acp).tolist() == pytest.approx([1 / 3, 1, 3])
    assert loss_weights("debiased", 5.0, "v_prediction", acp).tolist() == pytest.approx(
        [3 / 10, 1 / 2, 3 / 10]
    )
    # sd-scripts holds SNR at 1000 or less, which on this schedule is the first timestep alone
    snr = compute_snr(SD, TIMES).double()
    ours = loss_weights("debiased", 5.0, "epsilon", alphas_cumprod())
    assert ours[0].item() == pytest.approx(1000**-0.5) and snr[0] > 1000 > snr[1]
    torch.testing.assert_close(ours[1:], snr[1:] ** -0.5, rtol=1e-3, atol=0)


@pytest.mark.parametrize("weighting", ["min_snr", "debiased"])
def test_both_predictions_learn_the_same(weighting: str) -> None:
    """One error of the net, told as ε's or as v's, costs the same: ε = √ᾱ v + √(1−ᾱ) x_t."""
    acp = alphas_cumprod()
    wrong = torch.linspace(-1, 1, 1000, dtype=torch.float64)  # v's error
    by_v = loss_weights(weighting, 5.0, "v_prediction", acp) * wrong**2
    by_noise = loss_weights(weighting, 5.0, "epsilon", acp) * (acp.sqrt() * wrong) ** 2
    torch.testing.assert_close(by_v, by_noise, rtol=1e-12, atol=0)


@pytest.mark.parametrize("weighting", ["min_snr", "debiased"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_no_signal_gives_no_wild_weight(weighting: str, prediction: str) -> None:
    table = loss_weights(weighting, 5.0, prediction, zero_terminal())
    assert torch.isfinite(table).all() and (table >= 0).all() and table.max() < 32


# ---- pseudo-Huber ------------------------------------------------------------------------------


@pytest.mark.parametrize("c", [1e-4, 0.1, 1.0, 30.0])
def test_huber_equals_float64(c: float) -> None:
    g = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(2, 4, 3, 3, generator=g) for _ in "ab")
    error = (prediction.double() - target.double()).numpy()
    expected = (2 * c * (np.sqrt(error**2 + c**2) - c)).mean(axis=(1, 2, 3))
    got = pseudo_huber(prediction, target, torch.full((2,), c))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5)


def test_huber_is_a_square_for_small_errors_and_a_line_for_large_ones() -> None:
    zero, one = torch.zeros(3, 1, 1, 1), torch.ones(3, 1, 1, 1)
    c = torch.tensor([100.0, 1.0, 1e-4])  # each row has its own
    got = pseudo_huber(one, zero, c)
    assert got[0].item() == pytest.approx(row_losses(one, zero)[0].item(), rel=1e-4)
    assert got[1].item() == pytest.approx(2 * (math.sqrt(2) - 1))
    assert got[2].item() == pytest.approx(2e-4, rel=1e-3)


def test_huber_keeps_to_the_mask() -> None:
    error = torch.tensor([[[[3.0, 100.0]]]])
    pixels = torch.tensor([[[[1.0, 0.0]]]])
    got = pseudo_huber(error, torch.zeros_like(error), torch.tensor([4.0]), pixels)
    assert got.tolist() == [8.0]  # 2 · 4 · (√(3² + 4²) − 4)


def test_huber_can_be_differentiated_where_nothing_is_wrong() -> None:
    guess = torch.zeros(1, 1, 1, 2, requires_grad=True)
    pseudo_huber(guess, torch.zeros(1, 1, 1, 2), torch.tensor([1e-6])).sum().backward()
    assert guess.grad.tolist() == [[[[0.0, 0.0]]]]


def test_widths_by_hand() -> None:
    acp = alphas_cumprod()
    assert huber_widths("constant", 0.1, acp).unique().tolist() == [0.1]
    exponential = huber_widths("exponential", 0.1, acp)
    alpha = -math.log(0.1) / 1000
    for t in (0, 500, 999):
        sigma = math.sqrt((1 - acp[t].item()) / acp[t].item())
        assert exponential[t].item() == pytest.approx(math.exp(-alpha * t))
        snr = (1 - 0.1) / (1 + sigma) ** 2 + 0.1
        assert huber_widths("snr", 0.1, acp)[t].item() == pytest.approx(snr)
    assert huber_widths("snr", 0.1, zero_terminal())[-1].item() == pytest.approx(0.1)


# ---- noise -------------------------------------------------------------------------------------


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_offset_moves_each_channel_by_one_number() -> None:
    noise = normal(4, 8, 8)
    moved = (add_offset(noise, 0.25, generator(3, "x")) - noise).double()
    drawn = torch.randn(4, 1, 1, generator=generator(3, "x"))
    np.testing.assert_allclose(moved, 0.25 * drawn.expand(4, 8, 8), atol=1e-6)


def test_offset_has_the_right_spread() -> None:
    means = torch.stack(
        [add_offset(torch.zeros(4, 2, 2), 0.1, generator(0, "x", row)) for row in range(2000)]
    )
    assert means.std().item() == pytest.approx(0.1, rel=0.05)


def bilinear(layer: np.ndarray, side: int) -> np.ndarray:
    """Of a square ``[h, h]``, sampled at pixel centres, edges repeated: by hand."""
    place = np.clip((np.arange(side) + 0.5) * len(layer) / side - 0.5, 0, len(layer) - 1)
    low = np.floor(place).astype(int)
    high, part = np.minimum(low + 1, len(layer) - 1), place - low
    rows = layer[low] * (1 - part)[:, None] + layer[high] * part[:, None]
    return rows[:, low] * (1 - part) + rows[:, high] * part


@pytest.mark.parametrize("iterations", [1, 2, 3, 16])
def test_coarser_layers_equal_numpy(iterations: int) -> None:
    noise, side, discount = normal(4, 16, 16), 16, 0.7
    g = generator(5, "x")
    expected, layers = noise.double().numpy(), 0
    for i in range(iterations):
        r = torch.rand((), generator=g).item() * 2 + 2
        small = max(1, int(side / r**i))
        drawn = torch.randn(1, 4, small, small, generator=g)[0].double().numpy()
        expected = expected + discount**i * np.stack([bilinear(one, side) for one in drawn])
        layers += 1
        if small == 1:
            break
    assert layers <= 5  # 16 / 2^4 = 1
    expected = expected / expected.std(ddof=1)
    got = add_coarser(noise, iterations, discount, generator(5, "x"))
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)


def test_coarser_layers_add_low_frequencies_and_no_power() -> None:
    def spread_of_means(noises: torch.Tensor) -> float:
        return noises.mean(dim=(2, 3)).std().item()

    plain = normal(500, 4, 16, 16)
    coarse = torch.stack(
        [add_coarser(n, 6, 0.4, generator(0, "x", i)) for i, n in enumerate(plain)]
    )
    assert coarse.std().item() == pytest.approx(1, abs=0.01)
    assert spread_of_means(plain) == pytest.approx(1 / 16, rel=0.1)
    assert spread_of_means(coarse) > 1.5 * spread_of_means(plain)


def test_perturbed_input_keeps_its_target() -> None:
    config = LossConfig(input_perturbation=0.1)
    noise = torch.zeros(4, 32, 32)
    target, inside = shaped(noise, config, 0, 0, False)
    assert target is noise and inside.std().item() == pytest.approx(0.1, rel=0.05)
    again = perturb(noise, 0.1, generator(0, "input perturbation, instance row", 0))
    assert torch.equal(inside, again)


def test_a_row_draws_for_itself_and_by_its_number() -> None:
    config = LossConfig(noise_offset=0.1, multires_noise_iterations=4, input_perturbation=0.1)

    def drawn(row: int, is_class: bool = False, seed: int = 7) -> torch.Tensor:
        return torch.stack(shaped(normal(4, 8, 8), config, seed, row, is_class))

    assert torch.equal(drawn(3), drawn(3))
    for other in (drawn(4), drawn(3, is_class=True), drawn(3, seed=8)):
        assert not torch.equal(drawn(3)[0], other[0]) and not torch.equal(drawn(3)[1], other[1])


def test_without_any_of_it_the_noise_is_left_alone() -> None:
    noise = normal(4, 8, 8)
    target, inside = shaped(noise, LossConfig(), 0, 0, False)
    assert target is noise and inside is noise


# ---- timesteps ---------------------------------------------------------------------------------


def test_timesteps_are_uniform_inside_their_range() -> None:
    times = [draw_row((1, 1, 1), range(200, 210), 0, row, False)[2] for row in range(3000)]
    counts = np.bincount(times, minlength=1000)
    assert counts[:200].sum() == counts[210:].sum() == 0
    assert np.abs(counts[200:210] - 300).max() < 5 * math.sqrt(300)


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="min_timestep = 500 .* max_timestep = 500"):
        LossConfig(min_timestep=500, max_timestep=500)
