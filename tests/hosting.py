"""A real ComfyUI server for the tests in `host/` and `web/`, with this pack linked into it.

``COMFYUI_FRONT_END`` names the folder of another page than the one that this ComfyUI pins: the
``static`` folder of a comfyui-frontend-package.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pack.demo.client import ComfyClient, PromptFailed
from pack.demo.server import ROOT, ComfyServer

BASE_NAME = "small_sd15.safetensors"
CACHE = ROOT / ".demo" / "cache"
# Pictures of 64 px gain nothing from threads, and threads that spin while they wait make a server
# many times slower where other processes want the same cores.
THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name in ("host", "web") and "server" in item.fixturenames:
            item.add_marker("host")


@pytest.fixture(scope="session")
def server(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """One server for the whole session, in folders that nobody else uses."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in THREADS.items():
            patch.setenv(name, os.environ.get(name, value))
        base = tmp_path_factory.mktemp("host")
        for kind in ("diffusion_models", "loras", "vae"):
            (base / "models" / kind).mkdir(parents=True)
        (base / "custom_nodes").mkdir()
        shallow = Path(__file__).parent / "host" / "shallow_text_encoders.py"
        shutil.copy(shallow, base / "custom_nodes")
        page = os.environ.get("COMFYUI_FRONT_END")
        other = ("--front-end-root", page) if page else ()
        with ComfyServer(comfyui, base, extra_args=other) as running:
            yield running


@pytest.fixture(scope="session")
def connect(server: ComfyServer) -> Callable[[], ComfyClient]:
    """Makes a client with an event socket of its own; for fixtures that outlive one test."""

    def make() -> ComfyClient:
        server.check()
        return ComfyClient(server.address)

    return make


@pytest.fixture
def client(connect: Callable[[], ComfyClient]) -> Iterator[ComfyClient]:
    running = connect()
    yield running
    running.close()


@pytest.fixture(scope="session")
def small_base() -> Path:
    """The demo's small random base, made once per checkout and shared by the tests."""
    from pack.demo.random_base import ensure_base

    return ensure_base(CACHE / BASE_NAME)


@pytest.fixture(scope="session")
def place_model(server: ComfyServer) -> Callable[..., str]:
    """Offers a file in one of the server's model folders; returns its name there."""

    def place(file: Path, kind: str = "checkpoints", name: str | None = None) -> str:
        target = server.folder("models") / kind / (name or file.name)
        if not target.exists():
            try:
                target.symlink_to(file)
            except OSError:
                shutil.copyfile(file, target)
        return target.name

    return place


@pytest.fixture(scope="session")
def base_name(place_model: Callable[..., str], small_base: Path) -> str:
    """The small base's name in the server's checkpoint list."""
    return place_model(small_base)


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def drawn(photo_folder: Callable[..., str]) -> str:
    """A folder with the demo's drawn pictures that no test changes."""
    return photo_folder(name="drawn")


@pytest.fixture(scope="session")
def info(connect: Callable[[], ComfyClient], base_name: str, drawn: str) -> dict[str, Any]:
    """What the server says about its nodes."""
    client = connect()
    answer = client.object_info()
    client.close()
    return answer


@pytest.fixture(scope="session")
def checkpoints(server: ComfyServer) -> Path:
    """Where finished checkpoints lie."""
    return server.folder("output") / "checkpoints" / "dreambooth"


@pytest.fixture(scope="session")
def runs(server: ComfyServer) -> Path:
    """Where the folders of runs lie, beside caches and class images."""
    return server.folder("output") / "dreambooth"


@pytest.fixture
def refuse(client: ComfyClient, runs: Path, checkpoints: Path) -> Callable[..., str]:
    """Queues a graph that must fail in a node of this type, before a run has any folder."""

    def left() -> set[str]:
        kept = {"cache", "class_images", "intake"}
        folders = (folder for folder in (runs, checkpoints) if folder.is_dir())
        return {str(p) for folder in folders for p in folder.iterdir() if p.name not in kept}

    def run(graph: dict[str, Any], node_type: str) -> str:
        before = left()
        with pytest.raises(PromptFailed) as failed:
            client.run(graph)
        assert failed.value.node_type == node_type, failed.value
        assert left() == before, "a refused run left something behind"
        return failed.value.exception_message

    return run
