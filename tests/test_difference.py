"""The difference of two models: what is kept, against numpy's singular values."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pack.trainer.checkpoint import read_checkpoint
from pack.trainer.config import ConfigError, DifferenceConfig
from pack.trainer.difference import (
    Difference,
    Pair,
    low_rank,
    save_difference,
    take_difference,
)

CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def product(up: torch.Tensor, down: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """What a loader adds to the weight."""
    return (up.flatten(1) @ down.flatten(1)).reshape(shape)


def pairs() -> list[Pair]:
    """A matrix, a convolution and a norm that changed, and a matrix that did not."""
    shapes = {"a": (12, 20), "conv": (8, 6, 3, 3), "norm": (9,), "same": (5, 5)}
    return [
        Pair(
            f"{name}.diff",
            None if name == "norm" else f"lora_{name}",
            base := noise(*shape, seed=1),
            base + (0.1 * noise(*shape, seed=2) if name != "same" else 0),
        )
        for name, shape in shapes.items()
    ]


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (8, 6, 3, 3), (8, 6, 1, 1)])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_no_lora_of_this_rank_is_nearer(shape: tuple[int, ...], rank: int) -> None:
    """The error is the norm of the singular values that are left out (Eckart and Young)."""
    delta = noise(*shape)
    up, down = low_rank(delta, rank)
    assert up.shape[1] == down.shape[0] == rank
    values = np.linalg.svd(delta.double().flatten(1).numpy(), compute_uv=False)
    error = float((product(up, down, delta.shape) - delta).double().norm())
    assert error == pytest.approx(float(np.linalg.norm(values[rank:])), rel=1e-4)


@pytest.mark.parametrize("shape", [(12, 20), (8, 6, 3, 3)])
def test_full_rank_is_all_of_it(shape: tuple[int, ...]) -> None:
    delta = noise(*shape)
    up, down = low_rank(delta, 1000)
    torch.testing.assert_close(product(up, down, delta.shape), delta, rtol=1e-4, atol=1e-5)


def test_a_whole_difference() -> None:
    made = take_difference(pairs(), DifferenceConfig(save_precision="fp32"), CPU)
    assert made.tensors.keys() == {"a.diff", "conv.diff", "norm.diff"}
    assert made.changed == 3 and made.share == 1.0
    for pair in pairs()[:3]:
        assert torch.equal(made.tensors[pair.name], pair.trained - pair.base)


def test_an_extracted_lora() -> None:
    """Only layers that can have one; the share is what of the squared change remains."""
    config = DifferenceConfig(kind="lora", rank=2, save_precision="fp32")
    made = take_difference(pairs(), config, CPU)
    ends = ("lora_up.weight", "lora_down.weight", "alpha")
    assert made.tensors.keys() == {f"lora_{x}.{end}" for x in ("a", "conv") for end in ends}
    assert float(made.tensors["lora_a.alpha"]) == 2.0 and made.changed == 3
    squares = {p.name: float(p.delta.double().square().sum()) for p in pairs()}
    kept = 0.0
    for pair in pairs()[:2]:
        values = np.linalg.svd(pair.delta.double().flatten(1).numpy(), compute_uv=False)
        kept += float((values[:2] ** 2).sum())
    assert made.share == pytest.approx(kept / sum(squares.values()), rel=1e-5)


def test_nothing_changed() -> None:
    with pytest.raises(ConfigError, match="nothing to save"):
        take_difference(pairs()[3:], DifferenceConfig(), CPU)


def test_the_file(tmp_path: Path) -> None:
    """A taken name gets a number; a bad one is refused."""
    config = DifferenceConfig(kind="lora", rank=4, save_precision="bf16")
    made = take_difference(pairs(), config, CPU)
    paths = [save_difference(made, config, tmp_path, "dog") for _ in range(2)]
    assert [path.name for path in paths] == ["dog.safetensors", "dog-2.safetensors"]
    tensors, about = read_checkpoint(paths[0])
    assert tensors["lora_a.lora_up.weight"].dtype == torch.bfloat16
    assert about["ss_network_dim"] == "4" and about["modelspec.title"] == "dog"
    with pytest.raises(ConfigError, match="name"):
        save_difference(Difference({}, 0, 0.0), config, tmp_path, "../dog")
