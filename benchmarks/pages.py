"""What a benchmark writes into a page of ours, between two marks that stay."""

from __future__ import annotations

import os
from pathlib import Path

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


def replace(path: Path, text: str) -> None:
    """The old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.write_text(text, "utf-8")
    os.replace(new, path)
