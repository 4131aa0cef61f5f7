"""``python -m trainer job.json``: finish, go on with or repeat a run from a shell."""

import argparse
import dataclasses
import signal
import sys
from pathlib import Path

import torch

from .checkpoint import CheckpointError, UnsupportedModel, read_checkpoint
from .config import ConfigError, Job
from .errors import TrainingError
from .events import Command, Event, Note, Phase, Saved, Step
from .images import ImageError
from .loop import train
from .rehearsal import RehearsalFailed

USER_ERRORS = (
    ConfigError, ImageError, UnsupportedModel, CheckpointError, RehearsalFailed, TrainingError,
)  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=__doc__)
    parser.add_argument("job", type=Path, help="job.json of a run")
    parser.add_argument("--base", type=Path, help="checkpoint to start from, instead of the job's")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, help="folder for the checkpoint and the run")
    parser.add_argument(
        "--again", action="store_true", help="train anew, even if the run is finished or can go on"
    )
    args = parser.parse_args(argv)
    try:
        job = _read_job(args)
        base, _ = read_checkpoint(Path(job.base))
        result = train(
            job,
            base,
            device=torch.device(args.device),
            listener=_print,
            control=_stop_on_signal(),
            train_again=args.again,
        )
    except (*USER_ERRORS, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\n{result.steps} steps in {result.seconds:.1f} s: {result.checkpoint}")
    return 130 if result.stopped else 0


def _read_job(args: argparse.Namespace) -> Job:
    job = Job.read(args.job)
    if args.base:
        job = dataclasses.replace(job, base=str(args.base))
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


def _stop_on_signal():
    """Ctrl-C once, or a system that asks us to end: save the finished steps. Twice: at once."""
    asked = []

    def on_signal(number: int, frame: object) -> None:
        asked.append(number)
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
    elif isinstance(event, Note):
        print(f"\nnote: {event.text}")
    elif isinstance(event, Saved):
        print(f"\nsaved {event.path}")


if __name__ == "__main__":
    sys.exit(main())
