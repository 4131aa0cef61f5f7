"""Installs what the tests need, checks the style and runs them: ``python tests/run.py [ARGS]``.

Standard library only. Arguments go to pytest: ``python tests/run.py tests/test_x.py -k name``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
sys.path.insert(0, str(ROOT))

from demo.environment import EnvironmentFailed, prepare  # noqa: E402


def main(arguments: list[str]) -> int:
    try:
        environment = prepare(ROOT)
    except EnvironmentFailed as error:
        print(error, file=sys.stderr)
        return 1
    os.environ["COMFYUI_PATH"] = str(environment.comfyui)
    # threads that spin while they wait make small nets many times slower on a busy machine
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if "--slow" not in arguments:
        # toy nets gain nothing by threads, and only with one count do processes agree bit for bit
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    ensure_chromium()
    python = str(environment.python)
    ensure_triton(python)
    for style in (["check"], ["format", "--check"]):
        if code := subprocess.run([python, "-m", "ruff", *style, "."], cwd=ROOT).returncode:
            return code
    chosen = any(Path(part.split("::")[0]).exists() for part in arguments)
    where = [] if chosen else ["tests", *side_by_side(arguments)]
    command = [python, "-m", "pytest", "-c", str(ROOT / "tests" / "pytest.ini"), *where, *arguments]
    return subprocess.run(command, cwd=ROOT).returncode


def ensure_chromium() -> None:
    """Asks the system's package manager for the page tests' browser, where that needs no person.

    Without one they skip, and say what to install.
    """
    known = os.environ.get("CHROMIUM") or any(map(shutil.which, BROWSERS))
    if known or not shutil.which("apt-get") or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return
    print("Installing Chromium for the tests of the page")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
        if subprocess.run(["apt-get", *command], env=environment, **quiet).returncode:
            print("  it was not installed: those tests will skip")
            return


def ensure_triton(python: str) -> None:
    """Puts Triton into the environment: its interpreter runs our kernel without a card.

    torch for cards brings it along, torch for processors does not. Without it those tests skip.
    """
    if not sys.platform.startswith("linux"):
        return
    look = "import importlib.util as u; raise SystemExit(u.find_spec('triton') is None)"
    if subprocess.run([python, "-c", look]).returncode == 0:
        return
    print("Installing Triton for the tests of the update in one pass")
    command = [python, "-m", "pip", "install", "--quiet", "--no-deps", "triton"]
    if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
        print("  it was not installed: those tests will skip")


def side_by_side(arguments: list[str]) -> list[str]:
    """pytest's arguments for a process per core, each with whole files and a server of its own.

    Not for full-size nets, which take the whole memory, nor for full counts, which share a file.
    """
    if {"--slow", "--faults"} & set(arguments):
        return []
    return ["-n", str(min(4, os.cpu_count() or 1)), "--dist", "loadfile"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
