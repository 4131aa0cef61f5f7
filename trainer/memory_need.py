"""What a run's steps will hold in memory, at the largest shape of the run."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor
from torch.nn import functional

from .conditioning import Conditioning
from .config import TrainConfig
from .config.train import EXACT, LEAN
from .footprint import META, AsComputed, Held, backward, without_values
from .in_backward import InBackward
from .ladder import Ladder
from .parted_adamw import PART, WHOLE
from .setup import Prepared
from .texts import KEPT
from .training_state import learning, moment_bytes

# what no tensor shows: workspaces of the libraries, and holes in the allocator's blocks. On a
# processor as benchmarks/memory measures it; of a card a guess, until one was measured
_BESIDE = {"cpu": 32 * 2**20, "cuda": 300 * 2**20}
_HOLES = {"cpu": 1.01, "cuda": 1.04}
_REMAINDER = 2  # bytes of an exact weight beside its bf16
# bytes for each value of the part of a weight that torch updates
_IN_UPDATE = {"adamw": 20, "adamw8bit": 32}
_DRAWN = 4  # and for each value of a lean one


@dataclass(frozen=True)
class Need:
    """Bytes that a run holds on its device.

    Attributes:
        weights: of the parts that are there during a step, with their averages.
        state: what only updates need: moments, and the remainders of exact weights.
        step: activations and gradients at the worst moment of forward and backward.
        update: gradients, and what the update holds beside them.
        device: its type.
    """

    weights: int
    state: int
    step: int
    update: int
    device: str

    @property
    def tensors(self) -> int:
        """At the worst moment of a step."""
        return self.weights + self.state + max(self.step, self.update)

    @property
    def total(self) -> int:
        """With what no tensor shows."""
        return int(self.tensors * _HOLES[self.device] + _BESIDE[self.device])

    @property
    def beside_ram(self) -> "Need":
        """Where the state is in the computer's memory."""
        return replace(self, state=0)


def estimate(prepared: Prepared, ladder: Ladder) -> Need:
    """What a step on this rung takes, at the largest shape of the run."""
    config = prepared.job.config
    beside = beside_update(prepared)
    with _on_meta(prepared) as computed, Held() as held:
        rows = ladder.rows * (1 if ladder.apart else 2)
        one_pass = partial(_one_pass, prepared, rows, computed)
        if ladder.in_backward:
            on_meta = [p for _, p in learning(prepared.trained.modules)]
            update = partial(torch.empty, beside, dtype=torch.uint8, device=META)
            InBackward(on_meta).update(one_pass, update)
        else:
            one_pass()
            if _passes(prepared, ladder) > 1:  # with gradients there from the start
                one_pass()
        gradients = held.now
    # what is recorded keeps its memory while weights are updated
    meanwhile = held.peak if config.cuda_graph and prepared.device.type == "cuda" else gradients
    return Need(
        weights=_weights(prepared, config),
        state=held_state(prepared),
        step=held.peak,
        update=meanwhile + beside,
        device=prepared.device.type,
    )


def held_state(prepared: Prepared) -> int:
    """Bytes of moments and remainders."""
    config = prepared.job.config
    each = moment_bytes(config) + _REMAINDER * (config.weights == EXACT)
    return each * sum(p.numel() for _, p in learning(prepared.trained.modules))


def beside_update(prepared: Prepared) -> int:
    """Bytes that an update holds beside gradients and state."""
    config = prepared.job.config
    if not (config.has_split_weights or config.optimizer == "adamw8bit"):
        return 0  # torch's own, fused
    largest = max(p.numel() for _, p in learning(prepared.trained.modules))
    part = min(largest, PART.get(prepared.device.type, WHOLE))
    return _IN_UPDATE[config.optimizer] * part + _DRAWN * largest * (config.weights == LEAN)


def _passes(prepared: Prepared, ladder: Ladder) -> int:
    share = math.ceil(prepared.job.config.rows_per_step / prepared.ranks.count)
    return math.ceil(share / ladder.rows) * (1 + (ladder.apart and has_classes(prepared)))


def _weights(prepared: Prepared, config: TrainConfig) -> int:
    """Of the trained parts, frozen layers among them, and of encoders that come back for texts."""
    count = 0
    rows = prepared.rows
    if prepared.texts is not None and (rows.draws_texts or len(rows.texts()) > KEPT):
        encoders = prepared.model.text_encoders.values()
        count = sum(_bytes(p) for encoder in encoders for p in encoder.parameters())
    for module in prepared.trained.modules.values():
        for parameter in module.parameters():
            held = 2 * parameter.numel() if config.has_split_weights else _bytes(parameter)
            if parameter.requires_grad:
                held += 4 * bool(config.ema_decay) * parameter.numel()
            count += held
    return count


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def has_classes(prepared: Prepared) -> bool:
    """Whether class rows join instance rows, their targets drawn or taught."""
    concepts, taught = prepared.job.concepts, prepared.job.config.lora.prior_without_images
    return any(c.has_prior or taught and c.lacks_class_images for c in concepts)


@contextmanager
def _on_meta(prepared: Prepared) -> Iterator[AsComputed]:
    """Inside, the run's trained modules compute without values, as they will on the device."""
    config, model = prepared.job.config, prepared.model
    split = torch.bfloat16 if config.has_split_weights else None
    lower = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(prepared.autocast)
    processors, dtype = model.unet.attn_processors, model.dtype
    model.dtype = split or dtype
    if config.attention == "xformers":  # it knows no meta device, and keeps what torch's keeps
        model.unet.set_attn_processor(AttnProcessor2_0())
    try:
        with (
            without_values(prepared.trained.modules.values(), split),
            AsComputed(lower, prepared.device.type != "cpu") as computed,
        ):
            yield computed
    finally:
        model.dtype = dtype
        if config.attention == "xformers":
            model.unet.set_attn_processor(processors)


def _one_pass(prepared: Prepared, rows: int, computed: AsComputed) -> None:
    """As ``Gradients.forward_backward``."""
    model = prepared.model
    size = max(prepared.rows.sizes, key=math.prod)
    shape = (rows, *model.latent_shape(size))
    noisy, answer, *_ = [torch.empty(shape, device=META) for _ in range(5)]
    text = _conditioning(prepared, rows)
    timesteps = torch.empty(rows, dtype=torch.long, device=META)
    time_ids = torch.empty(rows, 6, device=META)
    prediction = model.predict(noisy, timesteps, text, time_ids)
    computed.forget()
    backward(functional.mse_loss(prediction.float(), answer))


def _conditioning(prepared: Prepared, rows: int) -> Conditioning:
    if prepared.texts is None:
        prompts = list(dict.fromkeys(prepared.rows.texts()))[:rows]
        encoded = prepared.model.encode_prompts(prompts, META)
        return encoded[[row % len(prompts) for row in range(rows)]]
    return Conditioning.cat([prepared.texts[""].to(META)] * rows)
