"""What the user asks of a run on its way: the end, a preview, a checkpoint."""

from .events import Command, Control


class Stopped(Exception):
    """The user asked for the end; raised between two pieces of work, caught by the loop."""


class Orders:
    """A stop acts at once, a wish waits for the end of the step."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._wishes: set[Command] = set()

    def check(self) -> None:
        """Ask.

        Raises:
            Stopped: the answer is a stop.
        """
        command = self._control()
        if command is Command.STOP:
            raise Stopped
        if command is not Command.GO_ON:
            self._wishes.add(command)

    def take(self) -> set[Command]:
        """What was wished for since the last time."""
        wishes, self._wishes = self._wishes, set()
        return wishes
