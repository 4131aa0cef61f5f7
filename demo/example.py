"""Writes ``example_workflows/dreambooth_sd15.json`` from the nodes' own schemas.

Run ``python demo/run.py --write-example`` after a node gained or lost an input: widget values are
a bare list in the page's format, so a hand-edited file drifts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .workflow import Json, class_info, inputs_of, widgets_of

PROMPT = "a photo of zwx dog on the moon"
BASE = "v1-5-pruned-emaonly-fp16.safetensors"
GAP, TITLE, ROW, WIDGET = 40, 30, 20, 24
COLOURS = {"data": "#3f789e", "train": "#8a5a8a", "picture": "#4f7a4f", "note": "#b58b2a"}
NOTE = (
    "DreamBooth on Stable Diffusion 1.5\n\n"
    "1. Pick an SD 1.5 checkpoint in Load Checkpoint.\n"
    "2. Put 5 to 20 photos of your subject into a folder under ComfyUI's input and choose it in "
    "DreamBooth Instance Images (press R if it is not in the list).\n"
    "3. In DreamBooth Concept, say what it is: zwx dog, zwx backpack... and in DreamBooth Class "
    "Images, what any other of its kind is: a photo of a dog, a photo of a backpack...\n"
    "4. Queue. The first run makes the class images; they are kept and used again.\n\n"
    "The checkpoint lands in output/checkpoints/dreambooth and every Load Checkpoint offers it. "
    "The three pictures on the right share prompt and seed: before training, straight after it, "
    "and from the file that was written."
)


class Builder:
    """Collects nodes, links and groups in the page's format."""

    def __init__(self, object_info: Mapping[str, Any]) -> None:
        self.info = object_info
        self.nodes: list[Json] = []
        self.links: list[list] = []
        self.groups: list[Json] = []

    def node(
        self,
        kind: str,
        x: int,
        y: int,
        width: int,
        /,
        *,
        title: str | None = None,
        extra: int = 0,
        **values: Any,
    ) -> Json:
        """A node with its widgets at the server's defaults but for ``values``."""
        info = class_info(self.info, kind)
        widgets = widgets_of(info)
        if unknown := values.keys() - {w.name for w in widgets}:
            raise ValueError(f"{kind} has no widget {', '.join(sorted(unknown))}")
        names = {w.name for w in widgets}
        sockets = [entry for entry in inputs_of(info) if entry[0] not in names]
        inputs = [
            {"name": name, "type": type_, "link": None} | ({} if required else {"shape": 7})
            for name, type_, _, required in sockets
        ]
        inputs += [
            {"name": w.name, "type": w.type, "widget": {"name": w.name}, "link": None}
            for w in widgets
        ]
        stored: list[Any] = []
        for widget in widgets:
            stored.append(values.get(widget.name, widget.default))
            stored += ["fixed"] * (widget.entries - 1)
        outputs = [
            {"name": name, "type": type_, "links": []}
            for name, type_ in zip(info["output_name"], info["output"], strict=True)
        ]
        tall = sum(90 for w in widgets if w.options.get("multiline"))
        height = max(len(sockets), len(outputs)) * ROW + len(stored) * WIDGET + tall + 16 + extra
        made = {
            "id": len(self.nodes) + 1,
            "type": kind,
            "pos": [x, y],
            "size": [width, height],
            "flags": {},
            "order": len(self.nodes),
            "mode": 0,
            "inputs": inputs,
            "outputs": outputs,
            "properties": {"Node name for S&R": kind},
            "widgets_values": stored,
        }
        if title:
            made["title"] = title
        self.nodes.append(made)
        return made

    def note(self, text: str, x: int, y: int, width: int, height: int) -> Json:
        made = {
            "id": len(self.nodes) + 1,
            "type": "Note",
            "pos": [x, y],
            "size": [width, height],
            "flags": {},
            "order": len(self.nodes),
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "title": "Start here",
            "properties": {},
            "widgets_values": [text],
            "color": "#432",
            "bgcolor": "#653",
        }
        self.nodes.append(made)
        return made

    def link(self, source: Json, output: str, target: Json, name: str) -> None:
        """Wires an output, by name or type, to an input or a widget's input."""
        slot = next(i for i, o in enumerate(source["outputs"]) if output in (o["name"], o["type"]))
        at = next(i for i, entry in enumerate(target["inputs"]) if entry["name"] == name)
        number = len(self.links) + 1
        kind = source["outputs"][slot]["type"]
        source["outputs"][slot]["links"].append(number)
        target["inputs"][at]["link"] = number
        self.links.append([number, source["id"], slot, target["id"], at, kind])

    def wire(self, source: Json, target: Json, **names: str) -> None:
        """Several links between two nodes: ``input=output``."""
        for name, output in names.items():
            self.link(source, output, target, name)

    def group(self, title: str, colour: str, members: list[Json]) -> None:
        """A box around its members."""
        left = min(n["pos"][0] for n in members) - 20
        top = min(n["pos"][1] for n in members) - TITLE - 50
        right = max(n["pos"][0] + n["size"][0] for n in members) + 20
        bottom = max(n["pos"][1] + n["size"][1] for n in members) + 20
        self.groups.append(
            {
                "id": len(self.groups) + 1,
                "title": title,
                "color": COLOURS[colour],
                "bounding": [left, top, right - left, bottom - top],
                "font_size": 24,
                "flags": {},
            }
        )

    def workflow(self) -> Json:
        return {
            "id": "6c1f6c0e-5d15-4b00-8b00-d3ea3b007401",
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": self.groups,
            "config": {},
            "extra": {},
            "version": 0.4,
        }


def below(node: Json, gap: int = GAP) -> int:
    """The y of the next node under this one, its title included."""
    return math.ceil((node["pos"][1] + node["size"][1] + gap + TITLE) / 10) * 10


def sampling(
    b: Builder,
    name: str,
    prefix: str,
    colour: str,
    x: int,
    y: int,
    size: Json,
    model: tuple[Json, str],
    others: Json,
) -> None:
    """One row: prompts, sampler, decoder, picture; CLIP and VAE come from ``others``."""
    positive = b.node("CLIPTextEncode", x, y, 380, title="Positive prompt", text=PROMPT)
    negative = b.node("CLIPTextEncode", x, below(positive), 380, title="Negative prompt", text="")
    sampler = b.node(
        "KSampler",
        x + 420,
        y,
        300,
        title=f"Sample: {name.lower()}",
        seed=0,
        steps=24,
        cfg=7.5,
        sampler_name="ddim",
        scheduler="ddim_uniform",
        denoise=1.0,
    )
    decode = b.node("VAEDecode", x + 420, below(sampler, 10), 300)
    save = b.node(
        "SaveImage",
        x + 760,
        y,
        320,
        extra=260,
        title=f"Save: {name.lower()}",
        filename_prefix=prefix,
    )
    for text in (positive, negative):
        b.link(others, "CLIP", text, "clip")
    b.link(model[0], model[1], sampler, "model")
    b.link(positive, "CONDITIONING", sampler, "positive")
    b.link(negative, "CONDITIONING", sampler, "negative")
    b.link(size, "LATENT", sampler, "latent_image")
    b.link(sampler, "LATENT", decode, "samples")
    b.link(others, "VAE", decode, "vae")
    b.link(decode, "IMAGE", save, "images")
    b.group(name, colour, [positive, negative, sampler, decode, save])


def build(object_info: Mapping[str, Any]) -> Json:
    """The whole workflow, left to right: data, training, three pictures."""
    b = Builder(object_info)
    note = b.note(NOTE, 0, 0, 380, 300)
    base = b.node("CheckpointLoaderSimple", 0, below(note, 100), 380, ckpt_name=BASE)
    photos = b.node("DreamBoothInstanceImages", 460, 0, 400, extra=340, folder="my_dog")
    class_images = b.node("DreamBoothClassImages", 460, below(photos, 100), 380, extra=230)
    b.group("Base", "data", [base])
    b.group("Your photos", "data", [photos])
    b.group("Its class: any dog", "data", [class_images])
    b.wire(base, class_images, model="MODEL", clip="CLIP", vae="VAE")

    concept = b.node("DreamBoothConcept", 920, 0, 360, extra=80)
    settings = b.node("DreamBoothSettings", 920, below(concept), 360)
    train = b.node("DreamBoothTrain", 1320, 0, 390, extra=490, name="my_dog")
    b.group("Training", "train", [concept, settings, train])
    b.wire(photos, concept, instance_images="DREAMBOOTH_IMAGES")
    b.wire(class_images, concept, class_images="DREAMBOOTH_IMAGES")
    b.wire(base, train, model="MODEL", clip="CLIP", vae="VAE")
    b.wire(concept, train, concepts="DREAMBOOTH_CONCEPTS")
    b.wire(settings, train, settings="DREAMBOOTH_SETTINGS")

    size = b.node("EmptyLatentImage", 1760, 0, 300, title="Picture size", width=512, height=512)
    loader = b.node(
        "CheckpointLoaderSimple", 1760, 1160, 300, ckpt_name=BASE, title="Load the trained file"
    )
    b.link(train, "ckpt_name", loader, "ckpt_name")
    b.group("Size", "picture", [size])
    b.group("Any loader takes it", "picture", [loader])
    rows = (
        ("Before training", "before", base),
        ("After training, in the same queue", "after", train),
        ("From the written file", "from_file", loader),
    )
    for number, (name, prefix, source) in enumerate(rows):
        sampling(
            b,
            name,
            f"dreambooth/{prefix}",
            "picture",
            2140,
            number * 580,
            size,
            (source, "MODEL"),
            source,
        )
    return b.workflow()
