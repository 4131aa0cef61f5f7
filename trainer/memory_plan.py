"""Whether a run fits into its device's memory, and how its steps are cut up so that it does."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor
from torch.nn import functional

from .conditioning import Conditioning
from .config import TrainConfig
from .config.train import EXACT, LEAN
from .errors import TrainingError
from .events import Listener, Note, Planned, gib
from .footprint import META, AsComputed, Held, backward, without_values
from .free_memory import free_memory, has_room_in_ram
from .ladder import Ladder
from .setup import Prepared
from .split_adamw import PART, WHOLE
from .training_state import learning, moment_bytes

# what no tensor shows: workspaces of the libraries, and holes in the allocator's blocks. On a
# processor as benchmarks/memory measures it; of a card a guess, until one was measured
_BESIDE = {"cpu": 32 * 2**20, "cuda": 300 * 2**20}
_HOLES = {"cpu": 1.01, "cuda": 1.04}
_SURELY = 0.9  # of an estimate: what does not fit even into that much is not tried
_REMAINDER = 2  # bytes of an exact weight beside its bf16
_IN_UPDATE = 20  # bytes for each value of the part of a split weight that torch updates
_DRAWN = 4  # and for each value of a lean one


@dataclass(frozen=True)
class Need:
    """Bytes that a run holds on its device.

    Attributes:
        weights: of the parts that are there during a step, with remainders and averages.
        moments: of the optimizer.
        step: activations and gradients at the worst moment of forward and backward.
        update: gradients, and what the update holds beside them.
        device: its type.
    """

    weights: int
    moments: int
    step: int
    update: int
    device: str

    @property
    def tensors(self) -> int:
        """At the worst moment of a step."""
        return self.weights + self.moments + max(self.step, self.update)

    @property
    def total(self) -> int:
        """With what no tensor shows."""
        return int(self.tensors * _HOLES[self.device] + _BESIDE[self.device])


def plan_memory(prepared: Prepared, listener: Listener) -> Ladder:
    """How the steps begin: the first rung of the ladder that fits into what is free.

    It tells what it found out. Where the free memory is not known, it is the top.

    Raises:
        TrainingError: the run surely fits on no rung; nothing was placed.
    """
    ladder, free = _top(prepared), free_memory(prepared)
    planned = None if free is None else _descend(prepared, ladder, free, listener)
    refused = planned is not None and planned.need * _SURELY > planned.free
    # all or none: a process alone would wait for the others for ever
    if prepared.ranks.total([float(refused)])[0]:
        raise TrainingError(_refusal(prepared, planned))
    if planned:
        listener(planned)
    return ladder


def _descend(prepared: Prepared, ladder: Ladder, free: int, listener: Listener) -> Planned | None:
    """Lower the ladder until a step fits, or to its end; None where that cannot be found out."""
    change = ""
    try:
        need = estimate(prepared, ladder)
        while need.total > free and (lower := ladder.lower()):
            change = lower
            if ladder.recomputed:
                text = prepared.job.config.trains_text_encoder
                prepared.model.recompute_activations(text, ladder.recomputed)
            need = estimate(prepared, ladder)
        if need.total > free and _state_to_ram(prepared):
            ram = "what only updates need in the computer's memory, which takes more time"
            change = ", and ".join(filter(None, (change, ram)))
            need = estimate(prepared, ladder)
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
        # a layer that knows no meta device: the run itself shows whether it fits
        listener(Note(f"how much memory this run takes is not known beforehand: {error}"))
        return None
    return Planned(need.total, free, change)


def _state_to_ram(prepared: Prepared) -> bool:
    """The last rung: moments and remainders lie in pinned memory, if they may."""
    config = prepared.job.config
    weights = sum(p.numel() for _, p in learning(prepared.trained.modules))
    state = weights * (moment_bytes(config) + _REMAINDER * (config.weights == EXACT))
    prepared.state_in_ram = config.has_split_weights and has_room_in_ram(prepared.device, state)
    return prepared.state_in_ram


def _top(prepared: Prepared) -> Ladder:
    config = prepared.job.config
    return Ladder(
        config.batch_size,
        # what the base predicts is compared exactly only on the same rows: taught rows always
        # have a pass without instance rows
        _has_classes(prepared) and not config.lora.prior_without_images,
        config.gradient_checkpointing,
        prepared.model.levels,
        math.ceil(config.rows_per_step / prepared.ranks.count),
    )


def _has_classes(prepared: Prepared) -> bool:
    """Whether class rows join instance rows, their targets drawn or taught."""
    concepts, taught = prepared.job.concepts, prepared.job.config.lora.prior_without_images
    return any(c.has_prior or taught and c.lacks_class_images for c in concepts)


def _refusal(prepared: Prepared, planned: Planned | None) -> str:
    if planned is None:
        return "this run does not fit into the memory of another process: nothing was trained"
    config = prepared.job.config
    ways = ["choose optimizer = adamw8bit"] * (config.optimizer == "adamw")
    if not config.lora.is_on:
        ways += ["weights = exact"] * (not config.has_split_weights) + ["train a LoRA"]
    ways += ["train the unet alone"] * config.trains_text_encoder
    ways += ["choose ema_decay = 0"] * bool(config.ema_decay)
    ways += ["a smaller resolution", "close what else uses the memory"]
    return (
        f"this run needs about {gib(planned.need)}, row by row and with gradient checkpointing, and"
        f" {gib(planned.free)} of {prepared.device} are free, so nothing was trained:"
        f" {', or '.join(ways)}"
    )


def estimate(prepared: Prepared, ladder: Ladder) -> Need:
    """What a step on this rung takes, at the largest shape of the run."""
    config, in_ram = prepared.job.config, prepared.state_in_ram
    with _on_meta(prepared) as computed, Held() as held:
        several = _passes(prepared, ladder) > 1
        rows = ladder.rows * (1 if ladder.apart else 2)
        for _ in range(1 + several):  # from the second on gradients are there from the start
            _one_pass(prepared, rows, computed)
        gradients = held.now
    trained = [p for _, p in learning(prepared.trained.modules)]
    largest = max(p.numel() for p in trained)
    beside = _IN_UPDATE * min(largest, PART.get(prepared.device.type, WHOLE))
    beside += _DRAWN * largest * (config.weights == LEAN)
    # what is recorded keeps its memory while weights are updated
    meanwhile = held.peak if config.cuda_graph and prepared.device.type == "cuda" else gradients
    return Need(
        weights=_weights(prepared, config),
        moments=sum(p.numel() for p in trained) * moment_bytes(config) * (not in_ram),
        step=held.peak,
        update=meanwhile + beside * config.has_split_weights,
        device=prepared.device.type,
    )


def _passes(prepared: Prepared, ladder: Ladder) -> int:
    share = math.ceil(prepared.job.config.rows_per_step / prepared.ranks.count)
    return math.ceil(share / ladder.rows) * (1 + (ladder.apart and _has_classes(prepared)))


def _weights(prepared: Prepared, config: TrainConfig) -> int:
    """Of the trained parts, frozen layers among them."""
    count = 0
    for module in prepared.trained.modules.values():
        for parameter in module.parameters():
            held = 2 * parameter.numel() if config.has_split_weights else _bytes(parameter)
            if parameter.requires_grad:
                extra = _REMAINDER * (config.weights == EXACT and not prepared.state_in_ram)
                extra += 4 * bool(config.ema_decay)
                held += extra * parameter.numel()
            count += held
    return count


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


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
