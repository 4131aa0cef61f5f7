"""How each trainer is started on the same job, and where it leaves its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...trainer.config import UNET, Concept, Job, TrainConfig
from .material import CLASS_PROMPT, INSTANCE_PROMPT, Material
from .rows import DIFFUSERS, OURS, TEXTBOOK, Row

HERE = Path(__file__).parent
RATE = 5e-6
TRAIN_DREAMBOOTH = "examples/dreambooth/train_dreambooth.py"
FAR = 10**9  # more steps than any run has


class Missing(Exception):
    """A row that cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Task:
    """What one run does: the same for every row of a table."""

    material: Material
    device: str
    batch: int
    """Instance images of a step; as many class images join them."""
    steps: int


@dataclass(frozen=True)
class Start:
    """A script, and what it is told.

    Attributes:
        trained: file or folder that holds the trained UNet afterwards, see ``gate.distance``.
    """

    script: Path
    arguments: list[str]
    trained: Path
    environment: Mapping[str, str] = field(default_factory=dict)


def prepare(
    row: Row, task: Task, out: Path, peers: Mapping[str, Path | None], draws: Path | None = None
) -> Start:
    """Writes what the row's trainer reads, into ``out``.

    Args:
        peers: the checkouts that were pointed to, by tool.
        draws: of :func:`gate.write_draws`, for tools that can be given theirs.

    Raises:
        Missing: it was not pointed to, or is not what it should be.
    """
    out.mkdir(parents=True, exist_ok=True)
    if row.tool == OURS:
        return prepare_ours(row, task, out)
    if row.tool == TEXTBOOK:
        return prepare_textbook(row, task, out, draws)
    checkout = peers.get(row.tool)
    if checkout is None:
        raise Missing(f"not pointed to: --{row.tool} DIR")
    return {DIFFUSERS: prepare_diffusers}[row.tool](row, task, out, checkout)


def make_job(task: Task, out: Path, settings: Mapping[str, object]) -> Job:
    """Our trainer's job: what the others do by default, and files that can be compared."""
    material = task.material
    return Job(
        name="bench",
        checkpoints=str(out),
        runs=str(out / "runs"),
        cache=str(out / "cache"),
        base=str(material.checkpoint),
        concepts=(
            Concept(
                instance_prompt=INSTANCE_PROMPT,
                instance_images=tuple(material.pictures(material.instances)),
                class_prompt=CLASS_PROMPT,
                class_images=tuple(material.pictures(material.classes)),
            ),
        ),
        config=TrainConfig(
            **{
                "trains": UNET, "steps": task.steps, "learning_rate": RATE,
                "batch_size": task.batch, "resolution": material.size.resolution,
                "preview_every": 0, "save_precision": "fp32", **settings,
            }
        ),
    )  # fmt: skip


def prepare_ours(row: Row, task: Task, out: Path) -> Start:
    job, path = make_job(task, out, row.settings), out / "job.json"
    path.write_text(job.to_json(), "utf-8")
    arguments = [str(path), "--device", task.device]
    return Start(HERE / "run_trainer.py", arguments, out / f"{job.name}.safetensors")


def prepare_textbook(row: Row, task: Task, out: Path, draws: Path | None) -> Start:
    material = task.material
    options = {
        "base": material.checkpoint, "instances": material.instances,
        "classes": material.classes, "out": out, "steps": task.steps, "batch": task.batch,
        "device": task.device, **row.settings,
    }  # fmt: skip
    if draws:
        options["draws"] = draws
    return Start(HERE / "run_textbook.py", as_flags(options), out)


def prepare_diffusers(row: Row, task: Task, out: Path, checkout: Path) -> Start:
    """The script's own defaults but for what makes it the same job."""
    script, material = checkout / TRAIN_DREAMBOOTH, task.material
    if not script.is_file():
        raise Missing(f"no {TRAIN_DREAMBOOTH} in the folder given as --{DIFFUSERS}")
    options = {
        "pretrained_model_name_or_path": material.diffusers, "output_dir": out,
        "instance_data_dir": material.instances, "instance_prompt": INSTANCE_PROMPT,
        "class_data_dir": material.classes, "class_prompt": CLASS_PROMPT,
        "num_class_images": material.size.classes, "with_prior_preservation": True,
        "resolution": material.size.resolution, "train_batch_size": task.batch,
        "max_train_steps": task.steps, "learning_rate": RATE, "lr_scheduler": "constant",
        "lr_warmup_steps": 0, "seed": 0, "checkpointing_steps": FAR, **row.settings,
    }  # fmt: skip
    return Start(script, as_flags(options), out)


def as_flags(options: Mapping[str, object]) -> list[str]:
    """``{"a": 1, "b": True}`` → ``--a 1 --b``."""
    flags = []
    for name, value in options.items():
        flags += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return flags
