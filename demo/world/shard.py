"""Draws a part of a large file of pictures; several processes may fill different parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .chance import random_scene
from .picture import draw


def fill(path: Path, first_seed: int, start: int, end: int) -> None:
    """Pictures ``start`` … ``end`` of ``path``, an array ``[n, size, size, 3]`` of uint8.

    Picture n is ``random_scene(first_seed + n)``.
    """
    pictures = np.load(path, mmap_mode="r+")
    for number in range(start, end):
        scene = random_scene(first_seed + number)
        pictures[number] = np.asarray(draw(scene, pictures.shape[1]))
    pictures.flush()


def main(argv: list[str]) -> None:
    path, *numbers = argv
    fill(Path(path), *map(int, numbers))
