"""The C library's heap while a large model trains in a processor's memory."""

import contextlib
import ctypes
import platform
import sys
from collections.abc import Iterator

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's names, glibc's malloc.h
_MIB = 1 << 20
_WHOLE_PAGES_FROM = _MIB
# where glibc's own adjustment ends, which it has long done in a process that frees large tensors
_USUAL = 32 * _MIB
LARGE = 200_000_000  # weights


@contextlib.contextmanager
def without_holes(weights: int) -> Iterator[None]:
    """Inside, freed tensors of 1 MiB and more go back to the system at once.

    By itself glibc keeps what is freed of tensors below 32 MiB in its heap, where gradients and
    moments of many sizes leave holes that nothing fits into: SD 1.5 with its text encoder held
    22.3 GiB so, 15.9 without holes. A smaller model has nothing to gain, and would wait for pages.

    Args:
        weights: how many the model has.
    """
    if weights < LARGE or not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_THRESHOLD, _WHOLE_PAGES_FROM)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_THRESHOLD, _USUAL)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _USUAL)
        libc.malloc_trim(0)
