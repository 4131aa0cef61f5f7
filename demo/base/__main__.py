"""Makes the demo's base model: ``python -m demo.base train``, then ``pack``, ``expand``, ``show``.

train   draws the pictures, trains the autoencoder and the UNet; goes on where it was left
pack    stores the result in demo/base/base.npz, about 16 MB
expand  writes the checkpoint that ComfyUI loads
show    draws what the stored base makes of things and places
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from ..checkout import load_pack

ROOT = Path(__file__).resolve().parents[2]
RECIPE: dict[str, type] = {
    **dict.fromkeys(("size", "seed", "pool", "captions", "texts"), int),
    **dict.fromkeys(("vae_batch", "vae_crop", "unet_batch"), int),
    **dict.fromkeys(("vae_lr", "unet_lr"), float),
    "favour": str,
}  # what of it the command line can change
VALUES = {int: "N", float: "RATE", str: "dog,cat,…"}


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m demo.base", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("train").add_argument
    add("--minutes", type=float, help="for both stages together; default 25 on a card, 480 on a "
        "processor")  # fmt: skip
    add("--steps", type=int, nargs=2, metavar=("VAE", "UNET"), help="instead of --minutes")
    add("--leave-after", type=float, metavar="MINUTES", help="save and stop then; go on later")
    add("--device", help="cuda or cpu; default: cuda where there is one")
    add("--out", type=Path, default=ROOT / ".demo" / "base", metavar="DIR", help="(.demo/base)")
    add("--start", type=Path, metavar="DIR|FILE.npz", help="take the autoencoder of this run or "
        "packed base, and go on with its UNet, at another --size perhaps")  # fmt: skip
    for name, kind in RECIPE.items():
        add(f"--{name.replace('_', '-')}", type=kind, metavar=VALUES[kind])
    add = commands.add_parser("pack").add_argument
    add("--out", type=Path, default=ROOT / ".demo" / "base", metavar="DIR", help="of the training")
    add("--to", type=Path, metavar="FILE", help="(demo/base/base.npz)")
    add = commands.add_parser("expand").add_argument
    add("to", type=Path, metavar="FILE")
    add("--packed", type=Path, metavar="FILE", help="(demo/base/base.npz)")
    add = commands.add_parser("show").add_argument
    add("to", type=Path, metavar="FILE.png")
    add("--packed", type=Path, metavar="FILE", help="(demo/base/base.npz)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    options = arguments(argv)
    load_pack()
    failures = (
        importlib.import_module("pack.demo.base.recipe").BaseFailed,
        importlib.import_module("pack.trainer.checkpoint").CheckpointError,
        OSError,
    )
    command = {"train": train, "pack": pack, "expand": expand, "show": show}[options.command]
    try:
        return command(options)
    except failures as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def train(options: argparse.Namespace) -> int:
    import torch

    base = importlib.import_module("pack.demo.base.train")
    recipes = importlib.import_module("pack.demo.base.recipe")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    recipe = recipes.recipe_for(device, **{name: getattr(options, name) for name in RECIPE})
    steps = tuple(options.steps) if options.steps else None
    minutes = options.minutes or (25.0 if device.type == "cuda" else 480.0)
    plan = base.Plan(
        recipe, options.out.resolve(), device, None if steps else minutes, steps,
        options.leave_after, options.start, rows=8 if device.type == "cuda" else 3,
    )  # fmt: skip
    done = base.train(plan)
    print("finished: python -m demo.base pack" if done else "to be continued: the same command")
    return 0


def pack(options: argparse.Namespace) -> int:
    packing = importlib.import_module("pack.demo.base.pack")
    figures = packing.pack(options.out, options.to or packing.PACKED)
    print(f"{figures['bytes'] / 1e6:.1f} MB; int8 moves the weights by {figures['weights']:.2%}, "
          f"the UNet's answers by {figures['answers']:.2%}")  # fmt: skip
    return 0


def expand(options: argparse.Namespace) -> int:
    packing = importlib.import_module("pack.demo.base.pack")
    out = packing.expand(options.to, options.packed or packing.PACKED)
    print(f"wrote {out}, {out.stat().st_size / 1e6:.0f} MB")
    return 0


def show(options: argparse.Namespace) -> int:
    grid = importlib.import_module("pack.demo.base.grid")
    print(f"wrote {grid.show(options.to, options.packed or grid.PACKED)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
