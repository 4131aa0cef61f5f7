"""Queue it again: a cancelled run goes on, a finished one is handed over, also after a restart."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from graphs import Graph, Node, executed, forget, pixels, small_run, text_of, trained
from pack.demo.client import ComfyClient, PromptInterrupted

STEPS = 7  # no other phase has as many units


@dataclass
class Queue:
    """One queue of the graph: which nodes ran, what *Train* said, the picture behind it."""

    ran: set[str]
    text: str
    picture: np.ndarray
    train: Node


@dataclass
class Story:
    """The same graph queued again and again."""

    cancelled_at: int = 0
    queues: dict[str, Queue] = field(default_factory=dict)


@pytest.fixture(scope="module")
def story(server, connect, info, base_name, drawn, runs) -> Iterator[Story]:
    """Cancelled, queued again, sampled anew, forgotten by the host, restarted, trained again."""
    told, client = Story(), connect()
    told.cancelled_at = cancel(client, make(info, base_name, drawn), runs / "story")
    told.queues["resumed"] = queue(client, make(info, base_name, drawn))
    told.queues["downstream"] = queue(client, make(info, base_name, drawn, sampler_seed=2))
    forget(client, info)
    told.queues["forgotten"] = queue(client, make(info, base_name, drawn))
    client.close()
    server.stop()
    server.start()
    client = connect()
    told.queues["restarted"] = queue(client, make(info, base_name, drawn))
    told.queues["again"] = queue(client, make(info, base_name, drawn, train_again=True))
    client.close()
    yield told


def make(
    info: dict, base_name: str, folder: str, sampler_seed: int = 1, **inputs: bool
) -> tuple[Graph, Node, Node]:
    graph, train = small_run(info, base_name, folder, "story", {"steps": STEPS}, **inputs)
    return graph, train, graph.sample(trained(train), seed=sampler_seed)


def queue(client: ComfyClient, made: tuple[Graph, Node, Node]) -> Queue:
    graph, train, picture = made
    outcome = client.run(graph)
    said = text_of(outcome, train)
    return Queue(executed(outcome), said, pixels(client, outcome, picture), train)


def cancel(client: ComfyClient, made: tuple[Graph, Node, Node], folder: Path) -> int:
    """Interrupt after the second step; the step that was kept."""
    graph, train, _ = made

    def stop(event: dict) -> None:
        data = event["data"]
        is_step = event["type"] == "progress" and (data["node"], data["max"]) == (train.id, STEPS)
        if is_step and data["value"] == 2:
            client.interrupt()

    with pytest.raises(PromptInterrupted):
        client.run(graph, stop)
    return json.loads((folder / "result.json").read_text())["steps"]


def test_a_cancelled_run_goes_on(story: Story, runs: Path) -> None:
    assert 2 <= story.cancelled_at < STEPS
    said = story.queues["resumed"].text
    assert f"goes on from step {story.cancelled_at} of story" in said
    lines = (runs / "story" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))
    assert (runs / "story" / "state" / f"step{STEPS:06d}.json").is_file()


def test_an_edit_behind_it_does_not_ask_it(story: Story) -> None:
    made = story.queues["downstream"]
    assert made.train.id not in made.ran
    assert not np.array_equal(made.picture, story.queues["resumed"].picture)


@pytest.mark.parametrize("when", ["forgotten", "restarted"])
def test_a_finished_run_is_handed_over(story: Story, when: str) -> None:
    """When the host no longer holds it in memory, and when the host itself is a new one."""
    made = story.queues[when]
    assert made.train.id in made.ran
    assert "this very run is finished: story is handed over" in made.text
    assert f"handed over, finished earlier with {STEPS} steps" in made.text
    assert "story.safetensors" in made.text
    assert np.array_equal(made.picture, story.queues["resumed"].picture)


def test_train_again_gives_an_unbroken_run_of_the_same_bytes(
    story: Story, checkpoints: Path, runs: Path
) -> None:
    made = story.queues["again"]
    assert "handed over" not in made.text and f"story-2: {STEPS} steps" in made.text
    first, second = (checkpoints / f"{name}.safetensors" for name in ("story", "story-2"))
    assert first.read_bytes() == second.read_bytes()
    assert np.array_equal(made.picture, story.queues["resumed"].picture)
    assert not (runs / "story-3").exists()
