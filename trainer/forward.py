"""One forward and backward pass as a function of tensors alone, so that it can be recorded."""

from collections.abc import Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor

from .batch import Batch
from .conditioning import Conditioning
from .objective import add_noise, combine, pixel_weights, row_losses, target
from .setup import Prepared
from .texts import FrozenTexts
from .to_device import bring
from .weighting import LossShape


@dataclass(frozen=True)
class Inputs:
    """All that a pass is told, on the device.

    Attributes:
        tensors: by name. What passes on the way from them to the gradients is decided by their
            names, shapes and dtypes and by the other attributes, never by their values.
        taught: some rows learn what the base predicts.
        text_learns: the gradient goes on into the text encoders.
    """

    tensors: dict[str, Tensor]
    taught: bool
    text_learns: bool

    @property
    def kind(self) -> Hashable:
        """The same for passes that do the same work on other numbers."""
        shapes = ((name, tuple(t.shape), t.dtype) for name, t in self.tensors.items())
        return (self.taught, self.text_learns, *shapes)


class ForwardBackward:
    """The passes of a run: what rows become on the device, and their gradients."""

    def __init__(self, prepared: Prepared, accelerate: Accelerator) -> None:
        self._p = prepared
        self._config = prepared.job.config
        self._model = prepared.model
        self._device = prepared.device
        self._accelerate = accelerate
        self._acp = self._model.alphas_cumprod.to(self._device, torch.float32)
        self._shape = LossShape(
            self._config.loss, self._model.prediction, self._model.alphas_cumprod, self._device
        )
        self._text_learns = True
        self._learned_texts: FrozenTexts | None = None  # of an encoder that has stopped learning

    def let_text_learn(self, learns: bool) -> None:
        """Whether the text encoders have a gradient from now on; without one they stay put."""
        self._text_learns = learns
        if learns:
            self._learned_texts = None
        # not those of a LoRA: its dropout goes on, and taught rows are told the base's texts
        elif self._learned_texts is None and not self._p.adapters:
            self._learned_texts = FrozenTexts(self._model, [], self._device)

    def inputs(self, batch: Batch) -> Inputs:
        names = ("latents", "noise", "input_noise", "timesteps", "weights", "is_class", "taught",
                 "time_ids", "masks")  # fmt: skip
        tensors = {name: getattr(batch, name) for name in names}
        tensors |= self._told(batch.prompts)
        return Inputs(
            {name: bring(t, self._device) for name, t in tensors.items() if t is not None},
            bool(batch.taught.any()),
            self._text_learns,
        )

    def other_numbers(self, inputs: Inputs) -> Inputs:
        """The same kind of pass with every number another, to find out which of them it reads."""

        def other(name: str, values: Tensor) -> Tensor:
            if name == "timesteps":
                return self._model.timesteps - 1 - values
            if name == "masks":
                return 1 - values
            if values.dtype == torch.bool:
                return ~values
            return -1 - values if values.is_floating_point() else values.flip(-1)

        return replace(inputs, tensors={n: other(n, t) for n, t in inputs.tensors.items()})

    def dropping(self, batch: Batch) -> AbstractContextManager:
        """Dropout of this pass: by position on the UNet's rows, by step and prompt on the texts."""
        if not self._p.adapters:
            return nullcontext()
        step = batch.positions[0] // self._config.rows_per_step
        kinds = ["class" if flag else "instance" for flag in batch.is_class.tolist()]
        images = [f"{kind} {p}" for kind, p in zip(kinds, batch.positions, strict=True)]
        prompts = [f"{step} {prompt}" for prompt in dict.fromkeys(batch.prompts)]
        return self._p.adapters.dropping(images, prompts)

    def __call__(self, inputs: Inputs) -> Tensor:
        """Add one pass's gradients; returns [objective, Σ instance loss, Σ class loss]."""
        given = inputs.tensors
        latents, timesteps = given["latents"], given["timesteps"]
        noisy = add_noise(latents, given["input_noise"], timesteps, self._acp)
        if self._config.channels_last:
            noisy = noisy.to(memory_format=torch.channels_last)
        answer = target(latents, given["noise"], timesteps, self._acp, self._model.prediction)
        if inputs.taught:
            answer = self._taught(inputs, noisy, answer)
        pixels = self._pixel_weights(inputs)
        prediction = self.predict(inputs, noisy)
        losses = row_losses(prediction, answer, pixels)
        learned = self._shape(losses, prediction, answer, timesteps, pixels)
        loss = combine(learned, given["weights"], self._config.rows_per_step)
        self._accelerate.backward(loss)
        losses, none = losses.detach(), torch.zeros_like(losses)
        # not by a mask as an index: how many rows it has would be waited for
        instance = torch.where(given["is_class"], none, losses).sum()
        class_ = torch.where(given["is_class"], losses, none).sum()
        return torch.stack((loss.detach(), instance, class_))

    def predict(self, inputs: Inputs, noisy: Tensor) -> Tensor:
        """The UNet's answer to ``[B, 4, h, w]``, in the arithmetic of the run."""
        given = inputs.tensors
        with self._accelerate.autocast():
            text = self._conditioning(inputs)
            return self._model.predict(noisy, given["timesteps"], text, given["time_ids"])

    def _told(self, prompts: list[str]) -> dict[str, Tensor | None]:
        """What the UNet is told, one row each; where encoders learn, each prompt's tokens once."""
        known = self._learned_texts if self._p.texts is None else self._p.texts
        if known is not None:
            told = Conditioning.cat([known[prompt] for prompt in prompts])
            return {"states": told.states, "pooled": told.pooled}
        distinct = list(dict.fromkeys(prompts))
        tokens = self._model.tokens(distinct)
        rows = torch.tensor([distinct.index(prompt) for prompt in prompts])
        return {f"tokens of {part}": t for part, t in tokens.items()} | {"rows": rows}

    def _conditioning(self, inputs: Inputs) -> Conditioning:
        given = inputs.tensors
        if "states" in given:
            return Conditioning(given["states"], given.get("pooled"))
        tokens = {part: given[f"tokens of {part}"] for part in self._model.text_encoders}
        with nullcontext() if inputs.text_learns else torch.no_grad():
            return self._model.encode_tokens(tokens)[given["rows"]]

    def _pixel_weights(self, inputs: Inputs) -> Tensor | None:
        masks = inputs.tensors.get("masks")
        return None if masks is None else pixel_weights(masks, self._config.data.unmasked_weight)

    def _taught(self, inputs: Inputs, noisy: Tensor, answer: Tensor) -> Tensor:
        """The target, in taught rows replaced by what the base predicts for the same input."""
        with self._p.adapters.switched_off(), torch.no_grad():
            base = self.predict(inputs, noisy)
        return torch.where(inputs.tensors["taught"].view(-1, 1, 1, 1), base.float(), answer)
