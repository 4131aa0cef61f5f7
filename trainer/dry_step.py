"""The largest step of a run, computed and thrown away before its first one.

An estimate may be wrong, and the largest pictures may come late. So the device holds once what it
will hold at worst, beside room for all that updates need: where it does not fit, the steps are cut
up before anything was learned, or the run is refused.

A processor goes without: a step takes long there, and memory that is missing is no error but the
end of the process.
"""

import math
import time
from functools import partial

import torch

from .events import Listener, Phase, Tried
from .free_memory import held_on_card
from .gradients import Gradients
from .learner import Learner
from .memory_need import beside_update
from .setup import Prepared

_PHASE = "Trying the largest step"


def is_tried(device: torch.device) -> bool:
    return device.type != "cpu"


def try_largest_step(
    prepared: Prepared, learner: Learner, gradients: Gradients, listener: Listener
) -> None:
    """Find the rung of the ladder on which the run's largest step fits, and tell what it takes.

    It changes nothing of what is learned: rows and draws go by a step's number.

    Raises:
        TrainingError: it does not fit; no step was taken.
        Stopped: the user asked for the end.
    """
    if not is_tried(prepared.device) or learner.done == prepared.job.config.steps:
        return
    listener(Phase(_PHASE, 0, 1))
    step = largest_step(prepared, learner.done)
    if prepared.device.type == "cuda":
        torch.cuda.empty_cache()  # from here on what is reserved grows to what a step takes
    try:
        moments = learner.room_for_moments()
        update = partial(_bytes, beside_update(prepared), prepared.device)
        gradients.fill(step, update)  # in this one the libraries choose their kernels
        learner.drop_gradients()
        began = time.perf_counter()
        gradients.fill(step, update)
        seconds = time.perf_counter() - began
    finally:
        learner.drop_gradients()
    held = held_on_card(prepared.device)
    del moments
    if prepared.device.type == "cuda":
        torch.cuda.empty_cache()
    listener(Tried(held, seconds))
    listener(Phase(_PHASE, 1, 1))


def largest_step(prepared: Prepared, done: int) -> int:
    """Of the steps after ``done`` the first one with the most pixels in a forward pass.

    Each is named by how many steps are finished before it.
    """
    config, rows = prepared.job.config, prepared.rows
    until, size, each = config.steps, config.batch_size, config.rows_per_step
    if prepared.text_steps is not None and done < prepared.text_steps:
        until = min(until, prepared.text_steps)  # after them there are fewer gradients
    # all there is comes by in a round, and two of them surely hold a whole one
    rounds = math.ceil(2 * rows.epoch_length * size / each)

    def pixels(step: int) -> int:
        starts = range(step * each, (step + 1) * each, size)
        return max(sum(map(rows.pixels, range(start, start + size))) for start in starts)

    return max(range(done, max(done + 1, min(until, done + rounds))), key=pixels)


def _bytes(count: int, device: torch.device) -> torch.Tensor:
    return torch.empty(count, dtype=torch.uint8, device=device)
