"""Faults of the known trainers with SDXL, each a named test that this trainer passes.

Which trainer, and where, is in the docstrings; the study they come from read the trainers' own
sources.
"""

from pathlib import Path

import pytest
import torch
from pack.trainer.checkpoint import detect
from pack.trainer.events import Step
from pack.trainer.images import read_image, to_tensor
from pack.trainer.model import StableDiffusion
from pack.trainer.precision import accelerator
from pack.trainer.tokenizer import END, tokenize
from PIL import Image
from test_gradient_sdxl import PROJECTION, prepared_run
from toy import CPU, Run, make_job, run, toy_base

FIRST = "conditioner.embedders.0.transformer.text_model."
SECOND = "conditioner.embedders.1.model."


@pytest.fixture(params=["unet", "unet + text encoder"])
def prepared(request, tmp_path: Path):
    with accelerator("fp32", CPU) as accelerate:
        base = toy_base("toy_sdxl")
        yield prepared_run(tmp_path, accelerate, base, trains=request.param, batch_size=2)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two steps with a decay that would halve whatever it alone reaches."""
    options = {"text_encoder_learning_rate": 1e-3, "weight_decay": 1.0, "steps": 2}
    return run(make_job(tmp_path_factory.mktemp("sdxl"), **options), toy_base("toy_sdxl"))


def spy(prepared, monkeypatch: pytest.MonkeyPatch, answer=None) -> list[tuple]:
    """What the UNet is given; with ``answer`` what it says."""
    seen, real = [], StableDiffusion.predict

    def predict(model, *given):
        seen.append(given)
        return answer(prepared.gradients.batch(range(2))) if answer else real(model, *given)

    monkeypatch.setattr(StableDiffusion, "predict", predict)
    return seen


def test_each_row_has_its_own_prompt(prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' SDXL scripts tile prompts [i, c, i, c] over latents [i, i, c, c]."""
    seen, batch = spy(prepared, monkeypatch), prepared.gradients.batch(range(2))
    prepared.gradients.forward_backward(batch)
    ((_, _, conditioning, _),) = seen
    assert batch.is_class.tolist() == [False, False, True, True]
    for row, prompt in enumerate(batch.prompts):
        own = prepared.model.encode_prompts([prompt], CPU)
        torch.testing.assert_close(conditioning.states[row], own.states[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(conditioning.pooled[row], own.pooled[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(conditioning.pooled[0], conditioning.pooled[2])


def test_each_row_has_its_own_pictures_size(prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers' SDXL scripts give class rows the instance's original size and crop."""
    seen, batch = spy(prepared, monkeypatch), prepared.gradients.batch(range(2))
    prepared.gradients.forward_backward(batch)
    ((*_, time_ids),) = seen
    rows = [prepared.p.rows.instance(p) for p in range(2)]
    rows += [prepared.p.rows.class_(p) for p in range(2)]
    for row, given in zip(rows, time_ids.tolist(), strict=True):
        width, height = Image.open(row.view.photo.path).size
        assert given[:2] == [height, width] and given[4:] == [64, 64]
    assert len({tuple(given) for given in time_ids.tolist()}) == 4


def test_the_loss_is_split_by_rows_not_by_channels(prepared, monkeypatch) -> None:
    """d8ahazard's extension chunks SDXL's prior loss on dim 1: channels 0-1 against 2-3."""

    def answer(batch):
        wrong = torch.zeros_like(batch.noise)
        wrong[:2, 2:] = 1.0  # two channels of the instance rows are off by one
        return batch.noise + wrong.requires_grad_()

    spy(prepared, monkeypatch, answer)
    parts = prepared.gradients.forward_backward(prepared.gradients.batch(range(2)))
    assert parts.tolist() == pytest.approx([0.5, 1.0, 0.0])


def test_the_prior_weight_counts(prepared, monkeypatch) -> None:
    """kohya's sdxl_train never reads its loss weights: class images train at 1."""
    spy(prepared, monkeypatch, lambda b: b.noise + torch.ones_like(b.noise, requires_grad=True))
    parts = prepared.gradients.forward_backward(prepared.gradients.batch(range(2)))
    assert parts.tolist() == pytest.approx([1.0 + 0.3, 2.0, 2.0])


def test_latents_have_sdxls_scale(prepared) -> None:
    """d8ahazard's extension scales SDXL's latents by 0.18215."""
    row = prepared.p.rows.instance(0)
    picture = row.view.show(read_image(row.view.photo.path))
    with torch.no_grad():
        raw = prepared.model.vae.encode(to_tensor(picture)[None]).latents[0]
    mean, _ = prepared.p.latents._latents[row.view]
    torch.testing.assert_close(mean, raw * 0.13025)


def test_the_files_projection_is_used_as_it_lies_there() -> None:
    """kohya loads bigG's text_projection without transposing it; OneTrainer writes it so."""
    base = toy_base("toy_sdxl")
    projection = base[PROJECTION].clone()
    assert not torch.allclose(projection, projection.t())
    model = StableDiffusion(base, detect(base))
    with torch.no_grad():
        got = model.encode_prompts(["a zwx dog"], CPU).pooled[0]
        inner = model.parts["text_encoder_2"].text_model
        tokens = tokenize(["a zwx dog"], padding=0)
        end = int((tokens[0] == END).nonzero())
        state = inner(tokens).last_hidden_state[0, end]
    torch.testing.assert_close(got, state @ projection)


def test_instance_and_class_share_every_gradient(finished: Run) -> None:
    """ai-toolkit trains class images on every other step, apart from the photos."""
    steps = finished.of(Step)
    assert len(steps) == 2
    for step in steps:
        assert step.class_loss is not None
        assert step.loss == pytest.approx(step.instance_loss + step.class_loss, rel=1e-5)


def test_both_text_encoders_train(finished: Run) -> None:
    """d8ahazard's extension never prepares SDXL's second text encoder."""
    base, after = toy_base("toy_sdxl"), finished.tensors
    for key in (
        FIRST + "encoder.layers.0.mlp.fc1.weight",
        FIRST + "embeddings.token_embedding.weight",
        SECOND + "transformer.resblocks.0.attn.in_proj_weight",
        SECOND + "transformer.resblocks.1.mlp.c_fc.weight",
        SECOND + "ln_final.weight",
        SECOND + "text_projection",
    ):
        assert not torch.equal(base[key].half(), after[key]), key


def test_the_rate_of_the_text_encoder_is_that_of_both(tmp_path: Path) -> None:
    options = {"text_encoder_learning_rate": 0.0, "steps": 1}
    after = run(make_job(tmp_path, **options), toy_base("toy_sdxl")).tensors
    for key, value in toy_base("toy_sdxl").items():
        if key.startswith("conditioner."):
            assert torch.equal(after[key], value.to(after[key].dtype)), key


def test_what_nothing_reads_stays_as_it_was(finished: Run) -> None:
    """kohya had to freeze the first encoder's last layer and final norm, which get no gradient:
    weight decay moves them. They stay the base's to the bit, not even rounded."""
    base, after = toy_base("toy_sdxl"), finished.tensors
    unread = [k for k in base if k.startswith((FIRST + "encoder.layers.1.", FIRST + "final_layer"))]
    assert len(unread) == 16 + 2
    for key in unread:
        assert after[key].dtype == torch.float32 and torch.equal(after[key], base[key]), key
