"""What the base draws: things in rows, places in columns."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from ...trainer.checkpoint import Layout, build
from ...trainer.images import to_image
from ..random_base import LAYOUT
from ..world import PLACES
from ..world.sheet import save_small, tile
from .diffusion import sample
from .pack import PACKED, packed_weights
from .states import TextStates

GRID = [
    [
        f"a {kind} {PLACES[place].phrases[0]}".strip()
        for place in ("", "beach", "snow", "night", "moon", "sea")
    ]
    for kind in ("dog", "cat", "red car", "bird", "boat", "cup", "house", "flower")
]


def prompts_of(rows: int) -> list[str]:
    return [prompt for row in GRID[:rows] for prompt in row]


def sample_grid(
    unet: nn.Module, vae: nn.Module, states: TextStates, rows: int, side: int, bf16: bool = False
) -> Image.Image:
    """The first ``rows`` rows; ``side`` in latent pixels."""
    prompts = prompts_of(rows)
    states.add(["", *prompts])
    text, empty = states[states.rows(prompts)], states[states.rows([""])]
    out = sample(unet, vae, text, empty, side=side, bf16=bf16)
    return tile([[to_image(p) for p in part] for part in out.split(len(GRID[0]))])


def show(out: Path, packed: Path = PACKED, layout: Layout = LAYOUT, rows: int = len(GRID)) -> Path:
    """Draws the grid of a packed base.

    Raises:
        BaseFailed: there is none, or it is damaged.
    """
    tensors, about = packed_weights(packed)
    unet, vae = (build(tensors, layout, part) for part in ("unet", "vae"))
    states = TextStates(torch.device("cpu"), layout)
    page = sample_grid(unet, vae, states, rows, json.loads(about["unet.recipe"])["size"] // 8)
    larger = (page.width * 3 // 2, page.height * 3 // 2)
    save_small(page.resize(larger, Image.Resampling.LANCZOS), out)
    return out
