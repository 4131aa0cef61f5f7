"""What the user asks of a run on its way: the end, a preview, a checkpoint."""

from .events import Command, Control
from .ranks import ALONE, Ranks


class Stopped(Exception):
    """The user asked for the end; raised between two pieces of work, caught by the loop."""


class Orders:
    """A stop acts at once, a wish waits for the end of the step.

    Of several processes any may be asked for the end. It acts where all of them meet the next time:
    in all at the same place, and none is waited for in vain.

    Attributes:
        stopping: this process was asked for the end, and the others do not know yet.
        keeps: what was learned until then is the result, and nothing is left to be done.
    """

    def __init__(self, control: Control, ranks: Ranks = ALONE) -> None:
        self._control = control
        self._ranks = ranks
        self._wishes: set[Command] = set()
        self.stopping = False
        self.keeps = False

    def check(self) -> None:
        """Ask.

        Raises:
            Stopped: the answer is a stop, and nobody else has to know.
        """
        command = self._control()
        if command in (Command.STOP, Command.KEEP):
            self.keeps = command is Command.KEEP
            if not self._ranks.several:
                raise Stopped
            self.stopping = True
        elif command is not Command.GO_ON:
            self._wishes.add(command)

    def meet(self) -> None:
        """Ask where all processes come by as often.

        Raises:
            Stopped: the answer is a stop in one of them.
        """
        self.check()
        if any(self._ranks.total([self.stopping])):
            raise Stopped

    def take(self) -> set[Command]:
        """What was wished for since the last time."""
        wishes, self._wishes = self._wishes, set()
        return wishes
