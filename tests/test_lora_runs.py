"""Runs of LoRA and DoRA: what stays, going on, dropout, the prior of the base, other families."""

import dataclasses
import json
import sys
from pathlib import Path

import diffusers.utils
import pytest
import torch
from pack.trainer import setup
from pack.trainer.checkpoint import read_checkpoint
from pack.trainer.config import ConfigError, LoraConfig
from pack.trainer.events import Note, Preview, Step
from pack.trainer.rehearsal import RehearsalFailed
from toy import Run, make_concept, make_job, run, same, toy_base

LORA = {"kind": "lora", "rank": 4, "alpha": 2.0}
RATES = {"learning_rate": 1e-2, "text_encoder_learning_rate": 1e-2, "save_precision": "fp32"}
BLOCK = "down_blocks_0_attentions_0_transformer_blocks_0"


def lora_job(folder: Path, classes: int = 3, **config: object):
    lora = LoraConfig(**{**LORA, **config.pop("lora", {})})
    concepts = (make_concept(folder / "pictures", classes=classes),)
    return make_job(folder, concepts, **{**RATES, **config}, lora=lora)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(lora_job(tmp_path_factory.mktemp("lora"), steps=4, lora={"dropout": 0.2}))


def test_a_run(trained: Run) -> None:
    """The file's tensors, numbers and words."""
    tensors, about = trained.tensors, trained.metadata
    assert {name.split(".", 1)[1] for name in tensors} == {
        "lora_down.weight", "lora_up.weight", "alpha"
    }  # fmt: skip
    assert {name.split("_")[1] for name in tensors} == {"unet", "te"}
    assert tensors[f"lora_unet_{BLOCK}_attn1_to_q.lora_down.weight"].shape == (4, 32)
    assert tensors["lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight"].shape == (
        32, 4, 1, 1
    )  # fmt: skip
    assert all(float(t) == 2.0 for name, t in tensors.items() if name.endswith(".alpha"))
    assert all(t.abs().max() > 0 for name, t in tensors.items() if "lora_up" in name)
    assert about["ss_network_dim"] == "4" and about["ss_network_alpha"] == "2.0"
    assert about["ss_network_module"] == "networks.lora"
    assert about["ss_base_model_version"] == "sd_v1"
    assert about["ss_sd_model_hash"] == about["dreambooth.base_sha256"]
    assert about["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert json.loads(about["dreambooth.config"])["lora"]["rank"] == 4


def test_the_base_stays_bit_for_bit(tmp_path: Path) -> None:
    """Also the tensors that the model shares with the caller's dict."""
    base = toy_base()
    held = dict(base)
    run(lora_job(tmp_path), base)
    assert same(held, toy_base())


def test_frozen_layers_are_held_in_half_the_memory_for_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, real = [], setup.hold_frozen

    def hold_frozen(modules, precision: str) -> None:
        modules = list(modules)
        real(modules, precision)
        held.extend(p.dtype for m in modules for p in m.parameters() if not p.requires_grad)

    monkeypatch.setattr(setup, "hold_frozen", hold_frozen)
    options = {"precision": "bf16", "lora": {"prior_without_images": True}, "classes": 0}
    half = run(lora_job(tmp_path / "half", **options))
    assert {torch.bfloat16, torch.float32} == set(held)  # the latter are norms and embeddings
    monkeypatch.setattr(setup, "hold_frozen", lambda modules, precision: None)
    assert half.sha == run(lora_job(tmp_path / "whole", **options)).sha


def test_only_the_unet(tmp_path: Path) -> None:
    made = run(lora_job(tmp_path, trains="unet"))
    assert {name.split("_")[1] for name in made.tensors} == {"unet"}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_in_two_pieces(tmp_path: Path, trained: Run, checkpointing: bool) -> None:
    """2 + 2 steps are the bytes of 4; so are activations computed twice, with dropout."""
    options = {"lora": {"dropout": 0.2}, "gradient_checkpointing": checkpointing}
    run(lora_job(tmp_path, steps=2, **options))
    made = run(lora_job(tmp_path, steps=4, **options), train_again=False)
    assert [step.step for step in made.of(Step)] == [3, 4]
    if checkpointing:
        for name, tensor in trained.tensors.items():
            torch.testing.assert_close(made.tensors[name], tensor, rtol=1e-4, atol=1e-6)
    else:
        assert made.sha == trained.sha
    again = run(lora_job(tmp_path, steps=4, **options), train_again=False)
    assert again.result.reused and again.sha == made.sha
    state = made.result.folder / "state"
    size = sum(path.stat().st_size for path in state.glob("*.safetensors"))
    assert size < 12 * made.result.checkpoint.stat().st_size, "nothing of the base is in it"


def test_dora_in_two_pieces(tmp_path: Path) -> None:
    options = {"lora": {"kind": "dora"}, "save_precision": "fp16", "trains": "unet"}
    run(lora_job(tmp_path / "a", steps=1, **options))
    made = run(lora_job(tmp_path / "a", steps=2, **options), train_again=False)
    assert made.sha == run(lora_job(tmp_path / "b", steps=2, **options)).sha
    scales = {k: t for k, t in made.tensors.items() if k.endswith(".dora_scale")}
    assert scales and all(t.dtype == torch.float32 for t in scales.values())
    assert made.metadata["ss_network_module"] == "lycoris.kohya"


def test_a_step_that_is_cut_up_keeps_its_masks(tmp_path: Path) -> None:
    """Two rows at once, or one after the other, as after running out of memory."""
    options = {"lora": {"dropout": 0.3}, "steps": 2}
    whole = run(lora_job(tmp_path / "a", batch_size=2, **options)).of(Step)
    parts = run(lora_job(tmp_path / "b", gradient_accumulation_steps=2, **options)).of(Step)
    for one, other in zip(whole, parts, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-3)


def test_the_prior_of_the_base(tmp_path: Path) -> None:
    """Before anything is learned the class loss is exactly nothing; afterwards it counts."""
    options = {"steps": 2, "batch_size": 2, "lora": {"prior_without_images": True}}
    steps = run(lora_job(tmp_path / "a", classes=0, **options)).of(Step)
    assert steps[0].class_loss == 0.0 and steps[1].class_loss > 0
    assert steps[1].loss == pytest.approx(steps[1].instance_loss + steps[1].class_loss, rel=1e-5)
    without = run(lora_job(tmp_path / "b", classes=0, steps=2, batch_size=2)).of(Step)
    assert without[1].class_loss is None and without[0].loss == steps[0].loss


def test_the_priors_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the gradient of λ · mean (ε̂_lora − ε̂_base)², written down anew."""
    from pack.trainer.gradients import Gradients

    seen = []
    real = Gradients.forward_backward

    def forward_backward(self, batch, first):
        if not batch.is_class.any():
            return real(self, batch, first)
        trained = [p for m in self._p.trained.modules.values() for p in m.parameters()]
        trained = [p for p in trained if p.requires_grad]
        before = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in trained]
        result = real(self, batch, first)
        ours = [p.grad - b for p, b in zip(trained, before, strict=True)]
        seen.append((ours, by_hand(self, batch, trained)))
        return result

    def by_hand(self, batch, trained):
        acp = self._model.alphas_cumprod[batch.timesteps].view(-1, 1, 1, 1)
        noisy = (acp.sqrt() * batch.latents + (1 - acp).sqrt() * batch.noise).float()
        answers = []
        for off in (True, False):
            with self._p.adapters.switched_off() if off else torch.enable_grad():
                answers.append(self._passes.predict(self._passes.inputs(batch), noisy))
        base, ours = answers[0].detach(), answers[1]
        loss = 0.5 * (ours - base).square().mean()
        return torch.autograd.grad(loss, trained)

    monkeypatch.setattr(Gradients, "forward_backward", forward_backward)
    concept = make_concept(tmp_path / "p", classes=0, prior_weight=0.5)
    lora = LoraConfig(**LORA, prior_without_images=True)
    run(make_job(tmp_path, (concept,), **RATES, lora=lora, steps=2))
    for ours, by_hand_ in seen[1:]:
        norm = sum(float(g.square().sum()) for g in by_hand_) ** 0.5
        wrong = [float((a - b).norm()) for a, b in zip(ours, by_hand_, strict=True)]
        assert norm > 1e-4 and max(wrong) <= 1e-4 * norm


def test_a_class_prompt_is_asked_for(tmp_path: Path) -> None:
    job = lora_job(tmp_path, classes=0, lora={"prior_without_images": True})
    concept = job.concepts[0]
    object.__setattr__(concept, "class_prompt", " ")
    with pytest.raises(ConfigError, match="class_prompt"):
        run(job)
    with pytest.raises(ConfigError, match="prior_without_images"):
        LoraConfig(prior_without_images=True)


def test_without_peft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Absent or broken: a LoRA is refused by name, all else works."""
    from pack.trainer import packages

    def broken(name: str):
        raise OSError("libpeft.so: cannot open shared object file")

    monkeypatch.setattr(packages.importlib, "import_module", broken)
    with pytest.raises(ConfigError, match=r"libpeft.*pip install"):
        run(lora_job(tmp_path))
    monkeypatch.undo()
    monkeypatch.setattr(diffusers.utils, "USE_PEFT_BACKEND", True)
    for name in [n for n in sys.modules if n.split(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigError, match=r"peft.*pip install"):
        run(lora_job(tmp_path))
    assert run(make_job(tmp_path, steps=1)).result.steps == 1


def test_other_ranks_of_a_full_run_are_no_other_run(tmp_path: Path) -> None:
    """What has no effect is not in the fingerprint."""
    first = run(make_job(tmp_path, steps=1))
    job = make_job(tmp_path, steps=1, lora=LoraConfig(rank=33))
    again = run(job, train_again=False)
    assert again.result.reused and again.sha == first.sha


def test_rehearsed_and_shown(tmp_path: Path) -> None:
    """The untrained LoRA is loaded once before the first step; samples show what is learned."""
    seen = []

    def load(path: Path) -> None:
        tensors, _ = read_checkpoint(path)
        seen.append([float(t.abs().max()) for name, t in tensors.items() if "lora_up" in name])

    made = run(lora_job(tmp_path, preview_every=1, preview_steps=2, steps=2), load=load)
    assert len(seen) == 1 and seen[0] and not any(seen[0])
    pictures = [shown.image.tobytes() for shown in made.of(Preview)]
    assert len(pictures) == len(set(pictures)) == 3

    def refuse(path: Path) -> None:
        raise ValueError("no such layer")

    with pytest.raises(RehearsalFailed, match="no such layer"):
        run(lora_job(tmp_path / "other"), load=refuse)


def test_zeros_have_no_magnitude(tmp_path: Path) -> None:
    base = toy_base()
    base["model.diffusion_model.middle_block.1.proj_in.weight"][3] = 0.0
    with pytest.raises(ConfigError, match=r"mid_block.*proj_in.*kind = lora"):
        run(lora_job(tmp_path, lora={"kind": "dora"}), base)


def test_a_rate_for_whole_weights_is_remarked_on(tmp_path: Path) -> None:
    low = run(lora_job(tmp_path / "a", learning_rate=1e-6, steps=1))
    said = [note.text for note in low.of(Note)]
    assert [text for text in said if "1e-4" in text and "learning_rate = 1e-06" in text]
    assert not [n for n in run(lora_job(tmp_path / "b", steps=1)).of(Note) if "1e-4" in n.text]


@pytest.mark.parametrize("kind", ["toy_sd2_v", "toy_sdxl"])
def test_other_families(tmp_path: Path, kind: str) -> None:
    """Every text encoder has its own; the prior of the base, and going on, as ever."""
    prediction = {"prediction": "v_prediction"} if kind.endswith("_v") else {}
    options = {"classes": 0, "resolution": 128, "lora": {"prior_without_images": True}}

    def job(folder: Path, steps: int):
        return dataclasses.replace(lora_job(folder, steps=steps, **options), **prediction)

    whole = run(job(tmp_path / "a", 2), toy_base(kind))
    assert whole.of(Step)[0].class_loss == 0.0 < whole.of(Step)[1].class_loss
    run(job(tmp_path / "b", 1), toy_base(kind))
    made = run(job(tmp_path / "b", 2), toy_base(kind), train_again=False)
    assert made.sha == whole.sha and len(made.of(Step)) == 1
    parts = {name.split("_")[1] for name in made.tensors}
    assert parts == ({"unet", "te1", "te2"} if kind == "toy_sdxl" else {"unet", "te"})
    version = "sdxl_base_v1-0" if kind == "toy_sdxl" else "sd_v2_v"
    assert made.metadata["ss_base_model_version"] == version
