"""What the page looks like: the newer way of drawing nodes, and both themes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from graphs import Graph
from pages import open_tab, pictures, wait_for


@pytest.fixture
def new_nodes(connect: Callable) -> Iterator[None]:
    """The page draws nodes in its newer way, "Nodes 2.0"."""
    client = connect()
    client.post("/settings", {"Comfy.VueNodes.Enabled": True})
    yield
    client.post("/settings", {"Comfy.VueNodes.Enabled": False})
    client.close()


def test_nodes_2_show_the_same(
    new_nodes: None, open_page: Callable[..., Any], finished: Graph, screenshots: Path
) -> None:
    page = open_page(finished)
    page.locator("[data-node-id]").first.wait_for()
    train = "app.graph.nodes.find((node) => node.type === 'DreamBoothTrain')"
    page.evaluate(f"() => app.canvas.centerOnNode({train})")
    wait_for(lambda: len(pictures(page)) == 5)
    page.screenshot(path=screenshots / "nodes-2.png")
    panel = page.locator(".db-panel[data-state]")
    assert "Finished" in panel.inner_text()
    node = page.locator("[data-node-id]", has=panel)
    inner, outer = panel.bounding_box(), node.bounding_box()
    assert inner["x"] >= outer["x"] and inner["width"] <= outer["width"]
    assert inner["y"] + inner["height"] <= outer["y"] + outer["height"] + 1
    page.locator(".db-picture").nth(3).click()
    page.locator(".db-viewer img").first.wait_for()


CONTRAST = """(selector) => {
    const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const parse = (text) => text.match(/[\\d.]+/g).map(Number);
    const one = document.querySelector(selector);
    const svg = one instanceof SVGElement;
    let back = one;
    while (back && (parse(getComputedStyle(back).backgroundColor)[3] ?? 1) === 0) {
        back = back.parentElement;
    }
    const pair = [getComputedStyle(one)[svg ? "fill" : "color"],
                  getComputedStyle(back).backgroundColor].map((c) => light(parse(c)));
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_both_themes_are_readable(
    theme: str, open_page: Callable[..., Any], finished: Graph, screenshots: Path
) -> None:
    page = open_page(finished, theme)
    wait_for(lambda: len(pictures(page)) == 5)
    page.locator(".db-plot").focus()
    page.locator(".db-plot").press("End")
    said = [".db-title", ".db-facts", ".db-tick", ".db-notes", ".db-readout .db-instance"]
    panel = [f".db-panel {name}" for name in [*said, ".db-readout .db-class", ".db-picture span"]]
    page.screenshot(path=screenshots / f"finished-{theme}.png")
    check_contrast(page, panel)
    open_tab(page)
    page.screenshot(path=screenshots / f"runs-{theme}.png")
    check_contrast(page, [".db-entry-run small", ".db-entry-run strong", ".db-state"])
    page.locator(".db-entry-run[data-run='finished']").click()
    page.locator(".db-run .db-list dd").first.wait_for()
    wait_for(lambda: len(pictures(page, ".db-run")) == 5)
    page.screenshot(path=screenshots / f"run-{theme}.png")
    check_contrast(page, [".db-run dt", ".db-run dd", ".db-file small", ".db-run .db-danger"])
    page.locator(".db-run .db-picture").nth(3).click()
    page.locator(".db-viewer img").first.wait_for()
    page.screenshot(path=screenshots / f"viewer-{theme}.png")
    check_contrast(page, [".db-viewer h2", ".db-viewer p", ".db-ends span"])


def check_contrast(page: Any, selectors: list[str]) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1."""
    poor = {name: page.evaluate(CONTRAST, name) for name in selectors}
    assert {name: ratio for name, ratio in poor.items() if ratio < 4.5} == {}
