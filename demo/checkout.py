"""Makes the checkout importable as ``pack``: its folder's name may hold a hyphen."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A script's own folder is on the path, where its modules would hide others of their names.
SCRIPTS = {str(ROOT / "demo"), str(ROOT / "benchmarks")}


def load_pack() -> None:
    """From now on ``import pack.trainer`` finds this checkout's, whoever asks."""
    sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") not in SCRIPTS]
    pack = sys.modules.setdefault("pack", types.ModuleType("pack"))
    pack.__path__ = [str(ROOT)]
