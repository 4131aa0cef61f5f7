"""Runs a script of anybody's under the clock: ``python clock.py RESULT BEGAN SCRIPT [ARGUMENT…]``.

Nothing of the script is changed: torch tells of every finished ``Optimizer.step`` by its own hook.
Stands alone, because a peer's libraries may be other ones than ours.
"""

from __future__ import annotations

import json
import platform
import runpy
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "bitsandbytes", "peft")


class Clock:
    """When each update was done, in seconds since the process was started.

    On a card an event per update is laid into its stream, which holds nothing up; only the first
    update is waited for.
    """

    def __init__(self, began: float) -> None:
        self._began = began
        self._marks: dict[int, list[float | torch.cuda.Event]] = {}
        self._firsts: dict[int, float] = {}
        self._work: dict[int, list[float]] = {}

    def mark(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """The hook."""
        marks = self._marks.setdefault(id(optimizer), [])
        on_card = torch.cuda.is_initialized()
        if on_card and not marks:
            torch.cuda.synchronize()
        now = time.monotonic() - self._began
        self._firsts.setdefault(id(optimizer), now)
        self._work.setdefault(id(optimizer), []).append(time.process_time())
        if on_card:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            marks.append(event)
        else:
            marks.append(now)

    @property
    def _busiest(self) -> int:
        """The optimizer that has made most updates: others only tried something out."""
        return max(self._marks, key=lambda key: len(self._marks[key]), default=0)

    def seconds(self) -> list[float]:
        """From the start of the process to each update."""
        marks = self._marks.get(self._busiest, [])
        if not marks or not torch.cuda.is_initialized():
            return marks
        torch.cuda.synchronize()
        first = self._firsts[self._busiest]
        return [first + marks[0].elapsed_time(mark) / 1e3 for mark in marks]

    def work(self) -> list[float]:
        """Seconds of processors' time, of all threads, that the process had used at each update."""
        return self._work.get(self._busiest, [])


def peak_resident() -> int:
    """Bytes of main memory that this process has held at most; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():  # not getrusage, which also counts the parent before the program was begun
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024
    try:
        import psutil
    except ImportError:
        return 0
    memory = psutil.Process().memory_info()
    return getattr(memory, "peak_wset", memory.rss)


def machine() -> dict[str, object]:
    """What it runs on, in words that name no one's machine."""
    found: dict[str, object] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": f"{torch.get_num_threads()} threads,"
        f" {torch.backends.cpu.get_cpu_capability()}",
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        found["card"] = torch.cuda.get_device_name()
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def run(script: str, arguments: list[str]) -> str:
    """Runs it as ``python script arguments``; why it did not end well, "" if it did."""
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).parent)
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:
        return "" if ended.code in (None, 0) else f"ended with {ended.code}"
    except Exception as error:  # noqa: BLE001 - a peer may fail in any way; its row says how
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return ""


def main(result: str, began: str, script: str, *arguments: str) -> int:
    clock = Clock(float(began))
    register_optimizer_step_post_hook(clock.mark)
    failed = run(script, list(arguments))
    on_card = torch.cuda.is_initialized()
    figures = {
        "failed": failed,
        "updates": clock.seconds(),
        "work": clock.work(),
        "resident": peak_resident(),
        "allocated": torch.cuda.max_memory_allocated() if on_card else None,
        "reserved": torch.cuda.max_memory_reserved() if on_card else None,
        "machine": machine(),
    }
    Path(result).write_text(json.dumps(figures), "utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
