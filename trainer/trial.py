"""Whether a Triton kernel of ours works on a device: it is tried before it is trusted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

import torch


def is_interpreted() -> bool:
    """Triton runs in its interpreter, on any device and very slowly: for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_not(
    what: str, device: torch.device, distance: Callable[[], float], near: float, unit: str = ""
) -> str:
    """Why a kernel can not be used on a device, in words; empty where it can.

    Args:
        what: the kernel does, to be named by.
        distance: tries it; how far its results are from torch's, in ``unit``.
        near: the most that they may be.

    Raises:
        torch.OutOfMemoryError: not even the trial fits, which says nothing of the kernel.
    """
    try:
        from triton.errors import TritonError
    except ImportError as error:
        package = " (on Windows it is the package triton-windows)" if os.name == "nt" else ""
        return f"Triton is not installed{package or f' ({error})'}"
    # what Triton raises where it finds no compiler, no driver or no folder for its results
    failures = (RuntimeError, OSError, ValueError, AssertionError, ImportError, TritonError,
                subprocess.SubprocessError)  # fmt: skip
    try:
        found = distance()
    except torch.OutOfMemoryError:
        raise
    except failures as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return f"{what} does not work on {device}: {reason[-1]}"
    if found <= near:  # not so if it is no number
        return ""
    return f"{what} is {found:.2g}{unit} from torch's on {device}"
