"""``python -m trainer`` of this checkout, as a script that the clock can run."""

import importlib
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])
importlib.import_module("demo.checkout").load_pack()
sys.exit(importlib.import_module("pack.trainer.__main__").main(sys.argv[1:]))
