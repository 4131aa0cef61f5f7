"""Turns the server's events into progress bars: one per node, and one per phase of the training."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from typing import Any

from .client import Event
from .console import Bar

TEXT = 3  # the host's binary event for a line of text on a node
PHASE = re.compile(
    r"^(?P<name>[A-Za-z][A-Za-z ]*?) (?P<done>\d+)/(?P<total>\d+)(?: · )?(?P<note>.*)$"
)
OWN_ESTIMATE = re.compile(r" · [^·]* left$")
TRAINING = "step"


class Tracker:
    """Give ``on_event`` to ``ComfyClient.wait``; it draws what the graph is doing."""

    def __init__(self, graph: Mapping[str, Any]) -> None:
        self.titles = {key: node["_meta"]["title"] for key, node in graph.items()}
        self.bar: Bar | None = None
        self.node = ""
        self.phase = ""
        self.note = ""

    def on_event(self, event: Event) -> None:
        kind, data = event["type"], event["data"]
        if kind == "executing" and data.get("node") is not None:
            self._begin(str(data.get("display_node") or data["node"]))
        elif kind == "progress_state":
            self._count(data.get("nodes") or {})
        elif kind == "binary":
            self._text(data["bytes"])
        elif kind == "execution_success":
            self.close()
        elif kind in ("execution_error", "execution_interrupted"):
            self.close("✗")

    def close(self, mark: str = "✓") -> None:
        """Ends the line that is being drawn."""
        if self.bar:
            self.bar.close(self.note, mark)
        self.bar, self.phase, self.note = None, "", ""

    def _begin(self, node: str) -> None:
        if node == self.node and self.bar:
            return
        self.close()
        self.node = node
        self.bar = Bar(self.titles.get(node, node))
        self.bar.update(0, 1)

    def _count(self, nodes: Mapping[str, Any]) -> None:
        state = nodes.get(self.node)
        if self.bar and state and state.get("state") == "running":
            self.bar.update(state["value"], state["max"], self.note)

    def _text(self, message: bytes) -> None:
        """A line that the node wrote: a phase with its count, or a remark."""
        if len(message) < 8 or struct.unpack(">I", message[:4])[0] != TEXT or not self.bar:
            return
        size = struct.unpack(">I", message[4:8])[0]
        node, text = message[8 : 8 + size].decode(), message[8 + size :].decode(errors="replace")
        if node != self.node:
            return
        text = text.splitlines()[0] if text else ""
        match = PHASE.match(text)
        name = match["name"] if match else ""
        # Pictures and saves in the middle of the training are remarks on its bar.
        if match and name != self.phase and self.phase != TRAINING:
            self.close()
            title = "training" if name == TRAINING else name[0].lower() + name[1:]
            self.bar = Bar(f"{self.titles.get(self.node, self.node)}: {title}")
            self.phase = name
        if match and name == self.phase:
            self.note = OWN_ESTIMATE.sub("", match["note"])  # the bar shows one itself
            self.bar.update(int(match["done"]), int(match["total"]), self.note)
        else:
            self.note = "" if match else text
            self.bar.update(self.bar.value, self.bar.total, text)
