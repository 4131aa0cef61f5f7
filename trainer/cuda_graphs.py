"""Where passes can be recorded: CUDA graphs of a card, by torch's own engine."""

from collections.abc import Callable

import torch
from torch import Tensor

from .capture import Recorder, Replay
from .ladder import Ladder
from .setup import Prepared


class CudaGraphs:
    """Recordings share their memory: one is replayed at a time, and none reads another's."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool: tuple[int, int] | None = None

    def apart(self, work: Callable[[], Tensor]) -> Tensor:
        """On the stream of the recordings, whose workspaces the libraries keep for themselves."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = work()
        current.wait_stream(self._stream)
        return result

    def record(self, work: Callable[[], None]) -> Replay:
        graph = torch.cuda.CUDAGraph()
        # other threads of the host may ask the card for its free memory meanwhile
        mode = {"capture_error_mode": "thread_local"}
        # after a capture that failed torch leaves its stream behind as the current one
        with (
            torch.cuda.stream(torch.cuda.current_stream(self._device)),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, **mode),
        ):
            work()
        self._pool = graph.pool()
        return graph.replay

    def forget(self) -> None:
        self._pool = None
        torch.cuda.empty_cache()


def recorder_for(prepared: Prepared, ladder: Ladder) -> tuple[Recorder | None, str]:
    """What records this run's passes, or why nothing does."""
    if prepared.device.type != "cuda":
        return None, f"{prepared.device.type} has no CUDA graphs"
    reason = why_not(prepared, ladder)
    return (None if reason else CudaGraphs(prepared.device)), reason


def why_not(prepared: Prepared, ladder: Ladder) -> str:
    """Why this run's passes can not be recorded on any device; empty if they can."""
    if prepared.ranks.several:
        return "the run has several processes"
    if prepared.precision == "fp16":
        return "precision is fp16, whose loss scale changes on the way"
    if prepared.job.config.lora.dropout:
        return "the dropout of a LoRA draws anew in each pass"
    if ladder.recomputed:
        return "activations are computed again (gradient checkpointing)"
    return ""
