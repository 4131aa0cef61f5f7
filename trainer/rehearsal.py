"""A save before the first step: a run that cannot end well never starts."""

import contextlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from filelock import FileLock
from torch import Tensor

from .events import Listener, Phase
from .state import CheckpointWriter

Load = Callable[[Path], None]
"""Loads a checkpoint as the user will, and uses it once; raises what is wrong with it."""


class RehearsalFailed(RuntimeError):
    """The file that the run would end with is of no use; nothing was trained."""


def rehearse(
    writer: CheckpointWriter,
    tensors: Mapping[str, Tensor],
    folder: Path,
    load: Load | None,
    listener: Listener,
) -> dict[str, int]:
    """Writes the model as the run will write it, lets it be loaded, and throws it away.

    Args:
        tensors: what will train, as it is before the first step.
        folder: on the disk of the checkpoints, but not where a host lists models.

    Returns:
        The file's checksums by tensor: what an update must change.

    Raises:
        CheckpointError: it cannot be written, or not in this precision.
        RehearsalFailed: ``load`` refused it.
    """
    listener(Phase("Rehearsing the save", 0, 1))
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        path = folder / f".rehearsal-{secrets.token_hex(4)}.safetensors"
        try:
            sums = writer.write(path, tensors, 0)
            if load:
                _try(load, path)
        finally:
            # Windows keeps a file that the host still has open: the next rehearsal throws it away
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    listener(Phase("Rehearsing the save", 1, 1))
    return sums


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One rehearsal at a time, so that any other file of one is a killed process's: it goes."""
    lock = FileLock(folder / ".rehearsal.lock")
    with contextlib.suppress(OSError, NotImplementedError):  # a file system that knows no locks
        lock.acquire()
    try:
        for path in folder.glob(".*rehearsal-*") if lock.is_locked else ():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def _try(load: Load, path: Path) -> None:
    try:
        load(path)
    except Exception as error:
        raise RehearsalFailed(
            "the checkpoint that this run would end with does not load here"
            f" ({type(error).__name__}: {error}), so nothing was trained: try it with a plain"
            " checkpoint on the wires, or report it with the server's log"
        ) from error
