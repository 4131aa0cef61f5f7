"""What a run changes, on its device: the weights that learn, their optimizer and averages."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import Parameter

from .checkpoint import is_finite
from .ema import Ema
from .errors import UpdateDidNotFit
from .in_backward import InBackward
from .ladder import must_fit
from .model import StableDiffusion
from .optim import lr_factor, make_optimizer, set_learning_rate
from .precision import has_bf16
from .sentinel import Verdict
from .setup import Prepared
from .split import Joined
from .split_adamw import REMAINDER, SplitAdamW
from .training_state import SavedState, capture, learning, moment_bytes, restore


class Learner:
    """All that a step changes, and nothing else: what a state holds.

    Attributes:
        parts: the trained modules.
        in_backward: looks at gradients that there is no room for, and lets them through.
        done: optimizer steps that are finished, skipped ones among them.
        updating: an update is on its way and may be half done.
        learned: some update has reached the weights, so there is something to keep.
    """

    def __init__(self, prepared: Prepared, accelerate: Accelerator) -> None:
        """
        Args:
            prepared: if it has a state, this goes on from it.

        Raises:
            TrainingError: some of it does not fit into the memory.
        """
        self._config = prepared.job.config
        self._fp16 = prepared.precision == "fp16"
        self._accelerate = accelerate
        self.parts = prepared.trained.modules
        # split weights go there one by one, below: whole they may have no room
        is_split = self._config.has_split_weights
        if not is_split:
            self._place(prepared.device)
        text = [p for name, p in learning(self.parts) if not name.startswith("unet.")]
        unet = [p for name, p in learning(self.parts) if name.startswith("unet.")]
        self.parameters = [*unet, *text]
        self._text_parameters = text
        self.in_backward = InBackward(self.parameters)
        self._scale: Tensor | None = None  # of gradients that are not there yet
        self._smaller = ["choose optimizer = adamw8bit"] * (self._config.optimizer == "adamw")
        if not (is_split or self._config.lora.is_on) and has_bf16(prepared.device):
            self._smaller.append("weights = exact")
        with self._must_fit(
            "the model or its optimizer" if is_split else "the optimizer", *self._smaller
        ):
            made = make_optimizer(unet, text, self._config, prepared.state_in_ram, prepared.device)
            self._optimizer = accelerate.prepare_optimizer(made)
        self._trained = prepared.trained
        self._split = made if isinstance(made, SplitAdamW) else None
        if self._split:
            self._compute_in_bf16(prepared.model)
            self._place(prepared.device)
        decay = self._config.ema_decay
        averaged = f"the average of the weights (ema_decay = {decay:g})"
        with self._must_fit(averaged, "choose ema_decay = 0"):
            value = self._split.value if self._split else Parameter.detach
            # only the process that saves and paints needs it
            with_ema = decay and prepared.ranks.is_first
            self._ema = Ema(self.parts, decay, value) if with_ema else None
        self.done = 0
        self.updating = False
        self.learned = False
        if prepared.state:
            with self._must_fit("the state that the run goes on from"):
                self.restore(prepared.state)

    def _place(self, device: torch.device) -> None:
        """What is not there yet."""
        for part, module in self.parts.items():
            with self._must_fit(f"the {part.replace('_', ' ')}"):
                module.to(device)

    def _must_fit(self, what: str, *instead: str) -> AbstractContextManager[None]:
        """For what is placed before the first step; ``instead``: ways out of its own."""
        ways = [*instead]
        if not self._config.lora.is_on:
            ways.append("train a LoRA")
        if self._config.trains_text_encoder:
            ways.append("train the unet alone")
        ways.append("close what else uses the memory")
        said = f"{what} does not fit into the memory, and no step was taken: {', or '.join(ways)}"
        return must_fit(said)

    def _compute_in_bf16(self, model: StableDiffusion) -> None:
        """All of the trained parts: beside weights that are bf16 nothing can be fp32."""
        for module in self.parts.values():
            for parameter in module.parameters():
                parameter.data = parameter.data.to(torch.bfloat16)
        model.dtype = torch.bfloat16

    def _scaled_step(self) -> None:
        """For gradients that nothing has clipped yet."""
        if self._split:
            self._split.scale_by(self._scale)
        else:
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(self._scale)
        self._optimizer.step()

    def room_for_moments(self) -> list[Tensor]:
        """As much of the device's memory as the first update will take for what it keeps.

        Raises:
            TrainingError: there is not so much.
        """
        if self._split and self._split.in_ram:
            return []
        state = self._optimizer.state
        lacking = [p for p in self.parameters if not state.get(p, {}).keys() - {REMAINDER}]
        each = moment_bytes(self._config) // 2
        with self._must_fit("what the optimizer keeps", *self._smaller):
            return [
                torch.empty(each * p.numel(), dtype=torch.uint8, device=p.device)
                for p in lacking
                for _ in ("mean", "square")
            ]

    def restore(self, state: SavedState) -> None:
        """Return to a state of this run; if that breaks off, the weights are no result."""
        self.updating = True
        in_ram = self._split is not None and self._split.in_ram
        restore(state, self.parts, self._optimizer, self._accelerate.scaler, in_ram)
        if self._ema:
            self._ema.restore(state)
        self.done, self.learned, self.updating = state.progress.step, True, False

    def capture(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, numbers) of all of it, without copies."""
        tensors, numbers = capture(self.parts, self._optimizer, self._accelerate.scaler)
        averages, count = self._ema.state() if self._ema else ({}, {})
        return tensors | averages, numbers | count

    def tensors(self) -> Mapping[str, Tensor]:
        """What learns, in fp32 under its names in the file; no copies."""
        tensors = self._trained.tensors()
        exact = self._split and not self._split.lean
        if not exact or self.parameters[0].dtype != torch.bfloat16:  # an average is whole
            return tensors
        with self._split.remainders_in_place():
            return Joined(tensors, self._trained.tensors())

    def is_finite(self) -> bool:
        return all(is_finite(parameter) for parameter in self.parameters)

    @property
    def slow_because(self) -> str:
        """Why an update takes longer than it could on this device; empty if it does not."""
        return self._split.slow_because if self._split else ""

    def as_shown(self) -> AbstractContextManager[None]:
        """Inside the block the weights are as they are saved and previewed."""
        return self._ema.in_place() if self._ema else nullcontext()

    def stop_text(self) -> None:
        """The text encoder stays put from now on: without moments and gradients nothing moves."""
        for parameter in self._text_parameters:
            state = self._optimizer.state.pop(parameter, {})
            if REMAINDER in state:  # a part of the weight
                self._optimizer.state[parameter] = {REMAINDER: state[REMAINDER]}

    def drop_gradients(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def clip(self, limit: float) -> float:
        """Scale the gradients down to a norm of ``limit``; returns the norm that they had."""
        if self.in_backward.has_looked:
            norm, self._scale = self.in_backward.clip(limit)
            return norm
        if self._split:
            return self._split.clip(limit)
        return float(self._accelerate.clip_grad_norm_(self.parameters, limit))

    def set_rate(self, factor: float) -> float:
        """Set the learning rate of the step to come, times ``factor``; returns the UNet's."""
        config = self._config
        schedule = lr_factor(config.lr_schedule, self.done, config.steps, config.lr_warmup_steps)
        return set_learning_rate(self._optimizer, schedule * factor)

    def update(self, verdict: Verdict, backward: Callable[[], object]) -> bool:
        """Let the gradients reach the weights, or not; whether they were left out.

        Args:
            backward: makes the step's pass again, where its gradients were only looked at.

        Raises:
            UpdateDidNotFit: the optimizer's own numbers do not fit into the memory.
        """
        self.updating = True
        with must_fit(
            f"the optimizer's own numbers do not fit into the memory in step {self.done + 1}:"
            " choose optimizer = adamw8bit, or train the unet alone",
            UpdateDidNotFit,
        ):
            # under fp16 the loss scaler must see bad gradients, too: it skips and scales down
            if verdict is Verdict.TAKE or self._fp16:
                if self.in_backward.has_looked:
                    self.in_backward.update(backward, self._scaled_step)
                else:
                    self._optimizer.step()
        self.drop_gradients()
        skipped = verdict is Verdict.SKIP or bool(self._optimizer.step_was_skipped)
        if self._ema and not skipped:
            self._ema.update()
        self.done += 1
        self.updating = False
        self.learned = self.learned or verdict is Verdict.TAKE
        return skipped
