"""The bench's judge: its committed weights pass their exam, and what it learns from is fair."""

import dataclasses

import pytest
import torch
from pack.benchmarks.picturebook.__main__ import main
from pack.benchmarks.picturebook.judge import (
    PLACES,
    WEIGHTS,
    Judge,
    JudgeError,
    JudgeNet,
    likeness,
    read_weights,
    write_weights,
)
from pack.benchmarks.picturebook.judge_exam import (
    CALIBRATION_SEED,
    GOAL,
    SORTS,
    Share,
    ask,
    auc,
    examine,
    held_out_cases,
)
from pack.benchmarks.picturebook.judge_pictures import (
    EVALUATION_SEED,
    degrade,
    draw_all,
    is_held_out,
    near_misses,
    to_unit,
)
from pack.benchmarks.picturebook.judge_training import (
    Lesson,
    Stage,
    batches,
    contrastive_loss,
    family,
    learn,
    make_pool,
    scenes_of,
)
from pack.demo.base import pool as base_pool
from pack.demo.world import CLASSES, HELD_OUT, is_reserved, scene_of, subject

STAGES = (Stage(2, 1e-3, 0.1, (2, 1, 2, 2), attributes=0.2), Stage(1, 1e-3, 0.05, (1, 1, 2, 2)))
TINY = Lesson(families=1, members=2, scenes=2, stages=STAGES)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load()


@pytest.fixture(scope="module")
def cases():
    return held_out_cases(count=14)


# ---- the exam ------------------------------------------------------------------------------------


@pytest.mark.parametrize("damaged", [False, True], ids=["clean", "damaged"])
def test_it_passes_its_exam(judge, cases, damaged) -> None:
    found, goal = examine(judge, cases, damaged), 0.90 if damaged else GOAL
    assert [share.value >= goal for share in found.goals] == [True] * 3, f"\n{found}"


def test_near_misses_are_less_like_the_subject_and_others_much_less(judge, cases) -> None:
    for name, case in cases.items():
        own, others, near = (ask(judge, case).likeness[sort].mean() for sort in SORTS)
        assert own > near > others, name
        assert own - others > 0.2, name


def test_the_setting_follows_the_picture(judge) -> None:
    scenes = [scene_of(looks, EVALUATION_SEED + 77, place) for looks in HELD_OUT.values()
              for place in PLACES]  # fmt: skip
    found = judge(to_unit(draw_all(scenes))).settings.view(len(HELD_OUT), len(PLACES))
    right = found == torch.arange(len(PLACES))
    assert right.float().mean(dim=0).min() >= 0.75, right.float().mean(dim=0)
    claimed = torch.bincount(found.flatten(), minlength=len(PLACES))
    assert claimed.max() <= len(HELD_OUT) + 3  # no place is what it says of everything


# ---- answers -------------------------------------------------------------------------------------


def test_a_verdict_is_the_same_twice_and_its_rows_are_normalised(judge) -> None:
    pictures = torch.rand(70, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    first, second = judge(pictures), judge(pictures)
    assert torch.equal(first.embedding, second.embedding)
    assert torch.equal(first.kind_probabilities, second.kind_probabilities)
    assert first.embedding.shape == (70, 64) and first.embedding.dtype == torch.float32
    assert torch.allclose(first.embedding.norm(dim=1), torch.ones(70), atol=1e-5)
    assert torch.allclose(first.setting_probabilities.sum(dim=1), torch.ones(70), atol=1e-5)
    assert first.kinds.shape == first.settings.shape == (70,)
    assert first.kinds.dtype == torch.int64


def test_larger_pictures_are_reduced(judge, cases) -> None:
    pictures = cases["dog-1"].prototypes
    large = pictures.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    first, second = judge(pictures), judge(large)
    assert (first.embedding * second.embedding).sum(dim=1).min() > 0.95


@pytest.mark.parametrize(
    "pictures",
    [
        torch.rand(3, 64, 64),
        torch.rand(2, 64, 64, 3),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
    ],
    ids=["one picture", "channels last", "bytes"],
)
def test_other_tensors_are_refused(judge, pictures) -> None:
    with pytest.raises(JudgeError, match="give float"):
        judge(pictures)


def test_likeness_is_the_cosine_with_the_mean_direction() -> None:
    prototypes = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    rows = torch.tensor([[1.0, 0.0], [0.5**0.5, 0.5**0.5], [0.0, -1.0]])
    assert likeness(rows, prototypes).tolist() == pytest.approx([0.5**0.5, 1.0, -(0.5**0.5)])


# ---- the file ------------------------------------------------------------------------------------


def test_the_file_is_small_and_tells_what_it_is() -> None:
    _, about = read_weights(WEIGHTS)
    assert WEIGHTS.stat().st_size <= 1_200_000
    assert 0 < about["threshold"] < 1
    assert about["lesson"]["stages"] and set(about["exam"]) == {"clean", "damaged"}


def test_a_file_that_is_cut_off_foreign_or_gone_is_refused(tmp_path) -> None:
    file = tmp_path / "judge.safetensors"
    with pytest.raises(JudgeError, match="there is no"):
        Judge.load(file)
    whole = WEIGHTS.read_bytes()
    for part in (whole[: len(whole) // 2], whole[:100], b""):
        file.write_bytes(part)
        with pytest.raises(JudgeError, match="is damaged or no judge"):
            Judge.load(file)
    write_weights(file, JudgeNet(), {"threshold": 0.5, "classes": ["dog"]})
    with pytest.raises(JudgeError, match="other classes or settings"):
        Judge.load(file)
    write_weights(file, JudgeNet(), {})
    with pytest.raises(JudgeError, match="does not fit"):
        Judge.load(file)


def test_the_command_says_what_is_wrong(tmp_path, capsys) -> None:
    threads = str(torch.get_num_threads())
    assert main(["exam", "--weights", str(tmp_path / "gone"), "--threads", threads]) == 1
    assert "error: there is no" in capsys.readouterr().err


# ---- what it learns from -------------------------------------------------------------------------


def test_no_held_out_subject_and_no_evaluation_seed_is_in_the_training(monkeypatch) -> None:
    assert base_pool.EVALUATION_SEED == EVALUATION_SEED > CALIBRATION_SEED
    seeds = []
    monkeypatch.setattr(
        f"{scenes_of.__module__}.scene_of",
        lambda looks, seed: seeds.append(seed) or scene_of(looks, seed),
    )
    lesson = dataclasses.replace(Lesson(), scenes=1)
    scenes = scenes_of(lesson)
    assert not any(is_held_out(scene.looks) for scene in scenes)
    assert len(set(seeds)) == len(seeds) and max(seeds) < CALIBRATION_SEED
    assert 0.3 < sum(is_reserved(scene.looks) for scene in scenes) / len(scenes) < 0.7


def test_held_out_looks_are_known_whatever_their_jitter() -> None:
    looks = HELD_OUT["cat-1"]
    assert is_held_out(dataclasses.replace(looks, jitter=5))
    assert not is_held_out(dataclasses.replace(looks, extra="red"))


def test_a_near_miss_differs_in_one_attribute() -> None:
    for kind in CLASSES:
        looks = subject(3, kind)
        for name, others in near_misses(looks).items():
            for other in others:
                changed = [f for f, v in vars(other).items() if v != getattr(looks, f)]
                assert changed == [name]
    neighbour = dataclasses.replace(HELD_OUT["dog-1"], extra="blue")
    assert HELD_OUT["dog-1"] not in near_misses(neighbour)["extra"]


def test_a_family_is_different_individuals_of_one_class() -> None:
    members = family(4, "boat", 4)
    assert len(set(members)) == 4 and {looks.kind for looks in members} == {"boat"}
    assert family(4, "boat", 4) == members != family(5, "boat", 4)


def test_a_batch_holds_few_classes_with_several_pictures_of_each_individual() -> None:
    lesson = dataclasses.replace(TINY, families=5, members=3, scenes=4)
    stage = Stage(1, 1e-3, 0.1, (3, 2, 2, 3))
    rows = next(batches(lesson, stage, torch.Generator().manual_seed(0)))
    assert len(rows.unique()) == len(rows) == 36
    counts = (rows // 4).unique(return_counts=True)[1]
    assert counts.tolist() == [3] * 12  # individuals
    assert len((rows // 12).unique()) == 6 and len((rows // 60).unique()) == 3


def test_the_contrastive_loss_of_four_rows() -> None:
    rows = torch.eye(2)[[0, 0, 1, 1]]
    apart = contrastive_loss(rows, torch.tensor([0, 0, 1, 1]), 0.1)
    expected = torch.log(1 + 2 * torch.exp(torch.tensor(-10.0)))
    assert float(apart) == pytest.approx(float(expected), rel=1e-3)
    assert float(contrastive_loss(rows, torch.tensor([0, 1, 0, 1]), 0.1)) > 9


def test_damage_is_mild_and_the_same_for_the_same_generator(cases) -> None:
    pictures = cases["robot-1"].prototypes
    first, second = (degrade(pictures, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second) and first.shape == pictures.shape
    assert first.min() >= 0 and first.max() <= 1
    assert 0.01 < (first - pictures).abs().mean() < 0.15


def test_the_same_lesson_gives_the_same_weights() -> None:
    pool = make_pool(TINY)
    said: list[str] = []
    first, second = (learn(TINY, pool, said.append).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    fresh = learn(dataclasses.replace(TINY, seed=1), pool, said.append).state_dict()
    assert not torch.equal(first["identity.weight"], fresh["identity.weight"])
    assert [line.split(":")[0] for line in said[:2]] == ["step 2/2", "step 1/1"]


# ---- figures -------------------------------------------------------------------------------------


def test_shares_have_wilson_intervals() -> None:
    assert Share(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=2e-4)  # Newcombe 1998
    assert Share(10, 10).interval == pytest.approx((0.7225, 1.0), abs=2e-4)


def test_the_area_under_the_curve_counts_ties_half() -> None:
    assert auc(torch.tensor([0.9, 0.5]), torch.tensor([0.5, 0.1])) == pytest.approx(0.875)
