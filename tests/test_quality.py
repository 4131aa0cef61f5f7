"""The quality bench: its textbook loop, its figures, and a whole small bench on a toy base."""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROOT
from pack.benchmarks.pages import END, begin
from pack.benchmarks.picturebook import bench as benching
from pack.benchmarks.picturebook import contenders, measures, report
from pack.benchmarks.picturebook.cases import NEW_SETTINGS, SIZE, SUBJECTS, Case, pixels_of
from pack.benchmarks.picturebook.follow import follow, told_right
from pack.benchmarks.picturebook.judge import Judge
from pack.benchmarks.picturebook.sampling import sample_all
from pack.benchmarks.picturebook.textbook import pairs, schedule, textbook_loss
from pack.benchmarks.picturebook.trial import Bench, Plan
from pack.demo.base.pool import EVALUATION_SEED
from pack.demo.photos import PLACES_SHOWN
from pack.demo.world import HELD_OUT, SETTINGS, draw, scene_of
from pack.trainer.checkpoint import detect, write_checkpoint
from pack.trainer.model import StableDiffusion
from pack.trainer.objective import add_noise, alphas_cumprod
from toy import CPU, toy_base

PLAN = Plan(settings=("snow", "sea"), seeds=2, plain=3, class_images=2, steps=2, cfg=2.0)


# ---- who and what --------------------------------------------------------------------------------


def test_subjects_are_held_out_and_new_settings_are_new() -> None:
    assert len(SUBJECTS) >= 6 and set(SUBJECTS) <= set(HELD_OUT)
    assert len(NEW_SETTINGS) == 8 and set(NEW_SETTINGS) <= set(SETTINGS)
    assert not set(NEW_SETTINGS) & set(PLACES_SHOWN)


def test_prompts_come_in_the_order_of_the_settings() -> None:
    prompts = PLAN.prompts(Case("dog-1"), identifier=True)
    assert prompts == [
        *["a photo of zwx dog in the snow"] * 2, *["a photo of zwx dog under water"] * 2,
        "a photo of a dog", "a dog", "a photo of a dog",
    ]  # fmt: skip
    assert PLAN.prompts(Case("cat-1"), identifier=False)[0] == "a photo of a cat in the snow"


def test_photos_and_true_pictures_are_other_scenes_of_one_subject(tmp_path) -> None:
    case = Case("car-1")
    photos = case.photos(tmp_path)
    again = case.photos(tmp_path / "again")
    assert [Path(a).read_bytes() for a in photos] == [Path(b).read_bytes() for b in again]
    true = case.true_pictures(("snow", "sea"), 2)
    assert true.shape == (4, 3, SIZE, SIZE) and -1 <= true.min() < true.max() <= 1


# ---- the textbook loop ---------------------------------------------------------------------------


def test_the_textbook_loss_is_the_sum_of_two_means() -> None:
    g = torch.Generator().manual_seed(0)
    answer, noise = torch.randn(4, 4, 2, 2, generator=g), torch.randn(4, 4, 2, 2, generator=g)
    wanted = F.mse_loss(answer[:2], noise[:2]) + 0.5 * F.mse_loss(answer[2:], noise[2:])
    assert torch.equal(textbook_loss(answer, noise, 0.5), wanted)


def test_the_textbook_schedule_noises_as_ours() -> None:
    g = torch.Generator().manual_seed(0)
    x, noise = torch.randn(3, 4, 8, 8, generator=g), torch.randn(3, 4, 8, 8, generator=g)
    times = torch.tensor([0, 500, 999])
    theirs = schedule().add_noise(x, noise, times)
    assert torch.allclose(theirs, add_noise(x, noise, times, alphas_cumprod()), atol=1e-5)


def test_pairs_are_the_longer_side_modulo() -> None:
    order = pairs(5, 12, 1, torch.Generator().manual_seed(0))
    epoch = [tuple(int(v) for v in next(order)) for _ in range(12)]
    assert sorted(epoch) == sorted((n % 5, n) for n in range(12))


# ---- figures -------------------------------------------------------------------------------------


def test_spreads_by_hand() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])  # cosines 0, −1, 0
    assert measures.spread(rows) == pytest.approx(4 / 3)
    pictures = torch.zeros(2, 3, 2, 2)
    pictures[1] = 0.5
    assert measures.pixel_spread(pictures) == pytest.approx(0.5)


def test_the_scale_puts_the_class_at_zero_and_the_subject_at_one() -> None:
    scale = measures.Scale(torch.tensor([[1.0, 0.0]]), zero=0.2, one=0.8)
    angle = torch.tensor([0.2, 0.5, 0.8]).acos()
    rows = torch.stack([angle.cos(), angle.sin()], dim=1)
    assert torch.allclose(scale(rows), torch.tensor([0.0, 0.5, 1.0]), atol=1e-6)


def test_an_interval_holds_the_mean_and_shrinks_with_more() -> None:
    rng = np.random.default_rng(1)
    few = [rng.normal(0.5, 0.1, 4) for _ in range(4)]
    many = [rng.normal(0.5, 0.1, 64) for _ in range(64)]
    narrow, wide = (measures.figure(values) for values in (many, few))
    assert narrow["low"] < 0.5 < narrow["high"]
    assert narrow["high"] - narrow["low"] < (wide["high"] - wide["low"]) / 2
    # 64 means of 64: the standard error is 0.1 / 64
    assert narrow["high"] - narrow["low"] == pytest.approx(4 * math.sqrt(2) * 0.1 / 64, rel=0.4)
    assert measures.figure(few) == measures.figure(few)


def test_true_pictures_score_one_and_the_base_zero() -> None:
    case, judge = Case("dog-1"), Judge.load()
    photos = (case.true_pictures(("meadow", "room"), 3) + 1) / 2
    true = (case.true_pictures(NEW_SETTINGS, 2) + 1) / 2
    others = (Case("dog-2").true_pictures(NEW_SETTINGS, 2) + 1) / 2
    scale = measures.make_scale(judge, photos, true, others)
    asked = [setting for setting in NEW_SETTINGS for _ in range(2)]
    best = measures.score(judge, scale, case, asked, true, true, others)
    worst = measures.score(judge, scale, case, asked[::-1], others, others, others)
    assert best.likeness.mean() == pytest.approx(1, abs=1e-5)
    assert worst.likeness.mean() == pytest.approx(0, abs=1e-5)
    assert best.drift.mean() == pytest.approx(1, abs=1e-5) and worst.diversity == 1
    assert best.setting_right.mean() > 0.9 > 0.3 > worst.setting_right.mean()
    assert best.kind_right.mean() > 0.9


# ---- a whole bench -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("quality") / "toy.safetensors"
    write_checkpoint(path, toy_base(), {})
    return path


def test_pictures_depend_on_prompt_and_number_alone(base) -> None:
    model = StableDiffusion(toy_base(), detect(toy_base()))
    how = {"size": 64, "steps": 2, "cfg": 3.0, "seed": 0, "device": CPU}
    all_of_them = sample_all(model, ["a dog", "a cat", "a dog"], **how)
    assert torch.equal(sample_all(model, ["a dog", "a bird"], **how)[0], all_of_them[0])
    assert not torch.equal(all_of_them[0], all_of_them[2])  # another number, other noise


def test_what_the_base_follows_is_counted_for_each_class(base, tmp_path) -> None:
    lines: list[str] = []
    rows = follow(base, 1, CPU, kinds=("dog", "car"), show=lines.append)
    assert [row.kind for row in rows] == ["dog", "car", "all"] and len(lines) == 4
    assert all(share.of == len(NEW_SETTINGS) for share in rows[0].shares)
    assert [a.right + b.right for a, b in zip(rows[0].shares, rows[1].shares, strict=True)] == [
        share.right for share in rows[2].shares
    ]
    assert rows[2].to_json()["both"]["right"] <= rows[2].to_json()["class"]["right"]


def test_the_truth_is_told_right_in_class_and_setting() -> None:
    scenes = [scene_of(HELD_OUT["car-1"], EVALUATION_SEED + n, s) for n, s in enumerate(SETTINGS)]
    pictures = (pixels_of([draw(scene, SIZE) for scene in scenes]) + 1) / 2
    kinds, settings = told_right(Judge.load(), pictures, "car", list(SETTINGS))
    assert kinds.float().mean() > 0.9 and settings.float().mean() > 0.9
    wrong, shifted = told_right(Judge.load(), pictures, "cup", [*SETTINGS[1:], SETTINGS[0]])
    assert not wrong.any() and not shifted.any()


def test_a_small_bench_from_training_to_files(base, tmp_path, monkeypatch) -> None:
    few = [
        contenders.base(),
        contenders.textbook("textbook", (1, 2), learning_rate=1e-3),
        contenders.ours("ours", (1, 2), batch_size=1),
        contenders.ours("ours, no prior", (2,), prior_weight=0.0, batch_size=1),
    ]
    monkeypatch.setattr(benching, "field", lambda steps: few)
    monkeypatch.setattr(benching, "make_bench", lambda o: Bench(base, PLAN, o.work, CPU))
    options = argparse.Namespace(
        subjects=["dog-1", "cup-0"], contenders=None, steps=2, work=tmp_path / "work", write=True,
        photos=5,
    )  # fmt: skip
    assert benching.run(options, tmp_path) == 1  # no such subject
    options.subjects = ["dog-1", "cat-1"]
    page = tmp_path / report.PAGE
    page.write_text(f"a\n{begin(report.PROGRAM)}\nold\n{END}\nz\n{END}")
    assert benching.run(options, tmp_path) == 0
    written = json.loads((tmp_path / "docs/results/quality.json").read_text())
    lines = {(entry["name"], entry["steps"]): entry for entry in written["rows"]}
    assert list(lines) == [
        ("base", 0), ("textbook", 1), ("textbook", 2), ("ours", 1), ("ours", 2),
        ("ours, no prior", 2),
    ]  # fmt: skip
    assert lines["base", 0]["subject_fidelity"]["value"] == pytest.approx(0, abs=1e-4)
    assert lines["base", 0]["prior_drift"]["value"] == pytest.approx(0, abs=1e-4)
    assert lines["ours", 2]["seconds"] > 0
    assert (tmp_path / "docs/images/quality.png").stat().st_size > 1000
    told = page.read_text()
    assert report.as_markdown(written["rows"]) in told and "old" not in told
    assert told.startswith("a\n<!-- begin") and told.endswith(f"{END}\nz\n{END}")

    def fail(*args: object) -> None:
        raise AssertionError("made twice")

    monkeypatch.setattr(contenders, "train", fail)
    monkeypatch.setattr(contenders, "train_textbook", fail)
    assert benching.run(options, tmp_path) == 0
    assert json.loads((tmp_path / "docs/results/quality.json").read_text()) == written


def test_other_numbers_of_photos_are_other_trials(base, tmp_path) -> None:
    bench, three, five = Bench(base, PLAN, tmp_path, CPU), Case("car-1", 3), Case("car-1")
    few, usual, many = (
        bench.material(case, contenders.base()).photos for case in (three, five, Case("car-1", 10))
    )
    assert (len(few), len(usual), len(many)) == (3, 5, 10)
    assert (
        few == usual[:3] and usual == many[:5] and len({Path(p).read_bytes() for p in many}) == 10
    )
    ours = contenders.ours("ours", (1,), batch_size=1)
    for case in (five, three):
        for contender in (contenders.base(), ours):
            list(bench.trials(contender, case, lambda text: None))
    kept = sorted((bench.folder / "pictures" / "car-1").iterdir())
    assert len(kept) == 3  # the base has learned from none


def test_the_readme_shows_what_was_written() -> None:
    rows = json.loads((ROOT / report.RESULTS).read_text("utf-8"))["rows"]
    assert report.as_markdown(rows) in (ROOT / report.PAGE).read_text("utf-8")
