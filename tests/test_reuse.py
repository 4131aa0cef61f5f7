"""A finished run is handed over; with other inputs a run begins anew, and says why."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from pack.trainer.checkpoint import write_checkpoint
from pack.trainer.checks import check
from pack.trainer.config import (
    WITHOUT_EFFECT_ON_WEIGHTS,
    YOUNGER_OPTIONS,
    Concept,
    DataConfig,
    Job,
    LoraConfig,
    TrainConfig,
    flat,
    option_fields,
)
from pack.trainer.events import Command, Saved, Step
from pack.trainer.fingerprint import Fingerprint, differences
from pack.trainer.loop import train
from pack.trainer.resume import Start
from runs import begin, changed, copied, notes, queue, with_concept
from toy import CPU, Run, make_job, picture, run, toy_base


@pytest.fixture
def finished(kept: dict[str, tuple[Job, Run]], tmp_path: Path) -> Job:
    return copied(kept["finished"][0], tmp_path)


# ---- handing over ------------------------------------------------------------------------------


def test_a_finished_run_is_handed_over(finished: Job) -> None:
    file = Path(finished.checkpoints) / "toy.safetensors"
    before = file.stat()
    again = queue(finished)
    assert "this very run is finished: toy is handed over" in notes(again)
    assert not again.of(Step) and not again.of(Saved)
    result = again.result
    assert result.reused and not result.stopped and result.checkpoint == file
    assert (result.name, result.steps) == ("toy", 3)
    after = file.stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_what_the_user_took_for_enough_is_handed_over_and_goes_on_to_more(
    tmp_path: Path, concept: Concept
) -> None:
    """Stopped and kept after 2 of 4 steps: queued as it is, it would replace the kept file."""
    job, events = make_job(tmp_path, (concept,), trains="unet", steps=4), []

    def control() -> Command:
        return (
            Command.KEEP
            if any(isinstance(e, Step) and e.step == 2 for e in events)
            else Command.GO_ON
        )

    first = train(job, toy_base(), device=CPU, listener=events.append, control=control)
    assert first.stopped and first.steps == 2
    kept = first.checkpoint.read_bytes()
    again = queue(job)
    assert "stopped and kept after 2 of 4 steps: it is handed over" in notes(again)
    assert again.result.reused and again.result.steps == 2 and not again.of(Step)
    assert again.result.checkpoint.read_bytes() == kept
    more = queue(changed(job, steps=5))
    assert [event.step for event in more.of(Step)] == [3, 4, 5] and more.result.name == "toy"
    assert run(job, train_again=True).result.name == "toy-2"


def test_train_again_takes_a_fresh_name(finished: Job) -> None:
    again = run(finished, train_again=True)
    assert again.result.name == "toy-2" and len(again.of(Step)) == 3
    first = (Path(finished.checkpoints) / "toy.safetensors").read_bytes()
    assert again.result.checkpoint.read_bytes() == first
    assert begin(finished)[0].result.name == "toy-2"  # the newest


def test_the_fingerprint_is_in_every_place(finished: Job) -> None:
    folder = Path(finished.runs) / "toy"
    digest = Fingerprint(json.loads((folder / "fingerprint.json").read_text())).digest
    assert json.loads((folder / "result.json").read_text())["fingerprint"] == digest
    result = begin(finished)[0].result
    assert Run(result, []).metadata["dreambooth.fingerprint"] == digest


def test_an_option_that_came_later_leaves_older_runs_as_they_are(broken_off: Job) -> None:
    """Its default is no part of the fingerprint, so one made without it is the same."""
    kept = json.loads((Path(broken_off.runs) / "toy" / "fingerprint.json").read_text())["settings"]
    assert not YOUNGER_OPTIONS.keys() & kept.keys()
    defaults = flat(TrainConfig())
    assert {name: defaults[name] for name in YOUNGER_OPTIONS} == YOUNGER_OPTIONS
    names = list(defaults)
    for name in YOUNGER_OPTIONS:  # saved graphs hold a node's widgets by place
        of_the_node = [n for n in names if n.rpartition(".")[0] == name.rpartition(".")[0]]
        assert name in of_the_node[-len(YOUNGER_OPTIONS) :]
    start, said = begin(changed(broken_off, data=DataConfig(class_caption_dropout=0.5)))
    assert start == Start() and "data.class_caption_dropout none → 0.5" in said


def test_another_name_is_another_run(finished: Job) -> None:
    """Also one that looks like a number of ours."""
    other = dataclasses.replace(finished, name="toy-2")
    assert begin(other) == (Start(), "")
    assert queue(other).result.name == "toy-2"
    assert begin(finished)[0].result.name == "toy"


def test_settings_of_the_file_alone_train_nothing(finished: Job, kept: dict, tmp_path: Path):
    """What does not touch the weights is written anew from the state, or not even that."""
    assert begin(changed(finished, preview_cfg=3.0, state_minutes=5.0))[0].result.reused
    wider = queue(changed(finished, save_precision="fp32"))
    assert wider.result.name == "toy" and not wider.result.reused and not wider.of(Step)
    assert {t.dtype for k, t in wider.tensors.items() if "model.diff" in k} == {torch.float32}
    silent = queue(changed(finished, save_prompts=False))
    assert not silent.of(Step) and "zwx" not in str(silent.metadata)
    assert queue(finished).sha == kept["finished"][1].sha


def test_a_lost_checkpoint_is_written_from_the_state(finished: Job, kept: dict) -> None:
    (Path(finished.checkpoints) / "toy.safetensors").unlink()
    again = queue(finished)
    assert not again.of(Step) and again.result.name == "toy"
    assert again.sha == kept["finished"][1].sha


def test_a_file_that_is_no_longer_ours_is_left_alone(finished: Job) -> None:
    write_checkpoint(Path(finished.checkpoints) / "toy.safetensors", {"x": torch.ones(3)}, {})
    start, said = begin(finished)
    assert "toy.safetensors was changed since toy wrote it" in said and start == Start()


# ---- beginning anew ----------------------------------------------------------------------------


def test_fewer_steps_are_a_fresh_run(finished: Job) -> None:
    shorter = queue(changed(finished, steps=2))
    assert "toy has 3 steps, more than the 2 asked for" in notes(shorter)
    assert shorter.result.name == "toy-2" and len(shorter.of(Step)) == 2


def test_other_settings_are_named(broken_off: Job) -> None:
    start, said = begin(changed(broken_off, learning_rate=2e-3, seed=7))
    assert start == Start()
    assert "toy is not finished but cannot go on with other inputs" in said
    assert "learning_rate 0.001 → 0.002; seed 0 → 7" in said
    assert begin(broken_off)[0].state.progress.step == 2


def test_another_setting_after_a_finished_run_is_no_news(finished: Job) -> None:
    assert begin(changed(finished, seed=7)) == (Start(), "")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"instance_prompt": "a picture of zwx dog"}, "instance_prompt 'a photo of zwx dog' →"),
        ({"class_prompt": "a dog"}, "class_prompt"),
        ({"prior_weight": 0.5}, "prior_weight 1 → 0.5"),
        ({"prior_weight": 0.0}, "prior_weight 1 → none"),
        ({"repeats": 2}, "repeats 1 → 2"),
    ],
)
def test_a_changed_concept_is_named(broken_off: Job, change: dict, said: str) -> None:
    start, notes = begin(with_concept(broken_off, **change))
    assert said in notes and start == Start()


def test_changed_pictures_train_anew(tmp_path: Path) -> None:
    """The same paths, other pixels."""
    job = make_job(tmp_path, trains="unet", steps=1)
    queue(job)
    assert begin(job)[0].result
    for place, file in enumerate(job.concepts[0].instance_images + job.concepts[0].class_images):
        picture(Path(file), seed=900 + place)
        assert begin(job) == (Start(), "")
    assert queue(job).result.name == "toy-2"


def test_pictures_and_base_of_a_broken_run_are_named(broken_off: Job, tmp_path: Path) -> None:
    other = picture(tmp_path / "other.png", seed=999)
    photos = broken_off.concepts[0].instance_images
    _, said = begin(with_concept(broken_off, instance_images=(photos[0], other)))
    assert "instance images: pictures changed" in said
    _, said = begin(with_concept(broken_off, instance_images=(*photos, other)))
    assert "instance images 2 → 3" in said
    base = toy_base()
    base["model.diffusion_model.out.2.bias"] += 1
    start, said = begin(broken_off, base)
    assert "the base's weights" in said and start == Start()


def test_every_setting_is_classified(finished: Job) -> None:
    """A setting either is in the fingerprint or is known to leave the weights alone."""
    names = {name for name, _ in option_fields(TrainConfig)}
    assert names > WITHOUT_EFFECT_ON_WEIGHTS
    counted = names - WITHOUT_EFFECT_ON_WEIGHTS - YOUNGER_OPTIONS.keys()
    of_a_lora = {name for name in counted if name.startswith("lora.")}
    written = json.loads((Path(finished.runs) / "toy" / "fingerprint.json").read_text())
    assert set(written["settings"]) == counted - of_a_lora | {"lora.kind"}
    job = changed(finished, lora=LoraConfig(kind="lora"))
    plan = check(job, toy_base(), CPU, lambda event: None, lambda: None)
    assert set(plan.fingerprint.parts["settings"]) == counted


def test_differences_from_what_another_version_wrote() -> None:
    old = Fingerprint({"training": 0, "base": "a", "settings": {"gone": 1}})
    new = Fingerprint(
        {"training": 1, "base": "a", "clip_skip": 1, "settings": {"came": 2.5}, "concepts": []}
    )
    said = differences(old, new)
    assert said[0] == "another version of this trainer"
    assert {"gone 1 → none", "came none → 2.5"} <= set(said)
    assert old.digest != new.digest
