"""What a step will hold in memory: the estimate against a count of a real step's tensors."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0, XFormersAttnProcessor
from pack.trainer import free_memory, loop, memory_plan, moments, split_adamw
from pack.trainer.checkpoint import detect, read_checkpoint
from pack.trainer.config import DataConfig, Job
from pack.trainer.errors import TrainingError
from pack.trainer.events import Note, Planned, Step
from pack.trainer.footprint import Held
from pack.trainer.gradients import Gradients
from pack.trainer.ladder import Ladder
from pack.trainer.memory_need import Need
from pack.trainer.model import StableDiffusion
from pack.trainer.setup import Prepared
from toy import Run, make_concept, make_job, run, same, toy_base

GIB = 1 << 30


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("toy", {}),
        ("toy", {"precision": "bf16"}),
        ("toy", {"weights": "exact"}),
        ("toy", {"gradient_checkpointing": True}),
        ("toy", {"gradient_checkpointing": True, "precision": "bf16"}),
        ("toy", {"trains": "unet", "batch_size": 3}),
        ("toy", {"batch_size": 2, "gradient_accumulation_steps": 2}),
        ("toy_sdxl", {}),
    ],
)
def test_the_estimate_is_what_a_step_holds(
    tmp_path: Path, monkeypatch, kind: str, options: dict
) -> None:
    needs, counted = [], []
    estimate, fill = memory_plan.estimate, Gradients.fill

    def counting(gradients: Gradients, step: int) -> object:
        with Held() as held:
            losses = fill(gradients, step)
        counted.append((held.peak, held.now))
        return losses

    monkeypatch.setattr(memory_plan, "estimate", lambda *a: needs.append(estimate(*a)) or needs[-1])
    monkeypatch.setattr(Gradients, "fill", counting)
    concept = make_concept(tmp_path / "pictures", photos=4, classes=4)
    run(make_job(tmp_path, (concept,), resolution=256, **options), toy_base(kind))
    assert len(needs) == 1
    peak, left = counted[-1]
    assert needs[0].step == pytest.approx(peak, rel=0.02)
    if "weights" not in options:  # whose update needs more than gradients
        assert needs[0].update == pytest.approx(left, rel=0.02)


def test_xformers_is_estimated_as_torchs_attention_and_comes_back(
    tmp_path: Path, monkeypatch
) -> None:
    seen, estimate = [], memory_plan.estimate

    def both(prepared: Prepared, ladder: Ladder) -> Need:
        need, job, unet = estimate(prepared, ladder), prepared.job, prepared.model.unet
        config = replace(job.config, attention="xformers")
        unet.set_attn_processor(XFormersAttnProcessor())
        seen.append(estimate(replace(prepared, job=replace(job, config=config)), ladder) == need)
        seen.extend(type(p) is XFormersAttnProcessor for p in unet.attn_processors.values())
        unet.set_attn_processor(AttnProcessor2_0())
        return need

    monkeypatch.setattr(memory_plan, "estimate", both)
    run(make_job(tmp_path, resolution=256))
    assert len(seen) > 1 and all(seen)


@pytest.fixture
def free(monkeypatch) -> Callable[[float], None]:
    """Sets what is free, in bytes."""
    return lambda count: monkeypatch.setattr(memory_plan, "free_memory", lambda _: int(count))


def planned(made: Run) -> Planned:
    (event,) = made.of(Planned)
    return event


def test_a_run_that_fits_says_what_it_takes(tmp_path: Path, free: Callable) -> None:
    free(22.3 * GIB)
    event = planned(run(make_job(tmp_path)))
    assert event.text == "memory: about 0.1 GiB of the 22.3 GiB that it may take"


def test_a_run_that_does_not_fit_whole_begins_lower_and_learns_the_same(
    tmp_path: Path, free: Callable
) -> None:
    job = make_job(tmp_path, batch_size=4, resolution=256, trains="unet", steps=3)
    whole = run(job)
    free(planned(whole).need - 1)
    lower = run(job)
    assert planned(lower).change.startswith("2 instance rows at a time")
    assert planned(lower).need < planned(whole).need
    free(planned(lower).need - 1)
    lowest = run(job)
    assert planned(lowest).change != planned(lower).change
    for made in (lower, lowest):
        for mine, theirs in zip(made.of(Step), whole.of(Step), strict=True):
            assert mine.loss == pytest.approx(theirs.loss, rel=1e-5)
            assert mine.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)


def test_the_finest_feature_maps_are_given_up_first(tmp_path: Path, free: Callable) -> None:
    """What is kept of them is most of the memory; a step learns the same without."""
    concept = make_concept(tmp_path / "pictures", prior_weight=0.0)
    job = make_job(tmp_path, (concept,), resolution=512, trains="unet", steps=2)
    made = [run(job, toy_base("toy_sd2_v"))]
    for words in ("finest resolution", "2 finest", "a third slower"):
        free(planned(made[-1]).need - 1)
        made.append(run(job, toy_base("toy_sd2_v")))
        assert words in planned(made[-1]).change
        assert planned(made[-1]).need < planned(made[-2]).need
        for mine, theirs in zip(made[-1].of(Step), made[0].of(Step), strict=True):
            assert mine.loss == pytest.approx(theirs.loss, rel=1e-5)
            assert mine.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)


def elsewhere(monkeypatch) -> None:
    """What is brought is a copy, as on a card: what is not put back is lost."""
    for module in (moments, split_adamw):
        monkeypatch.setattr(module, "bring", lambda values, _: values.clone())
        monkeypatch.setattr(module, "pinned", torch.Tensor.clone)


@pytest.mark.parametrize("weights", ["exact", "lean"])
def test_moments_and_remainders_go_to_ram_before_a_run_is_refused(
    tmp_path: Path, free: Callable, monkeypatch, weights: str
) -> None:
    options = {"weights": weights, "gradient_checkpointing": True, "save_precision": "fp32"}
    options |= {"text_encoder_learning_rate": 1e-3, "gradient_accumulation_steps": 2}

    def job(name: str, steps: int) -> Job:
        """That has no other rung left, and so the same passes on each."""
        concept = make_concept(tmp_path / "pictures", prior_weight=0.0)
        return make_job(tmp_path / name, (concept,), steps=steps, **options)

    whole = run(job("whole", 4))
    assert not planned(whole).change
    asked: list[int] = []
    monkeypatch.setattr(memory_plan, "has_room_in_ram", lambda _, n: asked.append(n) or True)
    elsewhere(monkeypatch)
    free(planned(whole).need - 1)
    half = run(job("lower", 2))
    lower = run(job("lower", 4), train_again=False)
    assert "the computer's memory" in planned(lower).change
    assert asked[0] == asked[1] and asked[0] % (10 if weights == "exact" else 8) == 0
    saved = planned(whole).need - planned(lower).need
    assert saved == pytest.approx(asked[0] * 1.01, rel=0.02)
    assert half.result.steps == 2 and lower.of(Step)[0].step == 3  # and its state went back there
    assert same(whole.tensors, lower.tensors)


def test_what_a_smaller_state_leaves_free_is_not_recomputed(
    tmp_path: Path, free: Callable, monkeypatch
) -> None:
    options = {"weights": "exact", "batch_size": 2, "save_precision": "fp32", "steps": 2}
    whole = run(make_job(tmp_path / "whole", **options))
    monkeypatch.setattr(memory_plan, "has_room_in_ram", lambda *_: True)
    elsewhere(monkeypatch)
    seen, estimate = [], memory_plan.estimate
    monkeypatch.setattr(memory_plan, "estimate", lambda *a: seen.append(estimate(*a)) or seen[-1])
    free(planned(whole).need - 0.9 * 1.01 * seen_state(whole))
    made = run(make_job(tmp_path / "made", **options))
    assert len(seen) > 3  # all that keep the state beside the weights
    assert planned(made).change.startswith("what only updates need in the computer's memory")
    assert planned(made).need == seen[0].beside_ram.total < min(need.total for need in seen)
    assert same(whole.tensors, made.tensors)


def seen_state(made: Run) -> int:
    """Bytes of moments and remainders of a run with exact weights."""
    kept, _ = read_checkpoint(next((made.result.folder / "state").glob("*.safetensors")))
    return sum(t.nbytes for name, t in kept.items() if name.startswith("optimizer."))


def test_recomputation_can_be_taken_back() -> None:
    base = toy_base("toy_sd2_v")
    model = StableDiffusion(base, detect(base))
    layers = [m for part in ("unet", "text_encoder") for m in model.parts[part].modules()]

    def recomputed() -> int:
        return sum(getattr(layer, "gradient_checkpointing", False) for layer in layers)

    counts = []
    for levels in (None, 2, 1, 0):
        model.recompute_activations(True, levels)
        counts.append(recomputed())
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[1] and counts[3] == 0


def test_without_room_in_ram_the_run_is_refused(tmp_path: Path, free: Callable) -> None:
    """Of a processor both are the same memory."""
    free(1000)
    with pytest.raises(TrainingError, match="nothing was trained"):
        run(make_job(tmp_path, weights="exact"))


def test_a_run_that_never_fits_is_refused_before_anything_is_placed(
    tmp_path: Path, free: Callable, monkeypatch
) -> None:
    free(1000)
    monkeypatch.setattr(loop, "Learner", lambda *_: pytest.fail("something was placed"))
    with pytest.raises(
        TrainingError,
        match=r"about 0\.1 GiB, row by row.*0\.0 GiB of cpu are free, so nothing was trained: "
        r"choose optimizer = adamw8bit, or weights = exact, or train a LoRA, or train the unet",
    ):
        run(make_job(tmp_path))


def test_what_nearly_fits_is_tried(tmp_path: Path, free: Callable) -> None:
    """An estimate may be wrong by a tenth, and a step that fails loses nothing."""
    options = {"gradient_checkpointing": True, "gradient_accumulation_steps": 2}  # no rung below
    job = make_job(tmp_path, trains="unet", steps=1, **options)
    need = planned(run(job)).need
    free(0.92 * need)
    assert run(job).result.steps == 1
    free(0.85 * need)
    with pytest.raises(TrainingError, match="nothing was trained"):
        run(job)


def test_without_knowing_what_is_free_nothing_is_said(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(memory_plan, "free_memory", lambda _: None)
    assert not run(make_job(tmp_path)).of(Planned)


def test_a_net_that_cannot_be_estimated_is_trained(tmp_path: Path, monkeypatch) -> None:
    real = StableDiffusion.predict

    def predict(model: StableDiffusion, noisy: torch.Tensor, *rest: torch.Tensor):
        if noisy.is_meta:
            raise NotImplementedError("no kernel for meta")
        return real(model, noisy, *rest)

    monkeypatch.setattr(StableDiffusion, "predict", predict)
    made = run(make_job(tmp_path))
    assert made.result.steps == 2 and not made.of(Planned)
    assert "no kernel for meta" in made.of(Note)[0].text


def test_free_memory_of_a_card_is_what_this_process_may_still_take(monkeypatch) -> None:
    card = torch.cuda
    for name, value in {"mem_get_info": (3 * GIB, 8 * GIB), "memory_reserved": 2 * GIB,
                        "memory_allocated": GIB}.items():  # fmt: skip
        monkeypatch.setattr(card, name, lambda _, value=value: value)
    monkeypatch.setattr(card, "get_per_process_memory_fraction", lambda _: 1.0, raising=False)
    device = torch.device("cuda", 0)
    assert free_memory.free_on_card(device) == 4 * GIB
    monkeypatch.setattr(card, "get_per_process_memory_fraction", lambda _: 0.5, raising=False)
    assert free_memory.free_on_card(device) == 3 * GIB


def test_encoders_that_come_back_for_texts_are_counted(tmp_path: Path, monkeypatch) -> None:
    needs, estimate = [], memory_plan.estimate
    monkeypatch.setattr(memory_plan, "estimate", lambda *a: needs.append(estimate(*a)) or needs[-1])
    concept = make_concept(tmp_path / "pictures", captions=("zwx, dog, sofa", "zwx, dog, lawn"))
    for shuffles in (False, True):
        data = DataConfig(shuffle_tags=shuffles)
        run(make_job(tmp_path, (concept,), trains="unet", data=data, steps=1))
    base = toy_base()
    model = StableDiffusion(base, detect(base))
    text = sum(p.nbytes for p in model.parts["text_encoder"].parameters())
    assert needs[1].weights - needs[0].weights == text
