"""What a run changes, on its device: the weights that learn, their optimizer and averages."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from .checkpoint import is_finite
from .ema import Ema
from .errors import TrainingError
from .ladder import is_out_of_memory
from .optim import lr_factor, make_optimizer, set_learning_rate
from .sentinel import Verdict
from .setup import Prepared
from .training_state import SavedState, capture, learning, restore


class Learner:
    """All that a step changes, and nothing else: what a state holds.

    Attributes:
        parts: the trained modules.
        done: optimizer steps that are finished, skipped ones among them.
        updating: an update is on its way and may be half done.
        learned: some update has reached the weights, so there is something to keep.
    """

    def __init__(self, prepared: Prepared, accelerate: Accelerator) -> None:
        """
        Args:
            prepared: if it has a state, this goes on from it.
        """
        self._config = prepared.job.config
        self._fp16 = prepared.precision == "fp16"
        self._accelerate = accelerate
        self.parts = prepared.trained.modules
        for module in self.parts.values():
            module.to(prepared.device)
        text = [p for name, p in learning(self.parts) if not name.startswith("unet.")]
        unet = [p for name, p in learning(self.parts) if name.startswith("unet.")]
        self.parameters = [*unet, *text]
        self._text_parameters = text
        self._optimizer = accelerate.prepare_optimizer(make_optimizer(unet, text, self._config))
        self._ema = Ema(self.parts, self._config.ema_decay) if self._config.ema_decay else None
        self.done = 0
        self.updating = False
        self.learned = False
        if prepared.state:
            self.restore(prepared.state)

    def restore(self, state: SavedState) -> None:
        """Return to a state of this run."""
        restore(state, self.parts, self._optimizer, self._accelerate.scaler)
        if self._ema:
            self._ema.restore(state)
        self.done, self.learned = state.progress.step, True

    def capture(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """(tensors, numbers) of all of it, without copies."""
        tensors, numbers = capture(self.parts, self._optimizer, self._accelerate.scaler)
        averages, count = self._ema.state() if self._ema else ({}, {})
        return tensors | averages, numbers | count

    def is_finite(self) -> bool:
        return all(is_finite(parameter) for parameter in self.parameters)

    def as_shown(self) -> AbstractContextManager[None]:
        """Inside the block the weights are as they are saved and previewed."""
        return self._ema.in_place() if self._ema else nullcontext()

    def stop_text(self) -> None:
        """The text encoder stays put from now on: without moments and gradients nothing moves."""
        for parameter in self._text_parameters:
            self._optimizer.state.pop(parameter, None)

    def drop_gradients(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def set_rate(self, factor: float) -> float:
        """Set the learning rate of the step to come, times ``factor``; returns the UNet's."""
        config = self._config
        schedule = lr_factor(config.lr_schedule, self.done, config.steps, config.lr_warmup_steps)
        return set_learning_rate(self._optimizer, schedule * factor)

    def update(self, verdict: Verdict) -> bool:
        """Let the gradients reach the weights, or not; whether they were left out.

        Raises:
            TrainingError: the optimizer's own numbers do not fit into the memory.
        """
        self.updating = True
        try:
            # under fp16 the loss scaler must see bad gradients, too: it skips and scales down
            if verdict is Verdict.TAKE or self._fp16:
                self._optimizer.step()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"the optimizer's own numbers do not fit into the memory in step {self.done + 1}:"
                " choose optimizer = adamw8bit, or train the unet alone."
            ) from error
        self.drop_gradients()
        skipped = verdict is Verdict.SKIP or bool(self._optimizer.step_was_skipped)
        if self._ema and not skipped:
            self._ema.update()
        self.done += 1
        self.updating = False
        self.learned = self.learned or verdict is Verdict.TAKE
        return skipped
