"""What a run is doing now, from its events: a JSON object that a page can show at any moment."""

import dataclasses
from typing import Any

from .curve import number
from .events import Begun, Event, Note, Phase, Planned, Preview, Saved, Step
from .files import read_json
from .history import list_pictures, preview_prompts

MAX_NOTES = 20
MAX_POINTS = 500  # of one message: a page that missed more asks for the whole log


@dataclasses.dataclass
class Status:
    """Listens to one run. Every field but the last is shown as it is.

    Attributes:
        asked: the name that was asked for; ``run`` is the one that it got, None before it has one.
        state: "preparing", "training", "finished", "stopped", "failed", or "written" for a shell.
        phase, done, of: the piece of work in hand; empty while steps go by.
        step, total: finished optimizer steps, of how many.
        speed: steps a second, of the last step; ``left``: seconds to the end.
        prompts: of the previews; ``pictures``: ``[step, prompt's number]`` of each.
        saved: ``[step, file]`` of each checkpoint.
        points: what the loss chart gets since :meth:`take_points` was called last.
    """

    asked: str
    run: str | None = None
    state: str = "preparing"
    phase: str = ""
    done: int = 0
    of: int = 0
    step: int = 0
    total: int = 0
    speed: float | None = None
    left: float | None = None
    instance_loss: float | None = None
    class_loss: float | None = None
    learning_rate: float | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    prompts: list[str] = dataclasses.field(default_factory=list)
    pictures: list[list[int]] = dataclasses.field(default_factory=list)
    saved: list[list[Any]] = dataclasses.field(default_factory=list)
    points: list[list[float | None]] = dataclasses.field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Step):
            self._take_step(event)
        elif isinstance(event, Phase):
            over = event.done >= event.total
            self.phase = "" if over and self.state == "training" else event.name
            self.done, self.of = event.done, event.total
        elif isinstance(event, Begun):
            self.run, self.state, self.phase = event.folder.name, "training", ""
            self.step, self.total = event.step, event.total
            self.prompts = preview_prompts(read_json(event.folder / "job.json"))
            self.pictures = list_pictures(event.folder)
        elif isinstance(event, Preview):
            self.phase = ""
            self.pictures = list_pictures(event.path.parent.parent)
        elif isinstance(event, Saved):
            self.saved.append([event.step, event.path.name])
        elif isinstance(event, Note) or (isinstance(event, Planned) and event.change):
            self.notes = [*self.notes, event.text][-MAX_NOTES:]

    def _take_step(self, event: Step) -> None:
        self.phase = ""
        self.step, self.total = event.step, event.total
        self.speed = number(1 / max(event.step_seconds, 1e-9))
        self.left = number((event.total - event.step) * event.seconds / max(event.step, 1))
        self.instance_loss = number(event.instance_loss)
        self.class_loss = number(event.class_loss)
        self.learning_rate = number(event.learning_rate)
        point = [event.step, self.instance_loss, self.class_loss, self.learning_rate]
        self.points = [*self.points, point][-MAX_POINTS:]

    def end(self, state: str, note: str = "") -> None:
        """The run is over: "finished", "stopped", "failed" or "written"."""
        self.state, self.phase, self.left = state, "", None
        if note:
            self(Note(note))

    def shown(self) -> dict[str, Any]:
        """Everything but the points, as JSON."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)[:-1]}

    def take_points(self) -> list[list[float | None]]:
        """``[step, instance loss, class loss, learning rate]`` of each step since the last time."""
        points, self.points = self.points, []
        return points
