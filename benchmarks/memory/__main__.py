"""A run's memory, measured: ``python -m benchmarks.memory COMMAND [--write]``.

footprint  how well a run's memory is estimated before it begins
rungs      what computing a part of the UNet's activations again costs
cards      which runs fit on cards of which size
tiers      runs under a cap: each finishes within it or is refused
moments    what moments in 8 bits change of what is learned

With --write the result goes to docs/results and its table into docs/BENCHMARKS.md.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from types import ModuleType

from demo.checkout import load_pack

PROGRAM = "python -m benchmarks.memory"
COMMANDS = ("footprint", "rungs", "cards", "tiers", "moments")


def arguments(argv: list[str], commands: dict[str, ModuleType]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = parser.add_subparsers(dest="command", required=True)
    for name, command in commands.items():
        sub = chosen.add_parser(
            name, description=command.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        sub.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="(cpu)")
        sub.add_argument("--write", action="store_true", help="the result into docs/")
        command.add_arguments(sub)
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    load_pack()
    commands = {
        name: importlib.import_module(f"pack.benchmarks.memory.{name}") for name in COMMANDS
    }
    options = arguments(argv, commands)
    command = commands[options.command]
    rows = command.measure(options)
    if rows:
        print(command.table(rows))
    if rows and options.write:
        pages = importlib.import_module("pack.benchmarks.pages")
        program = f"{PROGRAM} {options.command}"
        pages.keep(options.device, rows, command.table, command.RESULTS, command.PAGE, program)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
