"""TensorBoard event files beside a run's log, where the package ``tensorboard`` is installed."""

import importlib.util
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .events import Begun, Event, Listener, Note, Preview, Step

SCALARS = {
    "loss/photos": "instance_loss",
    "loss/class images": "class_loss",
    "learning rate": "learning_rate",
    "gradient norm": "grad_norm",
}


@contextmanager
def with_tensorboard(listener: Listener) -> Iterator[Listener]:
    """A listener that tells this one, and writes ``tensorboard/`` in the run's folder."""
    if importlib.util.find_spec("tensorboard") is None:
        yield listener
        return
    board = _Board(listener)
    try:
        yield board
    finally:
        board.close()


class _Board:
    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        self._listener(event)
        try:
            self._write(event)
        except Exception as error:  # noqa: BLE001  its packages are many: none may end a run
            self._writer = None
            self._listener(Note(f"no TensorBoard files from here on: {error}"))

    def _write(self, event: Event) -> None:
        if isinstance(event, Begun):
            self._writer = _open(event.folder / "tensorboard", event.step)
        elif self._writer is None:
            return
        elif isinstance(event, Step):
            for name, field in SCALARS.items():
                value = getattr(event, field)
                if value is not None and math.isfinite(value):
                    self._writer.add_scalar(name, value, event.step)
        elif isinstance(event, Preview):
            pixels = np.asarray(event.image)
            self._writer.add_image(event.prompt, pixels, event.step, dataformats="HWC")

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


def _open(folder: Path, step: int) -> Any:
    """A writer that takes back what an earlier process wrote after ``step``."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder), purge_step=step + 1)
