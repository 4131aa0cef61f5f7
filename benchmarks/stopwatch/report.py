"""Figures → the table in words, docs/results/peers.json and docs/BENCHMARKS.md."""

from __future__ import annotations

import json
from pathlib import Path

from ..pages import fill_in, replace

RESULTS, PAGE = Path("docs/results/peers.json"), Path("docs/BENCHMARKS.md")
PROGRAM = "benchmarks/peers.py"
GIB = 2**30
HEAD = (
    "", "images/s", "× textbook", "× diffusers", "× ComfyUI", "CPU s a step",
    "first step, s", "whole job, s",
    "RAM, GiB", "allocated", "reserved", "card", "gate",
)  # fmt: skip


def as_markdown(suite: dict) -> str:
    """One suite's table, without the columns that nobody has a figure for."""
    cells = [cells_of(line) for line in suite["rows"]]
    used = [n for n in range(len(HEAD)) if not n or any(row[n] for row in cells)]
    lines = [[HEAD[n] for n in used], ["---"] * len(used)]
    lines += [[row[n] or "–" for n in used] for row in cells]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    for said, key in (("Not measured", "missing"), ("No gate", "no_gate")):
        if why := [f"*{row['name']}*: {row[key]}" for row in suite["rows"] if key in row]:
            text += f"\n\n{said}: {'; '.join(why)}."
    return text


def cells_of(row: dict) -> list[str]:
    """As ``HEAD``; "" for what is not known."""
    if "missing" in row:
        return [row["name"], *[""] * (len(HEAD) - 1)]
    name = f"{row['name']} ({row['differs']})" if row["differs"] else row["name"]
    sizes = (row[f"{kind}_bytes"] for kind in ("resident", "allocated", "reserved", "card"))
    return [
        name,
        with_spread(row["images_per_second"], 2),
        with_spread(row["times_textbook"], 2),
        with_spread(row["times_diffusers"], 2),
        with_spread(row["times_comfyui"], 2),
        with_spread(row["step_work_seconds"], 3),
        with_spread(row["first_step_seconds"], 1),
        with_spread(row["job_seconds"], 1),
        *(f"{size / GIB:.2f}" if size else "" for size in sizes),
        "" if row["gate"] is None else f"{row['gate']:.1e}",
    ]


def with_spread(figure: dict[str, float] | None, digits: int) -> str:
    """Median (least … greatest)."""
    if figure is None:
        return ""
    low, high = (f"{figure[end]:.{digits}f}" for end in ("low", "high"))
    return f"{figure['median']:.{digits}f} ({low} … {high})"


def write(root: Path, suites: dict[str, dict]) -> None:
    """Puts these suites in the place of those of the same name, and keeps the others."""
    results, page = root / RESULTS, root / PAGE
    stored = json.loads(results.read_text("utf-8")) if results.is_file() else {}
    stored |= suites
    replace(results, json.dumps(stored, indent=1, ensure_ascii=False) + "\n")
    parts = [as_section(name, suite) for name, suite in sorted(stored.items())]
    fill_in(page, PROGRAM, "\n\n".join(parts))


def as_section(name: str, suite: dict) -> str:
    about = suite["about"]
    machine = about["machine"]
    versions = [f"{key} {machine[key]}" for key in machine if key not in NOT_VERSIONS]
    where = ", ".join(machine[key] for key in ("card", "processor", "system") if key in machine)
    return (
        f"### {name}\n\n{about['date']}: {where}; {', '.join(versions)}."
        f" {about['rounds']} rounds of {about['steps']} steps. `{about['command']}`\n\n"
        + as_markdown(suite)
    )


NOT_VERSIONS = ("card", "processor", "system")
