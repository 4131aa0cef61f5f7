"""``python -m trainer job.json``: finish, go on with or repeat a run from a shell.

Started by ``accelerate launch`` or ``torchrun``, several processes share each step's rows.
"""

import argparse
import dataclasses
import signal
import sys
from pathlib import Path

import torch

from .checkpoint import CheckpointError, UnsupportedModel, read_checkpoint
from .config import ConfigError, Job
from .errors import TrainingError
from .events import Command, Control, Event, Note, Phase, Planned, Saved, Step, Tried
from .images import ImageError
from .loop import train
from .ranks import Ranks, join
from .rehearsal import RehearsalFailed

USER_ERRORS = (
    ConfigError, ImageError, UnsupportedModel, CheckpointError, RehearsalFailed, TrainingError,
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    parser.add_argument("job", type=Path, help="job.json of a run")
    parser.add_argument("--base", type=Path, help="checkpoint to start from, instead of the job's")
    parser.add_argument("--device", default=_device(), help="(%(default)s)")
    parser.add_argument("--output", type=Path, help="folder for the checkpoint and the run")
    parser.add_argument(
        "--again", action="store_true", help="train anew, even if the run is finished or can go on"
    )
    args = parser.parse_args(argv)
    try:
        ranks, device = join(torch.device(args.device))
    except USER_ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if device.type == "cuda":  # with its number, and the current one: some questions are about that
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    code = 1
    try:
        code = _train(args, ranks, device)
    finally:
        ranks.leave(well=code != 1)
    return code


def _device() -> str:
    """The kind of device that ComfyUI would take."""
    if torch.cuda.is_available():
        return "cuda"
    accelerator = getattr(torch, "accelerator", None)  # younger than torch 2.4
    if accelerator and accelerator.is_available():
        return accelerator.current_accelerator().type
    return "cpu"


def _train(args: argparse.Namespace, ranks: Ranks, device: torch.device) -> int:
    try:
        job = _read_job(args)
        base, _ = read_checkpoint(Path(job.base))
        result = train(
            job,
            base,
            device=device,
            listener=_print,
            control=_stop_on_signal(ranks),
            train_again=args.again,
            ranks=ranks,
        )
    except (*USER_ERRORS, OSError) as error:
        who = f" in process {ranks.index}" if ranks.several else ""
        print(f"error{who}: {error}", file=sys.stderr, flush=True)
        return 1
    if ranks.is_first:
        print(f"\n{result.steps} steps in {result.seconds:.1f} s: {result.checkpoint}")
    return 130 if result.stopped else 0


def _read_job(args: argparse.Namespace) -> Job:
    job = Job.read(args.job)
    if args.base:
        job = dataclasses.replace(job, base=str(args.base))
    if args.base or args.again:  # then it may be another base than the recorded one
        job = dataclasses.replace(job, base_digest="")
    if args.output:
        folders = {"checkpoints": args.output, "runs": args.output / "runs"}
        folders["cache"] = args.output / "cache"
        job = dataclasses.replace(job, **{key: str(path) for key, path in folders.items()})
    if job.base is None:
        raise ConfigError(
            "this job's base came over wires that no one file holds: pass --base FILE"
            " (the host's Save Checkpoint node writes one)"
        )
    return job


def _stop_on_signal(ranks: Ranks) -> Control:
    """Ctrl-C once, or a system that asks us to end: save the finished steps. Twice: at once.

    Of several processes each gets one Ctrl-C twice, from the terminal and from their launcher,
    which kills them itself if they take too long.
    """
    asked = []

    def on_signal(number: int, frame: object) -> None:
        asked.append(number)
        if not ranks.several:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    return lambda: Command.STOP if asked else Command.GO_ON


def _print(event: Event) -> None:
    if isinstance(event, Phase):
        end = "\n" if event.done == event.total else ""
        print(f"\r{event.name}: {event.done}/{event.total}", end=end, flush=True)
    elif isinstance(event, Step):
        left = event.seconds / event.step * (event.total - event.step)
        prior = "" if event.class_loss is None else f" class {event.class_loss:.4f}"
        print(
            f"\rstep {event.step}/{event.total} instance {event.instance_loss:.4f}{prior}"
            f" {1 / event.step_seconds:.2f} it/s, {left:.0f} s left   ",
            end="",
            flush=True,
        )
    elif isinstance(event, (Planned, Tried)):
        print(event.text)
    elif isinstance(event, Note):
        print(f"\nnote: {event.text}")
    elif isinstance(event, Saved):
        print(f"\nsaved {event.path}")


if __name__ == "__main__":
    sys.exit(main())
