"""The whole graph, from photos to the trained model's pictures, in one queue."""

import filecmp
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from graphs import Graph, Node, executed, pixels, text_of, trained
from pack.demo.client import Event, Outcome
from pack.trainer.checkpoint import read_checkpoint
from PIL import Image

# 512 px is what photos are trained at; the little base needs tens of seconds for each such step.
KINDS = {
    "drawn": {"steps": 4, "preview_every": 2, "trains": "unet + text encoder"},
    "photos": {"steps": 1, "resolution": 512},
}
MODIFIERS = {"drawn": {"DreamBoothLoss": {"weighting": "min_snr", "noise_offset": 0.05}}}


@dataclass
class Run:
    """One queue of the whole graph and what it left."""

    kind: str
    graph: Graph
    outcome: Outcome
    events: list[Event]
    train: Node
    memory: Node
    file: Node
    untouched: np.ndarray

    @property
    def settings(self) -> dict[str, Any]:
        return KINDS[self.kind]


@pytest.fixture(scope="module", params=KINDS)
def run(request, connect, info, base_name, photo_folder, drawn) -> Run:
    """Instance and class images → concept → train → both ways to sample the result."""
    kind = request.param
    folder = drawn
    if kind == "photos":
        folder = photo_folder(request.getfixturevalue("photos") / "dog6", "dog6")
    side = KINDS[kind].get("resolution", 64)
    client, events = connect(), []
    before = Graph(info)
    base_picture = before.sample(before.load(base_name))
    outcome = client.run(before)
    untouched = pixels(client, outcome, base_picture)

    graph = Graph(info)
    base = graph.load(base_name)
    count = 3 if kind == "drawn" else 1
    class_images = graph.class_images(base, count=count, resolution=side, batch_size=count)
    concept = graph.concept(
        graph.photos(folder), class_images=class_images[0], identifier="zwx", class_noun="dog"
    )
    train = graph.train(base, concept, f"my {kind}", KINDS[kind], MODIFIERS.get(kind))
    memory = graph.sample(trained(train))
    file = graph.sample(graph.load(train[3]))
    outcome = client.run(graph, events.append)
    yield Run(kind, graph, outcome, events, train, memory, file, untouched)
    client.close()


def test_the_wired_model_and_its_file_make_the_same_picture(run: Run, client) -> None:
    from_memory = pixels(client, run.outcome, run.memory)
    assert np.array_equal(from_memory, pixels(client, run.outcome, run.file))
    assert from_memory.std() > 5, "an even picture shows nothing"
    assert not np.array_equal(from_memory, run.untouched), "training changed nothing"


def test_the_base_is_untouched(run: Run, client, info, base_name) -> None:
    graph = Graph(info)
    node = graph.sample(graph.load(base_name))
    outcome = client.run(graph)
    assert node.id in executed(outcome), "the picture came from the cache"
    assert np.array_equal(pixels(client, outcome, node), run.untouched)


def test_the_checkpoint_is_a_checkpoint_of_the_host(run: Run, client, checkpoints) -> None:
    assert (checkpoints / f"my {run.kind}.safetensors").is_file()
    loader = client.object_info()["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"]
    assert str(Path("dreambooth") / f"my {run.kind}.safetensors") in loader[0]


def test_the_host_shows_what_the_checkpoint_says_about_itself(run: Run, client) -> None:
    metadata = client.get(
        "/view_metadata/checkpoints", filename=f"dreambooth/my {run.kind}.safetensors"
    )
    assert metadata["modelspec.title"] == f"my {run.kind}"
    assert metadata["modelspec.trigger_phrase"] == "zwx dog"
    assert metadata["modelspec.prediction_type"] == "epsilon"
    assert metadata["dreambooth.steps"] == str(run.settings["steps"])
    (concept,) = json.loads(metadata["dreambooth.concepts"])
    assert concept["instance_prompt"] == "a photo of zwx dog"
    assert concept["class_prompt"] == "a photo of a dog"
    config = json.loads(metadata["dreambooth.config"])
    assert {key: config[key] for key in run.settings} == run.settings


def test_what_was_asked_to_train_did_and_the_rest_did_not(run: Run, checkpoints, small_base):
    base, _ = read_checkpoint(small_base)
    result, _ = read_checkpoint(checkpoints / f"my {run.kind}.safetensors")
    assert result.keys() == base.keys()
    changed = {key.split(".")[0] for key, value in result.items() if not value.equal(base[key])}
    expected = {"model", "cond_stage_model"} if run.kind == "drawn" else {"model"}
    assert changed == expected


def test_the_log_has_one_line_a_step(run: Run, runs: Path) -> None:
    text = (runs / f"my {run.kind}" / "log.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["step"] for line in lines] == list(range(1, run.settings["steps"] + 1))
    assert all(line["instance_loss"] > 0 and line["class_loss"] > 0 for line in lines)


def test_the_run_can_be_read_again(run: Run, runs: Path, small_base: Path) -> None:
    folder = runs / f"my {run.kind}"
    job = json.loads((folder / "job.json").read_text())
    assert job["name"] == f"my {run.kind}"
    assert filecmp.cmp(job["base"], small_base, shallow=False)  # the demo's test links its own
    assert {key: job["config"][key] for key in run.settings} == run.settings
    changed = job["config"]["loss"]
    expected = ("min_snr", 0.05) if run.kind == "drawn" else ("none", 0.0)
    assert (changed["weighting"], changed["noise_offset"]) == expected
    result = json.loads((folder / "result.json").read_text())
    assert result["stopped"] is False
    assert result["steps"] == result["asked"] == run.settings["steps"]


def test_the_node_says_where_the_checkpoint_is(run: Run) -> None:
    said = text_of(run.outcome, run.train)
    assert f"my {run.kind}.safetensors" in said
    assert f"{run.settings['steps']} steps in" in said
    assert re.search(r"^memory: about \d+\.\d GiB of the \d+\.\d GiB", said, re.MULTILINE)


def test_samples_are_on_disk(run: Run, runs: Path) -> None:
    files = sorted(p.name for p in (runs / f"my {run.kind}" / "samples").iterdir())
    if run.kind == "photos":
        assert files == []
        return
    assert files == [f"step{step:06d}_00.png" for step in (0, 2, 4)]
    first, *_, last = ((runs / "my drawn" / "samples" / name) for name in files)
    assert Image.open(last).size == (64, 64)
    assert not np.array_equal(np.asarray(Image.open(first)), np.asarray(Image.open(last)))


def test_the_bar_moves_step_by_step(run: Run) -> None:
    values = [
        e["data"]["value"]
        for e in run.events
        if e["type"] == "progress"
        and e["data"]["node"] == run.train.id
        and e["data"]["max"] == run.settings["steps"]
    ]
    if 0 in values:  # phases that happen to be as long as the training came before
        values = values[len(values) - values[::-1].index(0) :]
    assert values == sorted(values)
    assert set(range(1, run.settings["steps"] + 1)) <= set(values)
    states = [
        e["data"]["nodes"].get(run.train.id) for e in run.events if e["type"] == "progress_state"
    ]
    assert [s for s in states if s][-1]["state"] == "finished"


def test_lines_of_text_name_step_and_time_left(run: Run) -> None:
    lines = texts(run)
    assert any(line.startswith("step ") and "left" in line and "it/s" in line for line in lines)
    assert any(line.startswith("Encoding pictures 0/") for line in lines)
    assert any(f"my {run.kind}.safetensors" in line for line in lines)


def test_previews_arrive_while_it_trains(run: Run) -> None:
    pictures = [body for kind, body in binaries(run) if kind == 4]
    shown = [body for body in pictures if preview_of(body) == run.train.id]
    if run.kind == "photos":
        assert shown == []
        return
    assert len(shown) >= 2
    assert b"\xff\xd8\xff" in shown[0], "not a JPEG"


def binaries(run: Run) -> list[tuple[int, bytes]]:
    """The binary messages: (kind, the rest); 1 and 4 are pictures, 3 is text (protocol.py)."""
    sent = [e["data"]["bytes"] for e in run.events if e["type"] == "binary"]
    return [(int.from_bytes(message[:4], "big"), message[4:]) for message in sent]


def texts(run: Run) -> list[str]:
    """The lines under *DreamBooth Train*."""
    lines = []
    for kind, body in binaries(run):
        length = int.from_bytes(body[:4], "big")
        if kind == 3 and body[4 : 4 + length].decode() == run.train.id:
            lines.append(body[4 + length :].decode())
    return lines


def preview_of(body: bytes) -> str:
    """The node that a preview with metadata belongs to."""
    length = int.from_bytes(body[:4], "big")
    return json.loads(body[4 : 4 + length])["node_id"]
