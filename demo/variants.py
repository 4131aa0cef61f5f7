"""More templates, each the quick start with one thing changed, and a note that says which."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .example import BASE, Builder, below
from .quick_start import one_picture
from .workflow import Json

SDXL = "sd_xl_base_1.0.safetensors"
FAR = 2140  # where the picture's nodes begin
TWO_SUBJECTS = (
    "Two subjects in one run\n\n"
    "Each has its folder, its identifier and its class images. The first concept goes into "
    "'previous' of the second; a third would take the second.\n\n"
    "Both learn in turns, so give them twice the steps of one. Subjects of different classes mix "
    "least."
)
LORA = (
    "A LoRA instead of the whole model\n\n"
    "The model stays frozen, only small matrices learn: less memory, and a file of some megabytes "
    "in output/loras/dreambooth that every Load LoRA lists. It learns at 1e-4, "
    "a hundred times the rate of a full training.\n\n"
    "There are no class images: the base itself says what the class looks like "
    "(prior_without_images). Change strength_model in Load LoRA to soften or strengthen it."
)
SDXL_NOTE = (
    "Stable Diffusion XL\n\n"
    "Pick an SDXL checkpoint. Photos train at their own shape and about 1024 x 1024 pixels "
    "(buckets), nothing is cut off; they should be at least that large.\n\n"
    "A LoRA of the UNet alone keeps the memory low. For the whole UNet set kind to none in "
    "DreamBooth LoRA and learning_rate to 1e-6: it needs several times the memory."
)
RESUME = (
    "Going on with a run\n\n"
    "1. Queue: 400 steps are trained and kept with their state.\n"
    "2. Not there yet? Raise steps to 800, leave the name, and queue again: training goes on from "
    "step 400 to the very file that 800 steps at once give.\n"
    "3. A run that was cancelled or broken off goes on in the same way, also after a restart.\n\n"
    "Any other change (photos, prompts, rates) is another run and gets another number. Fewer steps "
    "are a fresh run too. train_again starts over."
)
STYLE = (
    "A style instead of a subject\n\n"
    "Take 10 to 30 pictures of many different things in one manner. Beside each, put a text of the "
    "same name (castle.txt for castle.jpg) that says what is on it, and nothing of the manner: "
    "what the captions leave unsaid is what 'zwx style' comes to mean.\n\n"
    "Prompts read 'zwx style, <caption>'. There are no class images: no class is to be kept. A "
    "tenth of the rows train without any text, and pictures are mirrored."
)


def build_two_subjects(object_info: Mapping[str, Any]) -> Json:
    """A dog and a backpack, chained through ``previous``, each with class images."""
    b = Builder(object_info)
    note = b.note(TWO_SUBJECTS, 0, 0, 360, 260)
    base = b.node("CheckpointLoaderSimple", 0, below(note, 60), 360, ckpt_name=BASE)
    previous, top = None, 0
    for identifier, noun in (("zwx", "dog"), ("kqv", "backpack")):
        photos = b.node("DreamBoothInstanceImages", 420, top, 360, extra=340, folder=f"my_{noun}")
        classes = b.node(
            "DreamBoothClassImages", 840, top, 360, extra=230, prompt=f"a photo of a {noun}"
        )
        concept = b.node(
            "DreamBoothConcept",
            1260,
            top,
            360,
            extra=80,
            title=f"DreamBooth Concept: {noun}",
            identifier=identifier,
            class_noun=noun,
        )
        b.wire(base, classes, model="MODEL", clip="CLIP", vae="VAE")
        b.wire(photos, concept, instance_images="DREAMBOOTH_IMAGES")
        b.wire(classes, concept, class_images="DREAMBOOTH_IMAGES")
        if previous:
            b.wire(previous, concept, previous="DREAMBOOTH_CONCEPTS")
        previous, top = concept, max(below(photos), below(classes))
    settings = b.node("DreamBoothSettings", 1260, below(previous), 360, steps=1600)
    train = b.node("DreamBoothTrain", 1680, 0, 390, extra=490, name="my_dog_and_backpack")
    b.wire(base, train, model="MODEL", clip="CLIP", vae="VAE")
    b.wire(previous, train, concepts="DREAMBOOTH_CONCEPTS")
    b.wire(settings, train, settings="DREAMBOOTH_SETTINGS")
    one_picture(b, train, FAR, prompt="a photo of zwx dog with a kqv backpack")
    return b.workflow()


def chain(
    b: Builder,
    note: str,
    *,
    ckpt_name: str = BASE,
    photos: Json | None = None,
    concept: Json | None = None,
    modifiers: Mapping[str, Json],
    name: str = "my_dog",
) -> tuple[Json, Json]:
    """Photos → Concept → Train with settings nodes chained in the order given; base and Train."""
    first = b.note(note, 0, 0, 360, 320)
    base = b.node("CheckpointLoaderSimple", 0, below(first, 60), 360, ckpt_name=ckpt_name)
    taken = {"folder": "my_dog"} | (photos or {})
    shown = b.node("DreamBoothInstanceImages", 420, 0, 360, extra=340, **taken)
    named = b.node("DreamBoothConcept", 840, 0, 360, extra=80, **(concept or {}))
    last, x, y = None, 840, below(named)
    for kind, values in modifiers.items():
        node = b.node(kind, x, y, 360, **values)
        if last:
            b.wire(last, node, settings="DREAMBOOTH_SETTINGS")
        y = below(node) if last else 0
        last, x = node, 1260
    train = b.node("DreamBoothTrain", 1680, 0, 390, extra=490, name=name)
    b.wire(shown, named, instance_images="DREAMBOOTH_IMAGES")
    b.wire(base, train, model="MODEL", clip="CLIP", vae="VAE")
    b.wire(named, train, concepts="DREAMBOOTH_CONCEPTS")
    b.wire(last, train, settings="DREAMBOOTH_SETTINGS")
    return base, train


def build_lora(object_info: Mapping[str, Any]) -> Json:
    """A LoRA with a prior from the base itself; the picture comes through Load LoRA."""
    b = Builder(object_info)
    base, train = chain(
        b,
        LORA,
        modifiers={
            "DreamBoothSettings": {
                "learning_rate": 1e-4,
                "text_encoder_learning_rate": 5e-5,
                "gradient_checkpointing": True,
            },
            "DreamBoothLoRA": {"kind": "lora", "prior_without_images": True},
        },
    )
    loader = b.node("LoraLoader", FAR, 0, 320)
    b.wire(base, loader, model="MODEL", clip="CLIP")
    b.wire(train, loader, lora_name="lora_name")
    one_picture(b, loader, FAR + 380, vae=base)
    return b.workflow()


def build_sdxl(object_info: Mapping[str, Any]) -> Json:
    """SDXL at 1024 pixels in buckets, a LoRA of the UNet."""
    b = Builder(object_info)
    _, train = chain(
        b,
        SDXL_NOTE,
        ckpt_name=SDXL,
        modifiers={
            "DreamBoothSettings": {
                "trains": "unet",
                "learning_rate": 1e-4,
                "resolution": 1024,
                "gradient_checkpointing": True,
            },
            "DreamBoothData": {"buckets": True, "bucket_min_side": 512, "bucket_max_side": 2048},
            "DreamBoothLoRA": {"kind": "lora"},
        },
    )
    one_picture(b, train, FAR, side=1024)
    return b.workflow()


def build_resume(object_info: Mapping[str, Any]) -> Json:
    """400 steps under a name; more steps under the same name go on."""
    b = Builder(object_info)
    _, train = chain(b, RESUME, modifiers={"DreamBoothSettings": {"steps": 400}})
    one_picture(b, train, FAR)
    return b.workflow()


def build_style(object_info: Mapping[str, Any]) -> Json:
    """A manner of painting, from pictures with captions and without a class."""
    b = Builder(object_info)
    _, train = chain(
        b,
        STYLE,
        photos={"folder": "my_style", "caption_source": "prompt + file"},
        concept={"class_noun": "style", "instance_prompt": "zwx style"},
        modifiers={
            "DreamBoothSettings": {"steps": 1500},
            "DreamBoothData": {"flip": True, "caption_dropout": 0.1},
        },
        name="my_style",
    )
    one_picture(b, train, FAR, prompt="zwx style, a castle on a hill")
    return b.workflow()
