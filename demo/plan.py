"""What one run of the demo trains, how, and the files it needs before the server starts."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .console import phase
from .recipe import FULL, PICTURE_BOOK, RANDOM, Recipe
from .sampling import Sampling
from .server import ComfyServer, has_accelerator
from .workflow import MUTED, Json, set_widget
from .world import HELD_OUT

TEMPLATE = "dreambooth_demo"
TEMPLATES = "dreambooth-demo"  # a pack of its own, so that the page can load the very graph
NOUN = "dog"  # of photos whose kind is not said
PHOTOS = "demo_photos"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class DemoFailed(RuntimeError):
    """Something the user can mend; the message says what."""


@dataclass(frozen=True)
class Plan:
    """The numbers of one run."""

    base: str
    recipe: Recipe
    identifier: str
    noun: str
    steps: int
    resolution: int
    class_images: int

    @property
    def subject(self) -> str:
        return f"{self.identifier} {self.noun}"

    @property
    def prompt(self) -> str:
        return f"a photo of {self.subject} on the moon"

    @property
    def name(self) -> str:
        return f"demo_{self.noun}".replace(" ", "_")

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.resolution, self.recipe.sampling_steps, self.recipe.cfg)


def prepare_inputs(options: argparse.Namespace, server: ComfyServer) -> Plan:
    """Base and photos into the server's folders; what to train and how."""
    for value, name in ((options.steps, "--steps"), (options.resolution, "--resolution")):
        if value is not None and value < 1:
            raise DemoFailed(f"{name} {value}: give a positive number.")
    if options.subject not in HELD_OUT:
        raise DemoFailed(f"--subject {options.subject}: choose one of {', '.join(HELD_OUT)}.")
    source, recipe = choose_base(options, server)
    base = link_file(source, server.folder("models/checkpoints"))
    photos = server.folder("input") / PHOTOS
    if options.images is None:
        paint_photos(photos, options.subject, recipe.photo_side)
    else:
        collect_photos(options.images, photos)
    prepare_page(server)
    return Plan(
        base=base,
        recipe=recipe,
        identifier=options.identifier,
        noun=options.noun or (NOUN if options.images else HELD_OUT[options.subject].kind),
        steps=options.steps or recipe.steps,
        resolution=options.resolution or recipe.resolution,
        class_images=recipe.class_images
        if options.class_images is None
        else max(0, options.class_images),
    )


def choose_base(options: argparse.Namespace, server: ComfyServer) -> tuple[Path, Recipe]:
    """The user's checkpoint, else the picture-book base, else the random one; and its numbers."""
    if options.checkpoint is not None:
        source = options.checkpoint.expanduser().resolve()
        if not source.is_file():
            raise DemoFailed(f"There is no checkpoint {source}.")
        if not has_accelerator(server.python):
            print("  ! no GPU: a full Stable Diffusion takes minutes per step on a CPU")
        return source, FULL
    remove_earlier_runs(server)
    cache = server.base / "cache"
    if not options.random_base:
        from .picture_book import PACKED

        if PACKED.is_file():
            with phase("picture-book base"):
                return expand_base(PACKED, cache / "picture_book_sd15.safetensors"), PICTURE_BOOK
        print(f"  ! {PACKED} is missing: a random base takes its place")
    from .random_base import ensure_base

    with phase("small random base"):
        return ensure_base(cache / "small_sd15.safetensors"), RANDOM


def expand_base(packed: Path, target: Path) -> Path:
    """The packed base as a checkpoint at ``target``."""
    from ..trainer.checkpoint import CheckpointError
    from .base.recipe import BaseFailed
    from .picture_book import ensure_base

    try:
        return ensure_base(target, packed)
    except (BaseFailed, CheckpointError) as error:
        raise DemoFailed(str(error)) from error


def link_file(source: Path, folder: Path) -> str:
    """Offers a file in a folder without a copy where that is possible; its name there."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / source.name
    target.unlink(missing_ok=True)
    try:
        target.symlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
    return target.name


def paint_photos(target: Path, subject: str, side: int) -> None:
    """Five pictures of the subject in an emptied folder."""
    from .photos import draw_photos

    with phase(f"five pictures of {subject}"):
        shutil.rmtree(target, ignore_errors=True)
        draw_photos(target, subject, side)


def collect_photos(source: Path, target: Path) -> None:
    """Copies the user's photos into an emptied folder."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    folder = source.expanduser().resolve()
    files = (
        [p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES]
        if (folder.is_dir())
        else []
    )
    if not files:
        raise DemoFailed(f"There are no pictures ({', '.join(SUFFIXES)}) in {folder}.")
    for file in files:
        shutil.copyfile(file, target / file.name)


def remove_earlier_runs(server: ComfyServer) -> None:
    """Checkpoints of earlier runs of the small base: 300 MB each, and nobody wants them."""
    for file in server.folder("output/checkpoints/dreambooth").glob("demo_*.safetensors"):
        file.unlink()


def prepare_page(server: ComfyServer) -> None:
    """Room for the graph as a template, and no tutorial over it at the first visit."""
    pack = server.folder("custom_nodes") / TEMPLATES
    (pack / "example_workflows").mkdir(parents=True, exist_ok=True)
    (pack / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    settings = server.folder("user") / "default" / "comfy.settings.json"
    if not settings.is_file():
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(json.dumps({"Comfy.TutorialCompleted": True}))


def fill(workflow: Json, info: Json, plan: Plan) -> None:
    """Sets the widgets of the example to the plan."""
    recipe, how = plan.recipe, plan.sampling
    values: dict[str, dict[str, Any]] = {
        "CheckpointLoaderSimple": {"ckpt_name": plan.base},
        "DreamBoothInstanceImages": {"folder": PHOTOS},
        "DreamBoothClassImages": {
            "prompt": f"a photo of a {plan.noun}",
            "count": max(1, plan.class_images),
            "resolution": plan.resolution,
            "steps": how.steps,
            "cfg": how.cfg,
        },
        "DreamBoothConcept": {"identifier": plan.identifier, "class_noun": plan.noun},
        "DreamBoothSettings": {
            "steps": plan.steps,
            "resolution": plan.resolution,
            "preview_steps": how.steps,
            "preview_cfg": how.cfg,
            "preview_every": max(1, plan.steps // recipe.previews),
            "keep_state": False,
            **recipe.settings,
        },
        "DreamBoothTrain": {"name": plan.name, "train_again": True},
        "EmptyLatentImage": {"width": plan.resolution, "height": plan.resolution},
        "KSampler": {"steps": how.steps, "cfg": how.cfg},
    }
    for node_type, widgets in values.items():
        for widget, value in widgets.items():
            set_widget(workflow, info, node_type, widget, value)
    set_widget(workflow, info, "CLIPTextEncode", "text", plan.prompt, title="Positive prompt")
    for node in workflow["nodes"]:
        if node["type"] == "DreamBoothClassImages" and not plan.class_images:
            node["mode"] = MUTED
