"""Finite, the same, castable without loss."""

import pytest
import torch
from nets import random_checkpoint
from pack.trainer.checkpoint import CheckpointError, check_finite, lossless_dtype, weights_digest


def test_check_finite_names_the_first_and_counts() -> None:
    tensors = random_checkpoint()
    check_finite(tensors)
    check_finite({"ids": torch.arange(3), "none": torch.zeros(0)})
    name = "model.diffusion_model.out.2.weight"
    tensors[name] = tensors[name].clone()
    tensors[name].view(-1)[:2] = torch.tensor([float("nan"), float("inf")])
    with pytest.raises(CheckpointError, match=f"^{name} holds 2 of 1152 values"):
        check_finite(tensors)
    tensors["later"] = torch.tensor(float("nan"))
    with pytest.raises(CheckpointError, match=r"\(1 more tensors"):
        check_finite(tensors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_one_bad_value_is_seen_wherever_it_is(dtype: torch.dtype) -> None:
    """Also in the tail that a vectorised reduction treats on its own."""
    for size in (1, 7, 33, 70):
        check_finite({"x": torch.zeros(size, dtype=dtype)})
        for place in range(size):
            for value in (float("nan"), float("inf"), float("-inf")):
                tensor = torch.zeros(size, dtype=dtype)
                tensor[place] = value
                with pytest.raises(CheckpointError, match=f"holds 1 of {size} values"):
                    check_finite({"x": tensor})


def test_digest_sees_values_not_precision_or_order() -> None:
    half = {"b": torch.randn(3, 4).half(), "a": torch.randn(5).half(), "i": torch.arange(3)}
    digest = weights_digest(half)
    full = {name: t.float() if t.is_floating_point() else t for name, t in half.items()}
    assert weights_digest(dict(reversed(full.items()))) == digest
    assert weights_digest(full | {"a": full["a"].flip(0)}) != digest
    assert weights_digest(full | {"b": full["b"].reshape(4, 3)}) != digest
    assert weights_digest({"c" if name == "a" else name: t for name, t in full.items()}) != digest
    assert weights_digest(full | {"b": full["b"].T.contiguous().T}) == digest


@pytest.mark.parametrize(
    ("values", "dtype", "target", "expected"),
    [
        ([0.5, -0.0, 65504.0], torch.float32, torch.float16, torch.float16),
        ([0.1], torch.float32, torch.float16, torch.float32),
        ([70000.0], torch.float32, torch.float16, torch.float32),
        ([0.5] * 5000 + [0.1], torch.float32, torch.float16, torch.float32),
        ([1e-9], torch.float32, torch.float16, torch.float32),
        ([float("nan")], torch.float32, torch.float16, torch.float32),
        ([0.1], torch.float16, torch.float32, torch.float32),
        ([0.1], torch.float16, torch.bfloat16, torch.float16),
        ([3], torch.int64, torch.float16, torch.int64),
    ],
)
def test_lossless_dtype(values, dtype, target, expected) -> None:
    assert lossless_dtype(torch.tensor(values, dtype=dtype), target) == expected
