"""train(): the loop, nothing else."""

import math
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from .checkpoint import is_finite
from .checks import check
from .config import Job
from .ema import Ema
from .errors import TrainingError
from .events import Begun, Command, Control, Listener, Note, Step, go_on, ignore
from .gradients import Gradients, Losses
from .ladder import is_out_of_memory
from .optim import lr_factor, make_optimizer, set_learning_rate
from .orders import Orders, Stopped
from .precision import accelerator
from .previews import Previews
from .rehearsal import Load
from .resume import find_start
from .saving import Saver
from .sentinel import Sentinel, Verdict
from .setup import Prepared, prepare
from .state import Result
from .tensorboard import with_tensorboard
from .training_state import SavedState, capture, learning, restore

BAD_WEIGHTS = "weights became numbers that are not finite,"
RATE = "rate"  # in a state's numbers: what bad steps left of the learning rate


def train(
    job: Job,
    base: dict[str, Tensor],
    *,
    device: torch.device,
    listener: Listener = ignore,
    control: Control = go_on,
    train_again: bool = False,
    load: Load | None = None,
) -> Result:
    """Run a job from its base weights, or from where it was broken off, to a verified checkpoint.

    Args:
        base: single-file state dict on the CPU; it is used up (see :func:`setup.prepare`).
        listener: told everything that happens; what it raises ends the run, the work is kept.
        control: asked between pieces of work whether to stop, or for a preview or a checkpoint.
        train_again: begin anew under a fresh name, whatever this job's earlier runs have done.
        load: loads a checkpoint as the user will and uses it once; tried before the first step on
            the file that an untrained model gives.

    Raises:
        ConfigError, ImageError, UnsupportedModel, CheckpointError, RehearsalFailed: before the
            first step.
        TrainingError: the numbers went bad or the memory ran out; what was good is on disk.
    """

    orders = Orders(control)
    # a host may run us inside inference mode, where nothing can learn
    with torch.inference_mode(False), torch.enable_grad(), with_tensorboard(listener) as listener:
        try:
            plan = check(job, base, device, listener, orders.check)
            with find_start(plan, listener, train_again=train_again) as start:
                if start.result:
                    return start.result
                prepared = prepare(plan, base, start, listener, orders.check, load)
                with accelerator(prepared.precision, device) as accelerate:
                    return _Run(prepared, accelerate, listener, orders).run()
        except Stopped:  # before the first step
            return Result(job.name, None, None, 0, stopped=True, seconds=0.0)


class _Run:
    """The state of the loop: modules on the device, the optimizer, how many steps are done.

    Attributes:
        updating: an update is on its way and may be half done.
        learned: some update has reached the weights, so there is something to keep.
        ema: the averages that are saved and shown instead of the weights, if they are wanted.
    """

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
        self.saver = Saver(prepared, listener)
        self.updating = False
        self.learned = False
        self.parts = prepared.trained.modules
        for module in self.parts.values():
            module.to(self.device)
        text = [p for name, p in learning(self.parts) if not name.startswith("unet.")]
        unet = [p for name, p in learning(self.parts) if name.startswith("unet.")]
        self.parameters = [*unet, *text]
        self.text_parameters = text
        self.optimizer = accelerate.prepare_optimizer(make_optimizer(unet, text, self.config))
        self.ema = Ema(self.parts, self.config.ema_decay) if self.config.ema_decay else None
        self.gradients = Gradients(prepared, accelerate, listener, orders.check)
        self.previews = Previews(prepared, accelerate, listener, orders.check)
        self.sentinel = Sentinel(prepared.precision)
        self.done = 0
        seconds = prepared.state.progress.seconds if prepared.state else 0.0
        self.started = time.perf_counter() - seconds
        if prepared.state:
            self.sentinel.rate = prepared.state.numbers.get(RATE, 1.0)
            self._restore(prepared.state)
            prepared.state = None

    def _restore(self, state: SavedState) -> None:
        restore(state, self.parts, self.optimizer, self.accelerate.scaler)
        if self.ema:
            self.ema.restore(state)
        self.done, self.learned = state.progress.step, True

    @property
    def seconds(self) -> float:
        """Since the loop began, in this process and in those before it."""
        return time.perf_counter() - self.started

    def run(self) -> Result:
        """Whatever ends the loop, the work is kept."""
        stopped = False
        try:
            self._loop()
        except Stopped:
            stopped = True
        except BaseException:
            # an update that was interrupted may be half done: then its weights are no result
            if self.learned and not self.updating and self._weights_are_finite():
                self._keep()
            raise
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        path = self._keep() if self.learned else None
        return self.saver.result(path, self.done, stopped, self.seconds)

    def _loop(self) -> None:
        """Steps, previews and saves, in order."""
        self.listener(Begun(self.p.folder.folder, self.done, self.config.steps))
        if self._preview_is_due():
            self._preview(again=False)
        while self._is_not_done():
            self.orders.check()
            self._step()
            wishes = self.orders.take()
            is_last = self.done == self.config.steps
            if (self._is_due(self.config.save_every) or Command.SAVE in wishes) and not is_last:
                with self._as_shown():
                    self.saver.extra(self.done)
            if self.saver.state_is_due() and self.sentinel.calm:
                self._keep_state()
            if self._preview_is_due() or Command.PREVIEW in wishes:
                self._preview()

    def _is_not_done(self) -> bool:
        """Whether there are steps left, or again: nobody else looks at the last one's weights."""
        if self.done == self.config.steps and self.learned and not self._weights_are_finite():
            self._roll_back(self.sentinel.weights_are_bad(), BAD_WEIGHTS)
        return self.done < self.config.steps

    def _as_shown(self) -> AbstractContextManager[None]:
        """The weights as they are saved and previewed."""
        return self.ema.in_place() if self.ema else nullcontext()

    def _preview(self, *, again: bool = True) -> None:
        with self._as_shown():
            self.previews.take(self.done, again=again)

    def _preview_is_due(self) -> bool:
        every = self.config.preview_every
        return self._is_due(every) or bool(every) and self.done == self.config.steps

    def _is_due(self, every: int) -> bool:
        return bool(every) and self.done % every == 0

    def _keep(self) -> Path:
        """The weights as a checkpoint, and the state: each also where the other cannot be."""
        try:
            with self._as_shown():
                return self.saver.final(self.done)
        finally:
            self._keep_state()

    def _keep_state(self) -> None:
        tensors, numbers = capture(self.parts, self.optimizer, self.accelerate.scaler)
        if self.ema:
            averages, count = self.ema.state()
            tensors, numbers = tensors | averages, numbers | count
        self.saver.state(self.done, self.seconds, tensors, {**numbers, RATE: self.sentinel.rate})

    def _step(self) -> None:
        """One optimizer step, unless its numbers are bad."""
        config, began = self.config, time.perf_counter()
        if self.done == self.p.text_steps:
            for parameter in self.text_parameters:  # without moments and gradients it stays put
                self.optimizer.state.pop(parameter, None)
        losses = self.gradients.fill(self.done)
        limit = config.max_grad_norm or math.inf  # the norm is looked at in any case
        norm = float(self.accelerate.clip_grad_norm_(self.parameters, limit))
        verdict = self.sentinel.look(losses.objective, norm)
        bad = f"the {bad_number(losses.objective, norm)}, several steps in a row,"
        if not math.isfinite(losses.objective) and not self._weights_are_finite():
            verdict, bad = self.sentinel.weights_are_bad(), BAD_WEIGHTS
        if verdict in (Verdict.ROLL_BACK, Verdict.STOP):
            self._roll_back(verdict, bad)
            return
        factor = lr_factor(config.lr_schedule, self.done, config.steps, config.lr_warmup_steps)
        rate = set_learning_rate(self.optimizer, factor * self.sentinel.rate)
        skipped = self._update(verdict)
        if verdict is Verdict.SKIP and not self._settles_scale(losses):
            said = f"step {self.done} was skipped: its {bad_number(losses.objective, norm)}"
            self.listener(Note(said))
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
        self.p.folder.log(event)
        self.listener(event)

    def _update(self, verdict: Verdict) -> bool:
        """Let the gradients reach the weights, or not; whether they were left out."""
        self.updating = True
        try:
            # under fp16 the loss scaler must see bad gradients, too: it skips and scales down
            if verdict is Verdict.TAKE or self.p.precision == "fp16":
                self.optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"the optimizer's own numbers do not fit into the memory in step {self.done + 1}:"
                " choose optimizer = adamw8bit, or train the unet alone."
            ) from error
        self.optimizer.zero_grad(set_to_none=True)
        skipped = verdict is Verdict.SKIP or bool(self.optimizer.step_was_skipped)
        if self.ema and not skipped:
            self.ema.update()
        self.done += 1
        self.updating = False
        self.learned = self.learned or verdict is Verdict.TAKE
        return skipped

    def _settles_scale(self, losses: Losses) -> bool:
        """Under fp16 gradients overflow until the loss scale has settled: no news."""
        return self.p.precision == "fp16" and math.isfinite(losses.objective)

    def _weights_are_finite(self) -> bool:
        return all(is_finite(parameter) for parameter in self.parameters)

    def _roll_back(self, verdict: Verdict, bad: str) -> None:
        """Return to the newest state; go on from it more slowly, or end there.

        Raises:
            TrainingError: there is no state, or it was not the first time.
        """
        said = f"{bad} in step {min(self.done + 1, self.config.steps)}"
        mend = "lower the learning rate, or choose precision = bf16 or fp32"
        state = self.p.folder.states.newest()
        if state is None:
            raise TrainingError(
                f"{said}: {mend}. The weights before these steps are kept, if there were any good"
                " steps; look at the pictures before you use them."
            )
        self.optimizer.zero_grad(set_to_none=True)
        if self.accelerate.scaler:
            self.accelerate.scaler.update()  # it holds on to a step until it is told of its end
        self._restore(state)
        self.p.folder.go_on(self.p.job, self.done)
        if verdict is Verdict.STOP:
            raise TrainingError(f"{said}, also at a lower rate: {mend}. Step {self.done} is kept.")
        self.sentinel.rolled_back()
        self.listener(
            Note(f"{said}: back to step {self.done}, at {self.sentinel.rate:g} of the rate")
        )


def bad_number(loss: float, norm: float) -> str:
    """Which of a step's numbers is not finite, in words."""
    what, value = ("loss", loss) if not math.isfinite(loss) else ("gradient", norm)
    return f"{what} became {value}"
