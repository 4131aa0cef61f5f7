"""One optimizer step of SDXL against an independent reference in float64, row by row.

As ``test_gradient.py``; here each row has two text encoders, a pooled vector and sizes of its own,
and the target is the noise or the velocity.
"""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from pack.trainer.checks import check
from pack.trainer.events import go_on, ignore
from pack.trainer.loop import _Run
from pack.trainer.objective import draw_row
from pack.trainer.orders import Orders
from pack.trainer.precision import accelerator
from pack.trainer.resume import Start
from pack.trainer.setup import prepare
from pack.trainer.tokenizer import END, tokenize
from PIL import Image
from torch import nn
from toy import CPU, make_concept, make_job, toy_base

PROJECTION = "conditioner.embedders.1.model.text_projection"


def prepared_run(folder: Path, accelerate, base: dict[str, torch.Tensor], **options) -> _Run:
    """Photos and class images of different sizes, so that no row may have another's."""
    concept = make_concept(folder / "pictures", photos=3, classes=3, prior_weight=0.3)
    for number, path in enumerate((*concept.instance_images, *concept.class_images)):
        Image.open(path).resize((70 + 9 * number, 80)).save(path)
    plan = check(make_job(folder, (concept,), **options), base, CPU, ignore, lambda: None)
    prepared = prepare(plan, base, Start(), ignore, lambda: None)
    return _Run(prepared, accelerate, ignore, Orders(go_on))


def schedule(zero_snr: bool) -> np.ndarray:
    acp = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    if not zero_snr:
        return acp
    root = np.sqrt(acp)
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


class Reference:
    """The nets in float64, and what a prompt is to them."""

    def __init__(self, run: _Run, projection: torch.Tensor) -> None:
        self.modules = {
            part: copy.deepcopy(module).double() for part, module in run.learner.parts.items()
        }
        self.projection = nn.Parameter(projection.double())

    def encode(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        ids = tokenize([prompt])
        end = int((ids[0] == END).int().argmax())
        zeros = ids.clone()
        zeros[0, end + 1 :] = 0
        first = self.modules["text_encoder"](ids, output_hidden_states=True)
        second = self.modules["text_encoder_2"](zeros, output_hidden_states=True)
        states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        # last_hidden_state is behind the final norm; the file's matrix is used as x @ P
        return states, second.last_hidden_state[:, end] @ self.projection

    def loss(self, run: _Run, acp: np.ndarray, velocity: bool) -> float:
        """Adds up the gradients of the first step; returns its loss."""
        config, p, total = run.config, run.p, 0.0
        instance_rows = config.rows_per_step
        for position in range(instance_rows):
            for row in (p.rows.instance(position), p.rows.class_(position)):
                shape = p.latents.shape(row.view)
                posterior, noise, t = draw_row(
                    shape, range(1000), config.seed, position, row.is_class
                )
                mean, std = p.latents._latents[row.view]
                x0, eps = mean.double() + std.double() * posterior.double(), noise.double()
                signal, rest = acp[t] ** 0.5, (1 - acp[t]) ** 0.5
                states, pooled = self.encode(row.prompt)
                width, height = Image.open(row.view.photo.path).size
                scale = 64 / min(width, height)
                top, left = (round((side * scale - 64) / 2) for side in (height, width))
                sizes = torch.tensor([[height, width, top, left, 64, 64]]).double()
                got = self.modules["unet"](
                    (signal * x0 + rest * eps)[None],
                    torch.tensor([t]),
                    encoder_hidden_states=states,
                    added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes},
                ).sample[0]
                target = signal * eps - rest * x0 if velocity else eps
                weight = 0.3 if row.is_class else 1.0
                loss = weight * ((got - target) ** 2).mean() / instance_rows
                loss.backward()
                total += loss.item()
        return total


@pytest.mark.parametrize(("kind", "zero_snr"), [("toy_sdxl", False), ("toy_sdxl_v", True)])
def test_loss_and_gradient_equal_float64(tmp_path: Path, kind: str, zero_snr: bool) -> None:
    base = toy_base(kind)
    projection = base[PROJECTION].clone()
    with accelerator("fp32", CPU) as accelerate:
        run = prepared_run(tmp_path, accelerate, base, batch_size=2)
        reference = Reference(run, projection)
        expected = reference.loss(run, schedule(zero_snr), velocity=zero_snr)
        total = run.gradients.forward_backward(run.gradients.batch(range(2)))[0].item()
    assert total == pytest.approx(expected, rel=1e-5)
    grads = {
        f"{part}.{name}": parameter.grad
        for part, module in reference.modules.items()
        for name, parameter in module.named_parameters()
    }
    grads["text_encoder_2.text_projection.weight"] = reference.projection.grad.t()
    norm = torch.stack([g.norm() for g in grads.values() if g is not None]).norm()
    checked = 0
    for part, module in run.learner.parts.items():
        for name, parameter in module.named_parameters():
            expected_grad = grads[f"{part}.{name}"]
            assert parameter.requires_grad == (expected_grad is not None), f"{part}.{name}"
            if expected_grad is not None:
                error = (parameter.grad.double() - expected_grad).norm() / norm
                assert error < 1e-5, f"{part}.{name}"
                checked += 1
    assert checked > 300
