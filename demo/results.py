"""Collects what a run of the demo made: pictures, loss curve, sheet, and where everything is."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from ..trainer.curve import read_points
from ..trainer.plot import plot_losses
from .client import ComfyClient, Outcome
from .console import clock, phase
from .plan import PHOTOS, TEMPLATE, DemoFailed, Plan
from .sampling import Shot, sample
from .server import ComfyServer
from .sheet import Comparison, draw_sheet
from .workflow import Json
from .world import PLACES

NEW_PLACES = ("moon", "snow", "sea", "night")  # where no drawn photo was taken
FIRST_SEED = 1000  # the class images that trained have the seeds from 0 on


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
    save_pictures(client, graph, outcome, folder)
    made = newest_run(server, begun)
    result = json.loads((made / "result.json").read_text("utf-8"))
    points = read_points(made / "log.jsonl")
    plot_losses(points, "Training loss").save(folder / "loss.png")
    took = f"{result['steps']} steps in {clock(result['seconds'])}"
    trained = Path(result["checkpoint"])
    draw_sheet(
        sorted((server.folder("input") / PHOTOS).iterdir()),
        compare(client, plan, str(trained.relative_to(server.folder("output/checkpoints")))),
        f"DreamBooth: “{plan.subject}”",
        f"{took} at {plan.resolution} pixels, inside ComfyUI. Same prompt and seed in a column.",
        plan.recipe.note,
        folder / "sheet.png",
    )
    return [
        ("pictures", folder),
        ("", "sheet.png  before.png  after.png  from_file.png  loss.png"),
        ("checkpoint", trained),
        ("run", f"{made}  ({took})"),
        ("graph", server.folder("user") / "default" / "workflows" / f"{TEMPLATE}.json"),
        ("server's log", server.log),
    ]


def save_pictures(client: ComfyClient, graph: Json, outcome: Outcome, folder: Path) -> None:
    """The graph's own three pictures: ``before.png``, ``after.png`` and ``from_file.png``."""
    for name in ("before", "after", "from_file"):
        prefix = f"dreambooth/{name}"
        node = next(
            key for key, entry in graph.items() if entry["inputs"].get("filename_prefix") == prefix
        )
        images = outcome.images(node)
        if not images:
            raise DemoFailed(f"The graph made no picture {prefix}.")
        (folder / f"{name}.png").write_bytes(client.view(**images[0]))


def compare(client: ComfyClient, plan: Plan, trained: str) -> list[Comparison]:
    """The subject in new places, and its class, by the base and by the trained checkpoint."""
    phrases = [PLACES[place].phrases[0] for place in NEW_PLACES]
    prompts = [f"a photo of {plan.subject} {phrase}" for phrase in phrases]
    prompts += [f"a photo of a {plan.noun}"] * len(phrases)
    shots = [Shot(prompt, FIRST_SEED + number) for number, prompt in enumerate(prompts)]
    made: list[str] = []

    def shoot(checkpoint: str, name: str) -> list[Image.Image]:
        prefix = f"dreambooth/sheet_{name}"
        return sample(client, checkpoint, shots, plan.sampling, prefix, lambda: made.append(name))

    with phase("the same prompts before and after", lambda: f"{len(made)}/{2 * len(shots)}"):
        before, after = shoot(plan.base, "before"), shoot(trained, "after")
    half = len(phrases)
    return [
        Comparison(
            f"New pictures: “a photo of {plan.subject} …”",
            [f"… {phrase}" for phrase in phrases],
            before[:half],
            after[:half],
        ),
        Comparison(
            f"Its class, which should stay as it was: “a photo of a {plan.noun}”",
            (),
            before[half:],
            after[half:],
        ),
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
