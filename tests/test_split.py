"""bf16 weights with their remainders: every bit of fp32; without: right on average."""

import pytest
import torch
from pack.trainer import moments, parted_adamw, split_adamw
from pack.trainer.config import TrainConfig
from pack.trainer.optim import make_optimizer
from pack.trainer.split import Joined, join, round_at_random, split
from pack.trainer.split_adamw import SplitAdamW
from torch import Tensor
from torch.nn import Parameter

RATES = {"learning_rate": 1e-5, "text_encoder_learning_rate": 3e-6, "weight_decay": 0.1}


def numbers() -> Tensor:
    """Random bits of finite fp32, with denormals, both zeros, and ties between two bf16."""
    g = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (400_000,), generator=g, dtype=torch.int64)
    ties = bits[:1000] // 65536 * 65536 + 0x8000
    edges = torch.tensor([0, -(2**31), 1, 0x8000, 0x7FFF, 0x00800000])
    values = torch.cat([bits, ties, edges]).to(torch.int32).view(torch.float32)
    return values[values.abs() < 3.38e38]


def test_every_bit_comes_back() -> None:
    value = numbers()
    upper, remainder = split(value)
    assert (upper.dtype, remainder.dtype) == (torch.bfloat16, torch.int16)
    assert torch.equal(join(upper, remainder).view(torch.int32), value.view(torch.int32))


def test_the_upper_half_is_the_nearest_bf16() -> None:
    value = numbers()
    upper, remainder = split(value)
    tie = remainder == -0x8000  # where torch rounds to even and we away from zero
    assert torch.equal(upper[~tie], value.to(torch.bfloat16)[~tie])
    assert (upper[tie].abs().double() > value[tie].abs().double()).all()


def test_by_hand() -> None:
    """Between 1 and 2 a bf16's step is 2⁻⁷; the remainder counts in 2⁻²³."""
    value = torch.tensor([1 + 2**-9, 1 + 2**-8, -1 - 3 * 2**-9, 1.0])
    upper, remainder = split(value)
    assert upper.tolist() == [1.0, 1 + 2**-7, -1 - 2**-7, 1.0]
    assert remainder.tolist() == [2**14, -(2**15), -(2**14), 0]


def test_random_rounding_goes_to_the_two_neighbours_as_often_as_they_are_near() -> None:
    value = torch.tensor([1 + 2**-9, -3.01, 1e-3]).repeat_interleave(65536)
    random = torch.arange(65536, dtype=torch.int32).repeat(3)
    rounded = round_at_random(value, random).double()
    assert torch.allclose(rounded.view(3, -1).mean(1), value.double().view(3, -1)[:, 0], rtol=1e-9)
    assert [len(row.unique()) for row in rounded.view(3, -1)] == [2, 2, 2]
    exact = torch.tensor([1.5, -0.25])
    assert torch.equal(round_at_random(exact, torch.tensor([65535, 0])).float(), exact)


def test_joined_puts_together_on_demand() -> None:
    value = torch.randn(3, 5)
    upper, remainder = split(value)
    joined = Joined({"a": upper.t()}, {"a": remainder.view(torch.bfloat16).t()})
    assert list(joined) == ["a"] and len(joined) == 1 and torch.equal(joined["a"], value.t())


# ---- the optimizer -------------------------------------------------------------------------------


def parameters(dtype: torch.dtype = torch.float32) -> list[Parameter]:
    g = torch.Generator().manual_seed(1)
    shapes = [(7, 5), (6,), (4, 3, 3, 3)]
    values = [torch.randn(shape, generator=g) * 0.03 for shape in shapes]
    values[2] = values[2].contiguous(memory_format=torch.channels_last)
    return [Parameter(value.to(dtype)) for value in values]


def gradients(step: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(step)
    return [torch.randn(p.shape, generator=g).to(torch.bfloat16) for p in parameters()]


def test_exact_weights_are_those_of_torchs_adamw_to_the_last_bit() -> None:
    """With the same bf16 gradients, clipped in fp32."""
    ours, theirs = parameters(), parameters()
    exact = make_optimizer(ours[:2], ours[2:], TrainConfig(weights="exact", **RATES))
    plain = make_optimizer(theirs[:2], theirs[2:], TrainConfig(**RATES))
    assert isinstance(exact, SplitAdamW) and {p.dtype for p in ours} == {torch.bfloat16}
    for step in range(20):
        for mine, other, gradient in zip(ours, theirs, gradients(step), strict=True):
            mine.grad = gradient.clone()  # of another memory layout than its weight, once
            other.grad = torch.empty_like(other).copy_(gradient)
        norm = float(torch.nn.utils.clip_grad_norm_(theirs, 1.0))
        assert exact.clip(1.0) == pytest.approx(norm, rel=1e-6)
        exact._scale = min(1.0, 1.0 / (norm + 1e-6))  # sums of squares in another order
        exact.step()
        plain.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(exact.value(mine), other)
        assert mine.stride() == other.stride() and torch.equal(mine, split(other.data)[0])


@pytest.mark.parametrize(
    "options",
    [{"weights": "exact"}, {"weights": "lean"}, {"weights": "exact", "optimizer": "adamw8bit"}],
)
def test_parts_of_a_weight_become_what_the_whole_does(monkeypatch, options: dict) -> None:

    def trained(part: int) -> tuple[Parameter, dict]:
        monkeypatch.setitem(parted_adamw.PART, "cpu", part)
        g = torch.Generator().manual_seed(2)
        weight = torch.randn(24, 30, 3, 3, generator=g).contiguous(
            memory_format=torch.channels_last
        )
        weight = Parameter(weight * 0.03)
        optimizer = make_optimizer([weight], [], TrainConfig(**options, **RATES))
        for _ in range(5):
            weight.grad = torch.randn(weight.shape, generator=g).to(torch.bfloat16)
            optimizer.clip(1.0)
            optimizer.step()
        return weight, optimizer.state[weight]

    (whole, state), (parts, own) = trained(1 << 20), trained(1024)
    assert torch.equal(whole, parts) and state.keys() == own.keys()
    assert all(torch.equal(state[key], own[key]) for key in state)


@pytest.mark.parametrize(
    "options",
    [{"weights": "exact"}, {"weights": "lean"}, {"weights": "exact", "optimizer": "adamw8bit"}],
)
def test_a_state_that_lies_in_ram_is_brought_and_put_back(monkeypatch, options: dict) -> None:
    """A copy stands in for the card's: what is changed in it and not put back is lost."""
    monkeypatch.setitem(parted_adamw.PART, "cpu", 1024)

    def trained(in_ram: bool) -> tuple[list[Tensor], list[dict]]:
        g = torch.Generator().manual_seed(2)
        weights = [Parameter(torch.randn(shape, generator=g)) for shape in ((70, 90), (5, 7))]
        optimizer = make_optimizer(weights, [], TrainConfig(**options, **RATES), in_ram)
        for _ in range(3):
            for weight in weights:
                weight.grad = torch.randn(weight.shape, generator=g).to(torch.bfloat16)
            optimizer.clip(1.0)
            optimizer.step()
        kept = optimizer.state_dict()
        optimizer.load_state_dict(kept)
        values = [optimizer.value(weight) for weight in weights]
        return values, [optimizer.state[weight] for weight in weights]

    values, states = trained(in_ram=False)
    copies = []

    def bring(values: Tensor, device: torch.device) -> Tensor:
        copies.append(values.clone())
        return copies[-1]

    for module in (moments, split_adamw):
        monkeypatch.setattr(module, "bring", bring)
    there, own = trained(in_ram=True)
    assert len(copies) > 10
    assert all(torch.equal(a, b) for a, b in zip(values, there, strict=True))
    for state, other in zip(states, own, strict=True):
        assert state.keys() == other.keys() and all(torch.equal(state[k], other[k]) for k in state)


def test_plain_bf16_would_stand_still() -> None:
    """What the remainders are for: a rate that moves no weight by a whole step of bf16."""
    naive, ours = parameters(torch.bfloat16), parameters()
    exact = make_optimizer(ours, [], TrainConfig(weights="exact", learning_rate=1e-6))
    plain = torch.optim.AdamW(naive, lr=1e-6, weight_decay=0.0)
    for step in range(30):
        for mine, other, gradient in zip(ours, naive, gradients(step), strict=True):
            mine.grad, other.grad = gradient, gradient.clone()
        exact.step()
        plain.step()
    moved = [
        (n != b).double().mean() for n, b in zip(naive, parameters(torch.bfloat16), strict=True)
    ]
    kept = [(exact.value(m) != b).double().mean() for m, b in zip(ours, parameters(), strict=True)]
    assert max(moved) < 0.2 and min(kept) > 0.9


def test_lean_weights_are_right_on_average_and_the_same_for_the_same_seed() -> None:
    def final(seed: int, lean: bool = True) -> Tensor:
        ours = [Parameter(p.detach().bfloat16().float()) for p in parameters()]
        kind = "lean" if lean else "exact"
        optimizer = make_optimizer(ours, [], TrainConfig(weights=kind, seed=seed, **RATES))
        for step in range(5):
            for mine, gradient in zip(ours, gradients(step), strict=True):
                mine.grad = gradient
            optimizer.step()
        return torch.cat([optimizer.value(p).flatten() for p in ours])

    runs = torch.stack([final(seed) for seed in range(300)])
    ulp = 2.0 ** (final(0, lean=False).abs().log2().floor() - 7)
    error = (runs.mean(0) - final(0, lean=False)) / ulp
    # a rounding's deviation is at most half a step; five of them, the mean of 300 runs
    assert error.abs().max() < 5 * (0.5 * 5**0.5) / 300**0.5
    assert torch.equal(runs[3], final(3)) and not torch.equal(runs[3], runs[4])


@pytest.mark.parametrize(
    ("weights", "moments", "expected"),
    [
        ("fp32", "adamw", 16),
        ("exact", "adamw", 14),
        ("lean", "adamw", 12),
        ("fp32", "adamw8bit", 10),
        ("exact", "adamw8bit", 8),
        ("lean", "adamw8bit", 6),
    ],
)
def test_bytes_of_a_weight_with_gradient_and_moments(
    weights: str, moments: str, expected: int
) -> None:
    """What README and the help page say, counted."""
    ours = [Parameter(torch.zeros(100, 100))]
    optimizer = make_optimizer(ours, [], TrainConfig(weights=weights, optimizer=moments))
    for parameter in ours:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    held = [ours[0], ours[0].grad, *optimizer.state[ours[0]].values()]
    size = sum(t.nbytes for t in held if t.ndim)
    assert expected * 100 * 100 <= size < (expected + 0.05) * 100 * 100
