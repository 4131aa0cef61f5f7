"""Learning rates as functions of the step, and the optimizer that is made."""

import pytest
import torch
from diffusers.optimization import get_scheduler
from pack.trainer.config import TrainConfig
from pack.trainer.optim import lr_factor, make_optimizer, set_learning_rate

THEIRS = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


@pytest.mark.parametrize("schedule", THEIRS)
@pytest.mark.parametrize("warmup", [0, 4])
def test_schedules_equal_diffusers(schedule: str, warmup: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(
        THEIRS[schedule], optimizer, num_warmup_steps=warmup, num_training_steps=20
    )
    for step in range(20):
        expected = theirs.get_last_lr()[0]
        assert lr_factor(schedule, step, 20, warmup) == pytest.approx(expected, abs=1e-12)
        optimizer.step()
        theirs.step()


def parameters(count: int) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(4)) for _ in range(count)]


def test_each_part_has_its_own_rate() -> None:
    config = TrainConfig(learning_rate=1e-3, text_encoder_learning_rate=1e-5)
    optimizer = make_optimizer(parameters(1), parameters(2), config)
    assert set_learning_rate(optimizer, 0.5) == pytest.approx(5e-4)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([5e-4, 5e-6])
    assert len(make_optimizer(parameters(1), [], config).param_groups) == 1


def test_adamw_equals_a_float64_reference() -> None:
    """Loshchilov & Hutter 2019, algorithm 2, in plain Python."""
    config = TrainConfig(
        learning_rate=0.01, adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-6, weight_decay=0.1
    )
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = make_optimizer([weight], [], config)
    w, m, v = 1.0, 0.0, 0.0
    for step, gradient in enumerate([0.5, -1.0, 2.0, 0.1], 1):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
        m = 0.8 * m + 0.2 * gradient
        v = 0.95 * v + 0.05 * gradient**2
        w -= 0.01 * 0.1 * w
        w -= 0.01 * (m / (1 - 0.8**step)) / ((v / (1 - 0.95**step)) ** 0.5 + 1e-6)
    assert weight.item() == pytest.approx(w, rel=1e-6)
