"""One stage of the base's training: its rate, its recipe, its budget, what it says."""

import dataclasses
import json

import pytest
import torch
from pack.demo.base.diffusion import DiffusionLoss
from pack.demo.base.pool import how_often, seeds
from pack.demo.base.recipe import FAVOUR, BaseFailed, Recipe, learning_rate, recipe_for
from pack.demo.base.stage import Budget, Stage, run
from pack.demo.world import random_scene

CPU = torch.device("cpu")
TINY = Recipe(size=16, pool=12, captions=2, vae_batch=2, unet_batch=4)


def test_the_rate_rises_stays_and_falls_to_nothing() -> None:
    rates = [learning_rate(1.0, step, 1000) for step in range(1000)]
    assert rates[0] == 0.01 and rates[99] == rates[600] == 1.0
    assert rates[-1] < 1e-4 and rates[850] == pytest.approx(0.5, abs=0.01)
    assert learning_rate(1.0, 300, None) == 1.0


def test_a_recipe_refuses_what_another_began() -> None:
    with pytest.raises(BaseFailed, match="unet_lr"):
        TINY.check(dataclasses.replace(TINY, unet_lr=1.0).to_json(), "unet")
    TINY.check(dataclasses.replace(TINY, unet_lr=1.0).to_json(), "vae")  # it does not care
    with pytest.raises(BaseFailed, match="multiple of 8"):
        recipe_for(CPU, size=60)
    assert recipe_for(CPU, size=96, seed=None).size == 96
    assert recipe_for(CPU).unet_batch < recipe_for(torch.device("cuda")).unet_batch


def test_a_stage_learns_and_says_so(tmp_path) -> None:
    module, lines = torch.nn.Linear(4, 1), []
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    stage = Stage("line", module, lambda step: (module(x) - x[:, :1]).square().mean(), 0.05, 64,
                  TINY, tmp_path, 0.9, lines.append)  # fmt: skip
    pictures = []
    assert run(stage, Budget(steps=200, pictures=4), lambda: pictures.append(stage.step))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").open()]
    assert losses[-1] < 0.01 * losses[0] and pictures == [50, 100, 150, 200]
    assert "200/200" in lines[-1] and "images/s" in lines[-1]
    module.load_state_dict(stage.averaged())
    assert (module(x) - x[:, :1]).square().mean() < 0.05


def test_minutes_become_steps_by_the_pace(tmp_path) -> None:
    module, lines = torch.nn.Linear(1, 1), []
    stage = Stage("pace", module, lambda step: module(torch.ones(1, 1)).sum(), 0.01, 1, TINY,
                  tmp_path, 0.9, lines.append)  # fmt: skip
    run(stage, Budget(seconds=0.2), lambda: None)
    assert stage.finished and stage.steps >= 30 and any("ms a step" in line for line in lines)


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path) -> None:
    module = torch.nn.Linear(1, 1)
    stage = Stage("bad", module, lambda step: module(torch.ones(1, 1)).sum() * float("nan"), 0.01,
                  1, TINY, tmp_path, 0.9)  # fmt: skip
    with pytest.raises(BaseFailed, match="loss is nan at step 20"):
        run(stage, Budget(steps=40), lambda: None)
    assert not stage.file.exists()


def test_favoured_kinds_are_drawn_as_often_as_told() -> None:
    recipe = dataclasses.replace(TINY, pool=300, favour="dog, cat")
    weights = how_often(recipe)
    kinds = [random_scene(seed).kind for seed in seeds(recipe)]
    assert [w == FAVOUR for w in weights] == [kind in ("dog", "cat") for kind in kinds]
    loss = DiffusionLoss.__new__(DiffusionLoss)
    loss._often = weights
    rows = loss._rows(torch.Generator().manual_seed(0), 20_000)
    share = sum(kinds[row] in ("dog", "cat") for row in rows.tolist()) / len(rows)
    assert share == pytest.approx(float(weights[weights > 1].sum() / weights.sum()), abs=0.02)
    posed = how_often(dataclasses.replace(recipe, favour="boat,cat:sitting"))
    scenes = [random_scene(seed) for seed in seeds(recipe)]
    said = [s.kind == "boat" or (s.kind, s.pose) == ("cat", "sitting") for s in scenes]
    assert [w == FAVOUR for w in posed] == said and any(s.kind == "cat" for s in scenes)
    old = {k: v for k, v in json.loads(TINY.to_json()).items() if k != "favour"}
    TINY.check(json.dumps(old), "unet")  # a run from before there was such an option
    with pytest.raises(BaseFailed, match="favour"):
        recipe.check(TINY.to_json(), "unet")
    with pytest.raises(BaseFailed, match="no 'dragon'"):
        recipe_for(CPU, favour="dragon")
    with pytest.raises(BaseFailed, match="no 'boat:sitting'"):
        recipe_for(CPU, favour="boat:sitting")
