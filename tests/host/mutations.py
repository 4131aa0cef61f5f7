"""A graph with one input of one node spoilt, each time in another way."""

import json
import math
import random
from collections.abc import Mapping
from typing import Any

from graphs import SIDE, Graph, Node
from mutate import NASTY

PRIMITIVES = {"INT": "PrimitiveInt", "FLOAT": "PrimitiveFloat", "STRING": "PrimitiveString"}
FOLDERS = (
    "фото 🐕", "a b", "-rf", "$(id)", "%s", "x" * 200, '"quoted"', "'", "new\nline", ".hidden",
    "a;b", "<b>bold</b>", "e\u0301", "\u202etxt", "photos.png", "-", "~",
)  # fmt: skip
LINKS = (["99", 0], ["1", 99], ["1", -1], ["1", "0"], ["1", 0.5], [None, None], [1, 0], ["1"])


def inputs_of(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Input → its kind, of a node in /object_info; a choice is a COMBO on every host."""
    given = entry["input"].get("required", {}) | entry["input"].get("optional", {})
    return {name: v[0] if isinstance(v[0], str) else "COMBO" for name, v in given.items()}


def up_to(graph: Graph, node: Node) -> Graph:
    """A copy of the node and all that it needs, with something that asks for its result."""
    part, left = Graph(graph.info), [node.id]
    while left:
        key = left.pop()
        if key in graph and key not in part:
            part[key] = json.loads(json.dumps(graph[key]))
            left += [v[0] for v in graph[key]["inputs"].values() if isinstance(v, list)]
    if not graph.info[graph[node.id]["class_type"]]["output_node"]:
        part["sink"] = {"class_type": "PreviewAny", "inputs": {"source": node[0]}}
    return part


def spelt(value: Any) -> bool:
    """Whether JSON can say it; Python spells out no number of 5000 digits."""
    try:
        return bool(json.dumps(value))
    except ValueError:
        return False


SPELT = [value for value in NASTY if spelt(value)]


class Mutations:
    """One input of a node spoilt, each time in another way."""

    def __init__(self, graph: Graph, node: Node, rng: random.Random) -> None:
        self.graph, self.node, self.rng = graph, node, rng
        self.kind = graph[node.id]["class_type"]
        self.kinds = inputs_of(graph.info[self.kind])

    def next(self) -> tuple[str, Graph]:
        """What was done, and the graph."""
        part = up_to(self.graph, self.node)
        name = self.rng.choice(list(self.kinds))
        ways = [self._value, self._value, self._link, self._missing, self._extra]
        ways += {"INT": [self._over_a_wire, self._bounds] * 2, "FLOAT": [self._over_a_wire] * 3,
                 "STRING": [self._over_a_wire, self._folder], "COMBO": [self._folder],
                 "IMAGE": [self._picture] * 3, "MASK": [self._picture] * 3,
                 }.get(self.kinds[name], [])  # fmt: skip
        said = self.rng.choice(ways)(part, part[self.node.id]["inputs"], name)
        return f"{self.kind}.{name}: {said}", part

    def _value(self, part: Graph, inputs: dict, name: str) -> str:
        inputs[name] = self.rng.choice(SPELT)
        if self._trains_by_default(inputs):
            inputs[name] = "x"
        return f"{inputs[name]!r:.80}"

    def _trains_by_default(self, inputs: dict) -> bool:
        """Without settings a run is long."""
        return self.kind == "DreamBoothTrain" and inputs.get("settings") is None

    def _missing(self, part: Graph, inputs: dict, name: str) -> str:
        removed = inputs.pop(name, None)
        if self._trains_by_default(inputs):
            inputs[name] = removed
            return self._extra(part, inputs, name)
        return "left out"

    def _extra(self, part: Graph, inputs: dict, name: str) -> str:
        key = self.rng.choice(["x", "", "self", "cls", "é" * 90, "__class__", name.upper()])
        # a link of no input of ours to no node ends the host's prompt thread, whoever's node it is
        inputs[key] = self.rng.choice([v for v in SPELT if not isinstance(v, list)])
        return f"beside it {key!r:.20} = {inputs[key]!r:.80}"

    def _link(self, part: Graph, inputs: dict, name: str) -> str:
        """To a node that is there or not, whatever it gives."""
        others = part.keys() - {"sink", self.node.id}  # a circle is refused without a node's name
        there = [[key, place] for key in sorted(others) for place in (0, 1)]
        inputs[name] = self.rng.choice([*LINKS, *there])
        return f"linked to {inputs[name]}"

    def _over_a_wire(self, part: Graph, inputs: dict, name: str) -> str:
        """Past the host's bounds, which hold for typed values alone."""
        kind = {"STRING": str, "INT": int, "FLOAT": (int, float)}[self.kinds[name]]
        fitting = [v for v in SPELT if isinstance(v, kind) and not isinstance(v, bool)]
        value = self.rng.choice(fitting)
        primitive = PRIMITIVES[self.kinds[name]]
        part["wire"] = {"class_type": primitive, "inputs": {"value": value}}
        inputs[name] = ["wire", 0]
        return f"{value!r:.80} from {primitive}"

    def _bounds(self, part: Graph, inputs: dict, name: str) -> str:
        entry = self.graph.info[self.kind]["input"]
        options = (entry.get("required", {}) | entry.get("optional", {}))[name][1]
        below, above = options.get("min", 0) - 1, options.get("max", 2**63) + 1
        inputs[name] = self.rng.choice([below, above, float(above), str(above), math.nan])
        return f"{inputs[name]!r}"

    def _folder(self, part: Graph, inputs: dict, name: str) -> str:
        odd = self.rng.choice(FOLDERS)
        inputs[name] = self.rng.choice([odd, f"odd/{odd}", f"./odd/{odd}/../{odd}", f"{odd}/.."])
        return f"{inputs[name]!r:.80}"

    def _picture(self, part: Graph, inputs: dict, name: str) -> str:
        width, height, count = self.rng.choice([(1, 1, 1), (3, 900, 2), (SIDE, SIDE, 5)])
        size = {"width": width, "height": height}
        part["pictures"] = {
            "class_type": "EmptyImage", "inputs": size | {"batch_size": count, "color": 0},
        }  # fmt: skip
        part["mask"] = {"class_type": "SolidMask", "inputs": size | {"value": 1.0}}
        both = {"images": ["pictures", 0], "mask": ["mask", 0]}
        inputs.update(both if self.rng.random() < 0.6 else {name: both.get(name)})
        return f"{count} of {width} x {height}"
