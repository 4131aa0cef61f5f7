"""What every mutated input is held to: refused in words or taken, soon, and nothing is written."""

import contextlib
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from record import record

SEED = 20261122
# A file of 3 KB may hold 136 megapixels, fewer than are refused: 8 s on a busy core.
SECONDS = 30.0
LONGEST = 2000  # characters of a message
GROWTH = 3 * 2**30  # bytes of memory that all inputs of one kind may cost at the highest
COUNTS = {  # short form, full form
    "pictures": (60, 1000),
    "folders of pictures": (4, 60),
    "concepts_list.json": (30, 400),
    "job.json": (30, 500),
    "checkpoint files": (30, 400),
    "tensor names and shapes": (20, 200),
    "settings": (40, 600),
    "names and prompts": (30, 300),
}


class TooLate(BaseException):
    """An input that hangs; no ``except Exception`` may take it for a damaged file."""


_watch: dict[str, Any] = {"root": None, "outside": []}


def _audit(event: str, args: tuple) -> None:
    """Note everything written outside the root; an audit hook cannot be taken back."""
    if _watch["root"] is None:
        return
    path = None
    if event == "open" and args[2] & 0o3:  # O_WRONLY or O_RDWR
        path = args[0]
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.symlink", "os.link", "os.truncate"):
        path = args[1] if event in ("os.rename", "os.symlink", "os.link") else args[0]
    if isinstance(path, (str, bytes, Path)):
        text = path.decode() if isinstance(path, bytes) else str(path)
        if not text.startswith(_watch["root"]) and text != "/dev/null":
            _watch["outside"].append(f"{event} {text}")


sys.addaudithook(_audit)


@contextlib.contextmanager
def watched(root: Path) -> Iterator[list[str]]:
    """What is written outside ``root`` meanwhile."""
    _watch.update(root=str(root), outside=[])
    try:
        yield _watch["outside"]
    finally:
        _watch["root"] = None


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Break off what hangs, where the system can."""

    def late(*_: object) -> None:
        raise TooLate(f"more than {seconds} s")

    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def highest_memory() -> int:
    """Bytes that this process has used at the most so far; 0 where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


class Trials:
    """Runs inputs of one kind and counts how they end."""

    def __init__(self, kind: str, root: Path, full: bool) -> None:
        self.kind, self.root, self.full = kind, root, full
        self.count = COUNTS[kind][full]
        self.rng = random.Random(f"{SEED} {kind}")
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []
        self.slowest = 0.0
        self.began, self.memory = time.monotonic(), highest_memory()

    def try_one(
        self, about: str, allowed: tuple[type[Exception], ...], do: Callable[[], Any]
    ) -> Any:
        """The result, or None if it was refused; what is neither is a failure."""
        began, said, result = time.monotonic(), "", None
        with watched(self.root) as outside:
            try:
                with time_limit(SECONDS):
                    result = do()
                ended = "taken"
            except allowed as error:
                ended, message = type(error).__name__, str(error)
                if not message.strip() or len(message) > LONGEST:
                    said = f"a message of {len(message)} characters"
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                ended, said = "failed", repr(error)[:300]
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.outcomes[ended] += 1
        if said or outside:
            self.failures.append(f"{about}: {said} {outside}")
        return result

    def finish(self) -> None:
        grown = max(0, highest_memory() - self.memory)
        if grown > GROWTH:
            self.failures.append(f"{grown / 2**30:.1f} GiB of memory")
        if self.full:
            DONE[self.kind] = {
                "inputs": sum(self.outcomes.values()),
                "outcomes": dict(sorted(self.outcomes.items())),
                "failures": len(self.failures),
                "slowest_seconds": round(self.slowest, 2),
                "memory_grew_mb": grown // 10**6,
                "seconds": round(time.monotonic() - self.began),
            }
            inputs, failures = (
                sum(done[key] for done in DONE.values()) for key in ("inputs", "failures")
            )
            record("fuzz", inputs=inputs, failures=failures, seed=SEED, kinds=DONE)
        assert not self.failures, f"seed {SEED}: " + "\n".join(self.failures[:20])


DONE: dict[str, dict] = {}  # the kinds of a full run
