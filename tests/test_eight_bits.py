"""Moments in 8 bits: the numbers, and AdamW with them against fp32 and against a hand-made one."""

import numpy as np
import pytest
import torch
from pack.benchmarks.memory.moments import Dynamic
from pack.trainer import optim
from pack.trainer.config import TrainConfig
from pack.trainer.eight_bits import BLOCK, SIGNED, UNSIGNED, from_eight_bits, to_eight_bits
from pack.trainer.optim import make_optimizer
from torch import Tensor
from torch.nn import Parameter

RATES = {"learning_rate": 1e-3, "weight_decay": 0.1}


@pytest.mark.parametrize("levels", [SIGNED, UNSIGNED])
def test_the_nearest_root_by_looking_at_all_of_them(levels: int) -> None:
    g = torch.Generator().manual_seed(0)
    values = torch.randn(3 * BLOCK + 17, generator=g) * torch.logspace(-6, 3, 3 * BLOCK + 17)
    values = values if levels == SIGNED else values.abs()
    codes, largest = to_eight_bits(values, levels)
    assert codes.dtype == (torch.int8 if levels == SIGNED else torch.uint8)
    assert len(codes) == len(values) and len(largest) == 4
    kept = from_eight_bits(codes, largest, levels)
    roots = np.arange(-levels if levels == SIGNED else 0, levels + 1) / levels
    for n, block in enumerate(values.double().split(BLOCK)):
        top = float(block.abs().max())
        assert float(largest[n]) == pytest.approx(top, rel=1e-7)
        root = np.sign(block.numpy()) * np.sqrt(np.abs(block.numpy()) / top)
        nearest = np.abs(root[:, None] - roots[None]).argmin(1)
        found = codes[n * BLOCK : (n + 1) * BLOCK].int().numpy()
        assert np.abs(found - roots[nearest] * levels).max() < 1e-6
        expected = np.sign(roots[nearest]) * roots[nearest] ** 2 * top
        mine = kept[n * BLOCK : (n + 1) * BLOCK].numpy()
        assert np.allclose(mine, expected, rtol=1e-5, atol=0)


def test_zeros_and_the_largest_stay_what_they_are() -> None:
    zeros = torch.zeros(BLOCK + 1)
    assert torch.equal(from_eight_bits(*to_eight_bits(zeros, SIGNED), SIGNED), zeros)
    values = torch.tensor([0.0, -3e-30, 1e-30])
    kept = from_eight_bits(*to_eight_bits(values, SIGNED), SIGNED)
    assert kept[0] == 0 and kept[1] == values[1]  # also where squares would vanish


def weights() -> list[Parameter]:
    """One with 8-bit moments whose last block is not full, in another memory layout; a small one,
    whose moments stay fp32."""
    g = torch.Generator().manual_seed(1)
    large = torch.randn(24, 30, 3, 3, generator=g).to(memory_format=torch.channels_last)
    return [Parameter(large * 0.03), Parameter(torch.randn(7, 5, generator=g))]


def gradients(step: int, drift: float = 0.5) -> list[Tensor]:
    """Over five decades, as a net's: some rows have far smaller ones than others."""
    same, other = (torch.Generator().manual_seed(seed) for seed in (2, 100 + step))
    made = [
        10 ** (-5 * torch.rand(len(w), *[1] * (w.dim() - 1), generator=same))
        * (drift * torch.randn(w.shape, generator=same) + torch.randn(w.shape, generator=other))
        for w in weights()
    ]
    return [torch.empty_like(w).copy_(g) for w, g in zip(weights(), made, strict=True)]


def train(steps: int, **options) -> tuple[list[Parameter], torch.optim.Optimizer]:
    made = weights()
    optimizer = make_optimizer(made, [], TrainConfig(**RATES, **options))
    for step in range(steps):
        for weight, gradient in zip(made, gradients(step), strict=True):
            weight.grad = gradient.to(weight.dtype)
        optimizer.step()
    return made, optimizer


def by_hand(steps: int) -> np.ndarray:
    """The large weight in float64, its memory's order: ratio and root in 8 bits between updates."""

    def kept(values: np.ndarray, levels: int) -> np.ndarray:
        out = np.empty_like(values)
        for start in range(0, len(values), 256):
            block = values[start : start + 256]
            top = np.abs(block).max()
            code = np.rint(levels * np.sqrt(np.abs(block) / (top or 1)))
            out[start : start + 256] = np.sign(block) * (code / levels) ** 2 * top
        return out

    def flat(value: Tensor) -> np.ndarray:
        return value.detach().permute(0, 2, 3, 1).double().numpy().ravel()

    w = flat(weights()[0])
    m, v = np.zeros_like(w), np.zeros_like(w)
    for step in range(steps):
        g = flat(gradients(step)[0])
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        root = np.sqrt(v / (1 - 0.999 ** (step + 1)))
        w = w * (1 - 1e-3 * 0.1) - 1e-3 / (1 - 0.9 ** (step + 1)) * m / (root + 1e-8)
        stored = kept(np.sqrt(v), 255)
        ratio = np.divide(m, stored, out=np.zeros_like(m), where=stored > 0)
        m, v = kept(ratio, 127) * stored, stored**2
    return w


def test_an_update_is_what_float64_makes_of_it() -> None:
    """But for numbers in the middle of two codes, of which fp32 takes the other one."""
    made, optimizer = train(4, weights="fp32", optimizer="adamw8bit")
    mine = made[0].detach().permute(0, 2, 3, 1).double().numpy().ravel()
    difference = np.abs(mine - by_hand(4)) / 1e-3
    assert np.median(difference) < 1e-3 and (difference > 0.05).mean() < 2e-3
    state = optimizer.state[made[0]]
    assert state["exp_avg"].dtype == torch.int8 and state["exp_avg_sq"].dtype == torch.uint8
    assert sum(t.nbytes for t in state.values()) < 2.1 * made[0].numel()
    assert optimizer.state[made[1]]["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize("form", ["fp32", "exact"])
def test_what_is_learned_is_what_fp32_moments_teach(form: str, monkeypatch) -> None:
    """Where gradients of one block are five decades apart: from the two moments in dynamic 8-bit
    numbers, the usual way, the same run learns something else altogether."""

    def learned(optimizer: str) -> Tensor:
        made, by = train(60, weights=form, optimizer=optimizer)
        value = by.value(made[0]) if form == "exact" else made[0].detach()
        return value.float() - weights()[0].detach()

    def distance() -> float:
        return float((learned("adamw8bit") - plain).norm() / plain.norm())

    plain = learned("adamw")
    assert 0 < distance() < 0.07
    monkeypatch.setattr(optim, "EightBitMoments", lambda *given: Dynamic())
    assert distance() > 1
