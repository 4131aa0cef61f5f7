"""Collects what a run of the demo made: pictures, loss curve, sheet, and where everything is."""

from __future__ import annotations

import json
from pathlib import Path

from .client import ComfyClient, Outcome
from .console import clock
from .pictures import draw_loss, draw_sheet
from .plan import PHOTOS, TEMPLATE, DemoFailed, Plan
from .server import ComfyServer
from .workflow import Json


def collect(
    server: ComfyServer,
    client: ComfyClient,
    plan: Plan,
    graph: Json,
    outcome: Outcome,
    begun: float,
) -> list[tuple[str, object]]:
    """Pictures into ``results``; a table of where everything is."""
    folder = server.base / "results"
    folder.mkdir(exist_ok=True)
    pictures = []
    for prefix, file, label in (
        ("dreambooth/before", "before.png", "before"),
        ("dreambooth/after", "after.png", f"after {plan.steps} steps"),
        ("dreambooth/from_file", "from_file.png", "from the written file"),
    ):
        node = next(
            key for key, entry in graph.items() if entry["inputs"].get("filename_prefix") == prefix
        )
        images = outcome.images(node)
        if not images:
            raise DemoFailed(f"The graph made no picture {prefix}.")
        (folder / file).write_bytes(client.view(**images[0]))
        pictures.append((label, folder / file))
    made = newest_run(server, begun)
    draw_loss(made / "log.jsonl", folder / "loss.png")
    photos = sorted((server.folder("input") / PHOTOS).iterdir())
    note = (
        "The base is a small random network: it can pick up colours and places, no more."
        if plan.small
        else ""
    )
    draw_sheet(photos, pictures, plan.prompt, note, folder / "sheet.png")
    result = json.loads((made / "result.json").read_text("utf-8"))
    return [
        ("pictures", folder),
        ("", "sheet.png  before.png  after.png  from_file.png  loss.png"),
        ("checkpoint", result["checkpoint"]),
        ("run", f"{made}  ({result['steps']} steps in {clock(result['seconds'])})"),
        ("graph", server.folder("user") / "default" / "workflows" / f"{TEMPLATE}.json"),
        ("server's log", server.log),
    ]


def newest_run(server: ComfyServer, begun: float) -> Path:
    """The folder of the run that just ended."""
    found = [
        path
        for path in server.folder("output/dreambooth").glob("*/result.json")
        if path.stat().st_mtime >= begun - 1
    ]
    if not found:
        raise DemoFailed("The training left no result.json in its folder.")
    return max(found, key=lambda path: path.stat().st_mtime).parent
