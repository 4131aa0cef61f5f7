"""A run on disk: its name, its folder, the room it needs, its checkpoints and its log."""

import dataclasses
import glob
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .checkpoint import file_size, lossless_dtype, write_checkpoint
from .config import ConfigError, Job
from .events import Step
from .names import check_name

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


class RunFolder:
    """Where a run writes. Nothing that exists is overwritten: a taken name gets ``-2``, ``-3``…"""

    def __init__(self, job: Job) -> None:
        """Reserve a free name and write ``job.json``.

        Raises:
            ConfigError: the name is not one.
            OSError: the folder cannot be made.
        """
        check_name(job.name)
        runs, self._checkpoints = Path(job.runs), Path(job.checkpoints)
        runs.mkdir(parents=True, exist_ok=True)
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        for number in range(1, 100_000):
            self.name = job.name if number == 1 else f"{job.name}-{number}"
            if self.checkpoint.exists() or self._has_extras():
                continue
            try:
                (runs / self.name).mkdir()
            except FileExistsError:
                continue
            break
        self.folder = runs / self.name
        self.samples = self.folder / "samples"
        self.samples.mkdir()
        (self.folder / "job.json").write_text(job.to_json(), encoding="utf-8")
        self._kept: list[Path] = []

    def _has_extras(self) -> bool:
        """Whether checkpoints on the way to this name are still there from an earlier run."""
        pattern = f"{glob.escape(self.name)}-step*.safetensors"
        return any(self._checkpoints.glob(pattern))

    @property
    def checkpoint(self) -> Path:
        """The finished file."""
        return self._checkpoints / f"{self.name}.safetensors"

    def log(self, step: Step) -> None:
        """Append a line to ``log.jsonl``; numbers that are not finite become null."""
        values = dataclasses.asdict(step)
        line = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def save_sample(self, image: Image.Image, step: int, index: int, prompt: str) -> Path:
        """A preview as PNG; the number of digits keeps them in order."""
        path = self.samples / f"step{step:06d}_{index:02d}.png"
        image.save(path)
        return path

    def save_result(self, result: Mapping[str, object]) -> None:
        text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
        (self.folder / "result.json").write_text(text, encoding="utf-8")

    def save_extra(self, step: int, write: Callable[[Path, int], None], keep: int) -> Path:
        """A checkpoint on the way; beyond ``keep`` the oldest goes, after the new one stands."""
        path = self._checkpoints / f"{self.name}-step{step:06d}.safetensors"
        write(path, step)
        self._kept.append(path)
        while len(self._kept) > keep:
            self._kept.pop(0).unlink(missing_ok=True)
        return path


class CheckpointWriter:
    """Writes the model as it is now: trained parts in the chosen dtype, the rest as it was.

    A tensor that did not train is stored in the chosen dtype only where that changes no value,
    so a base whose host holds it in fp32 gives the same file as its fp16 original.
    """

    def __init__(
        self, untrained: Mapping[str, Tensor], precision: str, metadata: Mapping[str, str]
    ) -> None:
        self._untrained = untrained
        self._dtype = DTYPES[precision]
        self._metadata = dict(metadata)
        self._kept = {key: self._kept_dtype(tensor) for key, tensor in untrained.items()}

    def _kept_dtype(self, tensor: Tensor) -> torch.dtype:
        return lossless_dtype(tensor, self._dtype) if tensor.is_floating_point() else tensor.dtype

    def dtypes(self, trained: Mapping[str, Tensor]) -> dict[str, torch.dtype]:
        return self._kept | dict.fromkeys(trained, self._dtype)

    def size(self, trained: Mapping[str, Tensor]) -> int:
        """Bytes of one file."""
        return file_size({**self._untrained, **trained}, self.dtypes(trained))

    def write(self, path: Path, trained: Mapping[str, Tensor], steps: int) -> None:
        """Write, verify, rename.

        Raises:
            CheckpointError: a weight is not finite in the file's dtype, or the file reads back
                differently.
            OSError: the disk.
        """
        metadata = self._metadata | {"dreambooth.steps": str(steps)}
        tensors = {**self._untrained, **trained}
        write_checkpoint(path, tensors, metadata, dtypes=self.dtypes(trained))


def check_room(folder: Path, needed: int) -> None:
    """Refuse a run that would fill the disk.

    Raises:
        ConfigError: with both numbers.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"no room on disk: this run will write {needed / 1e9:.1f} GB, {str(folder)!r} has"
            f" {free / 1e9:.1f} GB free; make room, keep fewer checkpoints or save in fp16"
        )
