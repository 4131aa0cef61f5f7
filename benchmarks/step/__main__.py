"""Where the time of a training step goes: ``python -m benchmarks.step COMMAND [--write]``.

kinds      of operations, and their share of a step
layouts    channels last beside the usual layout
attention  torch's ways to compute it, for each shape that a UNet has

With --write the result goes to docs/results and its table into docs/BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from types import ModuleType

from demo.checkout import load_pack

PROGRAM = "python -m benchmarks.step"
COMMANDS = ("kinds", "layouts", "attention")


def arguments(argv: list[str], commands: dict[str, ModuleType]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = parser.add_subparsers(dest="command", required=True)
    for name, command in commands.items():
        sub = chosen.add_parser(
            name, description=command.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        add = sub.add_argument
        add("--device", default="cpu", choices=("cpu", "cuda"), help="(cpu)")
        add("--size", help="small or sd15 (sd15 on a card, else small)")
        add(
            "--pairs", type=int, nargs="+", metavar="N", help="instance rows, each with a class row"
        )
        add("--side", type=int, metavar="PIXELS", help="(512 on a card, else 128)")
        add("--rounds", type=int, default=5, metavar="N", help="(5)")
        add("--write", action="store_true", help="the result into docs/")
    options = parser.parse_args(argv)
    on_card = options.device == "cuda"
    options.size = options.size or ("sd15" if on_card else "small")
    options.side = options.side or (512 if on_card else 128)
    options.pairs = options.pairs or ([1, 4] if on_card else [1])
    return options


def main(argv: list[str]) -> int:
    load_pack()
    commands = {name: importlib.import_module(f"pack.benchmarks.step.{name}") for name in COMMANDS}
    options = arguments(argv, commands)
    command = commands[options.command]
    rows = command.measure(options)
    print(command.table(rows))
    if options.write:
        pages = importlib.import_module("pack.benchmarks.pages")
        program = f"{PROGRAM} {options.command}"
        pages.keep(options.device, rows, command.table, command.RESULTS, command.PAGE, program)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
