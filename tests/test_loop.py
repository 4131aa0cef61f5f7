"""Whole runs of the toy model: what learns, what stays, what repeats."""

import json
import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pack.trainer import forward
from pack.trainer.checkpoint import CheckpointError, read_checkpoint
from pack.trainer.config import ConfigError, Job
from pack.trainer.errors import TrainingError
from pack.trainer.events import Begun, Command, Note, Phase, Preview, Saved, Step
from pack.trainer.images import ImageError
from pack.trainer.loop import train
from pack.trainer.objective import row_losses
from toy import CPU, make_concept, make_job, picture, run, same, toy_base

UNET, TEXT, VAE = "model.diffusion_model.", "cond_stage_model.", "first_stage_model."


def test_one_photo_is_overfit(tmp_path: Path) -> None:
    concept = make_concept(tmp_path / "pictures", photos=1, classes=0)
    steps = run(make_job(tmp_path, (concept,), steps=150, learning_rate=3e-3)).of(Step)
    losses = [step.instance_loss for step in steps]
    assert sum(losses[-30:]) < 0.5 * sum(losses[:30])


def test_unet_only_leaves_every_other_byte(tmp_path: Path) -> None:
    after = run(make_job(tmp_path, trains="unet", save_precision="fp32")).tensors
    base = toy_base()
    assert same(base, after, TEXT) and same(base, after, VAE)
    assert not any(torch.equal(base[k], after[k]) for k in base if k.startswith(UNET))


def test_with_text_encoder_both_change(tmp_path: Path) -> None:
    after = run(make_job(tmp_path, text_encoder_learning_rate=1e-3, save_precision="fp32")).tensors
    base = toy_base()
    assert same(base, after, VAE)
    changed = [k for k in base if k.startswith((UNET, TEXT)) and not torch.equal(base[k], after[k])]
    assert len(changed) == sum(k.startswith((UNET, TEXT)) for k in base)


def test_same_inputs_same_bytes_and_another_seed_other_bytes(tmp_path: Path) -> None:
    first = run(make_job(tmp_path, steps=3, preview_every=1, preview_steps=2))
    torch.manual_seed(99)  # the process's generator has no say
    second = run(make_job(tmp_path, steps=3, preview_every=1, preview_steps=2))
    assert first.sha == second.sha
    assert [p.image.tobytes() for p in first.of(Preview)] == [
        p.image.tobytes() for p in second.of(Preview)
    ]
    other = run(make_job(tmp_path, steps=3, seed=1))
    assert not same(first.tensors, other.tensors, UNET)


def test_previews_do_not_disturb_training(tmp_path: Path) -> None:
    with_previews = run(make_job(tmp_path, steps=3, preview_every=1, preview_steps=2))
    without = run(make_job(tmp_path, steps=3))
    assert same(with_previews.tensors, without.tensors)
    assert [p.step for p in with_previews.of(Preview)] == [0, 1, 2, 3]


def test_accumulation_equals_the_large_batch(tmp_path: Path) -> None:
    """Four rows at once, two by two, one by one: the same draws and the same step."""
    shapes = [(4, 1), (2, 2), (1, 4)]
    runs = [
        run(make_job(tmp_path, steps=2, batch_size=b, gradient_accumulation_steps=a))
        for b, a in shapes
    ]
    losses = [[step.loss for step in r.of(Step)] for r in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)
    assert all(len(r.of(Step)) == 2 for r in runs)  # steps are optimizer steps


def test_checkpointing_computes_the_same(tmp_path: Path) -> None:
    plain = run(make_job(tmp_path, save_precision="fp32"))
    recomputed = run(make_job(tmp_path, save_precision="fp32", gradient_checkpointing=True))
    for key, value in plain.tensors.items():
        torch.testing.assert_close(recomputed.tensors[key], value, rtol=1e-4, atol=1e-5)


def test_inside_inference_mode(tmp_path: Path) -> None:
    """A host runs nodes inside inference mode, its weights are inference tensors."""
    plain = run(make_job(tmp_path))
    with torch.inference_mode():
        base = {key: tensor.clone() for key, tensor in toy_base().items()}
        inside = run(make_job(tmp_path), base)
        assert torch.is_inference_mode_enabled()
    assert inside.sha == plain.sha


def test_in_a_thread_and_beside_anothers_accelerator(tmp_path: Path) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    plain = run(make_job(tmp_path))
    Accelerator(mixed_precision="bf16", cpu=True)
    got = []
    thread = threading.Thread(target=lambda: got.append(run(make_job(tmp_path))))
    thread.start()
    thread.join()
    assert got[0].sha == plain.sha
    assert AcceleratorState().mixed_precision == "bf16"  # theirs is as it was
    AcceleratorState._reset_state(reset_partial_state=True)


def test_precisions_do_not_leak_from_run_to_run(tmp_path: Path) -> None:
    first = run(make_job(tmp_path))
    run(make_job(tmp_path, precision="bf16"))
    assert run(make_job(tmp_path)).sha == first.sha


def test_the_callers_global_state_is_untouched(tmp_path: Path) -> None:
    before = (torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled())
    run(make_job(tmp_path, preview_every=1, preview_steps=2))
    after = (torch.get_rng_state(), torch.get_default_dtype(), torch.is_grad_enabled())
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


def test_what_is_on_disk(tmp_path: Path) -> None:
    made = run(make_job(tmp_path, steps=4, preview_every=2, preview_steps=2, save_every=1, keep=2))
    folder = made.result.folder
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert all(math.isfinite(line["loss"]) for line in lines)
    result = json.loads((folder / "result.json").read_text())
    assert result["steps"] == 4 and Path(result["checkpoint"]) == made.result.checkpoint
    assert Job.read(folder / "job.json").config.steps == 4
    names = sorted(p.name for p in made.result.checkpoint.parent.iterdir())
    assert names == ["toy-step000002.safetensors", "toy-step000003.safetensors", "toy.safetensors"]
    assert [s.step for s in made.of(Saved)] == [1, 2, 3, 4]
    assert made.metadata["dreambooth.steps"] == "4"
    assert made.metadata["modelspec.trigger_phrase"] == "zwx dog"


def test_the_cache_serves_the_same_latents_and_notices_a_changed_photo(tmp_path: Path) -> None:
    first = run(make_job(tmp_path))
    stored = list((tmp_path / "cache").rglob("*.safetensors"))
    assert len(stored) == 5
    assert run(make_job(tmp_path)).sha == first.sha
    stored[0].write_bytes(b"damaged")
    assert run(make_job(tmp_path)).sha == first.sha
    job = make_job(tmp_path)
    picture(Path(job.concepts[0].instance_images[0]), seed=999)
    assert not same(run(job).tensors, first.tensors, UNET)


@pytest.mark.parametrize("stop_after", [1, 3])
def test_stop_keeps_the_last_finished_step(tmp_path: Path, stop_after: int) -> None:
    events = []

    def control() -> Command:
        steps = sum(isinstance(e, Step) for e in events)
        return Command.STOP if steps >= stop_after else Command.GO_ON

    job = make_job(tmp_path, steps=9)
    result = train(job, toy_base(), device=CPU, listener=events.append, control=control)
    assert result.stopped and result.steps == stop_after
    whole = run(make_job(tmp_path, steps=stop_after))
    assert same(read_checkpoint(result.checkpoint)[0], whole.tensors)


def test_stop_before_the_first_step_leaves_no_checkpoint(tmp_path: Path) -> None:
    made = run(make_job(tmp_path), control=lambda: Command.STOP)
    assert made.result.stopped and made.result.checkpoint is None
    assert not (tmp_path / "runs").exists() and not (tmp_path / "checkpoints").exists()


def test_a_preview_and_a_checkpoint_on_wish(tmp_path: Path) -> None:
    """Each once, after the step in which it was asked for; the weights do not notice."""
    events = []
    orders = iter([Command.PREVIEW, Command.SAVE, Command.PREVIEW])

    def control() -> Command:
        steps = sum(isinstance(e, Step) for e in events)
        return next(orders, Command.GO_ON) if steps == 1 else Command.GO_ON

    job = make_job(tmp_path, steps=4, preview_steps=1)
    result = train(job, toy_base(), device=CPU, listener=events.append, control=control)
    assert [e.step for e in events if isinstance(e, Preview)] == [2]
    assert [e.step for e in events if isinstance(e, Saved)] == [2, 4]
    assert [e.step for e in events if isinstance(e, Begun)] == [0]
    plain = run(make_job(tmp_path, steps=4))
    assert same(read_checkpoint(result.checkpoint)[0], plain.tensors)
    extra = result.checkpoint.with_name("toy-step000002.safetensors")
    shorter = run(make_job(tmp_path, steps=2))
    assert same(read_checkpoint(extra)[0], shorter.tensors)


def test_a_run_with_wishes_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """Stopped after a wish, it ends in the file of a run that nobody spoke to."""
    events = []

    def control() -> Command:
        steps = sum(isinstance(e, Step) for e in events)
        return {1: Command.PREVIEW, 2: Command.SAVE, 3: Command.STOP}.get(steps, Command.GO_ON)

    job = make_job(tmp_path, steps=5, preview_steps=1)
    stopped = train(job, toy_base(), device=CPU, listener=events.append, control=control)
    assert stopped.stopped and stopped.steps == 3
    went_on = run(job, train_again=False)
    assert went_on.result.name == stopped.name
    assert [e.step for e in went_on.of(Begun)] == [3]
    assert went_on.sha == run(make_job(tmp_path, steps=5, preview_steps=1)).sha


def test_a_listener_that_raises_costs_no_work(tmp_path: Path) -> None:
    def listener(event: object) -> None:
        if isinstance(event, Step) and event.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(make_job(tmp_path, steps=9), toy_base(), device=CPU, listener=listener)
    assert (tmp_path / "checkpoints" / "toy.safetensors").is_file()


def test_long_prompts_are_named(tmp_path: Path) -> None:
    concept = make_concept(tmp_path / "p")
    long = replace(concept, instance_prompt="a photo of zwx dog " + "very " * 80 + "happy")
    notes = run(make_job(tmp_path, (long,))).of(Note)
    assert any("77 tokens" in note.text and "happy" in note.text for note in notes)


def test_refusals_before_the_first_step(tmp_path: Path) -> None:
    bad = toy_base()
    bad["model.diffusion_model.out.2.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"out\.2\.weight"):
        run(make_job(tmp_path), bad)
    with pytest.raises(ConfigError, match="no room on disk.*GB.*GB"):
        run(make_job(tmp_path, steps=1_000_000, save_every=1, keep=100_000))
    with pytest.raises(ConfigError, match="fp16"):
        run(make_job(tmp_path, precision="fp16"))
    job = make_job(tmp_path)
    Path(job.concepts[0].instance_images[0]).write_text("broken")
    with pytest.raises(ImageError, match="zwx0"):
        run(job)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_phases_are_told(tmp_path: Path) -> None:
    phases = [p.name for p in run(make_job(tmp_path)).of(Phase)]
    for name in ("Reading pictures", "Loading the model", "Encoding pictures", "Saving"):
        assert name in phases


def test_the_recorded_job_knows_its_base(tmp_path: Path) -> None:
    first = run(make_job(tmp_path))
    recorded = Job.read(first.result.folder / "job.json")
    assert len(recorded.base_digest) == 64
    assert not run(recorded).of(Note)
    other = toy_base()
    other["model.diffusion_model.out.2.bias"] += 1
    with pytest.raises(ConfigError, match="not those that this run began with"):
        run(recorded, other)


def test_class_images_of_weight_zero_leave_no_trace(tmp_path: Path) -> None:
    """Neither in the weights nor in the file: paths are never part of it."""
    files = []
    for name in ("here", "there"):
        concept = make_concept(tmp_path / name, prior_weight=0.0)
        files.append(run(make_job(tmp_path / name, (concept,))).sha)
    assert files[0] == files[1]


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_a_bad_gradient_never_reaches_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_grad_norm: float
) -> None:
    """A finite loss with a gradient that is not, clipped or not."""

    class Break(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * math.nan

    broken = lambda *given: Break.apply(row_losses(*given))  # noqa: E731
    monkeypatch.setattr(forward, "row_losses", broken)
    with pytest.raises(TrainingError, match="gradient.*step 3"):
        run(make_job(tmp_path, steps=9, max_grad_norm=max_grad_norm))
    assert not list((tmp_path / "checkpoints").iterdir())
