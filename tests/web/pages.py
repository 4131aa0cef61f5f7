"""What the tests of the page do with it."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SUBJECT = "<b>zwx</b>"  # text, wherever it comes up
TAB = ".dreambooth-tab-button, [data-testid=dreambooth-tab-button]"  # older and newer pages'
READY = "() => window.app?.extensionManager?.spinner === false && app.graph && window.LiteGraph"


def wait_for(what: Callable[[], Any], seconds: float = 60) -> Any:
    """Asks until the answer is true; returns it."""
    end = time.monotonic() + seconds
    while not (got := what()):
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)
    return got


def load(page: Any, graph: dict) -> None:
    """Shows a graph with its *DreamBooth Train*, or else *Instance Images*, in the middle."""
    page.evaluate(
        """async (graph) => {
            await app.loadApiJson(graph, "test");
            const find = (type) => app.graph.nodes.find((one) => one.type === type);
            const node = find("DreamBoothTrain") ?? find("DreamBoothInstanceImages");
            app.canvas.ds.scale = 1;
            app.canvas.ds.offset = [-node.pos[0] + 700, -node.pos[1] + 130];
            app.canvas.setDirty(true, true);
        }""",
        dict(graph),
    )
    page.locator(".db-panel").first.wait_for(state="attached")


class Socket:
    """The page's event socket, from its next load on; the page tries again while it is down."""

    def __init__(self, page: Any) -> None:
        self.up, self.ends = True, []
        page.route_web_socket(re.compile(r"/ws\b"), self._answer)

    def _answer(self, end: Any) -> None:
        if self.up:
            self.ends = [end, end.connect_to_server()]
        else:
            end.close()

    def drop(self) -> None:
        self.up = False
        for end in self.ends:
            end.close()

    def restore(self) -> None:
        self.up = True


def queue(page: Any) -> None:
    page.evaluate("() => { app.queuePrompt(0, 1); }")


def step_of(page: Any) -> int:
    """The step in the panel's title; 0 while it says something else."""
    found = re.search(r"Training · (\d+) /", page.locator(".db-panel .db-title").inner_text())
    return int(found[1]) if found else 0


def steps_in(run: Path) -> int:
    """As many as its log has."""
    return (run / "log.jsonl").read_bytes().count(b"\n")


def pictures(page: Any, where: str = ".db-panel") -> list[str]:
    """What stands under the small pictures that are loaded."""
    return page.evaluate(
        """(where) => [...document.querySelectorAll(`${where} .db-picture`)]
            .filter((one) => one.querySelector("img").naturalWidth > 0)
            .map((one) => one.textContent)""",
        where,
    )


def press(page: Any, name: str) -> None:
    """A button of the panel."""
    page.locator(".db-panel").get_by_role("button", name=name).click()


def open_tab(page: Any) -> None:
    """The tab with all runs."""
    page.locator(TAB).click()
    page.locator(".db-runs .db-entry-run").first.wait_for()


def send(page: Any, detail: str) -> None:
    """A message as if it came from the server; ``detail`` is JavaScript."""
    page.evaluate(
        f"""() => window.comfyAPI.api.api.dispatchEvent(
            new CustomEvent("dreambooth.status", {{ detail: {detail} }}))"""
    )
