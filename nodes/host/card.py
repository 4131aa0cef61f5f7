"""The card, the node's bar and text, and the interrupt."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import comfy.model_management as management
import comfy.utils
import torch
from comfy_execution.graph_utils import ExecutionBlocker
from PIL import Image
from server import PromptServer


def device() -> torch.device:
    return management.get_torch_device()


@contextmanager
def card_to_ourselves() -> Iterator[None]:
    """The host's models leave the card first; what we leave behind goes at the end."""
    management.unload_all_models()
    release_memory()
    try:
        yield
    finally:
        release_memory()


def release_memory() -> None:
    _forget_the_last_model()
    gc.collect()
    management.soft_empty_cache()
    # pinned RAM, in which a run on a small card keeps its state; torch keeps it otherwise
    accelerator = getattr(torch, "accelerator", None)
    if hasattr(accelerator, "empty_host_cache") and accelerator.is_available():
        accelerator.empty_host_cache()


def _forget_the_last_model() -> None:
    """What a host of 2026 holds of the weights it used last, and with them of their file.

    It lets go of them itself, when a node returns: too late for a file that is thrown away in it.
    """
    weights = getattr(comfy, "memory_management", None)
    if not getattr(weights, "aimdo_enabled", False):
        return
    ahead = getattr(comfy, "model_prefetch", None)
    for owner, name in ((management, "reset_cast_buffers"), (ahead, "cleanup_prefetch_queues")):
        if forget := getattr(owner, name, None):
            forget()


def memory() -> dict[str, int]:
    """Bytes in use, by everybody, and all there are: of the card, or of the RAM without one."""
    total = management.get_total_memory(device())
    return {"used": int(total - management.get_free_memory(device())), "total": int(total)}


def say(node_id: str | None, text: str) -> None:
    """Text under a node."""
    send = getattr(PromptServer.instance, "send_progress_text", None)
    if send is not None and node_id:
        send(text, node_id)


class Progress:
    """The node's bar, text line and picture; remembers an interrupt instead of raising it."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._bar = comfy.utils.ProgressBar(1)
        self._interrupt: BaseException | None = None
        self._said = 0.0

    def bar(self, value: int, total: int, picture: Image.Image | None = None) -> None:
        preview = None if picture is None else ("JPEG", picture, 512)
        with self.interrupt_kept():
            self._bar.update_absolute(value, total, preview)

    @contextmanager
    def interrupt_kept(self) -> Iterator[None]:
        """A cancel that the host raises in here ends only this block."""
        try:
            yield
        except management.InterruptProcessingException as error:
            # raising consumed the host's flag: keep it until the work is saved; without its
            # traceback, which would keep the block's models
            self._interrupt = error.with_traceback(None)

    def say(self, text: str, *, always: bool = False) -> None:
        """A line under the node, at most twice a second unless it must be seen."""
        now = time.monotonic()
        if always or now - self._said >= 0.5:
            self._said = now
            say(self._node_id, text)

    @property
    def interrupted(self) -> bool:
        return self._interrupt is not None or management.processing_interrupted()

    def raise_if_interrupted(self) -> None:
        """Report the cancel to the host, which consumes its flag."""
        management.throw_exception_if_processing_interrupted()
        if self._interrupt is not None:
            raise self._interrupt


def nothing_follows() -> ExecutionBlocker:
    """An output for which no node runs; the rest of the graph does."""
    return ExecutionBlocker(None)


def interrupt() -> NoReturn:
    """End the prompt as its cancel button does."""
    raise management.InterruptProcessingException
