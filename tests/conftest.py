"""Registers the checkout as the package ``pack`` (the folder's own name may hold a hyphen, and
its ``__init__`` needs the host), so that tests write ``from pack.trainer.objective import ...``."""

import os
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = ROOT.parent / "shared" / "data" / "dreambooth"

if not Path("/dev/nvidiactl").exists():
    # Triton reads it when something imports it first, which may be torch
    os.environ.setdefault("TRITON_INTERPRET", "1")

pytest_plugins = [
    "hosting",  # the server that host/ and web/ share
    "runs",  # a concept and earlier runs
]

pack = types.ModuleType("pack")
pack.__path__ = [str(ROOT)]
sys.modules["pack"] = pack


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the full-size tests (20 GiB)")
    help = "run the fault tests at full count and write docs/results/faults.json"
    parser.addoption("--faults", action="store_true", help=help)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--faults"):
        for item in items:
            item.add_marker(pytest.mark.timeout(3600))
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: pass --slow"))


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the fault tests run at full count; else a short form of each."""
    return bool(request.config.getoption("--faults"))


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The ComfyUI tree that parity tests compare with and host tests start."""
    path = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui"))
    if not (path / "main.py").is_file():
        pytest.fail(f"no ComfyUI at {path}: run the tests with `python tests/run.py`")
    return path


@pytest.fixture(scope="session")
def photos() -> Path:
    """Real photographs, where this machine has them."""
    if not PHOTOS.is_dir():
        pytest.skip("the folder with real photographs is not on this machine")
    return PHOTOS
