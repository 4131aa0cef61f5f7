"""How fast DreamBooth trainers are, ours and others', side by side: ``python benchmarks/peers.py``.

Makes seeded weights and pictures, then lets every row of the table train on them in a process of
its own, one after the other, in several rounds. A trainer that is not pointed to is an empty row.
Writes docs/results/peers.json and the tables of docs/BENCHMARKS.md with --write.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/peers.py", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--device", default="cpu", choices=("cpu", "cuda"), help="(cpu)")
    add("--size", default="small", choices=("toy", "small", "sd15"),
        help="of the model: Stable Diffusion 1.5's is for a card (small)")  # fmt: skip
    add("--rows", nargs="+", metavar="NAME", help="default: all of the device")
    add("--batch", nargs="+", type=int, default=[1], metavar="N",
        help="instance images of a step, and as many class images; a table each (1)")  # fmt: skip
    add("--steps", type=int, metavar="N", help="of a run; default: the size's own")
    add("--rounds", type=int, default=3, metavar="N", help="(3)")
    add("--threads", type=int, metavar="N", help="of each process; default: torch's own choice")
    add("--diffusers", type=Path, metavar="DIR", help="checkout with examples/dreambooth")
    add("--kohya", type=Path, metavar="DIR", help="checkout of sd-scripts")
    add("--comfyui", type=Path, metavar="DIR", help="checkout of ComfyUI, for its Train LoRA")
    add("--work", type=Path, default=ROOT / ".demo" / "peers", metavar="DIR")
    add("--write", action="store_true", help="the results into docs/")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    options = arguments(argv)
    # absolute, because every run has a folder of its own to be in
    for name in ("work", "diffusers", "kohya", "comfyui"):
        if path := getattr(options, name):
            setattr(options, name, path.resolve())
    sys.path.insert(0, str(ROOT))
    importlib.import_module("demo.checkout").load_pack()
    return importlib.import_module("pack.benchmarks.stopwatch.bench").run(options, ROOT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
