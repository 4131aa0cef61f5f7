"""A run that is only written down, so that a shell can train it: on several cards, or tonight."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .checkpoint import CheckpointError, read_checkpoint, weights_digest, write_checkpoint
from .config import Job
from .files import write_text


def write_job(job: Job, base: Mapping[str, Tensor], folder: Path) -> Path:
    """Put ``job.json`` into ``folder`` and, where no file holds the base, ``base.safetensors``.

    Args:
        job: with the digest of ``base``, which a host may hold in other dtypes than its file does:
            then that is another base, and what comes of it another run.

    Returns:
        The job's file: ``python -m trainer`` trains it, and a graph that asks for the same run
        gets its result.

    Raises:
        CheckpointError: the base cannot be written.
        OSError: the job cannot.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not _is_in_file(job):
        file = folder / "base.safetensors"
        write_checkpoint(file, base, {})
        job = dataclasses.replace(job, base=str(file))
    path = folder / "job.json"
    write_text(path, job.to_json())
    return path


def _is_in_file(job: Job) -> bool:
    try:
        return job.base is not None and (
            weights_digest(read_checkpoint(job.base)[0]) == job.base_digest
        )
    except CheckpointError:
        return False
