"""Makes and examines the judge: ``python -m benchmarks.picturebook train``, ``exam``.

train  draws pictures, trains, fixes the threshold, examines and writes judge.safetensors
exam   examines the stored judge on held-out subjects; fails where it is right too seldom
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from demo.checkout import load_pack


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.picturebook", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train")
    train.add_argument("--seed", type=int, default=0, metavar="N", help="(0)")
    for command in (train, commands.add_parser("exam")):
        command.add_argument("--weights", type=Path, metavar="FILE", help="(beside the program)")
        command.add_argument("--threads", type=int, default=1, metavar="N", help="(1)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    options = arguments(argv)
    load_pack()
    import torch

    torch.set_num_threads(options.threads)
    judges = importlib.import_module("pack.benchmarks.picturebook.judge")
    exam = importlib.import_module("pack.benchmarks.picturebook.judge_exam")
    path = options.weights or judges.WEIGHTS
    try:
        if options.command == "train":
            train(options, path)
        passed = exam.show(judges.Judge.load(path))
    except (judges.JudgeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0 if passed else 1


def train(options: argparse.Namespace, path: Path) -> None:
    training = importlib.import_module("pack.benchmarks.picturebook.judge_training")
    training.make(training.Lesson(seed=options.seed), path)
    print(f"wrote {path}, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
