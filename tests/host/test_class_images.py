"""Class images: only what is missing is made, and what belongs together stays together."""

import json
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from graphs import Graph, Node, executed, forget, text_of
from pack.demo.client import PromptInterrupted
from pack.trainer.checkpoint import weights_digest
from PIL import Image, ImageChops
from safetensors.torch import load_file, save_file

PROMPT = "a photo of a cat"


def ask(info: dict, base_name: str, **inputs: object) -> tuple[Graph, Node]:
    """A graph that makes class images: (graph, node). The node is no output, so one shows them."""
    graph = Graph(info)
    node = graph.class_images(graph.load(base_name), **({"prompt": PROMPT} | inputs))
    graph.add("PreviewImage", images=node[1])
    return graph, node


@pytest.fixture
def make(client, info, base_name) -> Callable[..., str]:
    """Asks for class images; returns the node's report."""

    def run(base: str = base_name, **inputs: object) -> str:
        forget(client, info)
        graph, node = ask(info, base, **inputs)
        return text_of(client.run(graph), node)

    return run


def folder_of(report: str) -> Path:
    return Path(report.rsplit(" made, in ", 1)[1])


def counts(report: str) -> tuple[int, ...]:
    """(asked, there before, made)."""
    found = re.match(r"(\d+) class images of .*: (\d+) were there, (\d+) made", report)
    assert found, report
    return tuple(int(number) for number in found.groups())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def alike(a: bytes, b: bytes) -> bool:
    """The same picture but for the last bits, which depend on the batch that it was sampled in."""
    pictures = [Image.open(BytesIO(data)).convert("RGB") for data in (a, b)]
    return max(high for _, high in ImageChops.difference(*pictures).getextrema()) <= 2


def test_only_missing_pictures_are_made(make, runs: Path) -> None:
    report = make(count=3)
    folder = folder_of(report)
    assert counts(report) == (3, 0, 3)
    assert folder.parent == runs / "class_images"
    three = contents(folder)
    assert len(three) == 3

    report = make(count=5)
    assert counts(report) == (5, 3, 2)
    assert folder_of(report) == folder
    five = contents(folder)
    assert len(five) == 5
    assert {name: five[name] for name in three} == three
    assert len(set(five.values())) == 5, "two seeds made the same picture"

    names = sorted(five)
    (folder / names[1]).unlink()
    (folder / names[3]).write_bytes(five[names[3]][:100])
    assert counts(make(count=5)) == (5, 3, 2)
    again = contents(folder)
    assert again.keys() == five.keys()
    for name in names:
        assert alike(again[name], five[name]), f"{name} was made differently the second time"
    assert {n for n in names if again[n] != five[n]} <= {names[1], names[3]}

    assert counts(make(count=2)) == (2, 2, 0)
    assert contents(folder) == again


def test_a_picture_that_was_weeded_out_is_made_again(client, info, base_name, runs) -> None:
    """In the next queue, without a restart; and the queue after that is answered from the cache."""
    graph, node = ask(info, base_name, prompt="a weeded cat", count=2)
    folder = folder_of(text_of(client.run(graph), node))
    (folder / "seed000000000001.png").unlink()
    outcome = client.run(graph)
    assert counts(text_of(outcome, node)) == (2, 1, 1)
    assert (folder / "seed000000000001.png").is_file()
    assert executed(client.run(graph)) == set()


def test_another_recipe_has_another_folder(make, small_base, place_model, tmp_path) -> None:
    tensors = load_file(small_base)
    tensors["model.diffusion_model.out.2.bias"] += 0.1
    save_file(tensors, tmp_path / "moved.safetensors")
    moved = place_model(tmp_path / "moved.safetensors")
    variants = [
        {},
        {"prompt": "a photo of a bird"},
        {"resolution": 128},
        {"base": moved},
        {"steps": 3},
        {"negative": "blurry"},
    ]
    folders = [folder_of(make(count=1, **variant)) for variant in variants]
    assert len(set(folders)) == len(variants)
    assert "a_photo_of_a_bird" in folders[1].name
    (picture,) = folders[2].iterdir()
    assert Image.open(picture).size == (128, 128)


def test_settings_of_another_resolution_are_told(client, info, base_name) -> None:
    def said(resolution: int) -> str:
        graph, node = ask(info, base_name, count=1)
        settings = graph.add("DreamBoothSettings", resolution=resolution)
        graph[node.id]["inputs"]["settings"] = settings[0]
        return text_of(client.run(graph), node)

    assert said(128).splitlines()[1].startswith("these are made at resolution = 64")
    assert len(said(64).splitlines()) == 1


def test_each_picture_says_how_it_was_made(make, small_base: Path) -> None:
    folder = folder_of(make(count=2, seed=40))
    said = json.loads(Image.open(folder / "seed000000000041.png").text["dreambooth"])
    assert (said["prompt"], said["seed"], said["resolution"]) == (PROMPT, 41, 64)
    assert said["base"] == weights_digest(load_file(small_base))


def test_cancel_keeps_what_is_made(client, info, base_name, make) -> None:
    settings = {"prompt": "a photo of a slow cat", "count": 40, "batch_size": 1}
    graph, node = ask(info, base_name, **settings)

    def stop(event: dict) -> None:
        data = event["data"]
        if event["type"] == "progress" and data["node"] == node.id and data["value"] >= 6:
            client.interrupt()

    with pytest.raises(PromptInterrupted):
        client.run(graph, stop)
    report = make(**(settings | {"count": 2}))
    assert counts(report) == (2, 2, 0), "the first two of six steps' three pictures are kept"
    names = sorted(contents(folder_of(report)))
    assert 2 <= len(names) < 40
    assert names == [f"seed{number:012d}.png" for number in range(len(names))]
