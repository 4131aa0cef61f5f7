"""train(): the loop, nothing else."""

import math
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .batch import Batch, make_batch
from .checks import check
from .config import Job
from .events import Command, Control, Listener, Phase, Preview, Step, go_on, ignore
from .objective import add_noise, combine, row_losses
from .optim import lr_factor, make_optimizer, set_learning_rate
from .precision import accelerator
from .preview import encode_for_preview, sample, save_picture
from .resume import find_start
from .saving import Saver
from .setup import Prepared, prepare
from .state import Result
from .tokenizer import tokenize
from .training_state import Progress, capture, restore


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says at which step, why, and what to do."""


class _Stopped(Exception):
    """The user asked for the end; raised between two pieces of work, caught in the loop."""


def train(
    job: Job,
    base: dict[str, Tensor],
    *,
    device: torch.device,
    listener: Listener = ignore,
    control: Control = go_on,
    train_again: bool = False,
) -> Result:
    """Run a job from its base weights, or from where it was broken off, to a verified checkpoint.

    Args:
        base: single-file state dict on the CPU; it is used up (see :func:`setup.prepare`).
        listener: told everything that happens; what it raises ends the run, the work is kept.
        control: asked between pieces of work whether to stop.
        train_again: begin anew under a fresh name, whatever this job's earlier runs have done.

    Raises:
        ConfigError, ImageError, UnsupportedModel, CheckpointError: before the first step.
        TrainingError: the numbers went bad; the last good weights are on disk.
    """

    def check_stop() -> None:
        if control() is Command.STOP:
            raise _Stopped

    # a host may run us inside inference mode, where nothing can learn
    with torch.inference_mode(False), torch.enable_grad():
        try:
            plan = check(job, base, device, listener, check_stop)
            with find_start(plan, listener, train_again=train_again) as start:
                if start.result:
                    return start.result
                prepared = prepare(plan, base, start, listener, check_stop)
                with accelerator(prepared.precision, device) as accelerate:
                    return _Run(prepared, accelerate, listener, check_stop).run()
        except _Stopped:  # before the first step
            return Result(job.name, None, None, 0, stopped=True, seconds=0.0)


class _Run:
    """The state of the loop: modules on the device, the optimizer, how many steps are done."""

    def __init__(self, prepared: Prepared, accelerate: Accelerator, listener: Listener, check_stop):
        self.p = prepared
        self.config = prepared.job.config
        self.device = prepared.device
        self.model = prepared.model
        self.accelerate = accelerate
        self.listener = listener
        self.check_stop = check_stop
        self.saver = Saver(prepared, listener)
        self.updating = False
        self.acp = self.model.alphas_cumprod.to(self.device, torch.float32)
        self.parts = prepared.trained_parts
        for module in self.parts.values():
            module.to(self.device)
        text_encoder = self.parts.get("text_encoder", nn.Module())
        self.parameters = [p for module in self.parts.values() for p in module.parameters()]
        self.optimizer = accelerate.prepare_optimizer(
            make_optimizer(self.parts["unet"].parameters(), text_encoder.parameters(), self.config)
        )
        progress = prepared.state.progress if prepared.state else Progress()
        self.done = progress.step
        self.started = time.perf_counter() - progress.seconds
        if prepared.state:
            restore(prepared.state, self.parts, self.optimizer, accelerate.scaler)
            prepared.state = None

    @property
    def seconds(self) -> float:
        """Since the loop began, in this process and in those before it."""
        return time.perf_counter() - self.started

    def run(self) -> Result:
        """Whatever ends the loop, the work is kept."""
        stopped = False
        try:
            self._loop()
        except _Stopped:
            stopped = True
        except BaseException:
            # an update that was interrupted may be half done: then its weights are no result
            if self.done and not self.updating:
                self._keep()
            raise
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        path = self._keep() if self.done else None
        return self.saver.result(path, self.done, stopped, self.seconds)

    def _loop(self) -> None:
        """Steps, previews and saves, in order."""
        if not self.done or self._is_due(self.config.preview_every):
            self._preview(again=False)
        while self.done < self.config.steps:
            self.check_stop()
            self._step()
            if self._is_due(self.config.save_every) and self.done < self.config.steps:
                self.saver.extra(self.done)
            if self.saver.state_is_due():
                self._keep_state()
            if self._is_due(self.config.preview_every) or self.done == self.config.steps:
                self._preview()

    def _is_due(self, every: int) -> bool:
        return bool(every) and self.done % every == 0

    def _keep(self) -> Path:
        """The weights as a checkpoint, and the state: each also where the other cannot be."""
        try:
            return self.saver.final(self.done)
        finally:
            self._keep_state()

    def _keep_state(self) -> None:
        tensors, numbers = capture(self.parts, self.optimizer, self.accelerate.scaler)
        self.saver.state(self.done, self.seconds, tensors, numbers)

    def _step(self) -> None:
        """One optimizer step over ``gradient_accumulation_steps`` forward passes."""
        config, began = self.config, time.perf_counter()
        loss, instance, class_, class_rows = self._accumulate()
        self._require_finite("loss", loss)
        limit = config.max_grad_norm or math.inf  # the norm is looked at in any case
        norm = float(self.accelerate.clip_grad_norm_(self.parameters, limit))
        if self.p.precision != "fp16":  # under fp16 the loss scaler skips the step itself
            self._require_finite("gradient", norm)
        factor = lr_factor(config.lr_schedule, self.done, config.steps, config.lr_warmup_steps)
        rate = set_learning_rate(self.optimizer, factor)
        self.updating = True
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += 1
        self.updating = False
        event = Step(
            step=self.done,
            total=config.steps,
            loss=loss,
            instance_loss=instance / config.rows_per_step,
            class_loss=class_ / class_rows if class_rows else None,
            learning_rate=rate,
            grad_norm=norm,
            skipped=bool(self.optimizer.step_was_skipped),
            step_seconds=time.perf_counter() - began,
            seconds=self.seconds,
        )
        self.p.folder.log(event)
        self.listener(event)

    def _accumulate(self) -> tuple[float, float, float, int]:
        """The step's gradients; (objective, Σ instance loss, Σ class loss, class rows)."""
        config, first = self.config, self.done * self.config.rows_per_step
        totals, class_rows = torch.zeros(3, device=self.device), 0
        for start in range(first, first + config.rows_per_step, config.batch_size):
            batch = self._batch(range(start, start + config.batch_size))
            totals += self._forward_backward(batch)
            class_rows += len(batch.prompts) - config.batch_size
            self.check_stop()
        loss, instance, class_ = totals.tolist()
        return loss, instance, class_, class_rows

    def _batch(self, positions: range) -> Batch:
        return make_batch(
            self.p.rows,
            self.p.latents,
            positions,
            shape=self.model.latent_shape(self.config.resolution),
            timesteps=self.model.timesteps,
            seed=self.config.seed,
            device=self.device,
        )

    def _forward_backward(self, batch: Batch) -> Tensor:
        """Add one forward pass's gradients; returns [objective, Σ instance loss, Σ class loss]."""
        noisy = add_noise(batch.latents, batch.noise, batch.timesteps, self.acp)
        if self.config.channels_last:
            noisy = noisy.to(memory_format=torch.channels_last)
        with self.accelerate.autocast():
            text = self._text_states(batch.prompts)
            prediction = self.model.predict(noisy, batch.timesteps, text)
        losses = row_losses(prediction, batch.noise)
        loss = combine(losses, batch.weights, self.config.rows_per_step)
        self.accelerate.backward(loss)
        losses = losses.detach()
        parts = (loss.detach(), losses[~batch.is_class].sum(), losses[batch.is_class].sum())
        return torch.stack(parts)

    def _text_states(self, prompts: list[str]) -> Tensor:
        """Hidden states ``[B, 77, C]``; a prompt that several rows share is encoded once."""
        if self.p.texts is not None:
            return torch.stack([self.p.texts[prompt] for prompt in prompts])
        distinct = list(dict.fromkeys(prompts))
        states = self.model.encode_prompts(tokenize(distinct).to(self.device))
        return states[[distinct.index(prompt) for prompt in prompts]]

    def _require_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"the {what} became {value} in step {self.done + 1}: lower the learning rate, or"
                " choose precision = bf16 or fp32. The weights before this step are kept."
            )

    def _preview(self, *, again: bool = True) -> None:
        """A picture of each prompt; without ``again`` only those that are not there."""
        prompts = self.p.previews
        for index, prompt in enumerate(prompts):
            path = self.p.folder.sample(self.done, index)
            if path.exists() and not again:
                continue
            self.check_stop()
            self.listener(Phase("Sampling previews", index, len(prompts)))
            with torch.no_grad(), self.accelerate.autocast():
                if self.p.texts is None:
                    texts = encode_for_preview(self.model, [prompt, ""], self.device)
                else:
                    texts = [self.p.texts[prompt], self.p.texts[""]]
                image = sample(
                    self.model,
                    *texts,
                    resolution=self.config.resolution,
                    steps=self.config.preview_steps,
                    cfg=self.config.preview_cfg,
                    seed=self.config.seed + index,
                    device=self.device,
                    check_stop=self.check_stop,
                )
            save_picture(image, path)
            self.listener(Preview(self.done, prompt, image, path))
