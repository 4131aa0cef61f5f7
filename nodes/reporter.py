"""A run's events as the bar, line and picture of its node, and for the page."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..trainer.events import (
    Begun,
    Command,
    Event,
    Note,
    Phase,
    Planned,
    Preview,
    Saved,
    Step,
    Tried,
)
from . import host

LAUNCHER = Path(__file__).resolve().parents[1] / "train.py"

if TYPE_CHECKING:
    from ..trainer.loop import Result


@dataclasses.dataclass
class Reporter:
    """The trainer's events as the node's bar, line and picture, and for the page."""

    progress: host.Progress
    live: host.Live
    kind: str
    notes: list[str] = dataclasses.field(default_factory=list)
    plan: str = ""
    last: Step | None = None

    def __call__(self, event: Event) -> None:
        self.live(event)
        if isinstance(event, Step):
            self.last = event
            self.progress.bar(event.step, event.total)
            self.progress.say(describe(event))
        elif isinstance(event, Phase):
            self.progress.say(f"{event.name} {event.done}/{event.total}", always=event.done == 0)
            if self.last is None:
                self.progress.bar(event.done, event.total)
        elif isinstance(event, Preview):
            step = self.last.step if self.last else 0
            self.progress.bar(step, self.last.total if self.last else 1, event.image)
        elif isinstance(event, (Planned, Tried)):
            self.plan = "\n".join(filter(None, [self.plan, event.text]))
            self.progress.say(event.text, always=True)
        elif isinstance(event, Note):
            self.notes.append(event.text)
            self.progress.say(event.text, always=True)
        elif isinstance(event, Saved):
            self.progress.say(f"saved step {event.step}: {event.path.name}", always=True)

    def command(self) -> Command:
        """A cancel ends the prompt, too; after a stop on the page the graph goes on."""
        return Command.STOP if self.progress.interrupted else self.live.order()

    def finish(self, result: Result) -> str:
        """Show how it ended; returns the text."""
        if result.reused:
            self.live(Begun(result.folder, result.steps, result.steps))
        said = self.summary(result)
        self.live.end("stopped" if result.stopped else "finished", said)
        text = "\n".join(filter(None, [said, self.plan, *self.notes]))
        self.progress.say(text, always=True)
        return text

    def written(self, path: Path) -> str:
        """Show that nothing is trained here, and how it is; returns the text."""
        said = (
            f"written, not trained: {path}\nin a shell:\n"
            f'"{sys.executable}" "{LAUNCHER}" "{path}"\n'
            "then choose here and queue again: the result is handed over. On several cards: this"
            " node's help page"
        )
        self.live.end("written", said)
        text = "\n".join([said, *self.notes])
        self.progress.say(text, always=True)
        return text

    def summary(self, result: Result) -> str:
        pace = f"{result.steps} steps in {_clock(result.seconds)}"
        if result.reused:
            pace = f"handed over, finished earlier with {pace}"
        if result.stopped:
            pace = f"stopped and kept after {pace}"
        return f"{result.name}: {pace}\n{self.kind}: {result.checkpoint}"


def describe(step: Step) -> str:
    """One line: step, losses, speed, time left."""
    left = _clock((step.total - step.step) * step.seconds / step.step)
    prior = "" if step.class_loss is None else f" · class {step.class_loss:.3f}"
    return (
        f"step {step.step}/{step.total} · instance {step.instance_loss:.3f}{prior}"
        f" · {1 / max(step.step_seconds, 1e-9):.2f} it/s · {left} left"
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
