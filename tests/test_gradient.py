"""One optimizer step's loss and gradient against an independent reference in float64.

The reference handles every row by itself, with its own schedule and its own sums, and shares
nothing with the trainer but the rows' drawn numbers and the networks.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pack.trainer.checks import check
from pack.trainer.config import Concept, LossConfig
from pack.trainer.events import go_on, ignore
from pack.trainer.loop import _Run
from pack.trainer.noise import shaped
from pack.trainer.objective import draw_row
from pack.trainer.orders import Orders
from pack.trainer.precision import accelerator
from pack.trainer.resume import Start
from pack.trainer.setup import prepare
from pack.trainer.tokenizer import tokenize
from toy import CPU, make_concept, make_job, toy_base

Cost = Callable[[torch.Tensor, int], torch.Tensor]


def prepared_run(folder: Path, accelerate, **options) -> _Run:
    concept = options.pop("concept", {})
    if not isinstance(concept, Concept):
        concept = make_concept(folder / "pictures", **concept)
    job = make_job(folder, (concept,), **options)
    base = toy_base()
    plan = check(job, base, CPU, ignore, lambda: None)
    prepared = prepare(plan, base, Start(), ignore, lambda: None)
    return _Run(prepared, accelerate, ignore, Orders(go_on))


def mean_square(error: torch.Tensor, t: int) -> torch.Tensor:
    return (error**2).sum() / error.numel()


def reference(run: _Run, cost: Cost = mean_square) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of the first step, row by row in float64."""
    config, p = run.config, run.p
    unet = copy.deepcopy(run.model.unet).double()
    text = copy.deepcopy(run.model.parts["text_encoder"]).double()
    acp = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    instance_rows = config.batch_size * config.gradient_accumulation_steps
    total = 0.0
    for position in range(instance_rows):
        for row in (p.rows.instance(position), p.rows.class_(position)):
            if row is None:
                continue
            shape = p.latents.shape(row.view)
            posterior, noise, t = draw_row(shape, range(1000), config.seed, position, row.is_class)
            noise, inside = shaped(noise, config.loss, config.seed, position, row.is_class)
            mean, std = p.latents._latents[row.view]
            latent = mean.double() + std.double() * posterior.double()
            noisy = acp[t] ** 0.5 * latent + (1 - acp[t]) ** 0.5 * inside.double()
            states = text(tokenize([row.prompt])).last_hidden_state
            got = unet(noisy[None], torch.tensor([t]), encoder_hidden_states=states).sample
            error = cost(got[0] - noise.double(), t)
            if not row.is_class and (mask := p.latents.mask(row.view)) is not None:
                low = config.data.unmasked_weight
                pixels = (low + (1 - low) * mask.double()).expand_as(got[0])
                error = (pixels * (got[0] - noise.double()) ** 2).sum() / pixels.sum()
            weight = p.job.concepts[0].prior_weight if row.is_class else 1.0
            loss = weight * error / instance_rows
            loss.backward()
            total += loss.item()
    grads = {f"unet.{k}": v.grad for k, v in unet.named_parameters()}
    grads |= {f"text.{k}": v.grad for k, v in text.named_parameters()}
    return total, grads


@pytest.mark.parametrize(
    ("batch", "accumulation", "weight", "classes"),
    [(1, 1, 1.0, 3), (2, 1, 0.3, 3), (3, 2, 2.5, 3), (2, 2, 1.0, 0), (2, 2, 0.0, 3)],
)
def test_loss_and_gradient_equal_float64(
    tmp_path: Path, batch: int, accumulation: int, weight: float, classes: int
) -> None:
    options = {"photos": 3, "classes": classes, "prior_weight": weight}
    with accelerator("fp32", CPU) as accelerate:
        run = prepared_run(
            tmp_path,
            accelerate,
            concept=options,
            batch_size=batch,
            gradient_accumulation_steps=accumulation,
        )
        expect_float64(run)


def expect_float64(run: _Run, cost: Cost = mean_square) -> None:
    """The first step's loss and every gradient."""
    batch = run.config.batch_size
    expected, grads = reference(run, cost)
    total = 0.0
    for start in range(0, run.config.rows_per_step, batch):
        parts = run.gradients.forward_backward(run.gradients.batch(range(start, start + batch)))
        total += parts[0].item()
    assert total == pytest.approx(expected, rel=1e-5)
    named = {f"unet.{k}": v for k, v in run.model.unet.named_parameters()}
    named |= {f"text.{k}": v for k, v in run.model.parts["text_encoder"].named_parameters()}
    norm = torch.stack([g.norm() for g in grads.values() if g is not None]).norm()
    for key, parameter in named.items():
        assert parameter.grad is not None, key
        error = (parameter.grad.double() - grads[key]).norm() / norm
        assert error < 1e-5, key


ACP = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


def min_snr(error: torch.Tensor, t: int) -> torch.Tensor:
    snr = ACP[t] / (1 - ACP[t])
    return min(snr, 0.5) / snr * mean_square(error, t)


def debiased(error: torch.Tensor, t: int) -> torch.Tensor:
    return ((1 - ACP[t]) / ACP[t]) ** 0.5 * mean_square(error, t)


def huber(error: torch.Tensor, t: int) -> torch.Tensor:
    c = 0.2 + 0.8 / (1 + ((1 - ACP[t]) / ACP[t]) ** 0.5) ** 2
    return (2 * c * ((error**2 + c**2) ** 0.5 - c)).mean()


@pytest.mark.parametrize(
    ("options", "cost"),
    [
        ({"weighting": "min_snr", "min_snr_gamma": 0.5}, min_snr),
        ({"weighting": "debiased"}, debiased),
        ({"loss_type": "huber", "huber_c": 0.2}, huber),
        (
            {
                "noise_offset": 0.5,
                "multires_noise_iterations": 3,
                "input_perturbation": 0.5,
            },
            mean_square,
        ),
    ],
    ids=["min_snr", "debiased", "huber", "noise"],
)
def test_other_losses_equal_float64(tmp_path: Path, options: dict, cost: Cost) -> None:
    """Of instance and class rows alike, each by its own timestep; diffusers' scripts take min-SNR
    weights for the instance rows alone, from the timesteps of all."""
    concept = {"photos": 3, "prior_weight": 0.7}
    with accelerator("fp32", CPU) as accelerate:
        run = prepared_run(
            tmp_path, accelerate, concept=concept, batch_size=3, loss=LossConfig(**options)
        )
        expect_float64(run, cost)


def test_timesteps_of_the_batch_differ(tmp_path: Path) -> None:
    """The cases above would prove little if their rows shared a timestep."""
    with accelerator("fp32", CPU) as accelerate:
        run = prepared_run(tmp_path, accelerate, batch_size=3)
        batch = run.gradients.batch(range(3))
    assert len(set(batch.timesteps.tolist())) == 6
    assert batch.is_class.tolist() == [False] * 3 + [True] * 3
