"""Whole runs of toys of every family, and what the families differ in."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import TELLTALE
from pack.trainer.checkpoint import detect, prediction_spread
from pack.trainer.config import ConfigError, Job
from pack.trainer.events import Command, Note, Preview, Step
from pack.trainer.images import to_image
from pack.trainer.loop import train
from pack.trainer.model import StableDiffusion
from pack.trainer.preview import encode_for_preview, sample
from pack.trainer.randomness import generator
from pack.trainer.tokenizer import tokenize
from toy import CPU, Run, make_job, run, same, toy_base

V = {"prediction": "v_prediction"}


def notes(made: Run) -> str:
    return "\n".join(note.text for note in made.of(Note))


@pytest.mark.parametrize("kind", ["toy_sd2_v", "toy_sdxl_v"])
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path: Path, kind: str) -> None:
    options = {"steps": 3, "text_encoder_learning_rate": 1e-3, "lr_schedule": "cosine"}
    options |= {"preview_every": 3, "preview_steps": 2}
    whole = run(make_job(tmp_path / "whole", **options), toy_base(kind))
    job, events = make_job(tmp_path / "parts", **options), []

    def control() -> Command:
        steps = sum(isinstance(event, Step) for event in events)
        return Command.STOP if steps >= 1 else Command.GO_ON

    stopped = train(job, toy_base(kind), device=CPU, listener=events.append, control=control)
    assert stopped.stopped and stopped.steps == 1
    parts = run(job, toy_base(kind), train_again=False)
    assert [step.step for step in parts.of(Step)] == [2, 3]
    assert parts.sha == whole.sha
    pictures = [[p.image.tobytes() for p in r.of(Preview)][-1] for r in (whole, parts)]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize(
    ("kind", "side"), [("toy_sd2", 512), ("toy_ssd1b", 1024), ("toy_koala", 1024)]
)
def test_the_unet_alone_leaves_every_other_byte(tmp_path: Path, kind: str, side: int) -> None:
    options = {"trains": "unet", "steps": 1}
    made, base = run(make_job(tmp_path, **options), toy_base(kind)), toy_base(kind)
    assert f"made for pictures of {side} pixels" in notes(made)
    tensors = made.tensors
    for key, value in base.items():
        if not key.startswith("model.diffusion_model."):
            assert torch.equal(tensors[key].to(value.dtype), value), key
    assert not same(tensors, base, "model.diffusion_model.")


def test_recomputed_activations_change_nothing(tmp_path: Path) -> None:
    """The states of a layer that is not the last are taken on the way."""
    options = {"steps": 1, "text_encoder_learning_rate": 1e-3, "save_precision": "fp32"}
    plain = run(make_job(tmp_path, **options), toy_base("toy_sdxl"))
    again = run(make_job(tmp_path, **options, gradient_checkpointing=True), toy_base("toy_sdxl"))
    recomputed = again.tensors
    for key, value in plain.tensors.items():
        torch.testing.assert_close(recomputed[key], value, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_open_clip_reads_the_last_but_one_layer_of_a_prompt_padded_with_zero() -> None:
    base = toy_base("toy_sd2")
    model = StableDiffusion(base, detect(base))
    encoder = model.parts["text_encoder"]  # built without the last layer
    assert model.clip_skip == 2 and encoder.config.num_hidden_layers == 2
    got = model.encode_prompts(["a zwx dog"], CPU)
    assert got.pooled is None
    tokens = tokenize(["a zwx dog"], padding=0)
    assert tokens[0, -1] == 0
    torch.testing.assert_close(got.states, encoder(tokens).last_hidden_state)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["toy_sd2", "toy_sdxl"])
def test_clip_skip_counts_the_files_layers(kind: str) -> None:
    base = toy_base(kind)
    layout = detect(base)
    before = StableDiffusion(base, layout, clip_skip=3 if kind == "toy_sd2" else 2)
    encoder = before.parts["text_encoder"]
    inner = getattr(encoder, "text_model", encoder)
    got = before.encode_prompts(["a zwx dog"], CPU).states[..., :32]
    # by hand: leave the last of the module's two layers out; SDXL takes what comes then as it is
    padding = 0 if kind == "toy_sd2" else 49407
    inner.encoder.layers = inner.encoder.layers[:1]
    if kind == "toy_sdxl":
        inner.final_layer_norm = torch.nn.Identity()
    expected = encoder(tokenize(["a zwx dog"], padding)).last_hidden_state
    torch.testing.assert_close(got, expected)
    with pytest.raises(
        ConfigError, match="layers 2 to 3" if kind == "toy_sd2" else "layers 1 to 2"
    ):
        StableDiffusion(toy_base(kind), layout, clip_skip=1 if kind == "toy_sd2" else 3)


@pytest.mark.parametrize("kind", ["toy_sd2_v", "toy_sdxl_v"])
def test_previews_of_velocity_equal_a_loop_by_hand(kind: str) -> None:
    """DDIM (Song et al. 2020, eq. 12) from v, with zero terminal SNR from the last timestep."""
    base = toy_base(kind)
    sd = StableDiffusion(base, detect(base))
    text, empty = encode_for_preview(sd, ["a zwx dog", ""], CPU)
    got = sample(sd, text, empty, size=(128, 128), steps=4, cfg=3.0, seed=5, device=CPU)
    zero = kind == "toy_sdxl_v"
    times = [999, 749, 499, 249] if zero else [751, 501, 251, 1]
    acp = sd.alphas_cumprod
    x = torch.randn(1, 4, 16, 16, generator=generator(5, "preview"))
    sizes = torch.tensor([[128.0, 128.0, 0.0, 0.0, 128.0, 128.0]])
    with torch.no_grad():
        for t, before in zip(times, [*times[1:], times[-1] - 250], strict=True):
            cond, uncond = (sd.predict(x, torch.tensor([t]), c, sizes) for c in (text, empty))
            v = uncond + 3.0 * (cond - uncond)
            signal, noise = acp[t].sqrt(), (1 - acp[t]).sqrt()
            x0, eps = signal * x - noise * v, noise * x + signal * v
            after = acp[before] if before >= 0 else acp[0]
            x = (after.sqrt() * x0 + (1 - after).sqrt() * eps).float()
        expected = to_image(sd.decode_latents(x)[0])
    difference = np.asarray(got, dtype=int) - np.asarray(expected, dtype=int)
    assert abs(difference).max() <= 1


def test_a_file_that_cannot_say_v_is_trained_so_where_the_job_says_it(tmp_path: Path) -> None:
    plain = run(make_job(tmp_path, steps=1))
    job = dataclasses.replace(make_job(tmp_path, steps=1), **V)
    velocity = run(job)
    zero = run(dataclasses.replace(job, zero_terminal_snr=True))
    assert not same(plain.tensors, velocity.tensors, "model.diffusion_model.")
    assert not same(zero.tensors, velocity.tensors, "model.diffusion_model.")
    assert velocity.metadata["modelspec.prediction_type"] == "v"
    assert "ModelSamplingDiscrete with v_prediction and zsnr off" in notes(velocity)
    assert "zsnr on" in notes(zero)
    assert not plain.of(Note)
    digests = {r.metadata["dreambooth.fingerprint"] for r in (plain, velocity, zero)}
    assert len(digests) == 3
    recorded = Job.read(velocity.result.folder / "job.json")
    assert recorded.prediction == "v_prediction" and run(recorded).sha == velocity.sha


def test_what_the_weights_say_is_what_they_are_sampled_as(tmp_path: Path) -> None:
    job = make_job(tmp_path, steps=1)
    wrong = dataclasses.replace(job, prediction="epsilon")
    said = "sampled as epsilon, but the weights say v_prediction with zero terminal SNR"
    with pytest.raises(ConfigError, match=said):
        run(wrong, toy_base("toy_sdxl_v"))
    with pytest.raises(ConfigError, match="v_prediction, but the weights say epsilon"):
        run(dataclasses.replace(job, **V), toy_base("toy_sdxl"))
    with pytest.raises(ConfigError, match="nothing but noise"):
        run(dataclasses.replace(wrong, zero_terminal_snr=True))
    with pytest.raises(ConfigError, match="expected epsilon or v_prediction"):
        dataclasses.replace(job, prediction="x0")


def test_a_number_that_loaders_go_by_is_watched(tmp_path: Path) -> None:
    """ComfyUI tells SD 2.x v from ε by the spread of one bias: training can take it across."""
    base = toy_base("toy_sd2_v")
    bias = base[TELLTALE]
    base[TELLTALE] = bias * (0.0902 / prediction_spread(base))
    assert detect(base).prediction == "v_prediction"
    options = {"steps": 1, "learning_rate": 1e-9, "weight_decay": 0.0, "save_precision": "fp32"}
    said = notes(run(make_job(tmp_path / "a", **options), dict(base)))
    assert "which is close" in said and "made for pictures of 768 pixels" in said
    options |= {"learning_rate": 1.0, "weight_decay": 0.99, "max_grad_norm": 1e-30}
    options |= {"adam_epsilon": 1.0}
    assert "though it predicts v_prediction" in notes(
        run(make_job(tmp_path / "b", **options), base)
    )
