"""The shell's command in forked children, which die on demand, and what they must leave behind."""

import dataclasses
import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import torch
from pack.trainer import __main__ as shell
from pack.trainer.checkpoint import write_checkpoint
from pack.trainer.events import Event, Note, Phase, Step
from toy import make_concept, make_job, toy_base

SEED = 20261122
STEPS = 6
OPTIONS = {
    "steps": STEPS,
    "gradient_accumulation_steps": 2,
    "trains": "unet",
    "lr_schedule": "cosine",
    "preview_every": 4,
    "preview_steps": 1,
    "save_every": 2,
    "state_minutes": 1e-9,  # a state after every step
}
BETWEEN = "steps, and between phases"
# Calls that change what is on disk, as Python's audit names them: a kill just before one of them.
TOUCHES = {"os.rename", "os.remove", "os.mkdir"}


@dataclasses.dataclass
class Whole:
    """The unbroken run: its folder, how long it took, and its diary's lines."""

    folder: Path
    seconds: float
    diary: list[str]


def place(folder: Path) -> list[str]:
    """A job with its base in a folder of its own; the command's arguments."""
    base = folder / "base.safetensors"
    write_checkpoint(base, toy_base(), {})
    job = make_job(folder, (make_concept(folder.parent / "pictures"),), **OPTIONS)
    file = folder / "job.json"
    file.write_text(dataclasses.replace(job, base=str(base)).to_json())
    return [str(file), "--device", "cpu"]


class Diary:
    """What a child was doing, line by line in a file that outlives it."""

    def __init__(self, path: Path, die_at_event: int, die_at_touch: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._left = {"event": die_at_event, "touch": die_at_touch}
        self._done = 0

    def on_event(self, event: Event) -> None:
        if isinstance(event, Step):
            self._done = event.step
        if isinstance(event, Note) and event.text.startswith("goes on from step "):
            self._done = int(event.text.split()[4])
        self._write(self._activity(event))
        self._count("event")

    def on_audit(self, name: str, arguments: tuple) -> None:
        writes = name == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
        if writes or name in TOUCHES:
            self._count("touch")

    def _activity(self, event: Event) -> str:
        if not isinstance(event, Phase) or event.done == event.total:
            return BETWEEN
        if event.name == "Saving":
            return "Saving the end" if self._done == STEPS else "Saving an extra"
        return event.name

    def _count(self, kind: str) -> None:
        self._write(kind)
        self._left[kind] -= 1
        if not self._left[kind]:
            os.kill(os.getpid(), signal.SIGKILL)

    def _write(self, line: str) -> None:
        os.write(self._file, f"{line}\n".encode())


def forked(arguments: list[str], diary: Path, *, event: int = 0, touch: int = 0) -> int:
    """The shell's command in a child that need not import torch again; its process id.

    It kills itself at the ``event``-th thing it says or before the ``touch``-th change on disk.
    """
    if child := os.fork():
        return child
    code = 70
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open(diary.with_suffix(".err"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
        torch.set_num_threads(1)
        notes = Diary(diary, event, touch)
        shell._print = notes.on_event
        sys.addaudithook(notes.on_audit)
        code = shell.main(arguments)
    except Exception as error:  # noqa: BLE001
        os.write(2, f"{error!r}\n".encode())
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """As ``subprocess`` says it: the exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def lines(diary: Path) -> list[str]:
    return diary.read_text().splitlines() if diary.exists() else []


def doing(diary: Path) -> str:
    said = [line for line in lines(diary) if line not in ("event", "touch")]
    return said[-1] if said else "Reading the base"


def unbroken(folder: Path) -> Whole:
    """One run in a forked child that nobody disturbs."""
    folder.mkdir()
    arguments, diary = place(folder), folder / "diary"
    began = time.perf_counter()
    assert ended(forked(arguments, diary)) == 0, diary.with_suffix(".err").read_text()
    return Whole(folder, time.perf_counter() - began, lines(diary))


def kill_after(child: int, seconds: float, number: int = signal.SIGKILL) -> None:
    """Unless it ends before; it stays a zombie until it is waited for, so the id is its own."""
    time.sleep(seconds)
    os.kill(child, number)


def finished(folder: Path) -> dict[str, bytes]:
    """Everything that the finished run leaves to look at, as if its name were the first one."""
    run = finished_run(folder)
    found = {f"samples/{path.name}": path.read_bytes() for path in (run / "samples").iterdir()}
    for path in (folder / "checkpoints").iterdir():
        found[path.name.replace(f"{run.name}.", "toy.").replace(f"{run.name}-s", "toy-s")] = (
            path.read_bytes()
        )
    return found


def finished_run(folder: Path) -> Path:
    (result,) = (folder / "runs").glob("*/result.json")
    return result.parent


def check_end(folder: Path, whole: Path) -> int:
    """The same files as the unbroken run, nothing half-written; how many names were lost.

    Only a process that dies within the few milliseconds in which the run's folder is made leaves a
    name of which nobody knows whose it is.
    """
    run = finished_run(folder)
    found, wanted = finished(folder), finished(whole)
    differing = [name for name in found | wanted if found.get(name) != wanted.get(name)]
    assert not differing, differing
    log = [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]
    assert log == list(range(1, STEPS + 1))
    result = json.loads((run / "result.json").read_text())
    assert result["steps"] == STEPS and not result["stopped"]
    states = {path.name for path in (run / "state").iterdir()}
    assert states == {f"step{STEPS:06d}.json", f"step{STEPS:06d}.safetensors"}
    others = [path for path in (folder / "runs").iterdir() if path != run]
    assert all(re.fullmatch(r"toy(-\d)?|\.rehearsal\.lock", path.name) for path in others), others
    lost = [path for path in others if path.is_dir()]
    assert not any((path / "fingerprint.json").exists() for path in lost), lost
    assert not list(run.rglob("*partial*"))
    return len(lost)
