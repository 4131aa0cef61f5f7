"""Whole runs on bf16 weights: what they compute, what they keep, what they refuse."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from pack.trainer import checks, optim
from pack.trainer.checkpoint import read_checkpoint
from pack.trainer.config import Concept, ConfigError, Job, LoraConfig, TrainConfig
from pack.trainer.config.lora import LORA
from pack.trainer.events import Note, Preview
from pack.trainer.split import join, split
from pack.trainer.split_adamw import SplitAdamW
from torch import Tensor
from torch.nn import Module, Parameter
from toy import CPU, Run, make_job, run, same, toy_base

OPTIONS = {"weights": "exact", "save_precision": "fp32", "steps": 3, "learning_rate": 1e-5}
UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, concept: Concept) -> Run:
    folder = tmp_path_factory.mktemp("exact")
    return run(make_job(folder, (concept,), preview_every=3, preview_steps=2, **OPTIONS))


def test_it_is_said_why_updates_take_longer(tmp_path, concept, monkeypatch) -> None:
    """Where a card cannot have the update in one pass; the run is the same."""

    def none(optimizer: SplitAdamW, like: object) -> None:
        optimizer.slow_because = "Triton is not installed"

    monkeypatch.setattr(optim, "use_one_pass", none)
    notes = run(make_job(tmp_path, (concept,), **OPTIONS)).of(Note)
    assert [note.text for note in notes if "Triton" in note.text] == [
        "Triton is not installed: each update takes longer, its result is the same"
    ]


class Masters(SplitAdamW):
    """The textbook's way: fp32 masters in memory of their own, rounded to bf16 for each pass."""

    def __init__(self, groups: list, **options: object) -> None:
        masters = [p.detach().clone() for group in groups for p in group["params"]]
        super().__init__(groups, **options)
        self.masters = [Parameter(master) for master in masters]
        rates = [g["lr"] for g in self.param_groups for _ in g["params"]]
        first = self.param_groups[0]
        options = {key: first[key] for key in ("betas", "eps", "weight_decay")}
        self.plain = torch.optim.AdamW(
            [{"params": [m], "lr": lr} for m, lr in zip(self.masters, rates, strict=True)],
            fused=True, **options,
        )  # fmt: skip

    def value(self, parameter: Parameter) -> Tensor:
        raise AssertionError("not needed")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for parameter, master in zip(self.parameters(), self.masters, strict=True):
            if parameter.grad is not None:
                master.grad = parameter.grad.float() * self._scale
        self.plain.step()
        for parameter, master in zip(self.parameters(), self.masters, strict=True):
            upper, self.state[parameter]["remainder"] = split(master.detach())
            parameter.copy_(upper)


def test_a_run_is_that_of_fp32_masters_to_the_last_bit(
    tmp_path: Path, concept: Concept, exact: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optim, "SplitAdamW", Masters)
    masters = run(make_job(tmp_path, (concept,), **OPTIONS))
    assert same(exact.tensors, masters.tensors) and exact.result.steps == 3


def test_it_strays_from_fp32_no_further_than_autocast(
    tmp_path: Path, concept: Concept, exact: Run
) -> None:
    """Both compute their passes in bf16, and Adam's first steps go by signs."""
    options = OPTIONS | {"weights": "fp32"}
    cast = run(make_job(tmp_path / "cast", (concept,), precision="bf16", **options))
    plain = run(make_job(tmp_path / "plain", (concept,), **options))

    def distance(run: Run) -> float:
        pairs = [(v, plain.tensors[k]) for k, v in run.tensors.items() if k.startswith(UNET)]
        return sum(float((ours - theirs).double().square().sum()) for ours, theirs in pairs) ** 0.5

    assert 0 < distance(exact) < 1.2 * distance(cast)


def test_what_auto_comes_to_is_part_of_the_run(
    tmp_path: Path, concept: Concept, exact: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a card; there it also goes on from a shell, or on another machine."""
    on_card = partial(replace, weights="exact", optimizer="adamw")
    monkeypatch.setattr(checks, "resolve", lambda config, device: on_card(config))
    made = run(make_job(tmp_path, (concept,), **OPTIONS | {"weights": "auto"}))
    written = Job.from_json((made.result.folder / "job.json").read_text("utf-8"))
    assert written.config.weights == "exact" and same(exact.tensors, made.tensors)
    key = "dreambooth.fingerprint"
    assert made.metadata[key] == exact.metadata[key]


def test_weights_reach_the_device_in_halves(
    tmp_path: Path, concept: Concept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A card may have no room for all of them in fp32."""
    real, moved = Module.to, []

    def to(module: Module, *args: object, **options: object) -> Module:
        if any(p.requires_grad for p in module.parameters()):
            moved.extend(p.dtype for p in module.parameters() if p.requires_grad)
        return real(module, *args, **options)

    monkeypatch.setattr(Module, "to", to)
    run(make_job(tmp_path, (concept,), **OPTIONS | {"steps": 1}))
    assert set(moved) == {torch.bfloat16}


def test_the_file_holds_the_state_put_together(exact: Run) -> None:
    kept, _ = read_checkpoint(exact.result.folder / "state" / "step000003.safetensors")
    for name, value in kept.items():
        if name == "weights.unet.conv_in.weight":
            whole = join(value, kept["optimizer.unet.conv_in.weight:remainder"])
    assert torch.equal(whole, exact.tensors[f"{UNET}input_blocks.0.0.weight"])


def test_previews_show_the_weights(exact: Run) -> None:
    first, last = (shot.image for shot in exact.of(Preview))
    assert first.size == (64, 64) and first.tobytes() != last.tobytes()


def test_averages_are_whole(tmp_path: Path, concept: Concept, exact: Run) -> None:
    """With a decay of nearly nothing the average is the last weight, in all its bits."""
    averaged = run(make_job(tmp_path, (concept,), ema_decay=1e-9, **OPTIONS))
    for name, value in averaged.tensors.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, exact.tensors[name], rtol=2e-7, atol=1e-9)


@pytest.mark.parametrize("kind", ["toy_sd2", "toy_sdxl"])
def test_without_a_rate_other_families_come_back_as_they_were(
    tmp_path: Path, concept: Concept, kind: str
) -> None:
    """Through files that stack and transpose tensors."""
    still = {"learning_rate": 0.0, "text_encoder_learning_rate": 0.0, "weight_decay": 0.0}
    options = OPTIONS | still | {"steps": 1}
    kept = run(make_job(tmp_path, (concept,), **options), base=toy_base(kind))
    base = toy_base(kind)
    assert all(torch.equal(kept.tensors[name], base[name].float()) for name in base)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="weights = exact computes in bf16.*not fp16"):
        TrainConfig(weights="exact", precision="fp16")
    with pytest.raises(ConfigError, match="weights = lean is for training all weights"):
        TrainConfig(weights="lean", lora=LoraConfig(kind=LORA))
    weight = Parameter(torch.ones(3, device=CPU))
    optim.make_optimizer([weight], [], TrainConfig(weights="lean"))
    assert weight.dtype == torch.bfloat16
