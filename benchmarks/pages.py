"""What a benchmark writes into a page of ours, between two marks that stay."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .stopwatch.clock import machine

END = "<!-- end -->"


def begin(program: str) -> str:
    """The mark in front of what a program writes."""
    return f"<!-- begin of what {program} writes -->"


def fill_in(page: Path, program: str, text: str) -> None:
    """Puts ``text`` where the program's was; the rest of the page stays."""
    mark = begin(program)
    before, rest = page.read_text("utf-8").split(mark)
    _, after = rest.split(END, 1)
    replace(page, f"{before}{mark}\n\n{text}\n\n{END}{after}")


def keep(
    device: str,
    rows: dict[str, Any],
    table: Callable[[dict[str, Any]], str],
    results: Path,
    page: Path,
    program: str,
) -> None:
    """Puts rows in the place of those of the same name; the others stay, if this machine made them.

    Args:
        table: of rows, in words.
        results: JSON, by device.
    """
    stored = json.loads(results.read_text("utf-8")) if results.is_file() else {}
    date = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    before, where = stored.get(device), machine()
    if before and before["about"]["machine"] == where:
        rows = before["rows"] | rows
    stored[device] = {"about": {"date": date, "machine": where}, "rows": rows}
    replace(results, json.dumps(stored, indent=1) + "\n")
    parts = [
        f"{kind}, {suite['about']['date']}, torch {suite['about']['machine']['torch']}:\n\n"
        + table(suite["rows"])
        for kind, suite in sorted(stored.items())
    ]
    fill_in(page, program, "\n\n".join(parts))


def replace(path: Path, text: str) -> None:
    """The old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, "utf-8")
    os.replace(new, path)
