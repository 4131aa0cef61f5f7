"""Bad photos, names, prompts and settings: refused in words, before anything is trained."""

import importlib.util
import os
import re
import shutil
from pathlib import Path

import pytest
from graphs import Graph, small_run, text_of
from pack.demo.client import PromptFailed, PromptRejected
from pack.demo.photos import draw_photos

ROOM = {"steps": 100_000, "save_every": 1, "keep": 100_000}


@pytest.fixture
def folder(server) -> Path:
    """An empty folder under the server's input."""
    path = server.folder("input") / "bad"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


def start(info, base_name, folder: str, settings=None, **concept):
    return small_run(info, base_name, folder, "refused", settings, **concept)[0]


def test_an_empty_folder(refuse, info, base_name, folder) -> None:
    said = refuse(start(info, base_name, "bad"), "DreamBoothInstanceImages")
    assert "no usable picture" in said
    assert "empty" in said
    assert str(folder) in said


def test_a_folder_without_one_good_picture(refuse, info, base_name, folder) -> None:
    (folder / "notes.txt").write_text("not a picture")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing more")
    said = refuse(start(info, base_name, "bad"), "DreamBoothInstanceImages")
    assert "notes.txt: a text" in said
    assert "broken.jpg: " in said


def test_a_folder_that_is_not_there(refuse, info, base_name) -> None:
    said = refuse(start(info, base_name, "no such folder"), "DreamBoothInstanceImages")
    assert "no such folder" in said


def test_one_damaged_file_is_skipped_by_name(client, info, folder) -> None:
    good = draw_photos(folder)
    (folder / "cut.png").write_bytes(good[0].read_bytes()[:900])
    graph = Graph(info)
    images = graph.photos("bad")
    graph.add("PreviewImage", images=images[1])
    said = text_of(client.run(graph), images)
    assert f"{len(good)} images" in said
    assert "skipped cut.png: damaged file" in said


@pytest.mark.parametrize("path", ["/etc", "../..", "~", "input/../../..", "leads out"])
def test_a_folder_outside_is_not_read(path: str, refuse, info, base_name, server, tmp_path) -> None:
    """Neither typed nor, on hosts that take any text for a choice, chosen."""
    if path == "leads out":
        draw_photos(tmp_path)
        link = server.folder("input") / path
        if not link.is_symlink():
            link.symlink_to(tmp_path, target_is_directory=True)
    graph = Graph(info)
    base = graph.load(base_name)
    typed = graph.photos("drawn", path=path)
    graph.train(base, graph.concept(typed), "refused")
    said = refuse(graph, "DreamBoothInstanceImages")
    assert f"{path!r} is outside the folders of this ComfyUI" in said
    assert said == refuse(start(info, base_name, path), "DreamBoothInstanceImages")


def test_a_picture_that_leads_outside_is_not_read(client, info, folder, tmp_path) -> None:
    first, *_ = draw_photos(folder)
    shutil.copyfile(first, tmp_path / "secret.png")
    (folder / "leads_out.png").symlink_to(tmp_path / "secret.png")
    graph = Graph(info)
    images = graph.photos("bad")
    graph.add("PreviewImage", images=images[1])
    said = text_of(client.run(graph), images)
    assert "skipped leads_out.png: a link that leaves the folder" in said


@pytest.mark.parametrize("missing", ["model", "clip", "vae", "concepts", "name"])
def test_a_missing_wire(missing: str, client, info, base_name, drawn) -> None:
    graph, train = small_run(info, base_name, drawn, "refused")
    del graph[train.id]["inputs"][missing]
    with pytest.raises(PromptRejected, match=rf"node {train.id} \(DreamBoothTrain\): .*{missing}"):
        client.run(graph)


@pytest.mark.parametrize(
    ("node_type", "wire", "value"),
    [
        ("DreamBoothInstanceImages", "images", "x"),
        ("DreamBoothConcept", "instance_images", None),
        ("DreamBoothConcept", "previous", 0),
        ("DreamBoothTrain", "concepts", "x"),
        ("DreamBoothTrain", "settings", False),
        ("DreamBoothTrain", "model", 3),
        ("DreamBoothTrain", "clip", {}),
    ],
)
def test_a_value_in_place_of_a_wire(node_type, wire, value, refuse, info, base_name, drawn) -> None:
    """The host lets it through, and without settings a run is long."""
    graph, _ = small_run(info, base_name, drawn, "refused")
    (node,) = (node for node in graph.values() if node["class_type"] == node_type)
    node["inputs"][wire] = value
    said = refuse(graph, node_type)
    assert f"{wire} = {value!r}: connect" in said or f"the {wire} input carries nothing" in said


@pytest.mark.parametrize("name", ["..", "a/b", "../a", "a\\b", "a\nb", "a\x07", "", "con", "a:b"])
def test_a_name_that_is_no_file_name(name: str, client, info, base_name, drawn, runs) -> None:
    graph, train = small_run(info, base_name, drawn, name)
    with pytest.raises(PromptRejected, match=rf"node {train.id} \(DreamBoothTrain\)") as refused:
        client.run(graph)
    assert f"name = {name!r}" in str(refused.value)


def test_a_name_from_a_wire_is_checked_too(refuse, info, base_name, drawn) -> None:
    graph, train = small_run(info, base_name, drawn, "refused")
    text = graph.add("PrimitiveString", value="../../escaped")
    graph[train.id]["inputs"]["name"] = text[0]
    assert "name = '../../escaped' holds '/'" in refuse(graph, "DreamBoothTrain")


def test_a_prompt_without_the_identifier(refuse, info, base_name, drawn) -> None:
    graph = start(info, base_name, drawn, instance_prompt="a photo of a dog")
    said = refuse(graph, "DreamBoothConcept")
    assert "'a photo of a dog' does not hold the identifier 'zwx'" in said


@pytest.mark.parametrize("what", ["identifier", "class_noun"])
def test_an_empty_word(what: str, refuse, info, base_name, drawn) -> None:
    graph = start(info, base_name, drawn, **{what: "  "})
    assert f"{what} is empty" in refuse(graph, "DreamBoothConcept")


def test_a_long_prompt_is_trained_and_what_is_cut_is_named(client, info, base_name, drawn) -> None:
    prompt = "a photo of zwx dog " + "very " * 80 + "happy"
    graph, train = small_run(
        info, base_name, drawn, "long prompt", {"steps": 1}, instance_prompt=prompt
    )
    outcome = client.run(graph)
    (concept,) = (k for k, v in graph.items() if v["class_type"] == "DreamBoothConcept")
    for said in ("\n".join(outcome.outputs[concept]["text"]), text_of(outcome, train)):
        assert "77 tokens" in said
        assert re.search(r"'(very )+happy' is cut off", said)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "fp17"}, "precision = 'fp17': choose one of auto, fp32, bf16, fp16"),
        ({"lr_warmup_steps": 3}, "lr_warmup_steps = 3 is more than the run's 2 steps"),
    ],
    ids=["choice", "warm-up"],
)
def test_a_setting_that_makes_no_sense(
    settings, message, client, info, base_name, drawn, runs
) -> None:
    """Newer hosts refuse an unknown choice themselves; older ones leave it to us."""
    graph = start(info, base_name, drawn, settings)
    with pytest.raises((PromptFailed, PromptRejected)) as failed:
        client.run(graph)
    if isinstance(failed.value, PromptFailed):
        assert failed.value.node_type == "DreamBoothSettings"
        assert message in failed.value.exception_message
    else:
        assert next(iter(settings)) in str(failed.value)
    assert not (runs / "refused").exists()


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 0), ("learning_rate", 2.0), ("resolution", 32), ("keep", 0)]
)
def test_a_setting_out_of_bounds(name, value, client, info, base_name, drawn) -> None:
    with pytest.raises(PromptRejected, match=name):
        client.run(start(info, base_name, drawn, {name: value}))


def test_a_package_that_is_missing(refuse, info, base_name, drawn) -> None:
    if importlib.util.find_spec("xformers"):
        pytest.skip("xformers is installed here")
    said = refuse(start(info, base_name, drawn, {"attention": "xformers"}), "DreamBoothTrain")
    assert "xformers is not installed; choose attention" in said


def test_half_precision_without_a_card(refuse, client, info, base_name, drawn) -> None:
    if client.get("/system_stats")["devices"][0]["type"] != "cpu":
        pytest.skip("this server has a card")
    said = refuse(start(info, base_name, drawn, {"precision": "fp16"}), "DreamBoothTrain")
    assert "precision = fp16 needs a CUDA or ROCm card, this run is on cpu" in said


def test_no_room_on_disk(refuse, server, info, base_name, drawn) -> None:
    said = refuse(start(info, base_name, drawn, ROOM), "DreamBoothTrain")
    found = re.search(r"will write ([\d.]+) GB, '(.*)' has ([\d.]+) GB free", said)
    assert found, said
    assert float(found[1]) > 20_000
    free = shutil.disk_usage(server.folder("output")).free / 1e9
    assert float(found[3]) == pytest.approx(free, rel=0.2)
    assert os.path.isdir(found[2])
