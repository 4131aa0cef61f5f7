"""Graphs for a server, node by node: an input that is left out has the node's own default."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pack.demo.client import ComfyClient, Outcome
from pack.demo.workflow import widgets_of
from PIL import Image

SIDE = 64
# The least that trains: a test names what it is about.
QUICK = {
    "trains": "unet",
    "steps": 2,
    "learning_rate": 1e-4,
    "resolution": SIDE,
    "preview_every": 0,
    "preview_steps": 2,
}
Wire = list  # [node id, output]


@dataclass(frozen=True)
class Node:
    """A node of a graph; ``node[0]`` is the wire of its first output."""

    id: str

    def __getitem__(self, output: int) -> Wire:
        return [self.id, output]


class Loaded(NamedTuple):
    """The wires of a whole model."""

    model: Wire
    clip: Wire
    vae: Wire


class Graph(dict):
    """The prompt of ``POST /prompt`` as it grows."""

    def __init__(self, info: Mapping[str, Any]) -> None:
        super().__init__()
        self.info = info

    def add(self, class_type: str, **inputs: Any) -> Node:
        """A node; an input that is None is left out."""
        values = {w.name: w.default for w in widgets_of(self.info[class_type])} | inputs
        given = {name: value for name, value in values.items() if value is not None}
        node = Node(str(len(self) + 1))
        self[node.id] = {"class_type": class_type, "inputs": given}
        return node

    def load(self, checkpoint: str | Wire) -> Loaded:
        node = self.add("CheckpointLoaderSimple", ckpt_name=checkpoint)
        return Loaded(node[0], node[1], node[2])

    def photos(self, folder: str, **inputs: Any) -> Node:
        return self.add("DreamBoothInstanceImages", folder=folder, **inputs)

    def class_images(self, base: Loaded, **inputs: Any) -> Node:
        """Three pictures of two sampling steps."""
        small = {"prompt": "a photo of a dog", "count": 3, "resolution": SIDE, "steps": 2}
        small |= {"batch_size": 2, "model": base.model, "clip": base.clip, "vae": base.vae}
        return self.add("DreamBoothClassImages", **(small | inputs))

    def concept(self, images: Node, **inputs: Any) -> Node:
        return self.add("DreamBoothConcept", instance_images=images[0], **inputs)

    def train(
        self,
        base: Loaded,
        concepts: Node,
        name: str,
        settings: Mapping[str, Any] | None = None,
        modifiers: Mapping[str, Mapping[str, Any]] | None = None,
        **inputs: Any,
    ) -> Node:
        """*DreamBooth Settings*, nodes that change them, and *DreamBooth Train*.

        Args:
            modifiers: node id → widgets, in order of the chain.
        """
        chosen = self.add("DreamBoothSettings", **(QUICK | dict(settings or {})))
        for kind, values in (modifiers or {}).items():
            chosen = self.add(kind, settings=chosen[0], **values)
        return self.add(
            "DreamBoothTrain",
            model=base.model,
            clip=base.clip,
            vae=base.vae,
            concepts=concepts[0],
            name=name,
            settings=chosen[0],
            **inputs,
        )

    def sample(self, loaded: Loaded, *, seed: int = 1, prompt: str = "a photo of zwx dog") -> Node:
        """From a model to a saved picture."""
        positive = self.add("CLIPTextEncode", text=prompt, clip=loaded.clip)
        negative = self.add("CLIPTextEncode", text="", clip=loaded.clip)
        empty = self.add("EmptyLatentImage", width=SIDE, height=SIDE)
        latents = self.add(
            "KSampler",
            model=loaded.model,
            positive=positive[0],
            negative=negative[0],
            latent_image=empty[0],
            seed=seed,
            steps=3,
            cfg=7.5,
            sampler_name="euler",
            scheduler="normal",
        )
        picture = self.add("VAEDecode", samples=latents[0], vae=loaded.vae)
        return self.add("SaveImage", images=picture[0], filename_prefix="test/sample")


def trained(train: Node) -> Loaded:
    """What *DreamBooth Train* hands on."""
    return Loaded(train[0], train[1], train[2])


def small_run(
    info: Mapping[str, Any],
    base_name: str,
    folder: str,
    name: str,
    settings: Mapping[str, Any] | None = None,
    train_again: bool = False,
    **concept: Any,
) -> tuple[Graph, Node]:
    """The shortest graph that trains: (graph, its *DreamBooth Train*)."""
    graph = Graph(info)
    base = graph.load(base_name)
    concepts = graph.concept(graph.photos(folder), **concept)
    return graph, graph.train(base, concepts, name, settings, train_again=train_again)


def pixels(client: ComfyClient, outcome: Outcome, node: Node) -> np.ndarray:
    """The saved picture of an output node, ``[H, W, 3]`` uint8."""
    (entry,) = outcome.images(node.id)
    return np.asarray(Image.open(io.BytesIO(client.view(**entry))).convert("RGB"))


def forget(client: ComfyClient, info: Mapping[str, Any]) -> None:
    """Empties the server's cache of results, which holds the last prompt's; a request to
    ``/free`` may come after the prompt that is queued behind it."""
    graph = Graph(info)
    graph.add("PreviewImage", images=graph.add("EmptyImage", width=SIDE, height=SIDE)[0])
    client.run(graph)


def text_of(outcome: Outcome, node: Node) -> str:
    """The text under a node."""
    return "\n".join(outcome.outputs[node.id]["text"])


def executed(outcome: Outcome) -> set[str]:
    """The ids of the nodes that ran; the others came from the server's cache."""
    events = outcome.events
    return {e["data"]["node"] for e in events if e["type"] == "executing" and e["data"]["node"]}
