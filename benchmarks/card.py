"""Everything that only a card can tell, in one command: ``python benchmarks/card.py --out DIR``.

For a Linux machine with a CUDA card, and a Python with torch, Triton, diffusers, transformers,
accelerate, safetensors and pytest: nothing is installed. Parts run one after the other, each for
so many minutes at most; what one of them breaks does not stop the next. Logs, what was written
into docs/ and the trained base are left in DIR.

tests   our kernels against torch's, ways to compute attention, recorded passes against the passes
speed   our rows of the peers' table, Stable Diffusion 1.5, 1 + 1 and 4 + 4
step    where a step's time goes: kinds of operations, layouts, ways to compute attention
memory  the estimate beside what is then held, runs under caps, and what the rungs cost
base    the demo's base goes on learning
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTEST = ("-m", "pytest", "-c", "tests/pytest.ini", "-p", "no:cacheprovider")
OURS = (
    "textbook",
    "ours",
    "ours, cuda_graph",
    "ours, fused_layers",
    "ours, all that is experimental",
    "ours, weights = fp32",
    "ours, weights = lean",
)
BASE = ".demo/card-base"
Command = tuple[str, ...]
PARTS: dict[str, tuple[float, tuple[Command, ...]]] = {
    "tests": (4, ((*PYTEST, "tests/test_one_pass.py", "tests/test_fused.py",
                   "tests/test_attention.py", "tests/test_capture_runs.py"),)),
    "speed": (9, (("benchmarks/peers.py", "--device", "cuda", "--size", "sd15", "--batch", "1", "4",
                   "--rounds", "2", "--write", "--rows", *OURS),)),
    "step": (3, tuple(
        ("-m", "benchmarks.step", command, "--device", "cuda", "--write")
        for command in ("layouts", "kinds", "attention")
    )),
    "memory": (9, (
        ("-m", "benchmarks.memory", "footprint", "--device", "cuda", "--write"),
        ("-m", "benchmarks.memory", "tiers", "--device", "cuda", "--write"),
        ("-m", "benchmarks.memory", "rungs", "--device", "cuda", "--write"),
    )),
    "base": (9, (
        ("-m", "demo.base", "train", "--start", "demo/base/base.npz", "--out", BASE,
         "--minutes", "20", "--leave-after", "8"),
        ("-m", "demo.base", "pack", "--out", BASE, "--to", f"{BASE}/base.npz"),
    )),
}  # fmt: skip
LEFT = ("docs/results", "docs/BENCHMARKS.md", f"{BASE}/base.npz")


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/card.py", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--out", type=Path, default=ROOT / ".demo" / "card", metavar="DIR", help="(.demo/card)")
    add("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS), help="(all)")
    return parser.parse_args(argv)


def run(name: str, out: Path) -> bool:
    """A part's commands, with their output in one log; whether all of them went well."""
    minutes, commands = PARTS[name]
    end, well = time.monotonic() + 60 * minutes, True
    with (out / f"{name}.log").open("w", encoding="utf-8") as log:
        for command in commands:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
            try:
                code = process.wait(max(1.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                # with all that it has started: it would keep the card from the next part
                os.killpg(process.pid, signal.SIGKILL)
                code = process.wait()
                log.write(f"\nended after {minutes:g} minutes\n")
            well = well and code == 0
    return well


def main(argv: list[str]) -> int:
    options = arguments(argv)
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    try:
        import torch
    except ImportError:
        print("this Python has no torch", file=sys.stderr)
        return 1
    if not torch.cuda.is_available():
        print("torch finds no CUDA card here, so there is nothing to measure", file=sys.stderr)
        return 1
    failed = []
    for name in options.parts:
        began = time.monotonic()
        well = run(name, out)
        print(f"{name}: {'done' if well else 'failed'}, {time.monotonic() - began:.0f} s, "
              f"{name}.log", flush=True)  # fmt: skip
        failed += [] if well else [name]
    for path in (ROOT / name for name in LEFT):
        if path.is_dir():
            shutil.copytree(path, out / path.name, dirs_exist_ok=True)
        elif path.is_file():
            shutil.copy2(path, out / path.name)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
