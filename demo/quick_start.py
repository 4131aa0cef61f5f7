"""Writes ``example_workflows/dreambooth_quick_start.json``: the three nodes and one picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .example import BASE, PROMPT, Builder, below
from .workflow import Json


def build_quick_start(object_info: Mapping[str, Any]) -> Json:
    """Photos → Concept → Train between a checkpoint and a sampler; every setting at its default."""
    b = Builder(object_info)
    base = b.node("CheckpointLoaderSimple", 0, 0, 320, ckpt_name=BASE)
    photos = b.node("DreamBoothInstanceImages", 0, below(base, 60), 320, extra=340, folder="my_dog")
    concept = b.node("DreamBoothConcept", 380, below(base, 60), 300, extra=80)
    train = b.node("DreamBoothTrain", 740, 0, 360, extra=490, name="my_dog")
    b.wire(photos, concept, instance_images="DREAMBOOTH_IMAGES")
    b.wire(base, train, model="MODEL", clip="CLIP", vae="VAE")
    b.wire(concept, train, concepts="DREAMBOOTH_CONCEPTS")
    one_picture(b, train, 1140)
    return b.workflow()


def one_picture(
    b: Builder,
    source: Json,
    x: int,
    *,
    prompt: str = PROMPT,
    side: int = 512,
    vae: Json | None = None,
) -> None:
    """Prompts, sampler, decoder and picture of a model; its VAE may come from another node."""
    positive = b.node("CLIPTextEncode", x, 0, 320, title="Positive prompt", text=prompt)
    under = below(positive)
    negative = b.node("CLIPTextEncode", x, under, 320, title="Negative prompt", text="")
    size = b.node("EmptyLatentImage", x, below(negative), 320, width=side, height=side)
    sampler = b.node(
        "KSampler",
        x + 380,
        0,
        300,
        seed=0,
        steps=24,
        cfg=7.5,
        sampler_name="ddim",
        scheduler="ddim_uniform",
        denoise=1.0,
    )
    decode = b.node("VAEDecode", x + 380, below(sampler, 10), 300)
    save = b.node("SaveImage", x + 740, 0, 320, extra=320, filename_prefix="dreambooth/after")
    for text, socket in ((positive, "positive"), (negative, "negative")):
        b.link(source, "CLIP", text, "clip")
        b.link(text, "CONDITIONING", sampler, socket)
    b.link(source, "MODEL", sampler, "model")
    b.link(size, "LATENT", sampler, "latent_image")
    b.link(sampler, "LATENT", decode, "samples")
    b.link(vae or source, "VAE", decode, "vae")
    b.link(decode, "IMAGE", save, "images")
