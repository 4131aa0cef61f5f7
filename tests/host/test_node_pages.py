"""What the page shows about our nodes."""

from typing import Any

import pytest
from graphs import Graph, text_of
from pack.demo.server import PACK_NAME, ROOT
from pack.demo.workflow import inputs_of
from pack.trainer.config import TrainConfig

NODES = [
    "ClassImages",
    "Concept",
    "ConceptsFile",
    "Data",
    "Difference",
    "InstanceImages",
    "LoRA",
    "Loss",
    "LossPlot",
    "SaveDifference",
    "Settings",
    "Train",
]
IDS = [f"DreamBooth{name}" for name in NODES]
OUTPUTS = {"DreamBoothTrain", "DreamBoothLossPlot", "DreamBoothSaveDifference"}


def test_these_are_all_our_nodes(info: dict[str, Any]) -> None:
    ours = {key for key, value in info.items() if PACK_NAME in value["python_module"]}
    assert ours == set(IDS)
    assert {key for key in info if key.startswith("DreamBooth")} == ours


@pytest.mark.parametrize("node", IDS)
def test_a_node_says_what_it_is(node: str, info: dict[str, Any]) -> None:
    entry = info[node]
    assert entry["python_module"] == f"custom_nodes.{PACK_NAME}"
    assert entry["display_name"].startswith("DreamBooth ")
    assert entry["display_name"].replace(" ", "") == node
    assert entry["category"] == "DreamBooth"
    assert len(entry["description"]) > 20
    assert entry["output_node"] is (node in OUTPUTS)


@pytest.mark.parametrize("node", IDS)
def test_every_input_has_a_tooltip(node: str, info: dict[str, Any]) -> None:
    silent = [name for name, _, options, _ in inputs_of(info[node]) if not options.get("tooltip")]
    assert silent == []


@pytest.mark.parametrize("node", IDS)
def test_every_input_and_output_is_told_apart(node: str, info: dict[str, Any]) -> None:
    names = [name for name, *_ in inputs_of(info[node])]
    assert len(names) == len(set(names))
    outputs = info[node]["output_name"]
    assert len(outputs) == len(set(outputs)) > 0


@pytest.mark.parametrize("node", IDS)
def test_every_node_has_a_help_page_that_is_served(node: str, client) -> None:
    page = ROOT / "web" / "docs" / f"{node}.md"
    assert page.is_file()
    served = client.request(f"/extensions/{PACK_NAME}/docs/{node}.md")
    assert served == page.read_bytes()
    assert len(served) > 200


def test_a_node_accepts_its_own_defaults(client, info, drawn) -> None:
    """Every widget's default lies within the bounds that the same widget announces."""
    graph = Graph(info)
    settings = graph.add("DreamBoothSettings")
    concept = graph.concept(graph.photos(drawn))
    shown = [graph.add("PreviewAny", source=source) for source in (settings[0], concept[1])]
    outcome = client.run(graph)
    assert "TrainConfig" in text_of(outcome, shown[0])
    assert "a photo of zwx dog" in text_of(outcome, shown[1])


@pytest.mark.parametrize("name", ["trains", "precision", "attention", "optimizer"])
def test_a_choice_offers_what_the_trainer_knows(name: str, info: dict[str, Any]) -> None:
    spec = info["DreamBoothSettings"]["input"]["required"][name]
    options = spec[0] if isinstance(spec[0], list) else spec[1]["options"]
    field = TrainConfig.__dataclass_fields__[name]
    assert tuple(options) == field.metadata["choices"]
    assert spec[1]["default"] == field.default
