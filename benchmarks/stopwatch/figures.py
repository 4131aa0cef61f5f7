"""Runs of a row → the row's figures; rounds of two rows → their ratio."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from .measure import Run
from .rows import COMFYUI, DIFFUSERS, TEXTBOOK, Row

BASELINES = {TEXTBOOK: "textbook", DIFFUSERS: "diffusers", COMFYUI: "ComfyUI's LoRA"}
"""Names of the rows that others of the same job are divided by."""
MEMORY = ("resident", "allocated", "reserved", "card")


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, least and greatest."""
    values = sorted(values)
    return {"median": statistics.median(values), "low": values[0], "high": values[-1]}


def images_per_second(run: Run, batch: int) -> float:
    """Instance and class images of a median step."""
    return 2 * batch / run.step


def ratio(runs: Sequence[Run], baseline: Sequence[Run]) -> dict[str, float]:
    """How many times as many images a second, round by round: a machine that slows down for a
    while slows both."""
    pairs = zip(runs, baseline, strict=True)
    return spread(other.step / mine.step for mine, other in pairs)


def figures(row: Row, runs: Sequence[Run], batch: int) -> dict[str, object]:
    """What the table says of a row by itself."""
    found: dict[str, object] = {
        "name": row.name,
        "settings": dict(row.settings),
        "differs": row.differs,
        "machine": runs[0].machine,
        "images_per_second": spread(images_per_second(run, batch) for run in runs),
        "step_work_seconds": spread(run.step_work for run in runs),
        "first_step_seconds": spread(run.updates[0] for run in runs),
        "job_seconds": spread(run.job for run in runs),
    }
    for name in MEMORY:
        values = [getattr(run, name) for run in runs]
        found[f"{name}_bytes"] = max(values) if all(values) else None
    return found


def table(
    rows: Sequence[Row],
    runs: Mapping[str, Sequence[Run]],
    missing: Mapping[str, str],
    gates: Mapping[str, float | str],
    batch: int,
) -> list[dict[str, object]]:
    """Every row in order; one that could not be measured has its name and the reason.

    Args:
        runs, missing, gates: by the row's name; a gate that is a text says why there is none.
    """
    lines, named = [], {row.name: row for row in rows}
    for row in rows:
        if row.name in missing:
            lines.append({"name": row.name, "missing": missing[row.name]})
            continue
        line = figures(row, runs[row.name], batch)
        for key, name in BASELINES.items():
            known = name != row.name and name in runs and name not in missing
            known = known and named[name].lora == row.lora
            line[f"times_{key}"] = ratio(runs[row.name], runs[name]) if known else None
        gate = gates.get(row.name, "not asked for")
        line["gate"] = None if isinstance(gate, str) else gate
        if isinstance(gate, str):
            line["no_gate"] = gate
        lines.append(line)
    return lines
