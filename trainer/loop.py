"""train(): the loop, nothing else."""

import math
import time
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from .checks import check
from .config import ConfigError, Job
from .dry_step import try_largest_step
from .errors import UpdateDidNotFit
from .events import Begun, Command, Control, Listener, Note, Step, go_on, ignore
from .free_memory import kept_on_card
from .gradients import Gradients
from .heap import without_holes
from .learner import Learner
from .memory_plan import plan_memory
from .orders import Orders, Stopped
from .precision import accelerator, full_sums
from .previews import Previews
from .ranks import ALONE, Ranks
from .recovery import Recovery
from .rehearsal import Load
from .resume import find_start
from .saving import Saver
from .sentinel import Verdict
from .setup import Prepared, prepare
from .state import Result
from .tensorboard import with_tensorboard


def train(
    job: Job,
    base: dict[str, Tensor],
    *,
    device: torch.device,
    listener: Listener = ignore,
    control: Control = go_on,
    train_again: bool = False,
    load: Load | None = None,
    ranks: Ranks = ALONE,
) -> Result:
    """Run a job from its base weights, or from where it was broken off, to a verified checkpoint.

    Args:
        base: single-file state dict on the CPU; it is used up (see :func:`setup.prepare`).
        listener: told everything that happens; what it raises ends the run, the work is kept.
        control: asked between pieces of work whether to stop, or for a preview or a checkpoint.
        train_again: begin anew under a fresh name, whatever this job's earlier runs have done.
        load: loads a checkpoint as the user will and uses it once; tried before the first step on
            the file that an untrained model gives.
        ranks: the processes that train this run together, each of which calls this with the same
            arguments. Only the first is heard and writes.

    Raises:
        ConfigError, ImageError, UnsupportedModel, CheckpointError, RehearsalFailed: before the
            first step.
        TrainingError: the numbers went bad, the memory ran out or another process is gone, also
            before the first step; what was good is on disk.
    """

    orders = Orders(control, ranks)
    heard = with_tensorboard(listener) if ranks.is_first else nullcontext(ignore)
    # a host may run us inside inference mode, where nothing can learn
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        full_sums(),
        heard as listener,
        _heap(base, device),
    ):
        try:
            _check_share(job, ranks)
            plan = check(job, base, device, listener, orders.meet)
            with find_start(plan, listener, train_again=train_again, ranks=ranks) as start:
                if start.result:
                    return start.result
                prepared = prepare(plan, base, start, listener, orders.meet, load, ranks)
                with (
                    accelerator(prepared.autocast, device, ranks.count) as accelerate,
                    kept_on_card(device),
                ):
                    return _Run(prepared, accelerate, listener, orders).run()
        except Stopped:  # before the first step
            return Result(job.name, None, None, 0, stopped=True, seconds=0.0)


def _heap(base: dict[str, Tensor], device: torch.device) -> AbstractContextManager[None]:
    on_cpu = device.type == "cpu"
    return without_holes(sum(map(Tensor.numel, base.values()))) if on_cpu else nullcontext()


def _check_share(job: Job, ranks: Ranks) -> None:
    rows = job.config.rows_per_step
    if rows < ranks.count:
        raise ConfigError(
            f"a step has {rows} instance images and cannot be shared by {ranks.count} processes:"
            f" raise batch_size to {ranks.count} or more, or start fewer"
        )


class _Run:
    """The run itself: steps, and between them what is said, shown and kept."""

    def __init__(
        self, prepared: Prepared, accelerate: Accelerator, listener: Listener, orders: Orders
    ) -> None:
        self.p = prepared
        self.config = prepared.job.config
        self.device = prepared.device
        self.model = prepared.model
        self.accelerate = accelerate
        self.listener = listener
        self.orders = orders
        self.ranks = prepared.ranks
        ladder = plan_memory(prepared, listener)
        self.learner = Learner(prepared, accelerate)
        if reason := self.learner.slow_because:
            listener(Note(f"{reason}: each update takes longer, its result is the same"))
        self.saver = Saver(prepared, self.learner.tensors, listener)
        self.recovery = Recovery(prepared, self.learner, accelerate, listener)
        self.gradients = Gradients(
            prepared, accelerate, listener, orders, ladder, self.learner.in_backward
        )
        self.previews = Previews(prepared, listener, orders.check)
        seconds = prepared.state.progress.seconds if prepared.state else 0.0
        self.started = time.perf_counter() - seconds
        prepared.state = None

    @property
    def done(self) -> int:
        """Optimizer steps."""
        return self.learner.done

    @property
    def seconds(self) -> float:
        """Since the loop began, in this process and in those before it."""
        return time.perf_counter() - self.started

    def run(self) -> Result:
        """Whatever ends the loop, the work is kept."""
        stopped = False
        try:
            try_largest_step(self.p, self.learner, self.gradients, self.listener)
            self._loop()
        except Stopped:
            stopped = True
        except BaseException:
            # an update that was interrupted may be half done: then its weights are no result
            if self.learner.learned and not self.learner.updating and self.learner.is_finite():
                self._keep_in_a_hurry()
            raise
        finally:
            self.learner.drop_gradients()
        if not self.ranks.is_first:
            folder = self.p.folder
            return Result(folder.name, folder.folder, None, self.done, stopped, self.seconds)
        path = self._keep() if self.learner.learned else None
        enough = stopped and self.orders.keeps and path is not None
        return self.saver.result(path, self.done, stopped, self.seconds, enough=enough)

    def _loop(self) -> None:
        """Steps, previews and saves, in order."""
        self.listener(Begun(self.p.folder.folder, self.done, self.config.steps))
        if self._preview_is_due() and self.ranks.is_first:
            self._preview(again=False)
        while self._is_not_done():
            self.orders.check()
            self._step()
            if self.ranks.is_first:
                self._save_and_show()

    def _save_and_show(self) -> None:
        """What is due after a step, or was wished for in it."""
        wishes = self.orders.take()
        is_last = self.done == self.config.steps
        if (self._is_due(self.config.save_every) or Command.SAVE in wishes) and not is_last:
            with self.learner.as_shown():
                self.saver.extra(self.done)
        if self.saver.state_is_due() and self.recovery.calm:
            self._keep_state()
        if self._preview_is_due() or Command.PREVIEW in wishes:
            self._preview()

    def _is_not_done(self) -> bool:
        """Whether there are steps left, or again: nobody else looks at the last one's weights."""
        if self.done == self.config.steps:
            self.recovery.check_weights()
        return self.done < self.config.steps

    def _preview(self, *, again: bool = True) -> None:
        self.gradients.make_room()
        with self.learner.as_shown():
            self.previews.take(self.done, again=again)

    def _preview_is_due(self) -> bool:
        every = self.config.preview_every
        return self._is_due(every) or bool(every) and self.done == self.config.steps

    def _is_due(self, every: int) -> bool:
        return bool(every) and self.done % every == 0

    def _keep(self) -> Path:
        """The weights as a checkpoint, and the state: each also where the other cannot be."""
        try:
            with self.learner.as_shown():
                return self.saver.final(self.done)
        finally:
            self._keep_state()

    def _keep_in_a_hurry(self) -> None:
        """After an error: a launcher of several processes ends them all in half a minute."""
        if not self.ranks.is_first:
            return
        if self.ranks.several:
            self._keep_state()
        self._keep()

    def _keep_state(self) -> None:
        tensors, numbers = self.learner.capture()
        numbers |= self.recovery.numbers()
        if self.p.attention:
            numbers |= self.p.attention.numbers()
        self.saver.state(self.done, self.seconds, tensors, numbers)

    def _step(self) -> None:
        """One optimizer step, unless its numbers are bad."""
        config, began = self.config, time.perf_counter()
        if self.done == self.p.text_steps:
            self.learner.stop_text()
        losses = self.gradients.fill(self.done)
        limit = config.max_grad_norm or math.inf  # the norm is looked at in any case
        norm = self.learner.clip(limit)
        verdict = self.recovery.judge(losses.objective, norm)
        if verdict is Verdict.ROLL_BACK:
            return
        rate = self.learner.set_rate(self.recovery.rate)
        try:
            again = partial(self.gradients.again, self.done)
            skipped, broken = self.learner.update(verdict, again), ""
        except UpdateDidNotFit as error:
            broken = str(error)
        if broken:  # only here, where the error and with it the frames that hold tensors are gone
            self.recovery.repeat(broken)
            return
        if verdict is Verdict.SKIP:
            self.recovery.say_skipped(losses.objective, norm)
        event = Step(
            step=self.done,
            total=config.steps,
            loss=losses.objective,
            instance_loss=losses.instance,
            class_loss=losses.class_,
            learning_rate=rate,
            grad_norm=norm,
            skipped=skipped,
            step_seconds=time.perf_counter() - began,
            seconds=self.seconds,
        )
        if self.ranks.is_first:
            self.p.folder.log(event)
        self.listener(event)
