"""What a page that watches costs the training: ``python benchmarks/page.py``.

One run in a real ComfyUI, watched by a real Chromium in turns: a stretch with the panel open and
drawing, a stretch with nobody connected, and again. Compares neighbouring stretches: steps a
second, which a browser on the same processor slows, too; and the processor time of the thread that
serves pages, which is what a page elsewhere costs. Writes docs/results/page.json with --write.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import json
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "page.json"
SETTLE = 4.0  # seconds after the page came or went that are not counted
READY = "() => window.app?.extensionManager?.spinner === false && app.graph"
STEPS = 100_000  # more than any bench takes


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks/page.py", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--comfyui", type=Path, default=ROOT / ".comfyui", metavar="DIR")
    add("--rounds", type=int, default=6, help="pairs of stretches (6)")
    add("--seconds", type=float, default=20.0, help="of each stretch (20)")
    add("--work", type=Path, default=ROOT / ".demo" / "page", metavar="DIR")
    add("--write", action="store_true", help="the result into docs/")
    return parser.parse_args(argv)


@dataclass(frozen=True)
class Stretch:
    """What was measured between two moments of the run."""

    speed: float
    """Steps a second, from the end of a step to that of another."""
    serving: float
    """Processor seconds of the thread that serves pages, in a second."""


@dataclass(frozen=True)
class Run:
    """The training that goes on all the while."""

    log: Path
    process: Any
    """psutil's, of the server."""

    def ends(self) -> list[float]:
        """When each step ended, in seconds since the run began."""
        lines = self.log.read_text("utf-8").split("\n")[:-1]
        return [json.loads(line)["seconds"] for line in lines]

    def watch(self, seconds: float) -> Stretch:
        time.sleep(SETTLE)
        first, begun, work = len(self.ends()), time.monotonic(), self._serving()
        time.sleep(seconds)
        serving = (self._serving() - work) / (time.monotonic() - begun)
        ends = self.ends()[first:]
        return Stretch((len(ends) - 1) / (ends[-1] - ends[0]), serving)

    def _serving(self) -> float:
        """ComfyUI's main thread has the event loop; another one trains."""
        main = next(one for one in self.process.threads() if one.id == self.process.pid)
        return main.user_time + main.system_time


def main(argv: list[str]) -> int:
    options = arguments(argv)
    sys.path.insert(0, str(ROOT))
    importlib.import_module("demo.checkout").load_pack()
    shutil.rmtree(options.work, ignore_errors=True)
    with training(options) as (run, server, workflow), browser() as chromium:
        pairs = []
        for turn in range(options.rounds):
            with panel(chromium, server.url, workflow):
                watched = run.watch(options.seconds)
            alone = run.watch(options.seconds)
            pairs.append((watched, alone))
            print(f"  {turn + 1} of {options.rounds}: {watched.speed:.2f} steps/s with the panel, "
                  f"{alone.speed:.2f} without", flush=True)  # fmt: skip
    result = summary(pairs, options)
    print(json.dumps(result, indent=1))
    if options.write:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return 0


@contextlib.contextmanager
def training(options: argparse.Namespace) -> Iterator[tuple[Run, Any, dict]]:
    """A run of the demo's graph on a random base; nobody is connected to its server."""
    import psutil

    demo = importlib.import_module("pack.demo.plan")
    arguments_of_demo = importlib.import_module("pack.demo.run").arguments
    workflows = importlib.import_module("pack.demo.workflow")
    client_of = importlib.import_module("pack.demo.client").ComfyClient
    example = importlib.import_module("pack.demo.templates").EXAMPLE
    server = importlib.import_module("pack.demo.server").ComfyServer(options.comfyui, options.work)
    asked = ["--random-base", "--steps", str(STEPS), "--class-images", "0"]
    plan = demo.prepare_inputs(arguments_of_demo(asked), server)
    with server.start():
        client = client_of(server.address)
        info, workflow = client.object_info(), json.loads(example.read_text("utf-8"))
        demo.fill(workflow, info, plan)
        client.queue(workflows.to_api(workflow, info))
        client.close()
        log = server.folder("output") / "dreambooth" / plan.name / "log.jsonl"
        run = Run(log, psutil.Process(server.process.pid))
        until(lambda: log.is_file() and len(run.ends()) > 5, "the training did not begin")
        yield run, server, workflow


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    names = importlib.import_module("pack.tests.run").BROWSERS
    found = next(filter(None, map(shutil.which, names)), None)
    if not found:
        sys.exit("error: no Chromium: install one (apt-get install chromium)")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])


@contextlib.contextmanager
def panel(chromium: Any, url: str, workflow: dict) -> Iterator[None]:
    """The graph in a page, the panel in the middle; makes sure that it moves all the while."""
    with contextlib.closing(chromium.new_context(viewport={"width": 1500, "height": 950})) as tab:
        page = tab.new_page()
        page.goto(url)
        page.wait_for_function(READY)
        page.evaluate(
            """async (workflow) => {
                await app.loadGraphData(workflow);
                const node = app.graph.nodes.find((one) => one.type === "DreamBoothTrain");
                app.canvas.ds.scale = 1;
                app.canvas.ds.offset = [-node.pos[0] + 500, -node.pos[1] + 130];
            }""",
            workflow,
        )
        title = page.locator(".db-panel .db-title")
        until(lambda: "Training" in title.inner_text(), "the panel shows no training")
        before = title.inner_text()
        yield
        if title.inner_text() == before or not title.is_visible():
            sys.exit(f"error: the panel stood still: {before}")


def until(done: Any, otherwise: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            sys.exit(f"error: {otherwise}")
        time.sleep(0.2)


def summary(pairs: list[tuple[Stretch, Stretch]], options: argparse.Namespace) -> dict:
    def spread(values: list[float]) -> dict[str, float]:
        named = {"median": statistics.median(values), "low": min(values), "high": max(values)}
        return {name: round(value, 4) for name, value in named.items()}

    return {
        "date": datetime.date.today().isoformat(),
        "command": f"python benchmarks/page.py --rounds {options.rounds}"
        f" --seconds {options.seconds:g}",
        "steps_per_second_alone": spread([alone.speed for _, alone in pairs]),
        "steps_per_second_ratio": spread([w.speed / a.speed for w, a in pairs]),
        "serving_with_panel": spread([watched.serving for watched, _ in pairs]),
        "serving_alone": spread([alone.serving for _, alone in pairs]),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
