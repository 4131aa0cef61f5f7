"""The textbook loop as a script that the clock can run."""

import importlib
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])
importlib.import_module("demo.checkout").load_pack()
importlib.import_module("pack.benchmarks.stopwatch.textbook_job").main(sys.argv[1:])
