"""The bench's rows → the table in words, docs/results/quality.json, the picture, the README."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path

import torch

from ..pages import fill_in, replace
from .cases import Case
from .grid import draw_grid
from .measures import FIGURES
from .trial import Bench, Sampled

PROGRAM = "benchmarks/quality.py"
RESULTS, PICTURE = Path("docs/results/quality.json"), Path("docs/images/quality.png")
PAGE = Path("README.md")
COLUMNS = ("subject_fidelity", "prompt_fidelity", "prior_drift", "diversity")


def as_markdown(rows: list[dict]) -> str:
    """The table of the README: value and half-width of the interval."""
    head = ["", "steps", "seconds", *(column.replace("_", " ") for column in COLUMNS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for entry in rows:
        cells = [str(entry["name"]), str(entry["steps"]), f"{entry['seconds']:.0f}"]
        for column in COLUMNS:
            figure = entry[column]
            half = (figure["high"] - figure["low"]) / 2
            value = round(figure["value"], 2) + 0.0  # which turns -0 into 0
            cells.append(f"{value:.2f} ± {half:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(
    root: Path,
    bench: Bench,
    cases: list[Case],
    made: dict[tuple[str, int], dict[str, Sampled]],
    rows: list[dict],
    say: Callable[[str], None],
) -> None:
    """The table and what is behind it, the picture, and the README's table."""
    results, picture, plan = root / RESULTS, root / PICTURE, bench.plan
    about = {
        "command": f"python {PROGRAM} --seeds {plan.seeds} --plain {plan.plain} --write",
        "base": bench.folder.name,
        "subjects": [case.name for case in cases],
        "settings": list(plan.settings),
        "pictures": {"each_prompt": plan.seeds, "plain": plan.plain, "sampling_steps": plan.steps},
        "figures": list(FIGURES),
        "machine": f"{bench.device.type}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, {platform.machine()}",
    }
    replace(results, json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    draw_grid(bench, cases, made, picture)
    fill_in(root / PAGE, PROGRAM, as_markdown(rows))
    say(f"wrote {results.relative_to(root)} and {picture.relative_to(root)}")
