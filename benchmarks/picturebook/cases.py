"""Who is taught and what is asked: the held-out subjects, their photos, the prompts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...demo.base.pool import EVALUATION_SEED, to_pixels
from ...demo.photos import PLACES_SHOWN, draw_photos
from ...demo.recipe import PICTURE_BOOK
from ...demo.world import HELD_OUT, PLACES, draw, scene_of
from ...trainer.images import read_image

IDENTIFIER = "zwx"
SIZE = PICTURE_BOOK.resolution
SUBJECTS = ("car-1", "dog-1", "backpack-1", "bird-1", "cat-1", "dog-2")
PHOTOS = len(PLACES_SHOWN)
NEW_SETTINGS = ("beach", "snow", "night", "forest", "desert", "moon", "sea", "rain")
"""Where no photo shows the subject: recontextualization in the paper's words."""
CLASS_PHRASINGS = ("a photo of {}", "{}")


@dataclass(frozen=True)
class Case:
    """One subject of the bench."""

    name: str
    count: int = PHOTOS
    """Photos that it is taught from; its place on the judge's scale is always that of five."""

    @property
    def kind(self) -> str:
        return HELD_OUT[self.name].kind

    @property
    def first_seed(self) -> int:
        """Of this subject's scenes, which nobody has trained on."""
        return EVALUATION_SEED + 1000 * list(HELD_OUT).index(self.name)

    @property
    def instance_prompt(self) -> str:
        return f"a photo of {IDENTIFIER} {self.kind}"

    @property
    def class_prompt(self) -> str:
        return f"a photo of a {self.kind}"

    def subject_prompts(self, settings: tuple[str, ...]) -> list[str]:
        """The subject in each of the settings."""
        return [f"{self.instance_prompt} {PLACES[s].phrases[0]}" for s in settings]

    def class_prompts(self, settings: tuple[str, ...]) -> list[str]:
        """Any thing of the class in each of the settings: what the base is asked."""
        return [f"{self.class_prompt} {PLACES[s].phrases[0]}" for s in settings]

    def plain_prompts(self, count: int) -> list[str]:
        """The class without a place, for drift and diversity."""
        return [
            CLASS_PHRASINGS[n % len(CLASS_PHRASINGS)].format(f"a {self.kind}") for n in range(count)
        ]

    def photos(self, folder: Path, count: int = PHOTOS) -> list[str]:
        """Instance images as files: the demo's, in the base's size, and others if more are asked
        for."""
        sets = -(-count // PHOTOS)
        folders = [folder, *(folder / f"set {number}" for number in range(1, sets))]
        paths = [p for n, at in enumerate(folders) for p in draw_photos(at, self.name, SIZE, n)]
        return [str(path) for path in paths[:count]]

    def true_pictures(self, settings: tuple[str, ...], each: int) -> Tensor:
        """Other pictures of the subject, ``[len(settings)·each, 3, 64, 64]`` in −1…1."""
        scenes = (
            scene_of(HELD_OUT[self.name], self.first_seed + 100 + n, settings[n // each])
            for n in range(len(settings) * each)
        )
        return pixels_of([draw(scene, SIZE) for scene in scenes])


def pixels_of(pictures: list[Image.Image]) -> Tensor:
    """PIL pictures as ``[B, 3, h, w]`` in −1…1."""
    stack = torch.from_numpy(np.stack([np.asarray(p) for p in pictures]))
    return to_pixels(stack, torch.device("cpu"))


def read_photos(paths: list[str]) -> Tensor:
    """Files of the bench's size as ``[B, 3, 64, 64]`` in −1…1."""
    return pixels_of([read_image(path) for path in paths])
