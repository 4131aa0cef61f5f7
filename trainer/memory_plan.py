"""Whether a run fits into its device's memory, and how its steps are cut up so that it does."""

import math
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass

from .config.train import EXACT
from .errors import TrainingError
from .events import Listener, Note, Planned, gib
from .free_memory import free_memory, has_room_in_ram
from .ladder import Ladder
from .memory_need import REMAINDER, estimate, has_classes
from .setup import Prepared
from .training_state import learning, moment_bytes

_RAM = "what only updates need in the computer's memory, which takes more time"
_SURELY = 0.9  # of an estimate: what does not fit even into that much is not tried


def plan_memory(prepared: Prepared, listener: Listener) -> Ladder:
    """How the steps begin: the first rung of the ladder that fits into what is free.

    It tells what it found out. Where the free memory is not known, it is the top.

    Raises:
        TrainingError: the run surely fits on no rung; nothing was placed.
    """
    ladder, free, planned = _top(prepared), free_memory(prepared), None
    if free is not None:
        ladder, planned = _descend(prepared, ladder, free, listener)
    refused = planned is not None and planned.need * _SURELY > planned.free
    # all or none: a process alone would wait for the others for ever
    if prepared.ranks.total([float(refused)])[0]:
        raise TrainingError(_refusal(prepared, planned))
    if planned:
        listener(planned)
    return ladder


@dataclass(frozen=True)
class _Rung:
    """A way to run that was looked at.

    Attributes:
        change: from the rung above it, in words.
        need: bytes.
    """

    ladder: Ladder
    state_in_ram: bool
    change: str
    need: int


def _descend(
    prepared: Prepared, top: Ladder, free: int, listener: Listener
) -> tuple[Ladder, Planned | None]:
    """The first rung that fits, or the smallest; no plan where that cannot be found out."""
    best = None
    try:
        for rung in _rungs(prepared, top):
            if best is None or rung.need <= best.need:
                best = rung
            if best.need <= free:
                break
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
        # a layer that knows no meta device: the run itself shows whether it fits
        listener(Note(f"how much memory this run takes is not known beforehand: {error}"))
        prepared.state_in_ram = False
        return best.ladder if best else top, None
    prepared.state_in_ram = best.state_in_ram
    return best.ladder, Planned(best.need, free, best.change)


def _rungs(prepared: Prepared, top: Ladder) -> Iterator[_Rung]:
    """One after the other, as the run is set to them."""

    def rung(ladder: Ladder, change: str) -> _Rung:
        need = estimate(prepared, ladder).total
        return _Rung(ladder, prepared.state_in_ram, change, need)

    rungs, ladder = [rung(top, "")], copy(top)
    yield rungs[0]
    while change := ladder.lower():
        if ladder.recomputed:
            text = prepared.job.config.trains_text_encoder
            prepared.model.recompute_activations(text, ladder.recomputed)
        rungs.append(rung(copy(ladder), change))
        yield rungs[-1]
    if _state_to_ram(prepared):
        for above in rungs[-1 - ladder.in_backward :]:  # which of the two is smaller depends
            yield rung(above.ladder, ", and ".join(filter(None, (above.change, _RAM))))


def _state_to_ram(prepared: Prepared) -> bool:
    """The last rung: moments and remainders lie in pinned memory, if they may."""
    config = prepared.job.config
    weights = sum(p.numel() for _, p in learning(prepared.trained.modules))
    state = weights * (moment_bytes(config) + REMAINDER * (config.weights == EXACT))
    prepared.state_in_ram = config.has_split_weights and has_room_in_ram(prepared.device, state)
    return prepared.state_in_ram


def _top(prepared: Prepared) -> Ladder:
    config = prepared.job.config
    return Ladder(
        config.batch_size,
        # what the base predicts is compared exactly only on the same rows: taught rows always
        # have a pass without instance rows
        has_classes(prepared) and not config.lora.prior_without_images,
        config.gradient_checkpointing,
        prepared.model.levels,
        math.ceil(config.rows_per_step / prepared.ranks.count),
        _is_one_pass(prepared),
    )


def _is_one_pass(prepared: Prepared) -> bool:
    """Whether a step can be one pass that is made twice."""
    config = prepared.job.config
    # under fp16 the loss scale decides on the way; gradients of a LoRA are small
    other = prepared.ranks.several or prepared.precision == "fp16" or config.lora.is_on
    return config.gradient_accumulation_steps == 1 and not other


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
