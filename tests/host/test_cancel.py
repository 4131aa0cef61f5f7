"""Cancel: at once, with the work kept and nothing half-done left behind."""

import json
from pathlib import Path

import numpy as np
import pytest
from graphs import Graph, Node, pixels, small_run
from pack.demo.client import PromptInterrupted
from pack.trainer.checkpoint import read_checkpoint
from PIL import Image

ENDLESS = {"steps": 5000}


@pytest.fixture(scope="module")
def cancelled(connect, info, base_name, drawn, runs) -> int:
    """A run that is interrupted in its third step; how many steps it had logged then."""
    client = connect()
    graph, train = small_run(info, base_name, drawn, "cancelled", ENDLESS)
    seen: list[int] = []

    def stop(event: dict) -> None:
        if is_step(event, train) and event["data"]["value"] >= 3 and not seen:
            seen.append(len(log_of(runs / "cancelled")))
            client.interrupt()

    with pytest.raises(PromptInterrupted):
        client.run(graph, stop)
    client.close()
    return seen[0]


def is_step(event: dict, train: Node) -> bool:
    """Whether the bar of *DreamBooth Train* tells a step, not a phase before it."""
    data = event["data"]
    return event["type"] == "progress" and (data["node"], data["max"]) == (train.id, 5000)


def log_of(folder: Path) -> list[dict]:
    file = folder / "log.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def leftovers(folder: Path) -> list[str]:
    """Files that were not finished."""
    endings = (".tmp", ".partial")
    return [str(p) for p in folder.rglob("*") if p.suffix in endings or ".partial" in p.name]


def test_it_stops_within_a_step(cancelled: int, runs: Path) -> None:
    assert cancelled >= 3
    assert len(log_of(runs / "cancelled")) - cancelled <= 1


def test_the_result_says_so(cancelled: int, runs: Path) -> None:
    result = json.loads((runs / "cancelled" / "result.json").read_text())
    assert result["stopped"] is True
    assert result["asked"] == 5000
    assert result["steps"] == len(log_of(runs / "cancelled"))


def test_the_last_finished_step_is_a_checkpoint(
    cancelled: int, client, info, base_name, runs, checkpoints, small_base
) -> None:
    tensors, metadata = read_checkpoint(checkpoints / "cancelled.safetensors")
    assert metadata["dreambooth.steps"] == str(len(log_of(runs / "cancelled")))
    base, _ = read_checkpoint(small_base)
    assert any(not value.equal(base[key]) for key, value in tensors.items())

    graph = Graph(info)
    ours = graph.sample(graph.load(str(Path("dreambooth") / "cancelled.safetensors")))
    original = graph.sample(graph.load(base_name))
    outcome = client.run(graph)
    picture = pixels(client, outcome, ours)
    assert picture.std() > 5
    assert not np.array_equal(picture, pixels(client, outcome, original))


def test_the_next_queue_trains(cancelled: int, client, info, base_name, drawn, runs) -> None:
    graph, train = small_run(info, base_name, drawn, "after the cancel")
    outcome = client.run(graph)
    assert train.id in outcome.outputs
    assert len(log_of(runs / "after the cancel")) == 2


def test_a_sampler_behind_a_cancelled_run_does_not_run(
    cancelled: int, client, info, base_name, drawn
) -> None:
    """Else a stopped run would go on into pictures that nobody asked for."""
    graph, train = small_run(info, base_name, drawn, "cancelled before the sampler", ENDLESS)
    behind = graph.sample(graph.load(train[3]))
    started = []

    def stop(event: dict) -> None:
        if event["type"] == "executing":
            started.append(event["data"].get("node"))
        if is_step(event, train):
            client.interrupt()

    with pytest.raises(PromptInterrupted):
        client.run(graph, stop)
    assert train.id in started
    assert behind.id not in started


@pytest.mark.parametrize("phase", ["Reading pictures", "Encoding pictures", "Rehearsing the save"])
def test_before_the_first_step_nothing_is_left(
    phase: str, client, info, base_name, server, runs, checkpoints
) -> None:
    """Sixty fresh pictures, so that reading and encoding take long enough to be stopped.

    While the save is rehearsed, the cancel comes out of the host's own sampler.
    """
    folder = many_pictures(server.folder("input") / phase.replace(" ", "_"), len(phase))
    graph, train = small_run(info, base_name, folder.name, f"stopped {phase}")
    before = {p for root in (runs, checkpoints) for p in root.iterdir()} if runs.exists() else set()
    asked = []

    def stop(event: dict) -> None:
        if event["type"] == "binary" and phase.encode() in event["data"]["bytes"] and not asked:
            asked.append(event)
            client.interrupt()

    with pytest.raises(PromptInterrupted):
        client.run(graph, stop)
    assert asked
    after = {p for root in (runs, checkpoints) for p in root.iterdir()}
    assert {p.name for p in after - before} <= {"cache", ".rehearsal.lock"}
    assert leftovers(server.folder("output")) == []


def many_pictures(folder: Path, seed: int) -> Path:
    folder.mkdir(exist_ok=True)
    noise = np.random.default_rng(seed)
    for number in range(60):
        pixels = noise.integers(0, 255, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((768, 768)).save(folder / f"{number:02d}.png")
    return folder
