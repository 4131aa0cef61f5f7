"""The judge and the base before any training: ``python -m benchmarks.picturebook COMMAND``.

train   draws pictures, trains the judge, fixes its threshold, examines it, writes judge.safetensors
exam    examines the stored judge on held-out subjects; fails where it is right too seldom
follow  whether the base draws the class and the setting that it is asked for
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

from demo.checkout import load_pack

ROOT = Path(__file__).resolve().parents[2]


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
    add = commands.add_parser("follow").add_argument
    add("--base", type=Path, metavar="FILE", help="checkpoint; default: the demo's, expanded")
    add("--each", type=int, default=2, metavar="N", help="pictures of a class in a setting (2)")
    add("--device", help="cuda or cpu; default: cuda where there is one")
    add("--write", action="store_true", help="docs/results/base.json")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    options = arguments(argv)
    load_pack()
    if options.command == "follow":
        return follow(options)
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


def follow(options: argparse.Namespace) -> int:
    import torch

    following = importlib.import_module("pack.benchmarks.picturebook.follow")
    checkpoint = importlib.import_module("pack.trainer.checkpoint")
    judge = importlib.import_module("pack.benchmarks.picturebook.judge")
    base_failed = importlib.import_module("pack.demo.base.recipe").BaseFailed
    ensure_base = importlib.import_module("pack.demo.picture_book").ensure_base
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        base = options.base or ensure_base(ROOT / ".demo" / "quality" / "base.safetensors")
        rows = following.follow(base, options.each, device)
    except (base_failed, checkpoint.CheckpointError, judge.JudgeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.write:
        about = {
            "command": f"python -m benchmarks.picturebook follow --each {options.each} --write"
        }
        found = {"about": about, "rows": [row.to_json() for row in rows]}
        path = ROOT / "docs" / "results" / "base.json"
        path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
