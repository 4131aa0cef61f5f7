"""Out of memory: the same step in less memory, and the run goes on."""

import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from pack.trainer import learner, previews, saving
from pack.trainer.batch import Batch
from pack.trainer.errors import TrainingError
from pack.trainer.events import Note, Preview, Step
from pack.trainer.ladder import Ladder, is_out_of_memory
from pack.trainer.model import StableDiffusion
from toy import make_concept, make_job, run
from transformers import CLIPTextModel


def test_rungs_halve_then_part_then_recompute() -> None:
    ladder, rungs = Ladder(5, has_classes=True, checkpointing=False, levels=4), []
    while (text := ladder.lower()) is not None:
        rungs.append((ladder.rows, ladder.apart, ladder.recomputed, text.split(",")[0]))
    instance = "instance rows at a time"
    assert rungs == [
        (3, False, 0, f"3 {instance}"),
        (2, False, 0, f"2 {instance}"),
        (1, False, 0, f"1 {instance}"),
        (1, True, 0, "instance and class rows one after the other"),
        (1, True, 1, "gradient checkpointing in the UNet's finest resolution"),
        (1, True, 2, "gradient checkpointing in the UNet's 2 finest"),
        (1, True, 4, "gradient checkpointing"),
    ]
    assert Ladder(1, has_classes=False, checkpointing=True, levels=4).lower() is None


def test_below_them_all_the_step_is_one_pass_again_that_keeps_no_gradients() -> None:
    ladder, rungs = Ladder(2, has_classes=True, checkpointing=False, one_pass=True), []
    while ladder.lower():
        rungs.append((ladder.rows, ladder.apart, ladder.recomputed, ladder.in_backward))
    assert rungs == [(1, False, 0, False), (1, True, 0, False), (1, True, 1, False),
                     (2, False, 1, True)]  # fmt: skip


@pytest.mark.parametrize(("levels", "rungs"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3])])
def test_small_nets_have_fewer_rungs(levels: int, rungs: list[int]) -> None:
    ladder, seen = Ladder(1, has_classes=False, checkpointing=False, levels=levels), []
    while ladder.lower():
        seen.append(ladder.recomputed)
    assert seen == rungs


def test_cuts_cover_the_step_once() -> None:
    ladder = Ladder(7, has_classes=False, checkpointing=False)
    while ladder.rows > 1:
        ladder.lower()
        cuts = list(ladder.cut(14, 7))
        assert [n for cut in cuts for n in cut] == list(range(14, 21))
        assert max(map(len, cuts)) == ladder.rows


def test_no_cut_spans_two_batches() -> None:
    """Which may be of two sizes."""
    ladder = Ladder(3, has_classes=False, checkpointing=False)
    assert [list(cut) for cut in ladder.cut(6, 6)] == [[6, 7, 8], [9, 10, 11]]
    ladder.lower()
    assert [list(cut) for cut in ladder.cut(6, 6)] == [[6, 7], [8], [9, 10], [11]]


def test_passes_part_instance_and_class_rows() -> None:
    rows = torch.arange(4.0)
    is_class = torch.tensor([False, False, True, True])
    names, sizes = ["a", "b", "c", "d"], rows[:, None].expand(4, 6)
    batch = Batch(
        rows,
        rows + 10,
        rows + 15,
        rows.long(),
        rows + 20,
        is_class,
        is_class,
        [0, 1, 0, 1],
        names,
        sizes,
    )
    ladder = Ladder(2, has_classes=True, checkpointing=True)
    assert ladder.passes(batch) == [batch]
    ladder.lower()
    ladder.lower()
    mine, classes = ladder.passes(batch)
    assert mine.prompts == ["a", "b"] and classes.prompts == ["c", "d"]
    assert mine.noise.tolist() == [10, 11] and classes.weights.tolist() == [22, 23]
    assert mine.time_ids[:, 0].tolist() == [0, 1] and classes.time_ids[:, 5].tolist() == [2, 3]
    assert classes.input_noise.tolist() == [17, 18]


def test_real_refusals_are_known() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(refused.value)
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    engines = "GET was unable to find an engine to execute this computation"
    assert is_out_of_memory(RuntimeError(engines))  # of a convolution
    for said in ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
                 "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
                 "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"):  # fmt: skip
        assert is_out_of_memory(RuntimeError(said))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


class Card:
    """A model whose forward passes fit only so many rows while they train."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rows: int, after: int = 0) -> None:
        self.calls, self.widest, real = 0, 0, StableDiffusion.predict

        def predict(model: StableDiffusion, noisy: torch.Tensor, *rest: torch.Tensor):
            if torch.is_grad_enabled() and not noisy.is_meta:  # no estimate
                self.calls += 1
                if self.calls > after and len(noisy) > rows:
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
                self.widest = max(self.widest, len(noisy))
            return real(model, noisy, *rest)

        monkeypatch.setattr(StableDiffusion, "predict", predict)


@pytest.mark.parametrize("trains", ["unet", "unet + text encoder"])
def test_a_step_that_does_not_fit_is_cut_and_learns_the_same(tmp_path, monkeypatch, trains) -> None:
    concepts = (make_concept(tmp_path / "p", photos=3, prior_weight=0.5),)
    job = make_job(tmp_path / "a", concepts, steps=3, batch_size=3, trains=trains)
    whole = run(job)
    card = Card(monkeypatch, rows=1, after=1)  # the first step fits, the second does not
    cut = run(make_job(tmp_path / "b", concepts, steps=3, batch_size=3, trains=trains))
    assert card.widest == 6 and cut.result.steps == 3
    for mine, theirs in zip(cut.of(Step), whole.of(Step), strict=True):
        assert mine.loss == pytest.approx(theirs.loss, rel=1e-5)
        assert mine.class_loss == pytest.approx(theirs.class_loss, rel=1e-5)
        assert mine.grad_norm == pytest.approx(theirs.grad_norm, rel=1e-4)
    a, b = whole.tensors, cut.tensors
    assert all(torch.allclose(a[k].float(), b[k].float(), atol=2e-3) for k in a)
    notes = [note.text for note in cut.of(Note) if "memory" in note.text]
    assert len(notes) == 3 and "2 instance rows" in notes[0] and "one after the other" in notes[2]


def test_at_the_bottom_the_finished_steps_are_kept(tmp_path, monkeypatch) -> None:
    Card(monkeypatch, rows=0, after=2)
    job = make_job(tmp_path, steps=4, batch_size=1)
    with pytest.raises(TrainingError, match=r"step 3.*memory.*resolution"):
        run(job)
    assert (tmp_path / "checkpoints" / "toy.safetensors").is_file()
    monkeypatch.undo()
    assert run(job, train_again=False).result.steps == 4  # from step 2


UNET, TEXT = "UNet2DConditionModel.to", "CLIPTextModel.to"


@pytest.mark.parametrize(
    ("place", "options", "message"),
    [
        (UNET, {}, r"the unet does not fit.*train a LoRA, or train the unet alone"),
        (TEXT, {}, r"the text encoder does not fit.*no step was taken: train a LoRA,"),
        (TEXT, {"trains": "unet"}, r"the text encoder does not fit.*reads the prompts"),
        ("make_optimizer", {}, r"the optimizer does not fit.*optimizer = adamw8bit"),
        ("Ema", {"ema_decay": 0.99}, r"ema_decay = 0\.99.*does not fit.*choose ema_decay = 0,"),
        ("restore", {}, r"the state that the run goes on from does not fit"),
    ],
)
def test_what_does_not_fit_at_the_start_is_named(
    tmp_path, monkeypatch, place, options, message
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")

    job = make_job(tmp_path, steps=2, **options)
    if place == "restore":
        run(make_job(tmp_path, steps=1, **options))
    owner = {UNET: UNet2DConditionModel, TEXT: CLIPTextModel}.get(place, learner)
    with monkeypatch.context() as patch:
        patch.setattr(owner, "to" if place in (UNET, TEXT) else place, refuse)
        with pytest.raises(TrainingError, match=message):
            run(job, train_again=False)
    made = run(job, train_again=False)  # under the same name
    assert made.result.steps == 2 and made.result.name == "toy"


def test_another_error_is_not_taken_for_memory(tmp_path, monkeypatch) -> None:
    def predict(*args: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(StableDiffusion, "predict", predict)
    with pytest.raises(RuntimeError, match="mat1"):
        run(make_job(tmp_path, batch_size=2))


def test_a_preview_that_does_not_fit_is_left_out(tmp_path, monkeypatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(previews, "sample", refuse)
    made = run(make_job(tmp_path, steps=2, preview_every=1))
    assert made.result.steps == 2 and not made.of(Preview)
    assert sum("preview" in note.text for note in made.of(Note)) == 1


def test_an_update_that_broke_off_is_taken_back_and_repeated(tmp_path, monkeypatch) -> None:
    """From a state two steps before, as the refused update has already changed the weights."""
    whole = run(make_job(tmp_path / "whole", steps=5))
    real, calls = torch.optim.AdamW.step, []

    def step(self: torch.optim.AdamW, *args: object, **options: object) -> object:
        calls.append(1)
        done = real(self, *args, **options)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        return done

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    monkeypatch.setattr(saving.Saver, "state_is_due", lambda self: len(calls) == 2)
    made = run(make_job(tmp_path / "broken", steps=5))
    assert made.sha == whole.sha and len(calls) == 4 + 3
    (said,) = (note.text for note in made.of(Note) if "optimizer" in note.text)
    assert "step 4" in said and "tried again from step 2" in said
    log = (made.result.folder / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2, 3, 4, 5]


def test_an_update_that_never_fits_ends_with_what_is_kept(tmp_path, monkeypatch) -> None:
    real, calls = torch.optim.AdamW.step, []

    def step(self: torch.optim.AdamW, *args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) >= 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        return real(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    monkeypatch.setattr(saving.Saver, "state_is_due", lambda self: True)
    job = make_job(tmp_path, steps=5)
    with pytest.raises(TrainingError, match=r"in step 3: choose.*are kept"):
        run(job)
    assert len(calls) == 2 + 3  # tried three times, not for ever
    monkeypatch.undo()
    assert [s.step for s in run(job, train_again=False).of(Step)] == [3, 4, 5]
