"""From a fresh machine to a trained model and its pictures: ``python demo/run.py``.

Makes its own Python environment and its own ComfyUI, draws five pictures of a dog that the small
picture-book base has never seen, trains it on them inside ComfyUI and shows before and after. With
``--checkpoint`` and ``--images`` the same steps train a real Stable Diffusion 1.5 on your photos.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSIDE = "DREAMBOOTH_DEMO_PYTHON"  # says to the second start that it runs in the right Python


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="demo/run.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--comfyui", metavar="FOLDER", help="use this ComfyUI; its folders are not written to")
    add(
        "--python",
        metavar="FILE",
        help="run in this Python, which must have the packages;\n"
        "default: a virtual environment of the demo's own, also for --comfyui",
    )
    base = parser.add_mutually_exclusive_group().add_argument
    base(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="train this SD 1.5 checkpoint;\ndefault: the small picture-book base that comes along",
    )
    base("--random-base", action="store_true", help="train a small random base, made on the spot")
    photos = parser.add_mutually_exclusive_group().add_argument
    photos("--images", type=Path, metavar="FOLDER", help="photos of your subject")
    photos(
        "--subject",
        default="car-1",
        metavar="NAME",
        help="without --images: five drawn pictures of this one (car-1);\n"
        "also dog-1, cat-1, teapot-1 ...: a wrong name lists them",
    )
    add("--identifier", default="zwx", help="the rare word that will name it (zwx)")
    add(
        "--class",
        dest="noun",
        help="what kind of thing it is (dog; of drawn pictures their own kind)",
    )
    add("--steps", type=int, help="optimizer steps (120; with --checkpoint 400)")
    add("--resolution", type=int, help="pixels (96; with --checkpoint 512)")
    add(
        "--class-images",
        type=int,
        metavar="N",
        help="for prior preservation, 0 for none\n(16; with --checkpoint 50)",
    )
    add(
        "--work",
        type=Path,
        default=ROOT / ".demo",
        metavar="DIR",
        help="where everything is put (.demo in the checkout)",
    )
    add("--serve", action="store_true", help="leave ComfyUI open with the graph in the page")
    add(
        "--write-example", action="store_true", help="only write example_workflows and locales anew"
    )
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    options = arguments(argv)
    sys.path.insert(0, str(ROOT))
    importlib.import_module("demo.checkout").load_pack()
    environment = importlib.import_module("pack.demo.environment")
    inside = os.environ.get(INSIDE)
    if not inside:
        print("DreamBooth demo", flush=True)
    try:
        place = environment.prepare(ROOT, options.comfyui, options.python)
    except environment.EnvironmentFailed as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The next start goes on from here.")
        return 130
    if inside == str(place.python):
        return importlib.import_module("pack.demo.main").run(options, place)
    os.environ[INSIDE] = str(place.python)
    command = [str(place.python), str(Path(__file__).resolve()), *argv]
    sys.stdout.flush()
    if os.name == "nt":  # there execv would give the prompt back while the demo runs
        return subprocess.run(command).returncode
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
