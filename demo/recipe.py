"""How each sort of base is trained and sampled in the demo: its numbers, in this one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What suits one sort of base; the command line may change steps, size and class images."""

    steps: int
    resolution: int
    """Pixels of the training square, of class images and of every sampled picture."""
    class_images: int
    sampling_steps: int
    cfg: float
    previews: int
    """Sample pictures on the way, evenly spaced; one before the first step comes on top."""
    photo_side: int = 256
    """Pixels of the drawn photos, where the user brings none."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Widgets of *DreamBooth Settings* whose defaults are for Stable Diffusion itself."""
    note: str = ""
    """What the pictures can show at all."""


# A random network learns from far larger steps than a trained one, and there is nothing yet that
# guidance could strengthen but noise.
RANDOM = Recipe(
    steps=40,
    resolution=128,
    class_images=4,
    sampling_steps=12,
    cfg=1.0,
    previews=4,
    settings={"trains": "unet", "learning_rate": 1e-4},
    note="The base is a small random network: it can pick up colours and places, no more.",
)

# Measured by benchmarks/quality.py: docs/RECIPES.md says what, and what of it holds for other nets.
# The base was made at 96 pixels.
PICTURE_BOOK = Recipe(
    steps=120,
    resolution=96,
    class_images=16,
    sampling_steps=20,
    cfg=4.0,
    previews=3,
    settings={"trains": "unet", "learning_rate": 2e-4, "batch_size": 4},
    note="The base learned for some hours on two CPU cores: it draws things in rough strokes.",
)

FULL = Recipe(
    steps=400,
    resolution=512,
    class_images=50,
    sampling_steps=24,
    cfg=7.5,
    previews=4,
    photo_side=512,
)
