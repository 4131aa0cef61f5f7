"""What trains in this process, for the page: its state, and what the page asks of it.

A page hears of a change by a message, at most four times a second, and asks for the whole state
when it is opened. Nothing here waits for a page.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management as management
from server import PromptServer

from ...trainer.events import Command, Event
from ...trainer.status import Status
from .card import memory

MESSAGE = "dreambooth.status"
PAUSE = 0.25  # seconds between two messages
KEPT = 64  # nodes whose last training is remembered


class Live:
    """One training of one node. Told by the training's thread, asked by the server's."""

    def __init__(self, node_id: str, asked: str) -> None:
        self.node_id = node_id
        self._status = Status(asked)
        self._orders: deque[Command] = deque()
        self._lock = threading.Lock()
        self._sent = 0.0
        self._waiting = False

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._status(event)
        self._publish()

    def end(self, state: str, note: str = "") -> None:
        """See :meth:`Status.end`."""
        with self._lock:
            self._status.end(state, note)
            self._orders.clear()
        self._publish()

    def shown(self) -> dict[str, Any]:
        """The state as a page gets it."""
        with self._lock:
            wishes = [command.value for command in self._orders]
            shown = self._status.shown() | {"node": self.node_id, "wishes": wishes}
        return shown | {"memory": memory()}

    @property
    def asked(self) -> str:
        return self._status.asked

    @property
    def run(self) -> str | None:
        return self._status.run

    @property
    def is_training(self) -> bool:
        return self._status.state == "training"

    def ask(self, command: Command) -> None:
        """An order of the page's; the same one twice is one."""
        with self._lock:
            if command not in self._orders:
                self._orders.append(command)
        self._publish()

    def order(self) -> Command:
        """The next order; a stop stays."""
        with self._lock:
            if not self._orders:
                return Command.GO_ON
            return Command.KEEP if Command.KEEP in self._orders else self._orders.popleft()

    def _publish(self) -> None:
        """Send what has changed: now, or when the pause is over."""
        with self._lock:
            if self._waiting:
                return
            rest = self._sent + PAUSE - time.monotonic()
            self._waiting = True
        loop = PromptServer.instance.loop
        loop.call_soon_threadsafe(loop.call_later, max(0.0, rest), self._send)

    def _send(self) -> None:
        with self._lock:
            self._waiting, self._sent = False, time.monotonic()
            points = self._status.take_points()
        PromptServer.instance.send_sync(MESSAGE, self.shown() | {"points": points})


_LIVE: dict[str, Live] = {}


@contextmanager
def watched(node_id: str, asked: str) -> Iterator[Live]:
    """A node trains: a page sees it until the block ends, and then how it ended."""
    _LIVE.pop(node_id, None)
    while len(_LIVE) >= KEPT:
        _LIVE.pop(next(iter(_LIVE)))
    _LIVE[node_id] = live = Live(node_id, asked)
    try:
        yield live
    except management.InterruptProcessingException:
        live.end("stopped")
        raise
    except BaseException as error:
        live.end("failed", str(error) or type(error).__name__)
        raise


def of_node(node_id: str, asked: str | None) -> Live | None:
    """The last training of this node, under this name if one is known: another graph may count its
    nodes alike."""
    live = _LIVE.get(node_id)
    return live if live and asked in (None, live.asked) else None


def of_run(run: str) -> Live | None:
    """The training that goes on in this run."""
    return next(
        (live for live in list(_LIVE.values()) if live.run == run and live.is_training), None
    )
