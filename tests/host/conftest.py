"""A real ComfyUI server for the tests in this folder, with this pack linked into it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pack.demo.client import ComfyClient
from pack.demo.server import ROOT, ComfyServer

BASE_NAME = "small_sd15.safetensors"
CACHE = ROOT / ".demo" / "cache"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here) and "server" in getattr(item, "fixturenames", ()):
            item.add_marker("host")


@pytest.fixture(scope="session")
def server(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """One server for the whole session, in folders that nobody else uses."""
    with ComfyServer(comfyui, tmp_path_factory.mktemp("host")) as running:
        yield running


@pytest.fixture
def client(server: ComfyServer) -> Iterator[ComfyClient]:
    server.check()
    running = ComfyClient(server.address)
    yield running
    running.close()


@pytest.fixture(scope="session")
def small_base() -> Path:
    """The demo's small random base, made once per checkout and shared by the tests."""
    from pack.demo.random_base import ensure_base

    return ensure_base(CACHE / BASE_NAME)


@pytest.fixture
def base_name(server: ComfyServer, small_base: Path) -> str:
    """The small base's name in the server's checkpoint list."""
    link = server.folder("models/checkpoints") / BASE_NAME
    if not link.exists():
        try:
            link.symlink_to(small_base)
        except OSError:
            shutil.copyfile(small_base, link)
    return link.name


@pytest.fixture
def photo_folder(server: ComfyServer) -> Callable[..., str]:
    """Puts pictures into a folder under the server's input and returns the folder's name."""

    def place(source: Path | None = None, name: str = "photos", limit: int | None = None) -> str:
        target = server.folder("input") / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        if source is None:
            from pack.demo.photos import draw_photos

            draw_photos(target)
        else:
            for file in sorted(p for p in source.iterdir() if p.is_file())[:limit]:
                shutil.copyfile(file, target / file.name)
        os.utime(target)  # the server compares folder times
        return name

    return place
