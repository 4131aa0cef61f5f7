"""Whether a run fits into its device's memory, and how its steps are cut up so that it does."""

import math
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, replace

from .errors import TrainingError
from .events import Listener, Note, Planned, gib
from .free_memory import free_memory, has_room_in_ram
from .ladder import Ladder
from .memory_need import Need, estimate, has_classes, held_state
from .precision import has_bf16
from .setup import Prepared

_RAM = "what only updates need in the computer's memory, which takes more time"
_LESS = " (optimizer = adamw8bit needs far less of it)"
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
    """

    ladder: Ladder
    change: str
    need: Need
    state_in_ram: bool = False

    def beside_ram(self, said: str) -> "_Rung":
        """The same with what only updates need in the computer's memory."""
        change = ", and ".join(filter(None, (self.change, said)))
        return replace(self, change=change, need=self.need.beside_ram, state_in_ram=True)


def _descend(
    prepared: Prepared, top: Ladder, free: int, listener: Listener
) -> tuple[Ladder, Planned | None]:
    """The first rung that fits, or the smallest; no plan where that cannot be found out."""
    best = None
    try:
        for rung in _rungs(prepared, top):
            if best is None or rung.need.total <= best.need.total:
                best = rung
            if best.need.total <= free:
                break
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError) as error:
        # a layer that knows no meta device: the run itself shows whether it fits
        listener(Note(f"how much memory this run takes is not known beforehand: {error}"))
        _set(prepared, top)
        return top, None
    _set(prepared, best.ladder)
    prepared.state_in_ram = best.state_in_ram
    return best.ladder, Planned(best.need.total, free, best.change)


def _rungs(prepared: Prepared, top: Ladder) -> Iterator[_Rung]:
    """One after the other; then all of them once more beside a state in RAM, if it may go there.

    What a smaller state leaves free is used to recompute less: that costs least last.
    """
    rungs, ladder, change = [], copy(top), ""
    while change is not None:
        _set(prepared, ladder)
        rungs.append(_Rung(copy(ladder), change, estimate(prepared, ladder)))
        yield rungs[-1]
        change = ladder.lower()
    config = prepared.job.config
    state = held_state(prepared) * prepared.ranks.count  # they share the computer's memory
    if config.has_split_weights and has_room_in_ram(prepared.device, state):
        said = _RAM + _LESS * (config.optimizer == "adamw")
        yield from (rung.beside_ram(said) for rung in rungs)


def _set(prepared: Prepared, ladder: Ladder) -> None:
    """Let the model recompute what it does on this rung."""
    text = prepared.job.config.trains_text_encoder
    prepared.model.recompute_activations(text, ladder.recomputed)


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
    return (
        f"this run needs about {gib(planned.need)}, row by row and with gradient checkpointing, and"
        f" {gib(planned.free)} of {prepared.device} are free, so nothing was trained:"
        f" {ways_out(prepared)}"
    )


def ways_out(prepared: Prepared) -> str:
    """What to choose where a run does not fit, in words."""
    config = prepared.job.config
    ways = ["choose optimizer = adamw8bit"] * (config.optimizer == "adamw")
    if not config.lora.is_on:
        can_split = not config.has_split_weights and has_bf16(prepared.device)
        ways += ["weights = exact"] * can_split + ["train a LoRA"]
    ways += ["train the unet alone"] * config.trains_text_encoder
    ways += ["choose ema_decay = 0"] * bool(config.ema_decay)
    ways += ["a smaller resolution", "close what else uses the memory"]
    return ", or ".join(ways)
