"""Turns a workflow as the page saves it into the graph that the server runs.

The page's format keeps widget values in a bare list; their order comes from ``/object_info``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
SEEDS = ("seed", "noise_seed")
UPLOADS = ("image_upload", "video_upload", "audio_upload", "animated_image_upload")
COMMENTS = ("Note", "MarkdownNote")
VIRTUAL = (*COMMENTS, "Reroute", "PrimitiveNode")
MUTED, BYPASSED = 2, 4


class WorkflowError(ValueError):
    """The workflow does not fit the server's nodes."""


@dataclass(frozen=True)
class Widget:
    """A widget of a node and how many entries of ``widgets_values`` it takes."""

    name: str
    type: str
    default: Any
    options: Mapping[str, Any]
    entries: int = 1


def inputs_of(info: Mapping[str, Any]) -> Iterator[tuple[str, Any, Json, bool]]:
    """Name, type, options and whether it is required, of every input in the page's order."""
    for kind in ("required", "optional"):
        entries = info.get("input", {}).get(kind) or {}
        for name in info.get("input_order", {}).get(kind) or entries:
            spec = entries[name]
            yield name, spec[0], (spec[1] if len(spec) > 1 else {}), kind == "required"


def widgets_of(info: Mapping[str, Any]) -> list[Widget]:
    """The widgets of a node class, in the order of ``widgets_values``."""
    found = []
    for name, kind, options, _ in inputs_of(info):
        choices = kind if isinstance(kind, list) else options.get("options")
        if (choices is None and kind not in WIDGET_TYPES) or options.get("forceInput"):
            continue
        kind = kind if choices is None else "COMBO"
        default = options.get("default")
        if default is None:
            fallback = {"INT": 0, "FLOAT": 0.0, "STRING": "", "BOOLEAN": False}
            default = choices[0] if choices else fallback.get(kind)
        control = options.get("control_after_generate")
        if control is None:
            control = kind == "INT" and name in SEEDS
        upload = any(options.get(key) for key in UPLOADS)
        found.append(Widget(name, kind, default, options, 1 + bool(control) + upload))
    return found


def widget_values(node: Mapping[str, Any], info: Mapping[str, Any]) -> Json:
    """What the node's widgets say; a widget newer than the workflow has its default."""
    stored = node.get("widgets_values") or []
    if isinstance(stored, dict):
        return {w.name: stored.get(w.name, w.default) for w in widgets_of(info)}
    values, at = {}, 0
    for widget in widgets_of(info):
        values[widget.name] = stored[at] if at < len(stored) else widget.default
        at += widget.entries
    return values


def set_widget(
    workflow: Json,
    object_info: Mapping[str, Any],
    node_type: str,
    widget: str,
    value: Any,
    title: str | None = None,
) -> int:
    """Sets a widget on every node of a type (and title); returns how many, never zero."""
    at, known = 0, widgets_of(class_info(object_info, node_type))
    for entry in known:
        if entry.name == widget:
            break
        at += entry.entries
    else:
        names = ", ".join(entry.name for entry in known)
        raise WorkflowError(f"{node_type} has no widget {widget!r}; it has {names}")
    count = 0
    for node in workflow["nodes"]:
        if node["type"] == node_type and title in (None, node.get("title")):
            node["widgets_values"][at] = value
            count += 1
    if not count:
        raise WorkflowError(f"The workflow has no {node_type}" + (f" {title!r}" if title else ""))
    return count


def class_info(object_info: Mapping[str, Any], node_type: str) -> Mapping[str, Any]:
    """The server's description of a node class."""
    if node_type not in object_info:
        raise WorkflowError(f"The server has no node {node_type}: is its pack installed?")
    return object_info[node_type]


def to_api(workflow: Mapping[str, Any], object_info: Mapping[str, Any]) -> Json:
    """The graph for ``POST /prompt``: what the page would send for this workflow."""
    if workflow.get("definitions", {}).get("subgraphs"):
        raise WorkflowError("Subgraphs are not supported: unpack them in the page and save again.")
    wires = Wires(workflow)
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] in VIRTUAL or node.get("mode") in (MUTED, BYPASSED):
            continue
        info = class_info(object_info, node["type"])
        inputs = widget_values(node, info)
        for entry in node.get("inputs") or []:
            source = wires.source(entry.get("link"))
            if source is not None:
                inputs[entry["name"]] = source
        title = node.get("title") or info.get("display_name") or node["type"]
        graph[str(node["id"])] = {
            "class_type": node["type"],
            "inputs": inputs,
            "_meta": {"title": title},
        }
    return graph


class Wires:
    """Where each link of a workflow really comes from."""

    def __init__(self, workflow: Mapping[str, Any]) -> None:
        self.nodes = {node["id"]: node for node in workflow["nodes"]}
        self.links = {link[0]: (link[1], link[2]) for link in workflow.get("links") or []}

    def source(self, link: int | None) -> Any:
        """``[node id, output]``, or a primitive's value; None where nothing arrives."""
        seen = set()
        while link is not None and link in self.links and link not in seen:
            seen.add(link)
            origin, slot = self.links[link]
            node = self.nodes[origin]
            if node["type"] == "Reroute":
                link = node["inputs"][0].get("link")
            elif node.get("mode") == MUTED:
                return None
            elif node.get("mode") == BYPASSED:
                link = self._through(node, slot)
            elif node["type"] == "PrimitiveNode":
                return node["widgets_values"][0]
            else:
                return [str(origin), slot]
        return None

    @staticmethod
    def _through(node: Mapping[str, Any], slot: int) -> int | None:
        """The link that a bypassed node passes on: of the same place, else the first that fits."""
        inputs, kind = node.get("inputs") or [], node["outputs"][slot]["type"]
        for entry in [*inputs[slot : slot + 1], *inputs]:
            if entry["type"] == kind and entry.get("link") is not None:
                return entry["link"]
        return None
