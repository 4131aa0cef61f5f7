"""How well DreamBooth works, judged by pictures: ``python benchmarks/quality.py``.

Teaches the demo's base the held-out subjects of the picture-book world with each contender, samples
them, lets the judge look, and prints the table. What was made before is not made again, so a bench
that was stopped goes on. --write puts the table into README.md, what is behind it into
docs/results/quality.json, and pictures into docs/images/quality.png.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/quality.py", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--subjects", nargs="+", metavar="NAME", help="default: the bench's six")
    add("--contenders", nargs="+", metavar="NAME", help="default: all; the base always takes part")
    add("--steps", type=int, help="of our trainer (the demo's)")
    add("--seeds", type=int, default=2, help="pictures of each of the eight prompts (2)")
    add("--plain", type=int, default=16, help="pictures of the plain class (16)")
    add("--photos", type=int, default=5, metavar="N", help="of each subject (5); see RECIPES.md")
    add("--base", type=Path, metavar="FILE", help="checkpoint; default: the demo's, expanded")
    add("--device", help="cuda or cpu; default: cuda where there is one")
    add("--work", type=Path, default=ROOT / ".demo" / "quality", metavar="DIR")
    add("--write", action="store_true", help="results and pictures into docs/")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    options = arguments(argv)
    sys.path.insert(0, str(ROOT))
    importlib.import_module("demo.checkout").load_pack()
    return importlib.import_module("pack.benchmarks.picturebook.bench").run(options, ROOT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
