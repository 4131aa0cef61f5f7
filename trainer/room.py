"""Room on disk: what a run will write, and how much of it fits."""

import shutil
from pathlib import Path

from .config import ConfigError, Job
from .events import Listener, Note
from .training_state import state_bytes

_CACHE_BYTES = 0.5  # per pixel of a view: mean and std of 4 fp32 values per 8² pixels


def check_room(folder: Path, needed: int) -> None:
    """Refuse a run that would fill the disk.

    Raises:
        ConfigError: with both numbers.
    """
    free = free_room(folder)
    if needed > free:
        raise ConfigError(
            f"no room on disk: this run will write {needed / 1e9:.1f} GB, {str(folder)!r} has"
            f" {free / 1e9:.1f} GB free; make room, keep fewer checkpoints or save in fp16"
        )


def free_room(folder: Path) -> int:
    """Bytes."""
    return shutil.disk_usage(folder).free


def plan_room(
    job: Job,
    *,
    file: int,
    previews: int,
    pixels: int,
    weights: int,
    old_states: int,
    listener: Listener,
) -> int:
    """Room for the final file, the extra ones, one more while it is written, and the pictures.

    What is left may hold states: two, and one more while it is written; else one or none.

    Args:
        file: bytes of a checkpoint.
        previews: pictures at a time.
        pixels: of all views, whose latents are kept.
        weights: that learn.
        old_states: bytes that this run holds already.

    Returns:
        How many states can be kept.

    Raises:
        ConfigError: not enough for the files.
    """
    config, folder = job.config, Path(job.checkpoints)
    extras = min(config.keep + 1, config.steps // config.save_every) if config.save_every else 0
    shots = config.steps // config.preview_every + 2 if config.preview_every else 0
    pictures = shots * previews * config.resolution**2 * 3
    folder.mkdir(parents=True, exist_ok=True)
    needed = int(file * (1 + extras) + pictures + pixels * _CACHE_BYTES)
    check_room(folder, needed)
    if not config.keep_state:
        return 0
    state = weights * state_bytes(config)
    left = free_room(folder) - needed + old_states
    kept = min(2, max(0, left // state - 1))
    if not kept:
        listener(
            Note(
                "no room on disk for this run's state: broken off, it cannot go on. Make"
                f" {(2 * state - left) / 1e9:.1f} GB of room, or switch keep_state off"
            )
        )
    return kept
