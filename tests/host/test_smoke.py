"""The harness itself: a real server starts, answers, and says clearly what went wrong."""

import json

import pytest
from pack.demo.client import ComfyClient, PromptFailed, PromptInterrupted, PromptRejected
from pack.demo.server import ComfyServer, ServerFailed
from pack.demo.templates import EXAMPLE, TEMPLATES
from pack.demo.workflow import set_widget, to_api

PICTURE = {
    "class_type": "EmptyImage",
    "inputs": {"width": 64, "height": 48, "batch_size": 1, "color": 255},
}
NODES = (
    "InstanceImages",
    "ClassImages",
    "Concept",
    "ConceptsFile",
    "Settings",
    "Data",
    "Loss",
    "Train",
)
# 800 steps and no node to ask for fewer; three pictures, which test_demo_run makes
RUN_ELSEWHERE = ("dreambooth_quick_start", EXAMPLE.stem)


def on_the_small_base(workflow: dict, info: dict, base_name: str) -> dict:
    set_widget(workflow, info, "CheckpointLoaderSimple", "ckpt_name", base_name)
    set_widget(workflow, info, "DreamBoothInstanceImages", "folder", "smoke")
    return workflow


def saved(source: dict) -> dict:
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "smoke"}}
    return {"1": source, "2": save}


def test_a_graph_runs_and_its_picture_comes_back(client: ComfyClient) -> None:
    seen = []
    outcome = client.wait(client.queue(saved(PICTURE)), lambda event: seen.append(event["type"]))
    (image,) = outcome.images(2)
    assert client.view(**image).startswith(b"\x89PNG")
    assert "execution_success" in seen
    assert seen == [event["type"] for event in outcome.events]


def test_a_missing_input_is_named(client: ComfyClient) -> None:
    inputs = {key: value for key, value in PICTURE["inputs"].items() if key != "color"}
    with pytest.raises(PromptRejected, match=r"node 1 \(EmptyImage\): .* color"):
        client.run(saved({**PICTURE, "inputs": inputs}))


def test_a_failing_node_is_named(server: ComfyServer, client: ComfyClient) -> None:
    (server.folder("input") / "broken.png").write_text("not a picture")
    graph = saved({"class_type": "LoadImage", "inputs": {"image": "broken.png"}})
    with pytest.raises(PromptFailed) as failed:
        client.run(graph)
    assert (failed.value.node_id, failed.value.node_type) == ("1", "LoadImage")
    assert "UnidentifiedImageError" in failed.value.exception_type
    assert failed.value.traceback


def test_an_uploaded_file_lies_in_the_input_folder(
    server: ComfyServer, client: ComfyClient, tmp_path
) -> None:
    file = tmp_path / "a.txt"
    file.write_text("hello")
    answer = client.upload(file, "notes")
    assert (server.folder("input") / answer["subfolder"] / answer["name"]).read_text() == "hello"


def test_our_nodes_are_offered(server: ComfyServer, client: ComfyClient) -> None:
    log = server.log.read_text()
    failed = [
        line
        for line in log.splitlines()
        if "IMPORT FAILED" in line and "ComfyUI-DreamBooth" in line
    ]
    assert not failed, server.tail(60)
    info = client.object_info()
    assert [name for name in NODES if f"DreamBooth{name}" not in info] == []


def test_a_server_that_cannot_start_shows_its_log(comfyui, tmp_path) -> None:
    server = ComfyServer(comfyui, tmp_path, extra_args=["--cpu", "--no-such-option"], pack=None)
    with pytest.raises(ServerFailed, match="no-such-option"):
        server.start()
    assert server.process is None


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_example_is_what_the_schemas_give(client: ComfyClient, name: str) -> None:
    """Widget values are a bare list: one new input would shift them all."""
    stored = json.loads(EXAMPLE.with_name(f"{name}.json").read_text("utf-8"))
    made = TEMPLATES[name].build(client.object_info())
    assert stored == json.loads(json.dumps(made)), "run: python demo/run.py --write-example"


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_example_is_accepted(
    client: ComfyClient, base_name: str, photo_folder, name: str
) -> None:
    path = EXAMPLE.with_name(f"{name}.json")
    photo_folder(name="smoke")
    info = client.object_info()
    workflow = on_the_small_base(json.loads(path.read_text("utf-8")), info, base_name)
    prompt_id = client.queue(to_api(workflow, info))  # raises if the host refuses any node

    def stop(event: dict) -> None:
        if event["type"] == "execution_start":  # the host forgets an interrupt that comes earlier
            client.interrupt(prompt_id)

    with pytest.raises(PromptInterrupted):
        client.wait(prompt_id, stop, timeout=300)


def test_every_example_is_offered_as_a_template(client: ComfyClient) -> None:
    names = client.get("/workflow_templates")["ComfyUI-DreamBooth"]
    assert set(TEMPLATES) <= set(names)
    assert client.get(f"/api/workflow_templates/ComfyUI-DreamBooth/{EXAMPLE.name}")["nodes"]


SMALL = {
    "DreamBoothSettings": {"steps": 1, "resolution": 64, "preview_every": 0, "keep_state": False},
    "DreamBoothData": {"bucket_min_side": 64, "bucket_max_side": 64},
    "DreamBoothClassImages": {"count": 1, "resolution": 64, "steps": 1},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "KSampler": {"steps": 1},
}


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name not in RUN_ELSEWHERE])
def test_the_example_runs_to_its_picture(
    client: ComfyClient, base_name: str, photo_folder, name: str
) -> None:
    """Every node and wire of it at work, on the small base with a single step."""
    photo_folder(name="smoke")
    info = client.object_info()
    text = EXAMPLE.with_name(f"{name}.json").read_text("utf-8")
    workflow = on_the_small_base(json.loads(text), info, base_name)
    kinds = {node["type"] for node in workflow["nodes"]}
    for kind, values in SMALL.items():
        for widget, value in values.items() if kind in kinds else ():
            set_widget(workflow, info, kind, widget, value)
    set_widget(workflow, info, "DreamBoothTrain", "name", f"of {name}")
    outcome = client.run(to_api(workflow, info))
    (save,) = [node["id"] for node in workflow["nodes"] if node["type"] == "SaveImage"]
    (image,) = outcome.images(save)
    assert client.view(**image).startswith(b"\x89PNG")
