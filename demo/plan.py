"""What one run of the demo trains, how, and the files it needs before the server starts."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .console import phase
from .server import ComfyServer, has_accelerator
from .workflow import MUTED, Json, set_widget

TEMPLATE = "dreambooth_demo"
TEMPLATES = "dreambooth-demo"  # a pack of its own, so that the page can load the very graph
PHOTOS = "demo_photos"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


class DemoFailed(RuntimeError):
    """Something the user can mend; the message says what."""


@dataclass(frozen=True)
class Plan:
    """The numbers of one run."""

    base: str
    small: bool
    identifier: str
    noun: str
    steps: int
    resolution: int
    class_images: int

    @property
    def prompt(self) -> str:
        return f"a photo of {self.identifier} {self.noun} on the moon"

    @property
    def name(self) -> str:
        return f"demo_{self.noun}".replace(" ", "_")


def prepare_inputs(options: argparse.Namespace, server: ComfyServer) -> Plan:
    """Base and photos into the server's folders; what to train and how."""
    small = options.checkpoint is None
    for value, name in ((options.steps, "--steps"), (options.resolution, "--resolution")):
        if value is not None and value < 1:
            raise DemoFailed(f"{name} {value}: give a positive number.")
    if small:
        from .random_base import ensure_base

        with phase("small random base"):
            source = ensure_base(server.base / "cache" / "small_sd15.safetensors")
        remove_earlier_runs(server)
    else:
        source = options.checkpoint.expanduser().resolve()
        if not source.is_file():
            raise DemoFailed(f"There is no checkpoint {source}.")
        if not has_accelerator(server.python):
            print("  ! no GPU: a full Stable Diffusion takes minutes per step on a CPU")
    base = link_file(source, server.folder("models/checkpoints"))
    collect_photos(options.images, server.folder("input") / PHOTOS)
    prepare_page(server)
    return Plan(
        base=base,
        small=small,
        identifier=options.identifier,
        noun=options.noun,
        steps=options.steps or (40 if small else 400),
        resolution=options.resolution or (128 if small else 512),
        class_images=(4 if small else 50)
        if options.class_images is None
        else max(0, options.class_images),
    )


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


def collect_photos(source: Path | None, target: Path) -> None:
    """Copies the user's photos, or draws some."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    if source is None:
        from .photos import draw_photos

        with phase("five pictures of a toy dog"):
            draw_photos(target)
        return
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
    sampling_steps = 12 if plan.small else 24
    values: dict[str, dict[str, Any]] = {
        "CheckpointLoaderSimple": {"ckpt_name": plan.base},
        "DreamBoothInstanceImages": {"folder": PHOTOS},
        "DreamBoothClassImages": {
            "prompt": f"a photo of a {plan.noun}",
            "count": max(1, plan.class_images),
            "resolution": plan.resolution,
            "steps": sampling_steps,
        },
        "DreamBoothConcept": {"identifier": plan.identifier, "class_noun": plan.noun},
        "DreamBoothSettings": {
            "steps": plan.steps,
            "resolution": plan.resolution,
            "preview_steps": sampling_steps,
            "preview_every": max(1, plan.steps // 4),
        },
        "DreamBoothTrain": {"name": plan.name},
        "EmptyLatentImage": {"width": plan.resolution, "height": plan.resolution},
        "KSampler": {"steps": sampling_steps},
    }
    if plan.small:
        # A random network learns from far larger steps than a trained one, and there is nothing
        # yet that guidance could strengthen but noise.
        values["DreamBoothSettings"] |= {
            "trains": "unet",
            "learning_rate": 1e-4,
            "preview_cfg": 1.0,
        }
        values["DreamBoothClassImages"]["cfg"] = values["KSampler"]["cfg"] = 1.0
    for node_type, widgets in values.items():
        for widget, value in widgets.items():
            set_widget(workflow, info, node_type, widget, value)
    set_widget(workflow, info, "CLIPTextEncode", "text", plan.prompt, title="Positive prompt")
    for node in workflow["nodes"]:
        if node["type"] == "DreamBoothClassImages" and not plan.class_images:
            node["mode"] = MUTED
