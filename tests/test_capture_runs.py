"""Recorded passes: the same weights as without, and every way in which a recording goes wrong."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pack.trainer import cuda_graphs, gradients
from pack.trainer.capture import WARM_UPS, Captured
from pack.trainer.config import LoraConfig, LossConfig
from pack.trainer.events import Note, Step
from pack.trainer.forward import ForwardBackward, Inputs
from pack.trainer.ladder import Ladder
from tape import Tapes
from toy import Run, make_concept, make_job, run, same, toy_base

RATES = {"learning_rate": 1e-3, "text_encoder_learning_rate": 1e-3, "save_precision": "fp32"}
NOTE = "cuda_graph: "


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tapes]:
    """Runs record on tapes, where nothing but the device speaks against it."""
    made = Tapes()

    def recorder_for(prepared, ladder):
        reason = cuda_graphs.why_not(prepared, ladder)
        return (None if reason else made), reason

    monkeypatch.setattr(gradients, "recorder_for", recorder_for)
    return made


def notes(of: Run) -> list[str]:
    return [note.text for note in of.of(Note) if note.text.startswith(NOTE)]


def both(folder: Path, kind: str = "toy", concept: dict | None = None, **options) -> list[Run]:
    """The same run without and with recordings."""
    runs = []
    for name, recorded in (("plain", False), ("recorded", True)):
        concepts = (make_concept(folder / name / "p", **(concept or {})),)
        job = make_job(folder / name, concepts, **(RATES | options), cuda_graph=recorded)
        runs.append(run(job, toy_base(kind)))
    return runs


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("toy", {}),
        ("toy", {"trains": "unet", "precision": "bf16"}),
        ("toy", {"weights": "exact"}),
        ("toy", {"batch_size": 2, "gradient_accumulation_steps": 3}),
        ("toy", {"loss": LossConfig(weighting="min_snr", loss_type="huber")}),
        ("toy", {"text_encoder_until": 0.5, "channels_last": True, "ema_decay": 0.9}),
        ("toy", {"lora": LoraConfig(kind="lora", rank=4)}),
        ("toy_sdxl", {"batch_size": 2}),
    ],
)
def test_what_is_learned_stays_the_same(
    tmp_path: Path, tapes: Tapes, kind: str, options: dict
) -> None:
    plain, recorded = both(tmp_path, kind, {"photos": 3, "classes": 2}, steps=10, **options)
    assert notes(recorded) == [] and tapes.recorded >= 1 and tapes.replayed > 6
    assert same(plain.tensors, recorded.tensors)
    for a, b in zip(plain.of(Step), recorded.of(Step), strict=True):
        assert (a.loss, a.instance_loss, a.class_loss) == (b.loss, b.instance_loss, b.class_loss)


def test_what_the_base_predicts_is_taught(tmp_path: Path, tapes: Tapes) -> None:
    lora = LoraConfig(kind="lora", rank=4, prior_without_images=True)
    plain, recorded = both(tmp_path, concept={"classes": 0}, steps=8, lora=lora)
    assert notes(recorded) == [] and tapes.recorded == 2  # class rows go through apart
    assert same(plain.tensors, recorded.tensors)
    assert any(step.class_loss for step in recorded.of(Step))


def test_after_a_preview_it_is_recorded_again_without_a_trial(tmp_path: Path, tapes: Tapes) -> None:
    plain, recorded = both(tmp_path, steps=12, preview_every=4, preview_steps=2)
    assert notes(recorded) == [] and same(plain.tensors, recorded.tensors)
    assert tapes.forgotten >= 2 and tapes.recorded >= 2
    # warmed up and tried once; from then on each is recorded at once
    assert tapes.apart_ == WARM_UPS + 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a card")
@pytest.mark.parametrize(
    "options",
    [{}, {"weights": "exact"}, {"batch_size": 2, "gradient_accumulation_steps": 2},
     {"lora": LoraConfig(kind="lora", rank=4)}, {"text_encoder_until": 0.5}],
)  # fmt: skip
def test_a_card_learns_the_same(tmp_path: Path, options: dict) -> None:
    """Not to the bit: a card adds up in whatever order its threads come."""
    steps = []
    for name, recorded in (("plain", False), ("recorded", True)):
        concepts = (make_concept(tmp_path / name / "p"),)
        config = RATES | options | {"steps": 12, "preview_every": 6, "preview_steps": 2}
        job = make_job(tmp_path / name, concepts, **config, cuda_graph=recorded)
        made = run(job, device=torch.device("cuda"))
        assert notes(made) == []
        steps.append([step.loss for step in made.of(Step)])
    assert steps[0] == pytest.approx(steps[1], rel=0.02)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gradient_checkpointing": True}, "computed again"),
        ({"lora": LoraConfig(kind="lora", rank=4, dropout=0.1)}, "dropout"),
    ],
)
def test_what_can_not_be_recorded_is_named(
    tmp_path: Path, tapes: Tapes, options: dict, said: str
) -> None:
    plain, recorded = both(tmp_path, steps=4, **options)
    (note,) = notes(recorded)
    assert said in note and tapes.recorded == 0 and same(plain.tensors, recorded.tensors)


def test_without_a_card_nothing_is_recorded_and_that_is_said(tmp_path: Path) -> None:
    plain, recorded = both(tmp_path, steps=4)
    assert notes(recorded) == [
        "cuda_graph: cpu has no CUDA graphs, so each kernel is started by itself"
    ]
    assert notes(plain) == [] and same(plain.tensors, recorded.tensors)


def test_a_number_from_the_device_is_refused_and_the_run_goes_on(
    tmp_path: Path, tapes: Tapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ForwardBackward.__call__

    def waits(self: ForwardBackward, inputs: Inputs) -> torch.Tensor:
        assert float(inputs.tensors["weights"].sum()) > -100
        return call(self, inputs)

    monkeypatch.setattr(ForwardBackward, "__call__", waits)
    plain, recorded = both(tmp_path, steps=6)
    (note,) = notes(recorded)
    assert "capturing" in note and tapes.replayed == 0
    assert same(plain.tensors, recorded.tensors)


@pytest.mark.parametrize("name", ["noise", "input_noise", "latents", "timesteps", "weights"])
def test_a_number_of_the_day_of_the_recording_is_found_out(
    tmp_path: Path, tapes: Tapes, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A pass that reads a copy of an input, which no replay will change."""
    call = ForwardBackward.__call__

    def stale(self: ForwardBackward, inputs: Inputs) -> torch.Tensor:
        copies = inputs.tensors | {name: OLD.setdefault(name, inputs.tensors[name].clone())}
        recording = torch.utils._python_dispatch._get_current_dispatch_mode() is not None
        return call(self, replace(inputs, tensors=copies) if recording else inputs)

    OLD: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(ForwardBackward, "__call__", stale)
    plain, recorded = both(tmp_path, steps=6)
    (note,) = notes(recorded)
    assert "should be" in note and same(plain.tensors, recorded.tensors)


def test_memory_that_runs_out_while_recording_costs_the_recording_alone(
    tmp_path: Path, tapes: Tapes
) -> None:
    tapes.fails = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    plain, recorded = both(tmp_path, steps=6)
    (note,) = notes(recorded)
    assert "memory ran out" in note and same(plain.tensors, recorded.tensors)
    assert not [n for n in recorded.of(Note) if "at a time" in n.text]  # no rung lower


def test_recordings_go_before_the_step_is_cut_up(
    tmp_path: Path, tapes: Tapes, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, left = Captured.__call__, [6, 1]

    def full(self: Captured, inputs: Inputs, first: bool) -> torch.Tensor:
        left[0] -= 1
        if left[0] < 0 and left[1]:
            left[1] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return call(self, inputs, first)

    monkeypatch.setattr(Captured, "__call__", full)
    plain, recorded = both(tmp_path, steps=8, batch_size=2)
    (note,) = notes(recorded)
    assert "memory ran out" in note and tapes.recorded == 1
    assert same(plain.tensors, recorded.tensors)
    assert not [n for n in recorded.of(Note) if "at a time" in n.text]


def test_every_input_of_a_pass_is_another_number(tmp_path: Path, monkeypatch) -> None:
    seen = []
    made = ForwardBackward.inputs

    def watched(self: ForwardBackward, batch) -> Inputs:
        given = made(self, batch)
        seen.append((given, self.other_numbers(given)))
        return given

    monkeypatch.setattr(ForwardBackward, "inputs", watched)
    run(make_job(tmp_path, (make_concept(tmp_path / "p", classes=2),), steps=2, batch_size=2))
    for given, changed in seen:
        assert given.kind == changed.kind
        for name, values in given.tensors.items():
            if name != "rows":  # of two prompts for two rows of each it is the same backwards
                assert not torch.equal(values, changed.tensors[name]), name


def test_why_not(tmp_path: Path, monkeypatch) -> None:
    """Of fp16, of several processes and of a lowered ladder."""
    reasons = []

    def recorder_for(prepared, ladder: Ladder):
        several = replace(prepared, ranks=type("Two", (), {"several": True})())
        lowered = Ladder(1, False, checkpointing=True)
        for p, rung in ((replace(prepared, precision="fp16"), ladder), (several, ladder),
                        (prepared, lowered)):  # fmt: skip
            reasons.append(cuda_graphs.why_not(p, rung))
        return None, "a test"

    monkeypatch.setattr(gradients, "recorder_for", recorder_for)
    run(make_job(tmp_path, steps=1, cuda_graph=True))
    for reason, word in zip(reasons, ("fp16", "several processes", "computed again"), strict=True):
        assert word in reason
