"""``python -m demo.world --sheet out.png``: look at the world."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from .chance import random_scene
from .picture import draw
from .sheet import contact_sheet, save_small, subject_rows, world_rows


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo.world", description=__doc__)
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="a row for each kind of thing")
    parser.add_argument("--subjects", type=Path, metavar="FILE", help="the held-out subjects")
    parser.add_argument("--size", type=int, default=64, help="pixels of a picture (64)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    for path, rows in ((options.sheet, world_rows), (options.subjects, subject_rows)):
        if path:
            save_small(contact_sheet(rows(options.seed), options.size), path)
            print(f"wrote {path}")
    if not (options.sheet or options.subjects):
        print(f"{speed(options.size):.2f} ms a picture of {options.size} pixels")
    return 0


def speed(size: int, count: int = 200) -> float:
    """Milliseconds of processor time for one picture."""
    draw(random_scene(0), size)
    begin = time.process_time()
    for seed in range(count):
        draw(random_scene(seed), size)
    return (time.process_time() - begin) * 1000 / count


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
