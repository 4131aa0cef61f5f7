"""One Chromium for all tests of this folder, on the server of :mod:`hosting`.

Screenshots of every view go to the folder named by ``DREAMBOOTH_SCREENSHOTS``, else to a temporary
one. What our scripts log as an error fails the test.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from graphs import Graph
from pack.demo.server import PACK_NAME, ComfyServer
from pack.tests.run import BROWSERS
from pages import READY, SUBJECT, load

ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Minimap.Visible": False}
SIZE = {"width": 1500, "height": 950}
HOSTS_OWN = "getCanvas: canvas is null"


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium of the system's: ``CHROMIUM`` names another one."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip("no Chromium: install one (apt-get install chromium), or set CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield running
        running.close()


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chosen = os.environ.get("DREAMBOOTH_SCREENSHOTS")
    folder = Path(chosen) if chosen else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def complaints() -> list[str]:
    """What our scripts logged as errors."""
    return []


@pytest.fixture
def open_page(
    browser: Any, server: ComfyServer, connect: Callable, complaints: list[str]
) -> Iterator[Callable[..., Any]]:
    """Opens ComfyUI in a tab of its own, with a graph, in a theme."""
    tabs = []

    def listen(page: Any) -> None:
        def on_console(message: Any) -> None:
            source = f"{message.text} {message.location.get('url', '')}"
            ours = f"extensions/{PACK_NAME}" in source or "/dreambooth/" in source
            if message.type == "error" and ours:
                complaints.append(source)

        def on_error(error: Any) -> None:
            # the host's own, when a message of a running prompt comes before its canvas is there
            if HOSTS_OWN not in str(error) or f"extensions/{PACK_NAME}" in error.stack:
                complaints.append(f"{error}\n{error.stack}")

        page.on("console", on_console)
        page.on("pageerror", on_error)

    def open_one(graph: dict | None = None, theme: str = "dark") -> Any:
        client = connect()
        client.post("/settings", SETTINGS | {"Comfy.ColorPalette": theme})
        client.close()
        tab = browser.new_context(viewport=SIZE)
        tabs.append(tab)
        page = tab.new_page()
        page.set_default_timeout(60_000)
        page.add_init_script("localStorage.setItem('vueNodesBannerDismissed', 'true')")
        listen(page)
        page.goto(server.url)
        page.wait_for_function(READY)
        if graph is not None:
            load(page, graph)
        return page

    yield open_one
    for tab in tabs:
        tab.close()
    assert complaints == []


@pytest.fixture(scope="session")
def finished(connect: Callable, info: dict, base_name: str, drawn: str) -> Graph:
    """The graph of a run that is over, with class images and pictures."""
    client = connect()
    settings = {"steps": 8, "preview_every": 2, "learning_rate": 1e-3}
    graph = Graph(info)
    base = graph.load(base_name)
    class_images = graph.class_images(base)[0]
    concepts = graph.concept(graph.photos(drawn), identifier=SUBJECT, class_images=class_images)
    graph.train(base, concepts, "finished", settings)
    client.run(graph)
    client.close()
    return graph
