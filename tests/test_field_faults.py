"""Faults of the known trainers, each a named test that this trainer passes.

Which trainer, and where, is in the docstrings; the study they come from read the trainers' own
sources.
"""

from pathlib import Path

import pytest
import torch
from pack.trainer.batch import make_batch
from pack.trainer.cache import LatentCache
from pack.trainer.config import LossConfig
from pack.trainer.dataset import PairedRows
from pack.trainer.events import Step
from pack.trainer.model import StableDiffusion
from pack.trainer.objective import combine
from pack.trainer.tokenizer import tokenize
from pack.trainer.views import Frames, View
from toy import CPU, make_concept, make_job, run, same, toy_base

UNET = "model.diffusion_model."


def batch_of(folder: Path, rows: int, **options: object):
    from pack.trainer.checkpoint import detect

    concept = make_concept(folder / "pictures", **options)
    base = toy_base()
    model = StableDiffusion(base, detect(base))
    latents = LatentCache(None, model, "vae")
    paired = PairedRows([concept], seed=0, frames=Frames(64))
    latents.fill(paired.views(), CPU, lambda *_: None)
    options = {"loss": LossConfig(), "seed": 0}
    return concept, latents, paired, make_batch(paired, latents, range(rows), **options)


def test_the_prior_loss_is_part_of_the_gradient(tmp_path: Path) -> None:
    """d8ahazard's extension computes the prior loss on SD 1.x and never adds it."""
    weights = [0.0, 1.0, 5.0]
    made = []
    for number, weight in enumerate(weights):
        concept = make_concept(tmp_path / str(number), prior_weight=weight)
        made.append(run(make_job(tmp_path / str(number), (concept,), steps=1)).tensors)
    for a, b in ((0, 1), (1, 2), (0, 2)):
        assert not same(made[a], made[b], UNET)


def test_a_batch_of_one_respects_the_prior_weight(tmp_path: Path) -> None:
    """The same extension counts class rows as 1 at batch size 1, whatever the weight."""
    *_, batch = batch_of(tmp_path, 1, prior_weight=0.25)
    assert batch.weights.tolist() == [1.0, 0.25]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_rows_prompts_weights_and_flags_stay_together(tmp_path: Path, size: int) -> None:
    """diffusers' SDXL script tiles prompts [i, c, i, c] over latents [i, i, c, c]; d8ahazard's
    mixes the halves at batch 4. Each row's latent must come from its own prompt's images."""
    concept, latents, _, batch = batch_of(tmp_path, size, photos=3)
    assert batch.is_class.tolist() == [False] * size + [True] * size
    for row in range(2 * size):
        is_class = bool(batch.is_class[row])
        assert batch.prompts[row] == (concept.class_prompt if is_class else concept.instance_prompt)
        owners = [
            view.photo
            for view, (mean, _) in latents._latents.items()
            if torch.allclose(mean, batch.latents[row])  # the tiny VAE has no spread
        ]
        assert len(owners) == 1
        assert owners[0] in (concept.class_photos if is_class else concept.photos)


def test_the_loss_is_split_by_rows_not_by_channels(tmp_path: Path) -> None:
    """d8ahazard's SDXL path chunks on dim 1: channels 0-1 against 2-3."""
    losses = torch.tensor([1.0, 10.0])
    assert combine(losses, torch.tensor([1.0, 0.0]), 1).item() == 1.0


def test_instance_and_class_share_one_gradient(tmp_path: Path) -> None:
    """ai-toolkit alternates regularization and instance steps: never both in one gradient."""
    for step in run(make_job(tmp_path, steps=4)).of(Step):
        assert step.class_loss is not None and step.instance_loss > 0
        assert step.loss == pytest.approx(step.instance_loss + step.class_loss, rel=1e-5)


def test_the_sum_has_the_papers_magnitude(tmp_path: Path) -> None:
    """kohya's mean over all rows is half of L_instance + λ L_class."""
    step = run(make_job(tmp_path, steps=1, batch_size=2)).of(Step)[0]
    assert step.loss == pytest.approx(step.instance_loss + step.class_loss, rel=1e-5)


def test_no_pairing_is_fixed(tmp_path: Path) -> None:
    """diffusers and Shivam pair photo i with class image i mod n for ever."""
    _, _, rows, _ = batch_of(tmp_path, 1, photos=3, classes=3)
    partners: dict[View, set[View]] = {}
    for position in range(60):
        photo = rows.instance(position).view
        partners.setdefault(photo, set()).add(rows.class_(position).view)
    assert all(len(found) == 3 for found in partners.values())


def test_batches_are_drawn_anew_each_epoch(tmp_path: Path) -> None:
    """Shivam's cache freezes batch membership for the whole run."""
    _, _, rows, _ = batch_of(tmp_path, 1, photos=4, classes=0)
    batches = {frozenset(rows.instance(e * 4 + i).view for i in (0, 1)) for e in range(30)}
    assert len(batches) > 2


def test_latents_are_sampled_afresh(tmp_path: Path) -> None:
    """kohya freezes one sample of the posterior, OneTrainer its mean."""
    from nets import random_checkpoint
    from pack.trainer.checkpoint import detect

    base = random_checkpoint("toy", vae="kl_toy", seed=0)
    model = StableDiffusion(base, detect(base))
    concept = make_concept(tmp_path / "pictures", photos=1, classes=0)
    latents = LatentCache(None, model, "vae")
    view = View(concept.photos[0], (64, 64))
    latents.fill([view], CPU, lambda *_: None)
    mean, std = latents._latents[view]
    assert (std > 0).all()
    noise = torch.randn(3, *mean.shape, generator=torch.Generator().manual_seed(0))
    draws = [latents.sample(view, n) for n in noise]
    assert not torch.equal(draws[0], draws[1])
    torch.testing.assert_close((draws[2] - mean) / std, noise[2], rtol=1e-3, atol=1e-3)


def test_prompts_are_padded_to_77_always() -> None:
    """Shivam pads to the longest prompt of the batch; sampling then sees other conditioning."""
    assert tokenize(["dog"]).shape == tokenize(["a much longer prompt", "dog"])[:1].shape == (1, 77)


def test_steps_and_schedule_count_optimizer_steps(tmp_path: Path) -> None:
    """Shivam counts micro-batches; diffusers stretches its schedule by the accumulation."""
    options = {"steps": 4, "gradient_accumulation_steps": 3, "lr_schedule": "linear"}
    steps = run(make_job(tmp_path, **options)).of(Step)
    rates = [step.learning_rate for step in steps]
    assert rates == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


def test_gradients_are_clipped(tmp_path: Path) -> None:
    """Shivam's clipping is commented out."""
    steps = run(make_job(tmp_path, steps=1, max_grad_norm=1e-6, adam_epsilon=1.0)).of(Step)
    free = run(make_job(tmp_path, steps=1, max_grad_norm=0.0, adam_epsilon=1.0))
    clipped = run(make_job(tmp_path, steps=1, max_grad_norm=1e-6, adam_epsilon=1.0))
    assert steps[0].grad_norm > 1e-6
    assert not same(free.tensors, clipped.tensors, UNET)


def test_the_trained_vae_is_the_one_that_encodes(tmp_path: Path) -> None:
    """Shivam's training latents ignore the VAE that was asked for."""
    plain = run(make_job(tmp_path))
    other = toy_base()
    key = next(k for k in other if k.startswith("first_stage_model.") and "encoder" in k)
    other[key] *= 1.5
    changed = run(make_job(tmp_path), other)
    assert not same(plain.tensors, changed.tensors, UNET)


def test_other_files_in_a_class_folder_are_no_class_images(tmp_path: Path) -> None:
    """diffusers counts directory entries and opens every one."""
    from pack.trainer.image_set import read_folder

    make_concept(tmp_path, photos=2, classes=0)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".DS_Store").write_bytes(b"\0")
    assert len(read_folder(tmp_path).files) == 2
