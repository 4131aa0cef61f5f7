"""The processes of one run, each with the whole model and a share of every step's rows.

``accelerate launch`` and ``torchrun`` start them, and all that torch.distributed does is here. A
step's rows are a function of its number, whoever computes them, and each process divides by the
rows of the whole step, so that the gradients of the shares add up to those of one process. That is
why DDP's wrapper is not used: it averages, and it does so in every backward pass, of which a step
has as many as the memory asks for, through modules of which some stop learning on the way.
"""

import contextlib
import datetime
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate.state import PartialState
from torch import Tensor
from torch import distributed as dist
from torch.nn import Parameter

from .config import ConfigError
from .errors import TrainingError

_BUCKET = 2**23  # values that are added up in one go: few calls, little memory
# How long one waits for another that does not answer; one that is gone is noticed at once.
_SUM = datetime.timedelta(minutes=10)  # for gradients, which all of them have by then
_PATIENCE = datetime.timedelta(minutes=30)  # while the first paints and saves
_LEAVE = datetime.timedelta(days=1)  # until the first has written what it has to


class Ranks:
    """All processes of a run as one of them sees them; alone, everything here costs nothing.

    Attributes:
        index: of this process. The first, 0, is the only one that writes files and is heard.
        count: of processes.
    """

    def __init__(
        self,
        index: int = 0,
        count: int = 1,
        meeting: "dist.ProcessGroup | None" = None,
        exit: "dist.ProcessGroup | None" = None,
    ) -> None:
        """
        Args:
            meeting, exit: groups of all processes, if there are several; see :func:`join`.
        """
        self.index = index
        self.count = count
        self._meeting = meeting
        self._exit = exit

    @property
    def several(self) -> bool:
        return self.count > 1

    @property
    def is_first(self) -> bool:
        return self.index == 0

    def share(self, rows: range) -> range:
        """This process's part of a step's rows: those of all processes, in order, are ``rows``."""
        begin, end = (len(rows) * index // self.count for index in (self.index, self.index + 1))
        return rows[begin:end]

    def total(self, numbers: Sequence[float]) -> list[float]:
        """Each number added up over the processes, which all get the same sums.

        Raises:
            TrainingError: another process is gone; so it is with all that follows.
        """
        if not self.several:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        with self._together():
            dist.all_reduce(sums, group=self._meeting)
        return sums.tolist()

    def tell(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the first process says, in all of them; JSON."""
        if not self.several:
            return values
        text = json.dumps(values).encode() if self.is_first else b""
        length = self.give(torch.tensor([len(text)]))
        heard = torch.zeros(int(length), dtype=torch.uint8)
        if self.is_first:
            heard = torch.tensor(list(text), dtype=torch.uint8)
        return json.loads(bytes(self.give(heard).tolist()))

    def give(self, tensor: Tensor) -> Tensor:
        """Fill a tensor on the CPU with what the first process has in its place."""
        if self.several:
            with self._together():
                dist.broadcast(tensor, 0, group=self._meeting)
        return tensor

    @torch.no_grad()
    def add_gradients(self, parameters: Sequence[Parameter]) -> None:
        """Add up each parameter's ``grad`` over the processes; where none has one, none gets one.

        Args:
            parameters: in the same order everywhere.
        """
        if not self.several:
            return
        held = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8)
        with self._together():
            dist.all_reduce(held, dist.ReduceOp.MAX, group=self._meeting)
        gradients = []
        for parameter, is_held in zip(parameters, held.tolist(), strict=True):
            if is_held and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if is_held:
                gradients.append(parameter.grad)
        for bucket in _buckets(gradients):
            # in fp32 also where they are bf16: rounded once, however many processes there are
            flat = torch.cat([gradient.reshape(-1).float() for gradient in bucket])
            with self._together():
                dist.all_reduce(flat)
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def leave(self, *, well: bool) -> None:
        """The end of this process's part.

        Whoever waits for it learns that it is gone. A launcher ends all processes soon after one
        of them has ended badly: so this one stays until the first has written everything.

        Args:
            well: nothing failed. After an error nccl may wait for those that are gone.
        """
        if not self.several:
            return
        dist.destroy_process_group(self._meeting)
        self._meeting = None  # its connections end with the last that holds it
        if not self.is_first:
            with contextlib.suppress(RuntimeError):  # the first is gone: that is what it waits for
                dist.barrier(group=self._exit)
        dist.destroy_process_group(self._exit)
        self._exit = None
        if well:
            dist.destroy_process_group()

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            reason = re.sub(r"^\[\S+\] ", "", str(error).strip()).split(". ")[0]
            raise TrainingError(
                f"another of this run's {self.count} processes is gone ({reason}): it said why, or"
                " was killed. What was finished is kept: the same command goes on from there, with"
                " as many processes as you like"
            ) from error


ALONE = Ranks()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """In order, each of about as many values; a tensor is never cut."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        bucket.append(tensor)
        if sum(held.numel() for held in bucket) >= _BUCKET:
            yield bucket
            bucket = []
    if bucket:
        yield bucket


def join(device: torch.device) -> tuple[Ranks, torch.device]:
    """The processes of this launch, and this one's own device of the kind that is asked for.

    A process that was started plainly is alone.

    Raises:
        ConfigError: no such device for each process.
        TrainingError: they did not find each other.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count < 2:
        return ALONE, device
    if device.index is not None:
        raise ConfigError(
            f"--device {device}: each of the {count} processes takes one of its own; say"
            f" --device {device.type}"
        )
    try:
        state = PartialState(cpu=device.type == "cpu", timeout=_SUM)
        if state.num_processes == count and state.device.type == device.type:
            # gloo notices at once that another process is gone, nccl may wait for it in vain: so
            # all meet here first, and nccl only adds up gradients that everybody has
            groups = [dist.new_group(backend="gloo", timeout=t) for t in (_PATIENCE, _LEAVE)]
            return Ranks(state.process_index, count, *groups), state.device
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise TrainingError(f"{count} processes did not find each other: {error}") from error
    raise ConfigError(f"--device {device}: torch cannot join {count} processes on it")
