"""Concepts: from a file, chained, from pictures on a wire; and when a queue trains again."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from graphs import Graph, executed, small_run, text_of
from pack.demo.photos import draw_photos
from PIL import Image


@pytest.fixture
def two_folders(server) -> Path:
    """``toys/dog``, ``toys/cat`` and ``toys/cats`` under the server's input."""
    root = server.folder("input") / "toys"
    shutil.rmtree(root, ignore_errors=True)
    for number, name in enumerate(("dog", "cat", "cats")):
        draw_photos(root / name, seed=number)
    return root


def job_of(runs: Path, name: str) -> dict:
    return json.loads((runs / name / "job.json").read_text())


def test_a_concepts_file(client, info, base_name, server, two_folders, runs) -> None:
    entries = [
        {
            "instance_prompt": "a photo of zwx dog",
            "class_prompt": "a photo of a dog",
            "instance_data_dir": "toys/dog",
        },
        {
            "instance_prompt": "a photo of ktn cat",
            "class_prompt": "a photo of a cat",
            "instance_data_dir": "toys/cat",
            "class_data_dir": "toys/cats",
        },
    ]
    file = server.folder("input") / "concepts_list.json"
    file.write_text(json.dumps(entries))
    graph = Graph(info)
    concepts = graph.add("DreamBoothConceptsFile", file=file.name, prior_weight=0.5)
    graph.train(graph.load(base_name), concepts, "from file", {"batch_size": 2})
    said = text_of(client.run(graph), concepts)
    assert "5 photos: 'a photo of zwx dog'" in said
    assert "no prior preservation" in said
    assert "5 class images: 'a photo of a cat', weight 0.5" in said

    dog, cat = job_of(runs, "from file")["concepts"]
    assert (dog["identifier"], dog["class_noun"]) == ("zwx", "dog")
    assert (cat["identifier"], cat["class_noun"]) == ("ktn", "cat")
    assert dog["class_images"] == []
    assert [Path(p).parent.name for p in cat["class_images"]] == ["cats"] * 5
    assert [Path(p).parent.name for p in dog["instance_images"]] == ["dog"] * 5

    shutil.copy(next((two_folders / "dog").glob("*.png")), two_folders / "dog" / "new.png")
    assert "6 photos: 'a photo of zwx dog'" in text_of(client.run(graph), concepts)


def test_a_folder_that_a_wire_names_is_looked_at_again(client, info, two_folders) -> None:
    graph = Graph(info)
    path = graph.add("PrimitiveString", value="toys/cat")[0]
    photos = graph.photos("toys/dog", path=path)
    graph.add("PreviewImage", images=photos[1])
    assert "5 images" in text_of(client.run(graph), photos)
    shutil.copy(next((two_folders / "cat").glob("*.png")), two_folders / "cat" / "new.png")
    assert "6 images" in text_of(client.run(graph), photos)


def test_a_concepts_file_cannot_lead_outside(refuse, info, base_name, server) -> None:
    entry = {"instance_prompt": "a zwx dog", "class_prompt": "a dog", "class_data_dir": ""}
    file = server.folder("input") / "outside.json"
    file.write_text(json.dumps([entry | {"instance_data_dir": "/etc"}]))
    graph = Graph(info)
    concepts = graph.add("DreamBoothConceptsFile", file=file.name)
    graph.train(graph.load(base_name), concepts, "refused")
    assert "'/etc' is outside the folders" in refuse(graph, "DreamBoothConceptsFile")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ("{}", "no list of concepts"), ('[{"a": 1}]', "no instance_prompt")],
)
def test_a_file_that_is_none(text, message, refuse, info, base_name, server) -> None:
    (server.folder("input") / "odd.json").write_text(text)
    graph = Graph(info)
    concepts = graph.add("DreamBoothConceptsFile", file="odd.json")
    graph.train(graph.load(base_name), concepts, "refused")
    assert message in refuse(graph, "DreamBoothConceptsFile")


def chain(info: dict, base_name: str, second: str) -> Graph:
    """A dog, and behind it another subject called ``second``."""
    graph = Graph(info)
    first = graph.concept(graph.photos("toys/dog"), identifier="zwx", class_noun="dog")
    behind = graph.concept(
        graph.photos("toys/cat"), identifier=second, class_noun="dog", previous=first[0]
    )
    graph.train(graph.load(base_name), behind, "chained", {"batch_size": 4, "steps": 1})
    return graph


def test_chained_concepts_train_together(client, info, base_name, two_folders, runs) -> None:
    client.run(chain(info, base_name, "ktn"))
    concepts = job_of(runs, "chained")["concepts"]
    assert [c["instance_prompt"] for c in concepts] == ["a photo of zwx dog", "a photo of ktn dog"]
    assert len(concepts[0]["instance_images"]) == len(concepts[1]["instance_images"]) == 5


def test_two_concepts_need_two_names(refuse, info, base_name, two_folders) -> None:
    said = refuse(chain(info, base_name, "zwx"), "DreamBoothConcept")
    assert "two concepts share the prompt 'a photo of zwx dog'" in said


def test_pictures_from_a_wire(client, info, base_name, server, runs) -> None:
    names = [path.name for path in draw_photos(server.folder("input"))[:2]]
    graph = Graph(info)
    one, two = (graph.add("LoadImage", image=name) for name in names)
    batch = graph.add("ImageBatch", image1=one[0], image2=two[0])
    images = graph.photos("drawn", images=batch[0])
    concept = graph.concept(images)
    graph.train(graph.load(base_name), concept, "from wire", {"steps": 1})
    assert "2 images" in text_of(client.run(graph), images)
    (concept,) = job_of(runs, "from wire")["concepts"]
    stored = [np.asarray(Image.open(path)) for path in concept["instance_images"]]
    source = [np.asarray(Image.open(server.folder("input") / name)) for name in names]
    assert all(np.array_equal(a, b) for a, b in zip(stored, source, strict=True))


def test_an_unchanged_queue_trains_once(client, info, base_name, server, runs) -> None:
    folder = server.folder("input") / "growing"
    first, *_ = draw_photos(folder)
    graph, train = small_run(info, base_name, folder.name, "growing", {"steps": 1})
    names = {node["class_type"]: key for key, node in graph.items()}
    photos = names["DreamBoothInstanceImages"]

    assert {photos, train.id} <= executed(client.run(graph))
    assert executed(client.run(graph)) == set()
    assert not (runs / "growing-2").exists()

    shutil.copyfile(first, folder / "one more.png")
    outcome = client.run(graph)
    assert {photos, train.id} <= executed(outcome)
    assert names["CheckpointLoaderSimple"] not in executed(outcome)
    assert len(job_of(runs, "growing-2")["concepts"][0]["instance_images"]) == 6

    time = (folder / "one more.png").stat().st_mtime_ns + 5_000_000_000
    Image.new("RGB", (512, 512), "teal").save(folder / "one more.png")
    os.utime(folder / "one more.png", ns=(time, time))
    assert {photos, train.id} <= executed(client.run(graph)), "an edited photo was not noticed"
