"""The runs on disk as a person looks through them: which there are, how they went, and their end.

Reads what the runs wrote, and trusts none of it: a file that is damaged, or of another version,
makes a poorer entry, never an error.
"""

import contextlib
import dataclasses
import glob
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .config import ConfigError, TrainConfig
from .curve import mean, number, read_points, thin
from .files import mapping, read_json
from .names import check_name

_PICTURE = re.compile(r"step(\d{6,12})_(\d{2,6})\.png")
_TAIL = 64 * 1024  # bytes of a log's end that the last losses are taken from
LAST_STEPS = 20  # that the loss in the list is the mean of


class UnknownRun(LookupError):
    """There is no run of that name."""


class RunInUse(RuntimeError):
    """A process is training in it."""


@dataclasses.dataclass(frozen=True)
class History:
    """All runs under one folder.

    Attributes:
        runs: holds a folder per run.
        checkpoints, loras: where their files are.
    """

    runs: Path
    checkpoints: Path
    loras: Path

    def names(self) -> list[str]:
        """Newest first."""
        folders = self.runs.iterdir() if self.runs.is_dir() else ()
        found = {path.name: _changed(path) for path in folders if _is_run(path)}
        return sorted(found, key=lambda name: (found[name], name), reverse=True)

    def folder(self, name: str) -> Path:
        """The run's folder.

        Raises:
            ConfigError: that is no name, so that no path can come in by it.
            UnknownRun: there is none.
        """
        folder = self.runs / check_name(name)
        if not _is_run(folder):
            raise UnknownRun(f"there is no run {name!r}")
        return folder

    def newest(self, asked: str) -> str | None:
        """The newest run that this name was asked for; it may have got a number."""
        alike = (n for n in self.names() if n == asked or n.startswith(f"{asked}-"))
        return next((n for n in alike if _job(self.runs / n).get("name") == asked), None)

    def summary(self, name: str) -> dict[str, Any]:
        """A run in the list: name, subject, state, steps, asked, loss, changed (seconds since
        1970), bytes, the newest picture, checkpoints.

        Raises:
            ConfigError, UnknownRun: see :meth:`folder`.
        """
        folder = self.folder(name)
        job, result = _job(folder), read_json(folder / "result.json")
        pictures = list_pictures(folder)
        last = read_points(folder / "log.jsonl", tail=_TAIL)
        checkpoints = self.checkpoints_of(name)
        return {
            "name": name,
            "subject": _subject(job),
            "state": _state(result),
            "steps": last[-1][0] if last else _integer(result.get("steps")),
            "asked": _integer(mapping(job.get("config")).get("steps")),
            "loss": mean([point[1] for point in last[-LAST_STEPS:]]),
            "changed": _changed(folder),
            "bytes": _size(folder) + sum(entry["bytes"] for entry in checkpoints),
            "picture": pictures[-1] if pictures else None,
            "checkpoints": checkpoints,
        }

    def details(self, name: str) -> dict[str, Any]:
        """The summary with prompts, all pictures, settings (name, value, default) and seconds."""
        folder = self.folder(name)
        job = _job(folder)
        return self.summary(name) | {
            "prompts": preview_prompts(job),
            "pictures": list_pictures(folder),
            "settings": _settings(mapping(job.get("config"))),
            "seconds": number(read_json(folder / "result.json").get("seconds")),
        }

    def checkpoints_of(self, name: str) -> list[dict[str, Any]]:
        """File, kind, step (None for the result) and bytes; the result first, then the newest."""
        found = []
        for path in self._files(name):
            step = re.fullmatch(r".*-step(\d{6,12})", path.stem) if path.stem != name else None
            step = int(step[1]) if step else None
            kind = "lora" if path.parent == self.loras else "checkpoint"
            found.append({"file": path.name, "kind": kind, "step": step, "bytes": _bytes(path)})
        return sorted(found, key=lambda e: (e["step"] is not None, -(e["step"] or 0)))

    def _files(self, name: str) -> Iterator[Path]:
        """Of this run: where it wrote, since another's of the same name may lie beside."""
        wrote = _job(self.runs / name).get("checkpoints")
        is_lora = isinstance(wrote, str) and Path(wrote).parent.name == self.loras.parent.name
        folder = self.loras if is_lora else self.checkpoints
        extras = f"{glob.escape(name)}-step{'[0-9]' * 6}.safetensors"
        paths = (folder / f"{name}.safetensors", *folder.glob(extras))
        yield from (path for path in paths if path.is_file())

    def log(self, name: str, points: int) -> dict[str, Any]:
        """The losses, see :func:`thin`."""
        return thin(read_points(self.folder(name) / "log.jsonl"), points)

    def picture(self, name: str, step: int, prompt: int) -> Path:
        """A preview's file.

        Raises:
            ConfigError, UnknownRun: or there is no such picture.
        """
        path = self.folder(name) / "samples" / f"step{step:06d}_{prompt:02d}.png"
        if not path.is_file():
            raise UnknownRun(f"{name!r} has no picture {prompt} of step {step}")
        return path

    def delete(self, name: str, *, checkpoints: bool) -> None:
        """Remove a run for good, with or without its checkpoints.

        Raises:
            ConfigError, UnknownRun: see :meth:`folder`.
            RunInUse: it is being trained.
            OSError: a file cannot be removed.
        """
        folder = self.folder(name)
        lock = FileLock(folder / "lock")
        try:
            # a file system that knows no locks cannot tell, and its runs have to go, too
            with contextlib.suppress(NotImplementedError):
                lock.acquire(timeout=0)
        except Timeout as error:
            raise RunInUse(f"{name!r} is being trained: stop it first") from error
        try:
            for path in list(self._files(name)) if checkpoints else []:
                path.unlink()
            for path in folder.iterdir():
                # last, and by this too: as long as it is there the rest can be deleted again
                if path.name not in ("job.json", "lock"):
                    is_folder = path.is_dir() and not path.is_symlink()
                    shutil.rmtree(path) if is_folder else path.unlink()
            (folder / "job.json").unlink()
        finally:
            lock.release()
        shutil.rmtree(folder)


def _is_run(folder: Path) -> bool:
    """A folder of ours under a name that could be given to a run."""
    try:
        check_name(folder.name)
    except ConfigError:
        return False
    return (folder / "job.json").is_file() and not folder.is_symlink()


def list_pictures(folder: Path) -> list[list[int]]:
    """``[step, number of the prompt]`` of each preview of a run, in order."""
    samples = folder / "samples"
    names = (path.name for path in samples.iterdir()) if samples.is_dir() else ()
    found = (_PICTURE.fullmatch(name) for name in names)
    return sorted([int(match[1]), int(match[2])] for match in found if match)


def preview_prompts(job: Mapping[str, Any]) -> list[str]:
    """What a job's sample pictures show, by the number in their names."""
    prompt = mapping(job.get("config")).get("preview_prompt")
    if isinstance(prompt, str) and prompt.strip():
        return [prompt]
    prompts = (concept.get("instance_prompt") for concept in _concepts(job))
    return list(dict.fromkeys(prompt for prompt in prompts if isinstance(prompt, str)))


def _state(result: Mapping[str, Any]) -> str:
    """ "unfinished" is a run that goes on right now, or was broken off."""
    if "stopped" not in result:
        return "unfinished"
    return "stopped" if result["stopped"] else "finished"


def _settings(config: Mapping[str, Any]) -> list[list[Any]]:
    """``[name, value, default]``; groups as ``group.name``."""
    defaults = dict(_flat(dataclasses.asdict(TrainConfig())))
    return [[name, value, defaults.get(name)] for name, value in _flat(config)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", number(value) if isinstance(value, float) else value


def _subject(job: Mapping[str, Any]) -> str:
    """Identifier and class noun of every concept."""
    parts = ("identifier", "class_noun")
    said = [" ".join(str(c[p]) for p in parts if c.get(p)) for c in _concepts(job)]
    return ", ".join(text for text in said if text)


def _job(folder: Path) -> dict[str, Any]:
    return read_json(folder / "job.json")


def _concepts(job: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    concepts = job.get("concepts")
    return [mapping(c) for c in concepts] if isinstance(concepts, list) else []


def _changed(folder: Path) -> float:
    """When something was last learned in it."""
    times = (_time(folder / name) for name in ("job.json", "log.jsonl", "result.json"))
    return max(times)


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(_bytes(path) for path in folder.rglob("*"))


def _bytes(path: Path) -> int:
    """Of one file; 0 if it is gone by now, or a folder."""
    try:
        facts = path.lstat()
    except OSError:
        return 0
    return facts.st_size if stat.S_ISREG(facts.st_mode) else 0


def _integer(value: Any) -> int | None:
    return value if type(value) is int else None
