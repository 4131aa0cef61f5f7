"""What the loop says (events) and what it can be told (a command). It knows no page and no host."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from PIL import Image


@dataclass(frozen=True)
class Phase:
    """Work before or after the loop: ``done`` of ``total`` units of ``name``."""

    name: str
    done: int
    total: int


@dataclass(frozen=True)
class Planned:
    """What the run is going to hold of its device's memory, and what it may take; in bytes.

    ``change``: how its steps are cut up so that it fits, in words; empty where they are whole.
    """

    need: int
    free: int
    change: str

    @property
    def text(self) -> str:
        said = f"memory: about {gib(self.need)} of the {gib(self.free)} that it may take"
        return f"{said}, with {self.change}" if self.change else said


@dataclass(frozen=True)
class Tried:
    """What the run's largest step took when it was tried, before the first one.

    ``peak``: bytes of the device's memory that torch had taken for this process; None where it does
    not say. ``seconds``: of the step's forward and backward passes.
    """

    peak: int | None
    seconds: float

    @property
    def text(self) -> str:
        slow = self.seconds >= 1
        pace = f"{self.seconds:.1f} s a step" if slow else f"{1 / self.seconds:.1f} steps a second"
        held = "" if self.peak is None else f"{gib(self.peak)} at most, "
        return f"tried: {held}{pace} of the largest size, without the updates"


@dataclass(frozen=True)
class Begun:
    """The run has its folder, and ``step`` of its ``total`` steps: more than 0 if it goes on."""

    folder: Path
    step: int
    total: int


@dataclass(frozen=True)
class Step:
    """One finished optimizer step. ``loss`` is what was learned from, weights included;
    ``instance_loss`` and ``class_loss`` are plain mean squared errors over rows whatever the
    settings, so that runs compare; ``class_loss`` is None when no class image took part.
    ``step_seconds`` is this step alone, ``seconds`` everything since the loop began, previews and
    saves included."""

    step: int
    total: int
    loss: float
    instance_loss: float
    class_loss: float | None
    learning_rate: float
    grad_norm: float
    skipped: bool
    step_seconds: float
    seconds: float


@dataclass(frozen=True)
class Preview:
    """Pictures of the model as it is after ``step`` steps; 0 is the base."""

    step: int
    prompt: str
    image: Image.Image
    path: Path


@dataclass(frozen=True)
class Saved:
    """A verified checkpoint on disk, holding the weights after ``step`` steps."""

    step: int
    path: Path


@dataclass(frozen=True)
class Note:
    """A sentence that the user should read."""

    text: str


Event = Phase | Planned | Tried | Begun | Step | Preview | Saved | Note
Listener = Callable[[Event], None]


class Command(Enum):
    """What the loop may be told between two steps.

    It asks often, also in the middle of a step: STOP and KEEP hold until the end, PREVIEW and SAVE
    are each told once and done when the step is. After STOP the run goes on when it is queued
    again, after KEEP it is finished: what it has learned is its result.
    """

    GO_ON = "go on"
    STOP = "stop"
    KEEP = "keep"
    PREVIEW = "preview"
    SAVE = "save"


Control = Callable[[], Command]


def gib(count: float) -> str:
    """Bytes in words."""
    return f"{count / 2**30:.1f} GiB"


def ignore(event: Event) -> None:
    """A listener that does nothing."""


def go_on() -> Command:
    """A control that never stops."""
    return Command.GO_ON
