"""The gradients of one optimizer step, in as many forward passes as the memory asks for."""

import gc
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from .batch import Batch, make_batch
from .conditioning import Conditioning
from .errors import TrainingError
from .events import Listener, Note
from .ladder import Ladder, is_out_of_memory
from .objective import add_noise, combine, pixel_weights, row_losses, target
from .orders import Orders, Stopped
from .setup import Prepared
from .texts import FrozenTexts
from .training_state import learning
from .weighting import LossShape


@dataclass(frozen=True)
class Losses:
    """Of one step: the objective, and its rows' mean squared errors, whatever is learned from.
    Of all its rows, whichever process had them.

    ``class_`` is None where no class image took part.
    """

    objective: float
    instance: float
    class_: float | None


class Gradients:
    """Adds up a step's gradients; where they do not fit, the same step is tried again, cut finer.

    Its rows and their noise are functions of the step alone, so nothing of a failed try remains.
    """

    def __init__(
        self,
        prepared: Prepared,
        accelerate: Accelerator,
        listener: Listener,
        orders: Orders,
        ladder: Ladder,
    ) -> None:
        """
        Args:
            ladder: at the rung to begin with.
        """
        self._p = prepared
        self._config = prepared.job.config
        self._model = prepared.model
        self._device = prepared.device
        self._accelerate = accelerate
        self._listener = listener
        self._orders = orders
        self._ranks = prepared.ranks
        self._parameters = [p for _, p in learning(prepared.trained.modules)]
        self._acp = self._model.alphas_cumprod.to(self._device, torch.float32)
        self._shape = LossShape(
            self._config.loss,
            self._model.prediction,
            self._model.alphas_cumprod,
            self._device,
        )
        self._text_learns = True
        self._learned_texts: FrozenTexts | None = None  # of an encoder that has stopped learning
        self._ladder = ladder

    def fill(self, step: int) -> Losses:
        """The gradients of the step after ``step`` finished ones, in the parameters' ``grad``.

        Several processes are told here how it went in each of them: then all add up their
        gradients, or all try again, or all stop.

        Raises:
            TrainingError: memory runs out on the lowest rung, too, or another process is gone.
            Stopped: between two pieces of work.
        """
        self._let_text_learn(self._p.text_steps is None or step < self._p.text_steps)
        while True:
            reason = ""
            try:
                sums = self._accumulate(step)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                sums, reason = [0.0] * 4, str(error).splitlines()[0]
            said = [bool(reason), self._orders.stopping]
            *sums, is_too_large, is_stopped = self._ranks.total([*sums, *said])
            if is_stopped:
                raise Stopped
            if not is_too_large:
                self._ranks.add_gradients(self._parameters)
                return self._losses(*sums)
            # only here, where the error and with it the frames that hold tensors are gone
            self._go_lower(step, reason or "in another process")

    def _let_text_learn(self, learns: bool) -> None:
        """Whether the text encoders have a gradient in this step; without one they stay put."""
        self._text_learns = learns
        if learns:
            self._learned_texts = None
        # not those of a LoRA: its dropout goes on, and taught rows are told the base's texts
        elif self._learned_texts is None and not self._p.adapters:
            self._learned_texts = FrozenTexts(self._model, [], self._device)

    def _go_lower(self, step: int, reason: str) -> None:
        for module in self._p.trained.modules.values():
            module.zero_grad(set_to_none=True)
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        before = self._ladder.recomputed
        change = self._ladder.lower()
        if change is None:
            raise TrainingError(
                f"step {step + 1} does not fit into the memory, not even row by row with gradient"
                f" checkpointing ({reason}): choose a smaller resolution, train the unet alone, or"
                " close what else uses the memory. The finished steps are kept."
            )
        if (levels := self._ladder.recomputed) > before:
            self._model.recompute_activations(self._config.trains_text_encoder, levels)
        self._listener(
            Note(f"step {step + 1} did not fit into the memory ({reason}): from here on {change}")
        )

    def _accumulate(self, step: int) -> list[float]:
        """Of this process's rows: [objective, Σ instance loss, Σ class loss, class rows]."""
        count = self._config.rows_per_step
        rows = self._ranks.share(range(step * count, (step + 1) * count))
        totals, class_rows = torch.zeros(3, device=self._device), 0
        for positions in self._ladder.cut(rows.start, len(rows)):
            for batch in self._ladder.passes(self.batch(positions)):
                totals += self.forward_backward(batch)
                class_rows += int(batch.is_class.sum())
                self._orders.check()
        return [*totals.tolist(), class_rows]

    def _losses(self, objective: float, instance: float, class_: float, class_rows: int) -> Losses:
        rows = self._config.rows_per_step
        return Losses(objective, instance / rows, class_ / class_rows if class_rows else None)

    def batch(self, positions: range) -> Batch:
        """The instance rows at these positions with their class rows."""
        return make_batch(
            self._p.rows,
            self._p.latents,
            positions,
            loss=self._config.loss,
            seed=self._config.seed,
            device=self._device,
        )

    def forward_backward(self, batch: Batch) -> Tensor:
        """Add one forward pass's gradients; returns [objective, Σ instance loss, Σ class loss]."""
        noisy = add_noise(batch.latents, batch.input_noise, batch.timesteps, self._acp)
        if self._config.channels_last:
            noisy = noisy.to(memory_format=torch.channels_last)
        answer = target(
            batch.latents, batch.noise, batch.timesteps, self._acp, self._model.prediction
        )
        answer = self._taught(batch, noisy, answer)
        pixels = self._pixel_weights(batch)
        with self._dropping(batch):
            prediction = self._predict(batch, noisy)
            losses = row_losses(prediction, answer, pixels)
            learned = self._shape(losses, prediction, answer, batch.timesteps, pixels)
            loss = combine(learned, batch.weights, self._config.rows_per_step)
            self._accelerate.backward(loss)
        losses = losses.detach()
        parts = (loss.detach(), losses[~batch.is_class].sum(), losses[batch.is_class].sum())
        return torch.stack(parts)

    def _pixel_weights(self, batch: Batch) -> Tensor | None:
        if batch.masks is None:
            return None
        return pixel_weights(batch.masks, self._config.data.unmasked_weight)

    def _predict(self, batch: Batch, noisy: Tensor) -> Tensor:
        with self._accelerate.autocast():
            text = self._conditioning(batch.prompts)
            return self._model.predict(noisy, batch.timesteps, text, batch.time_ids)

    def _taught(self, batch: Batch, noisy: Tensor, answer: Tensor) -> Tensor:
        """The target, in taught rows replaced by what the base predicts for the same input."""
        if not batch.taught.any():
            return answer
        with self._p.adapters.switched_off(), torch.no_grad():
            base = self._predict(batch, noisy)
        return torch.where(batch.taught.view(-1, 1, 1, 1), base.float(), answer)

    def _dropping(self, batch: Batch) -> AbstractContextManager:
        """Dropout of this pass: by position on the UNet's rows, by step and prompt on the texts."""
        if not self._p.adapters:
            return nullcontext()
        step = batch.positions[0] // self._config.rows_per_step
        kinds = ["class" if flag else "instance" for flag in batch.is_class.tolist()]
        images = [f"{kind} {p}" for kind, p in zip(kinds, batch.positions, strict=True)]
        prompts = [f"{step} {prompt}" for prompt in dict.fromkeys(batch.prompts)]
        return self._p.adapters.dropping(images, prompts)

    def _conditioning(self, prompts: list[str]) -> Conditioning:
        """One per row; a prompt that several rows share is encoded once."""
        known = self._learned_texts if self._p.texts is None else self._p.texts
        if known is not None:
            return Conditioning.cat([known[prompt] for prompt in prompts])
        distinct = list(dict.fromkeys(prompts))
        with nullcontext() if self._text_learns else torch.no_grad():
            encoded = self._model.encode_prompts(distinct, self._device)
        return encoded[[distinct.index(prompt) for prompt in prompts]]
