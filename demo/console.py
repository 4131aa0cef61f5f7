"""What the demo prints: phases with their time, a progress bar, a table (standard library only)."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

WORTH_A_LINE = 2.5  # seconds
QUIET = 20  # seconds between a bar's lines where the output is not a terminal


def clock(seconds: float) -> str:
    """3.2 s, 1:05 or 2:03:04."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Line:
    """One terminal line that is redrawn in place; silent where the output is not a terminal."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty()
        self._lock = threading.Lock()

    def draw(self, text: str) -> None:
        if not self.live:
            return
        width = shutil.get_terminal_size().columns - 1
        with self._lock:
            sys.stdout.write("\r" + text[:width].ljust(width))
            sys.stdout.flush()

    def done(self, text: str) -> None:
        """Replaces the line for good."""
        self.draw("")
        with self._lock:
            sys.stdout.write(("\r" if self.live else "") + text + "\n")
            sys.stdout.flush()


@contextmanager
def phase(title: str, detail: Callable[[], str] = str) -> Iterator[None]:
    """Prints what is being done and how long it takes, with ``detail()`` redrawn each second."""
    line, start, over = Line(), time.monotonic(), threading.Event()

    def tick() -> None:
        while not over.wait(0.5):
            line.draw(f"  … {title}  {clock(time.monotonic() - start)}  {detail()}")

    if not line.live:
        print(f"  … {title}", flush=True)
    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    mark = "✗"
    try:
        yield
        mark = "✓"
    finally:
        over.set()
        ticker.join()
        line.done(f"  {mark} {title}  {clock(time.monotonic() - start)}")


class Bar:
    """A progress bar with the time left, for work that counts its steps."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.start = time.monotonic()
        self.value = self.total = 0
        self._line = Line()
        self._said = self.start
        self._first: tuple[float, float] | None = None

    def update(self, value: float, total: float, note: str = "") -> None:
        """Draws ``value`` of ``total``; the estimate counts from the first call on."""
        self.value, self.total = value, total
        now = time.monotonic()
        if self._first is None or value < self._first[1]:
            self._first = (now, value)
        done = value - self._first[1]
        left = (now - self._first[0]) / done * (total - value) if done > 0 else None
        filled = int(24 * value / total) if total else 0
        text = f"  … {self.title}  {'█' * filled}{'░' * (24 - filled)} {value:.0f}/{total:.0f}"
        text += f"  {clock(now - self.start)}"
        if left is not None and value < total:
            text += f", {clock(left)} left"
        self._line.draw(f"{text}  {note}")
        if not self._line.live and now - self._said >= QUIET:  # a log file: a line now and then
            self._said = now
            print(f"{text}  {note}".rstrip(), flush=True)

    def close(self, note: str = "", mark: str = "✓") -> None:
        """Leaves one line behind; nothing where the work took no time worth a line."""
        seconds = time.monotonic() - self.start
        if seconds < WORTH_A_LINE and mark == "✓":
            self._line.draw("")
            return
        self._line.done(f"  {mark} {self.title}  {clock(seconds)}  {note}".rstrip())


def table(rows: Sequence[tuple[str, object]]) -> None:
    """Two columns, the first as wide as its longest entry."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"  {name.ljust(width)}  {value}")
