"""The pictures that the base learns from: drawn once, by all processors, into one file on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..server import ROOT
from ..world import caption, random_scene
from ..world.shard import fill
from .recipe import FAVOUR, BaseFailed, Recipe

FIRST_SEED = 0  # pictures of seeds below EVALUATION_SEED are for training
EVALUATION_SEED = 1_000_000_000


def processors() -> int:
    """How many this process may use, where the system says."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def picture_file(folder: Path, recipe: Recipe) -> Path:
    return folder / f"pool-{recipe.size}-{recipe.pool}-{recipe.seed}.npy"


def seeds(recipe: Recipe) -> range:
    """The scenes of this pool."""
    start = FIRST_SEED + recipe.seed * recipe.pool
    return range(start, start + recipe.pool)


def load_pool(folder: Path, recipe: Recipe, workers: int | None = None) -> Tensor:
    """``[pool, size, size, 3]`` uint8, mapped from the file, which is drawn if it is missing."""
    path = picture_file(folder, recipe)
    if not path.is_file():
        _draw_all(path, recipe, workers or processors())
    pictures = np.load(path, mmap_mode="c")
    shape = (recipe.pool, recipe.size, recipe.size, 3)
    if pictures.shape != shape:
        raise BaseFailed(f"{path} holds {pictures.shape}, not {shape}: delete it")
    return torch.from_numpy(pictures)


def _draw_all(path: Path, recipe: Recipe, workers: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    shape = (recipe.pool, recipe.size, recipe.size, 3)
    np.lib.format.open_memmap(partial, mode="w+", dtype=np.uint8, shape=shape).flush()
    if workers <= 1 or recipe.pool < 200:
        fill(partial, seeds(recipe).start, 0, recipe.pool)
    else:
        _share_out(partial, recipe, workers)
    os.replace(partial, path)


def _share_out(partial: Path, recipe: Recipe, workers: int) -> None:
    """One process for each part; they import the world but not torch."""
    bounds = [recipe.pool * n // workers for n in range(workers + 1)]
    code = "import sys; from demo.world.shard import main; main(sys.argv[1:])"
    jobs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(partial), str(seeds(recipe).start), str(a), str(b)],
            cwd=ROOT,
        )
        for a, b in zip(bounds, bounds[1:], strict=False)
    ]
    try:
        failed = [job for job in jobs if job.wait()]
    except BaseException:
        for job in jobs:
            job.kill()
        raise
    if failed:
        raise BaseFailed("a process that draws pictures failed; its message is above")


def captions_of(recipe: Recipe) -> list[list[str]]:
    """Each picture's captions: as many as the recipe says, some of them perhaps the same."""
    known: set[str] = set()
    return [_captions(recipe, seed, known) for seed in seeds(recipe)]


def how_often(recipe: Recipe) -> Tensor:
    """`FAVOUR` for pictures of the favoured kinds and poses, 1 for the others, ``[pool]``."""
    scenes = map(random_scene, seeds(recipe))
    names = ({scene.kind, f"{scene.kind}:{scene.pose}"} for scene in scenes)
    return torch.tensor([1.0 if name.isdisjoint(recipe.favoured) else FAVOUR for name in names])


def _captions(recipe: Recipe, seed: int, known: set[str]) -> list[str]:
    """True sentences about one scene; only known ones where there are as many as may be."""
    scene, found = random_scene(seed), []
    for n in range(recipe.captions):
        first = text = caption(scene, seed * recipe.captions + n)
        if recipe.texts and len(known) >= recipe.texts:
            tries = (caption(scene, ~(seed * recipe.captions + n) * 64 - k) for k in range(64))
            text = next((t for t in (first, *tries) if t in known), first)
        known.add(text)
        found.append(text)
    return found


def to_pixels(pictures: Tensor, device: torch.device) -> Tensor:
    """``[B, h, w, 3]`` uint8 → ``[B, 3, h, w]`` in −1…1."""
    return pictures.to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
