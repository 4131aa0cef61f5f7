"""Pictures of any checkpoint, made by ComfyUI's own loader, sampler and decoder."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from .client import ComfyClient, Event
from .workflow import Json


@dataclass(frozen=True)
class Sampling:
    """How every picture is made."""

    resolution: int
    steps: int
    cfg: float


@dataclass(frozen=True)
class Shot:
    """One picture to make."""

    prompt: str
    seed: int


def sampling_graph(checkpoint: str, shots: Sequence[Shot], how: Sampling, prefix: str) -> Json:
    """The API graph: one loader, a sampler for each shot; node ``save<n>`` holds shot *n*."""
    side = {"width": how.resolution, "height": how.resolution, "batch_size": 1}
    graph = {
        "load": _node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "size": _node("EmptyLatentImage", **side),
    }
    texts: dict[str, list] = {}
    for prompt in ("", *(shot.prompt for shot in shots)):
        if prompt not in texts:
            name = f"text{len(texts)}"
            graph[name] = _node("CLIPTextEncode", text=prompt, clip=["load", 1])
            texts[prompt] = [name, 0]
    for number, shot in enumerate(shots):
        graph[f"sample{number}"] = _node(
            "KSampler",
            model=["load", 0],
            positive=texts[shot.prompt],
            negative=texts[""],
            latent_image=["size", 0],
            seed=shot.seed,
            steps=how.steps,
            cfg=how.cfg,
            sampler_name="ddim",
            scheduler="ddim_uniform",
            denoise=1.0,
        )
        graph[f"decode{number}"] = _node(
            "VAEDecode", samples=[f"sample{number}", 0], vae=["load", 2]
        )
        graph[f"save{number}"] = _node(
            "SaveImage", images=[f"decode{number}", 0], filename_prefix=prefix
        )
    return graph


def _node(class_type: str, **inputs: object) -> Json:
    return {"class_type": class_type, "inputs": inputs}


def sample(
    client: ComfyClient,
    checkpoint: str,
    shots: Sequence[Shot],
    how: Sampling,
    prefix: str,
    on_picture: Callable[[], None] = lambda: None,
) -> list[Image.Image]:
    """The pictures of the shots, in their order."""
    graph = sampling_graph(checkpoint, shots, how, prefix)

    def on_event(event: Event) -> None:
        if event["type"] == "executed" and str(event["data"].get("node")).startswith("save"):
            on_picture()

    outcome = client.run(graph, on_event)
    pictures = []
    for number in range(len(shots)):
        (entry,) = outcome.images(f"save{number}")
        pictures.append(Image.open(io.BytesIO(client.view(**entry))).convert("RGB"))
    return pictures
