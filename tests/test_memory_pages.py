"""What the benches of memory write, and the table of what fits on which card."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pack.benchmarks.memory import cards, footprint, moments, rungs, tiers
from pack.trainer import memory_plan
from pack.trainer.auto import resolve
from pack.trainer.config import LoraConfig
from pack.trainer.config.lora import LORA
from toy import make_job, run

GIB = 1 << 30


def test_the_page_shows_what_was_measured_and_all_of_it_is_near() -> None:
    stored = json.loads(footprint.RESULTS.read_text("utf-8"))
    page = footprint.PAGE.read_text("utf-8")
    for suite in stored.values():
        assert footprint.table(suite["rows"]) in page
        assert all(0.9 <= row["ratio"] <= 1.1 for row in suite["rows"].values())


def test_the_page_shows_what_fits_where() -> None:
    (suite,) = json.loads(cards.RESULTS.read_text("utf-8")).values()
    assert cards.table(suite["rows"]) in cards.PAGE.read_text("utf-8")
    assert list(suite["rows"]) == list(cards.ROWS)


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 2}, {"trains": "unet"}, {"weights": "exact"}, {"weights": "lean"},
     {"optimizer": "adamw8bit"}, {"lora": LoraConfig(kind=LORA)}],
)  # fmt: skip
def test_a_model_without_values_is_planned_like_a_run(
    tmp_path: Path, monkeypatch, options: dict
) -> None:
    needs, estimate = [], memory_plan.estimate
    monkeypatch.setattr(memory_plan, "estimate", lambda *a: needs.append(estimate(*a)) or needs[-1])
    job = make_job(tmp_path, resolution=128, **options)
    run(job)
    config = resolve(job.config, torch.device("cpu"))
    ready = cards.without_values("toy", config, torch.device("cpu"), "fp32")
    memory_plan.plan_memory(ready, [].append)
    assert len(needs) == 2 and needs[0] == needs[1]


def test_cards_of_other_sizes_are_told_other_plans(monkeypatch) -> None:
    options = {"weights": "exact", "optimizer": "adamw", "resolution": 512, "batch_size": 2}
    config = replace(make_job(Path()).config, **options)
    monkeypatch.setattr(cards, "CARDS", (0.8, 24))
    nothing, whole = cards.plans("toy2", config).values()
    assert nothing == {} and whole["change"] == ""
    monkeypatch.setattr(cards, "CARDS", (cards.TAKEN + whole["need"] / GIB - 1e-3,))
    (lower,) = cards.plans("toy2", config).values()
    assert lower["need"] < whole["need"] and cards.cell(lower).split(", ")[1] != "whole"


def test_the_page_shows_what_the_rungs_cost() -> None:
    stored = json.loads(rungs.RESULTS.read_text("utf-8"))
    for suite in stored.values():
        assert rungs.table(suite["rows"]) in rungs.PAGE.read_text("utf-8")
        held = [suite["rows"][name]["bytes"][-1] for name in rungs.LEVELS]
        assert held == sorted(held, reverse=True)


def test_the_page_shows_that_runs_keep_to_their_caps() -> None:
    for device, suite in json.loads(tiers.RESULTS.read_text("utf-8")).items():
        assert tiers.table(suite["rows"]) in tiers.PAGE.read_text("utf-8")
        told = [(float(cap), row) for rows in suite["rows"].values() for cap, row in rows.items()]
        assert all(("refused" in row) != (row.get("steps") == tiers.STEPS) for _, row in told)
        taken = {"cpu": 0, "cuda": cards.TAKEN}[device]
        assert all(row.get("held", 0) <= (cap - taken) * GIB for cap, row in told)
        assert any(row.get("change") for _, row in told)


def test_the_page_shows_what_8_bits_change() -> None:
    for suite in json.loads(moments.RESULTS.read_text("utf-8")).values():
        assert moments.table(suite["rows"]) in moments.PAGE.read_text("utf-8")
        last = {name: row["60"] for name, row in suite["rows"].items()}
        assert 0 < last["ours"] < last["ours, without the ratio"] < last["dynamic"] < 0.1


@pytest.mark.parametrize(("signed", "least"), [(True, 5.5e-7), (False, 3.25e-7)])
def test_the_usual_8_bits_are_dynamic_numbers(signed: bool, least: float) -> None:
    """Those of bitsandbytes' ``create_dynamic_map``, compared once: all the same."""
    table = moments.dynamic_map(signed)
    assert len(table) == len(table.unique()) == 256 and table.max() == 1 and (table == 0).any()
    assert float(table[table > 0].min()) == pytest.approx(least)
    assert torch.equal(moments.nearest(table, table), table)
    middle = (table[200] + table[201]) / 2
    near = moments.nearest(torch.tensor([1.0, middle * 1.0001, middle * 0.9999]), table)
    assert near.tolist() == pytest.approx([1, float(table[201]), float(table[200])])
