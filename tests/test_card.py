"""The command for a machine with a card: what it runs there parses, and parts do not mix."""

from pathlib import Path

import pytest
import torch
from pack.benchmarks import card, peers
from pack.benchmarks.memory import __main__ as memory
from pack.benchmarks.memory import footprint, rungs, tiers
from pack.benchmarks.step import __main__ as step
from pack.benchmarks.step import attention, kinds, layouts
from pack.benchmarks.stopwatch.rows import choose

from demo.base.__main__ import arguments as base_arguments

ROOT = Path(__file__).parents[1]
STEPS = {"kinds": kinds, "layouts": layouts, "attention": attention}


def test_every_command_is_one_that_its_program_takes() -> None:
    modules = {"footprint": footprint, "rungs": rungs, "tiers": tiers}
    for command in (c for _, commands in card.PARTS.values() for c in commands):
        if command[0] == "benchmarks/peers.py":
            options = peers.arguments(list(command[1:]))
            assert choose("cuda", options.rows) and options.size == "sd15"
        elif command[1] == "benchmarks.memory":
            assert memory.arguments(list(command[2:]), modules).device == "cuda"
        elif command[1] == "benchmarks.step":
            assert step.arguments(list(command[2:]), STEPS).size == "sd15"
        elif command[1] == "demo.base":
            assert base_arguments(list(command[2:])).out == Path(card.BASE)
        else:
            files = [Path(part) for part in command if part.startswith("tests/")]
            assert files and all((ROOT / file).is_file() for file in files)


def test_what_one_part_breaks_does_not_stop_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    parts = {
        "slow": (1 / 60, (("-c", "import time; print('began', flush=True); time.sleep(600)"),)),
        "broken": (1, (("-c", "raise SystemExit('no')"), ("-c", "print('after')"))),
        "good": (1, (("-c", "print('well')"),)),
    }
    monkeypatch.setattr(card, "PARTS", parts)
    monkeypatch.setattr(card, "LEFT", ("LICENSE", "locales", "nothing"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert card.main(["--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "slow: failed" in said and "broken: failed" in said and "good: done" in said
    assert "ended after" in (tmp_path / "slow.log").read_text()
    assert "after" in (tmp_path / "broken.log").read_text()
    assert (tmp_path / "good.log").read_text().strip() == "well"
    assert (tmp_path / "LICENSE").is_file() and (tmp_path / "locales" / "en").is_dir()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert card.main(["--out", str(tmp_path)]) == 1
    assert "no CUDA card" in capsys.readouterr().err
