"""The page's workflow format against a hand-made server description."""

import json

import numpy as np
import pytest
from pack.demo.templates import EXAMPLE, TEMPLATES
from pack.demo.workflow import WorkflowError, set_widget, to_api, widget_values, widgets_of
from PIL import Image

INFO = {
    "Loader": {"input": {"required": {"name": [["a", "b"], {}]}}, "output": ["MODEL"]},
    "Sampler": {
        "display_name": "Sampler",
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0, "control_after_generate": True}],
                "steps": ["INT", {"default": 20}],
                "how": ["COMBO", {"options": ["x", "y"]}],
            },
            "optional": {
                "text": ["STRING", {"default": "none"}],
                "wired": ["STRING", {"forceInput": True}],
            },
        },
    },
    "Picture": {
        "input": {
            "required": {
                "image": [["p.png"], {"image_upload": True}],
                "size": ["INT", {"default": 1}],
            }
        }
    },
    "Plain": {
        "input": {
            "required": {"seed": ["INT", {"control_after_generate": False}], "x": ["FLOAT", {}]}
        }
    },
}


def node(number: int, kind: str, values: list, inputs=(), outputs=(), **more) -> dict:
    return {
        "id": number,
        "type": kind,
        "widgets_values": values,
        "mode": 0,
        "inputs": [{"name": n, "type": t, "link": link} for n, t, link in inputs],
        "outputs": [{"name": t, "type": t} for t in outputs],
        **more,
    }


def workflow(*nodes: dict, links=()) -> dict:
    return {"nodes": list(nodes), "links": [list(link) for link in links]}


LOADER = node(1, "Loader", ["b"], outputs=["MODEL"])
SAMPLER = node(2, "Sampler", [7, "randomize", 30, "y", "hello"], [("model", "MODEL", 1)])


def test_seed_controls_and_upload_buttons_take_a_value_of_their_own() -> None:
    assert widget_values(SAMPLER, INFO["Sampler"]) == {
        "seed": 7,
        "steps": 30,
        "how": "y",
        "text": "hello",
    }
    assert widget_values({"widgets_values": ["q.png", "image", 5]}, INFO["Picture"]) == {
        "image": "q.png",
        "size": 5,
    }
    assert widget_values({"widgets_values": [1, 0.5]}, INFO["Plain"]) == {"seed": 1, "x": 0.5}


def test_values_that_the_workflow_lacks_are_defaults() -> None:
    assert widget_values({"widgets_values": [7]}, INFO["Sampler"])["text"] == "none"
    assert [w.default for w in widgets_of(INFO["Loader"])] == ["a"]


def test_links_become_node_and_output() -> None:
    graph = to_api(workflow(LOADER, SAMPLER, links=[(1, 1, 0, 2, 0, "MODEL")]), INFO)
    assert graph["1"] == {
        "class_type": "Loader",
        "inputs": {"name": "b"},
        "_meta": {"title": "Loader"},
    }
    assert graph["2"]["inputs"]["model"] == ["1", 0]


def test_a_widget_that_became_an_input_takes_the_link() -> None:
    target = node(2, "Loader", ["a"], [("name", "COMBO", 1)])
    graph = to_api(workflow(LOADER, target, links=[(1, 1, 0, 2, 0, "*")]), INFO)
    assert graph["2"]["inputs"] == {"name": ["1", 0]}


def test_reroutes_notes_and_bypassed_nodes_are_seen_through() -> None:
    nodes = [
        LOADER,
        node(3, "Reroute", [], [("", "*", 1)], ["MODEL"]),
        node(4, "Sampler", [], [("model", "MODEL", 2)], ["MODEL"], mode=4),
        node(5, "Note", ["remember"]),
        {**SAMPLER, "inputs": [{"name": "model", "type": "MODEL", "link": 3}]},
    ]
    links = [(1, 1, 0, 3, 0, "MODEL"), (2, 3, 0, 4, 0, "MODEL"), (3, 4, 0, 2, 0, "MODEL")]
    graph = to_api(workflow(*nodes, links=links), INFO)
    assert sorted(graph) == ["1", "2"]
    assert graph["2"]["inputs"]["model"] == ["1", 0]


def test_a_muted_node_leaves_its_links_empty() -> None:
    graph = to_api(workflow({**LOADER, "mode": 2}, SAMPLER, links=[(1, 1, 0, 2, 0, "MODEL")]), INFO)
    assert sorted(graph) == ["2"]
    assert "model" not in graph["2"]["inputs"]


def test_a_primitive_gives_its_value() -> None:
    target = node(2, "Sampler", [], [("steps", "INT", 1)])
    primitive = node(6, "PrimitiveNode", [42, "fixed"], outputs=["INT"])
    graph = to_api(workflow(primitive, target, links=[(1, 6, 0, 2, 0, "INT")]), INFO)
    assert graph["2"]["inputs"]["steps"] == 42


def test_set_widget_counts_and_complains() -> None:
    flow = workflow(json.loads(json.dumps(SAMPLER)))
    assert set_widget(flow, INFO, "Sampler", "steps", 5) == 1
    assert flow["nodes"][0]["widgets_values"] == [7, "randomize", 5, "y", "hello"]
    with pytest.raises(WorkflowError, match="has no widget 'step'; it has seed, steps"):
        set_widget(flow, INFO, "Sampler", "step", 5)
    with pytest.raises(WorkflowError, match="has no Sampler 'Other'"):
        set_widget(flow, INFO, "Sampler", "steps", 5, title="Other")


def test_unknown_nodes_and_subgraphs_are_named() -> None:
    with pytest.raises(WorkflowError, match="no node Missing"):
        to_api(workflow(node(1, "Missing", [])), INFO)
    with pytest.raises(WorkflowError, match="Subgraphs"):
        to_api({**workflow(), "definitions": {"subgraphs": [{}]}}, INFO)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_example_is_laid_out_without_overlaps(name: str) -> None:
    flow = json.loads(EXAMPLE.with_name(f"{name}.json").read_text("utf-8"))
    title = 30
    boxes = [
        (n["pos"][0], n["pos"][1] - title, n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1])
        for n in flow["nodes"]
    ]
    groups = [(x, y, x + w, y + h) for x, y, w, h in (g["bounding"] for g in flow["groups"])]
    for kind in (boxes, groups):
        for index, (left, top, right, bottom) in enumerate(kind):
            for other in kind[index + 1 :]:
                apart = (
                    left >= other[2] or other[0] >= right or top >= other[3] or other[1] >= bottom
                )
                assert apart, (left, top, other)
    places = {n["id"]: n["pos"][0] for n in flow["nodes"]}
    assert all(places[link[1]] <= places[link[3]] for link in flow["links"])


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_has_the_picture_that_its_code_draws(name: str) -> None:
    card = EXAMPLE.with_name(f"{name}.jpg")
    assert card.stat().st_size < 40_000
    drawn = np.asarray(TEMPLATES[name].draw(), np.int16)
    stored = np.asarray(Image.open(card).convert("RGB"), np.int16)
    assert stored.shape == drawn.shape
    assert np.abs(stored - drawn).mean() < 8, "run: python demo/run.py --write-example"
