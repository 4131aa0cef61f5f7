"""Every setting is flipped once, and the trainer is seen to act on it.

A row is: what to flip, and what must then be different (or true) in the run. Weights are compared
as tensors, not as files: the metadata repeats the settings and would always differ.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pack.trainer.checkpoint import read_checkpoint
from pack.trainer.config import (
    ConfigError,
    DataConfig,
    Job,
    LoraConfig,
    LossConfig,
    TrainConfig,
    flat,
    option_fields,
)
from pack.trainer.events import Note, Phase, Preview, Saved, Step
from toy import Run, make_concept, make_job, run, same

UNET, TEXT = "model.diffusion_model.", "cond_stage_model."
BASE = {"steps": 2, "preview_every": 2, "preview_steps": 2, "text_encoder_learning_rate": 1e-3}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(make_job(tmp_path_factory.mktemp("plain"), **BASE))


def other_unet(a: Run, b: Run) -> bool:
    return not same(a.tensors, b.tensors, UNET)


def other_previews(a: Run, b: Run) -> bool:
    """Other pictures from the same weights."""
    pictures = [[p.image.tobytes() for p in r.of(Preview)] for r in (a, b)]
    return same(a.tensors, b.tensors) and pictures[0] != pictures[1]


def same_first_errors_other_unet(a: Run, b: Run) -> bool:
    """What is reported of the first step is the plain squared error, whatever is learned from."""
    (one, *_), (other, *_) = a.of(Step), b.of(Step)
    assert (one.instance_loss, one.class_loss) == (other.instance_loss, other.class_loss)
    assert one.loss != other.loss
    return other_unet(a, b)


def text_of_the_first_step(a: Run, b: Run) -> bool:
    """The one that it learns from is the same; see test_text_schedule.py."""
    assert a.of(Step)[0].loss == b.of(Step)[0].loss
    return not same(a.tensors, b.tensors, TEXT)


def same_losses_other_unet(a: Run, b: Run) -> bool:
    """What learns is the same; what is saved and shown is not."""
    assert [s.loss for s in a.of(Step)] == [s.loss for s in b.of(Step)]
    last = [r.of(Preview)[-1].image.tobytes() for r in (a, b)]
    return other_unet(a, b) and last[0] != last[1]


def loss(**options: object) -> dict:
    return {"loss": LossConfig(**options)}


def rates(r: Run) -> list[float]:
    return [step.learning_rate for step in r.of(Step)]


def times_kept(r: Run) -> int:
    return sum(phase == Phase("Keeping the state", 1, 1) for phase in r.of(Phase))


def held_in_halves(a: Run, b: Run) -> bool:
    """What is kept of each weight is bf16 and its remainder; the plain run has fp32."""
    kept = [r.result.folder / "state" / "step000002.safetensors" for r in (a, b)]
    dtypes = [{t.dtype for t in read_checkpoint(path)[0].values()} for path in kept]
    return dtypes == [{torch.float32}, {torch.float32, torch.bfloat16, torch.int16}]


Check = Callable[[Run, Run], bool]
FLIPS: dict[str, tuple[dict, Check]] = {
    "weights": ({"weights": "exact"}, held_in_halves),
    "trains": ({"trains": "unet"}, lambda a, b: not same(a.tensors, b.tensors, TEXT)),
    "steps": ({"steps": 3}, lambda a, b: len(b.of(Step)) == 3),
    "learning_rate": (
        {"learning_rate": 2e-3},
        lambda a, b: rates(b) == [2e-3] * 2 and other_unet(a, b),
    ),
    "text_encoder_learning_rate": (
        {"text_encoder_learning_rate": 2e-3},
        lambda a, b: rates(a) == rates(b) and not same(a.tensors, b.tensors, TEXT),
    ),
    "lr_schedule": ({"lr_schedule": "linear"}, lambda a, b: rates(b) == [1e-3, 5e-4]),
    "lr_warmup_steps": ({"lr_warmup_steps": 2}, lambda a, b: rates(b) == [0, 5e-4]),
    "batch_size": ({"batch_size": 2}, other_unet),
    "gradient_accumulation_steps": ({"gradient_accumulation_steps": 2}, other_unet),
    "resolution": (
        {"resolution": 128},
        lambda a, b: b.of(Preview)[0].image.size == (128, 128) and other_unet(a, b),
    ),
    "adam_beta1": ({"adam_beta1": 0.1}, other_unet),
    "adam_beta2": ({"adam_beta2": 0.5}, other_unet),
    "adam_epsilon": ({"adam_epsilon": 0.1}, other_unet),
    "weight_decay": ({"weight_decay": 1.0}, other_unet),
    "max_grad_norm": ({"max_grad_norm": 0.0}, other_unet),
    "precision": (
        {"precision": "bf16"},
        lambda a, b: b.metadata["dreambooth.precision"] == "bf16" and other_unet(a, b),
    ),
    "seed": ({"seed": 5}, other_unet),
    "preview_every": (
        {"preview_every": 1},
        lambda a, b: [p.step for p in b.of(Preview)] == [0, 1, 2],
    ),
    "preview_prompt": (
        {"preview_prompt": "a cat"},
        lambda a, b: b.of(Preview)[0].prompt == "a cat" and other_previews(a, b),
    ),
    "preview_steps": ({"preview_steps": 3}, other_previews),
    "preview_cfg": ({"preview_cfg": 1.0}, other_previews),
    "save_every": ({"save_every": 1}, lambda a, b: [s.step for s in b.of(Saved)] == [1, 2]),
    "save_precision": (
        {"save_precision": "bf16"},
        lambda a, b: all(
            t.dtype == torch.bfloat16 for k, t in b.tensors.items() if k.startswith(UNET)
        ),
    ),
    "save_prompts": (
        {"save_prompts": False},
        lambda a, b: "zwx" in str(a.metadata) and "zwx" not in str(b.metadata),
    ),
    "keep_state": (
        {"keep_state": False},
        lambda a, b: (
            (a.result.folder / "state").exists() and not (b.result.folder / "state").exists()
        ),
    ),
    "data.flip": ({"data": DataConfig(flip=True)}, other_unet),
    "data.caption_dropout": ({"data": DataConfig(caption_dropout=1.0)}, other_unet),
    "data.class_caption_dropout": ({"data": DataConfig(class_caption_dropout=1.0)}, other_unet),
    "data.crops": ({"data": DataConfig(crops=3)}, other_unet),
    "state_minutes": ({"state_minutes": 1e-9}, lambda a, b: times_kept(b) > times_kept(a) == 1),
    "text_encoder_until": ({"text_encoder_until": 0.5}, text_of_the_first_step),
    "ema_decay": ({"ema_decay": 0.5}, same_losses_other_unet),
    "loss.weighting": (loss(weighting="debiased"), same_first_errors_other_unet),
    "loss.min_snr_gamma": (loss(weighting="min_snr", min_snr_gamma=0.1), other_unet),
    "loss.loss_type": (loss(loss_type="huber"), same_first_errors_other_unet),
    "loss.huber_c": (loss(loss_type="huber", huber_c=0.01), other_unet),
    "loss.huber_schedule": (loss(loss_type="huber", huber_schedule="exponential"), other_unet),
    "loss.noise_offset": (loss(noise_offset=0.1), other_unet),
    "loss.multires_noise_iterations": (loss(multires_noise_iterations=6), other_unet),
    "loss.multires_noise_discount": (
        loss(multires_noise_iterations=6, multires_noise_discount=0.8),
        other_unet,
    ),
    "loss.input_perturbation": (loss(input_perturbation=0.1), other_unet),
    "loss.min_timestep": (loss(min_timestep=900), other_unet),
    "loss.max_timestep": (loss(max_timestep=100), other_unet),
}
# What else is set where an option acts: it is flipped beside it.
GIVEN = {
    "loss.min_snr_gamma": loss(weighting="min_snr"),
    "loss.huber_c": loss(loss_type="huber"),
    "loss.huber_schedule": loss(loss_type="huber"),
    "loss.multires_noise_discount": loss(multires_noise_iterations=6),
}
ELSEWHERE = {
    "data.bucket_max_side",
    "data.bucket_min_side",
    "data.bucket_no_upscale",
    "data.buckets",
    "data.keep_tags",
    "data.shuffle_tags",
    "data.unmasked_weight",
    "keep",
    "optimizer",
    "attention",
    "gradient_checkpointing",
    "channels_last",
    "cuda_graph",
    "fused_layers",
}
LORA = {**BASE, "text_encoder_learning_rate": 1e-2, "learning_rate": 1e-2}
LORA_FLIPS: dict[str, tuple[dict, Check]] = {
    "lora.kind": ({"kind": "dora"}, lambda a, b: any("dora_scale" in name for name in b.tensors)),
    "lora.rank": (
        {"rank": 3},
        lambda a, b: {len(t) for k, t in b.tensors.items() if "lora_down" in k} == {3},
    ),
    "lora.alpha": ({"alpha": 1.0}, lambda a, b: other_ups(a, b)),
    "lora.dropout": ({"dropout": 0.5}, lambda a, b: other_ups(a, b)),
    "lora.layers": ({"layers": "attention"}, lambda a, b: len(b.tensors) < len(a.tensors)),
    "lora.prior_without_images": (
        {"prior_without_images": True},
        lambda a, b: b.of(Step)[1].class_loss > 0 and other_ups(a, b),
    ),
}


def test_no_setting_is_forgotten() -> None:
    names = {name for name, _ in option_fields(TrainConfig)}
    assert names == set(FLIPS) | set(LORA_FLIPS) | ELSEWHERE


@pytest.mark.parametrize("name", FLIPS)
def test_flip(tmp_path: Path, plain: Run, name: str) -> None:
    values, acts = FLIPS[name]
    given = {**BASE, **GIVEN.get(name, {})}
    other = make_job(tmp_path / "before", **given)
    job = make_job(tmp_path, **{**given, **values})
    settings = flat(other.config)
    assert {key for key, value in flat(job.config).items() if value != settings[key]} == {name}
    assert acts(run(other) if name in GIVEN else plain, run(job))


@pytest.fixture(scope="module")
def plain_lora(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(lora_job(tmp_path_factory.mktemp("lora")))


def lora_job(folder: Path, **lora: object) -> Job:
    concepts = (make_concept(folder / "pictures", classes=0),)
    return make_job(folder, concepts, **LORA, lora=LoraConfig(**{"kind": "lora", **lora}))


def other_ups(a: Run, b: Run) -> bool:
    """The same layers and sizes, other values."""
    ups = [{k: t for k, t in r.tensors.items() if "lora_up" in k} for r in (a, b)]
    return not same(*ups)


@pytest.mark.parametrize("name", LORA_FLIPS)
def test_flip_of_a_lora(tmp_path: Path, plain_lora: Run, name: str) -> None:
    values, acts = LORA_FLIPS[name]
    job = lora_job(tmp_path, **values)
    assert flat(job.config)[name] != flat(lora_job(tmp_path / "plain").config)[name]
    assert acts(plain_lora, run(job))


def test_flip_keep(tmp_path: Path) -> None:
    for keep in (1, 3):
        made = run(make_job(tmp_path, steps=5, save_every=1, keep=keep))
        extra = made.result.checkpoint.parent.glob(f"{made.result.name}-step*")
        assert len(list(extra)) == keep


def test_flip_gradient_checkpointing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.utils.checkpoint as module

    calls = []
    real = module.checkpoint
    monkeypatch.setattr(module, "checkpoint", lambda *a, **k: (calls.append(1), real(*a, **k))[1])
    run(make_job(tmp_path, steps=1))
    assert not calls
    run(make_job(tmp_path, steps=1, gradient_checkpointing=True))
    assert len(calls) >= 3 + 2  # the UNet's blocks and the two text layers


def test_flip_channels_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pack.trainer.model import StableDiffusion

    seen: list[tuple[bool, bool]] = []
    real = StableDiffusion.predict

    def predict(self, noisy, *rest):
        if noisy.is_meta:  # the estimate of memory
            return real(self, noisy, *rest)
        last = torch.channels_last
        weight = self.unet.conv_in.weight
        seen.append(
            (noisy.is_contiguous(memory_format=last), weight.is_contiguous(memory_format=last))
        )
        return real(self, noisy, *rest)

    monkeypatch.setattr(StableDiffusion, "predict", predict)
    run(make_job(tmp_path, steps=1))
    run(make_job(tmp_path, steps=1, channels_last=True))
    assert seen == [(False, False), (True, True)]


def test_flip_cuda_graph(tmp_path: Path, plain: Run) -> None:
    """Here it is refused by name; with a recorder it is in test_capture_runs.py."""
    recorded = run(make_job(tmp_path, **BASE, cuda_graph=True))
    said = {note.text for note in recorded.of(Note)} - {note.text for note in plain.of(Note)}
    assert len(said) == 1 and said.pop().startswith("cuda_graph: cpu")
    assert same(plain.tensors, recorded.tensors)


def test_flip_attention(tmp_path: Path) -> None:
    """With the package and a device it supports: another result. Without: refused by name.

    "fastest" is in test_attention.py.
    """
    try:
        made = run(make_job(tmp_path, **BASE, attention="xformers"))
    except ConfigError as error:
        assert "attention = xformers" in str(error)
        return
    assert importlib.util.find_spec("xformers") is not None
    assert other_unet(run(make_job(tmp_path, **BASE)), made)
