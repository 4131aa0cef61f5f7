"""Every template of ``example_workflows/``: its graph, and the picture on its card."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from . import thumbnails, variants
from .example import build
from .quick_start import build_quick_start
from .server import ROOT
from .workflow import Json

EXAMPLE = ROOT / "example_workflows" / "dreambooth_sd15.json"


@dataclass(frozen=True)
class Template:
    build: Callable[[Mapping[str, Any]], Json]
    draw: Callable[[], Image.Image]


TEMPLATES = {
    "dreambooth_quick_start": Template(build_quick_start, thumbnails.quick_start),
    EXAMPLE.stem: Template(build, thumbnails.with_class_images),
    "dreambooth_two_subjects": Template(variants.build_two_subjects, thumbnails.two_subjects),
    "dreambooth_lora": Template(variants.build_lora, thumbnails.lora),
    "dreambooth_sdxl": Template(variants.build_sdxl, thumbnails.shapes),
    "dreambooth_resume": Template(variants.build_resume, thumbnails.more_steps),
    "dreambooth_style": Template(variants.build_style, thumbnails.style),
}


def write_templates(object_info: Mapping[str, Any]) -> list[Path]:
    """Writes each graph, and its card's picture as a JPEG of the same name."""
    EXAMPLE.parent.mkdir(exist_ok=True)
    paths = []
    for name, template in TEMPLATES.items():
        graph = EXAMPLE.with_name(f"{name}.json")
        text = json.dumps(template.build(object_info), indent=1)
        graph.write_text(text + "\n", encoding="utf-8")
        card = graph.with_suffix(".jpg")
        template.draw().save(card, quality=thumbnails.QUALITY, optimize=True)
        paths += [graph, card]
    return paths
