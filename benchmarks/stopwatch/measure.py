"""One run of one row, in a process of its own under the clock."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .tools import HERE, Missing, Start

LIMIT = 3600.0
"""Seconds after which a run is ended."""


@dataclass(frozen=True)
class Run:
    """What the clock saw. Bytes are None where there is no card, 0 where nobody could tell."""

    updates: list[float]
    """Seconds from the start of the process to the end of each optimizer step."""
    work: list[float]
    """Likewise, of processors' time in all threads."""
    job: float
    """Seconds of the whole process."""
    resident: int
    allocated: int | None
    reserved: int | None
    card: int | None
    """Of the whole card, at most, as its driver says."""
    machine: dict[str, object]

    @property
    def step(self) -> float:
        """Median seconds of a step."""
        return median_step(self.updates)

    @property
    def step_work(self) -> float:
        """Median seconds of processors' time of a step: what other programs hardly change."""
        return median_step(self.work)


def median_step(marks: list[float]) -> float:
    """Without the first quarter of the run."""
    steps = [after - before for before, after in zip(marks, marks[1:], strict=False)]
    return statistics.median(steps[len(marks) // 4 :])


def measure(start: Start, out: Path, device: str, threads: int | None) -> Run:
    """Runs it to its end.

    Raises:
        Missing: it did not get there; its last words are in ``out/log.txt``.
    """
    log, result = out / "log.txt", out / "clock.json"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **start.environment}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with log.open("w", encoding="utf-8") as told, watched_card(device, out / "card.txt") as used:
        began = time.monotonic()
        command = [sys.executable, HERE / "clock.py", result, str(began), start.script]
        try:
            subprocess.run(
                [*map(str, command), *start.arguments], cwd=out, env=environment, stdout=told,
                stderr=subprocess.STDOUT, timeout=LIMIT, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Missing(f"ran longer than {LIMIT / 60:.0f} minutes") from error
        job = time.monotonic() - began
    seen = json.loads(result.read_text("utf-8")) if result.is_file() else {}
    if not seen or seen["failed"]:
        raise Missing(without_paths(last_words(log) or seen.get("failed", "the process died")))
    if len(seen["updates"]) < 3:
        raise Missing(f"{len(seen['updates'])} optimizer steps were seen, 3 are the least")
    names = ("updates", "work", "resident", "allocated", "reserved", "machine")
    return Run(job=job, card=max(used, default=None), **{name: seen[name] for name in names})


def last_words(log: Path) -> str:
    """The last line of a log that is an error in words."""
    lines = log.read_text("utf-8", errors="replace").splitlines()
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else ""


def without_paths(text: str) -> str:
    """What goes into a published table names no folder of anybody's."""
    return re.sub(r"(?<!\w)(?:[A-Za-z]:)?(?:[\\/][^\s\\/'\"]+){2,}", "…", text)[:200]


@contextmanager
def watched_card(device: str, log: Path) -> Iterator[list[int]]:
    """Collects the card's used bytes every 20 ms, from outside of the process that runs on it."""
    tool, used = shutil.which("nvidia-smi"), []
    if device != "cuda" or not tool:
        yield used
        return
    asked = [tool, "--query-gpu=memory.used", "--format=csv,noheader,nounits", "-lms", "20"]
    with log.open("w") as told, subprocess.Popen(asked, stdout=told) as watcher:
        try:
            yield used
        finally:
            watcher.terminate()
    used += [int(line) * 2**20 for line in log.read_text().split() if line.isdigit()]
