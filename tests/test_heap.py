"""The C library's heap: what is freed of a large net goes back to the system."""

import platform
import subprocess
import sys

import pytest
from conftest import ROOT
from pack.trainer import heap

HOLES = """
import sys
sys.path.insert(0, {tests!r})
import conftest, torch
from contextlib import nullcontext
from pathlib import Path
from pack.trainer.heap import LARGE, without_holes

def own():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

torch.ones(1 << 22)  # 16 MiB, freed: from here on glibc keeps what is smaller in its heap
with without_holes(LARGE) if {inside} else nullcontext():
    large, small = [], []
    for _ in range(60):
        large.append(torch.ones(1 << 20))
        small.append(torch.ones(1 << 13))  # lies between two of them
    before = own()
    large.clear()
    print(before - own())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is about glibc")
@pytest.mark.parametrize("inside", [True, False])
def test_freed_tensors_leave_no_holes(inside: bool) -> None:
    """60 tensors of 4 MiB with small ones between them, in a process of its own."""
    code = HOLES.format(tests=str(ROOT / "tests"), inside=inside)
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    given_back = float(said.stdout)
    assert given_back > 200 if inside else given_back < 60


class Libc:
    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []

    def mallopt(self, *values: int) -> None:
        self.calls.append(values)

    def malloc_trim(self, pad: int) -> None:
        self.calls.append((pad,))


def test_the_usual_thresholds_are_back_after_an_error(monkeypatch) -> None:
    libc, mib = Libc(), 1 << 20
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: libc)
    monkeypatch.setattr(heap.sys, "platform", "linux")
    monkeypatch.setattr(heap.platform, "libc_ver", lambda: ("glibc", "2.36"))
    with pytest.raises(ZeroDivisionError), heap.without_holes(heap.LARGE):
        assert libc.calls == [(-3, mib)]
        raise ZeroDivisionError
    assert libc.calls[1:] == [(-3, 32 * mib), (-1, 64 * mib), (0,)]


@pytest.mark.parametrize(
    ("weights", "system", "library"),
    [(heap.LARGE - 1, "linux", "glibc"), (heap.LARGE, "win32", ""), (heap.LARGE, "linux", "")],
)
def test_elsewhere_nothing_is_touched(monkeypatch, weights: int, system: str, library: str) -> None:
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda name: pytest.fail("touched"))
    monkeypatch.setattr(heap.sys, "platform", system)
    monkeypatch.setattr(heap.platform, "libc_ver", lambda: (library, ""))
    with heap.without_holes(weights):
        pass
