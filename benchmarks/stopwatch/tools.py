"""How each trainer is started on the same job, and where it leaves its weights."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...trainer.config import UNET, Concept, Job, LoraConfig, TrainConfig
from .material import CLASS_PROMPT, INSTANCE_PROMPT, Material
from .rows import COMFYUI, DIFFUSERS, KOHYA, OURS, TEXTBOOK, Row

HERE = Path(__file__).parent
RATE = 5e-6
TRAIN_DREAMBOOTH = "examples/dreambooth/train_dreambooth.py"
KOHYA_PACKAGES = "packages"
"""Folder in the checkout for the libraries that it pins, if they are not the ones installed."""
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
    threads: int | None = None
    """Of each process; None: torch's own choice."""


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
    if row.tool == DIFFUSERS:
        return prepare_diffusers(row, task, out, checkout, draws)
    return {KOHYA: prepare_kohya, COMFYUI: prepare_comfyui}[row.tool](row, task, out, checkout)


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
                "lora": LoraConfig(**settings.get("lora", {})),
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


def prepare_diffusers(row: Row, task: Task, out: Path, checkout: Path, draws: Path | None) -> Start:
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
    if draws:
        told = [str(draws), str(script), *as_flags(options)]
        return Start(HERE / "run_diffusers.py", told, out)
    return Start(script, as_flags(options), out)


def prepare_kohya(row: Row, task: Task, out: Path, checkout: Path) -> Start:
    """Instance and class images share a batch there, mixed as they come."""
    if not (checkout / "train_db.py").is_file():
        raise Missing(f"no train_db.py in the folder given as --{KOHYA}")
    material, size, pictures = task.material, task.material.size, out / "pictures"
    repeats = math.ceil(size.classes / size.instances)
    shutil.copytree(material.instances, pictures / f"own/{repeats}_{INSTANCE_PROMPT}")
    shutil.copytree(material.classes, pictures / f"class/1_{CLASS_PROMPT}")
    options = {
        "pretrained_model_name_or_path": material.diffusers,
        "tokenizer_cache_dir": material.tokenizers,
        "train_data_dir": pictures / "own", "reg_data_dir": pictures / "class",
        "resolution": size.resolution, "train_batch_size": 2 * task.batch,
        "max_train_steps": task.steps, "learning_rate": RATE, "stop_text_encoder_training": -1,
        "optimizer_type": "AdamW", "mixed_precision": "no", "save_precision": "float",
        "output_dir": out, "output_name": "bench", "seed": 0, "sdpa": True, **row.settings,
    }  # fmt: skip
    arguments = [str(checkout), json.dumps(kohya_shape(task.material)), *as_flags(options)]
    packages = checkout / KOHYA_PACKAGES
    path = {"PYTHONPATH": str(packages)} if packages.is_dir() else {}
    return Start(HERE / "run_kohya.py", arguments, out, path)


def kohya_shape(material: Material) -> dict[str, object]:
    """The constants of ``library/original_unet.py`` where they differ from this UNet's shape."""
    unet = material.size.layout.unet_config
    channels = unet["block_out_channels"]
    if channels == (320, 640, 1280, 1280):
        return {}
    return {
        "BLOCK_OUT_CHANNELS": channels, "TIMESTEP_INPUT_DIM": channels[0],
        "TIME_EMBED_DIM": 4 * channels[0], "LAYERS_PER_BLOCK": unet["layers_per_block"],
        "LAYERS_PER_BLOCK_UP": unet["layers_per_block"] + 1,
        "DOWN_BLOCK_TYPES": unet["down_block_types"], "UP_BLOCK_TYPES": unet["up_block_types"],
    }  # fmt: skip


def prepare_comfyui(row: Row, task: Task, out: Path, checkout: Path) -> Start:
    """The node's own defaults but for what makes it the same job."""
    if not (checkout / "comfy_extras" / "nodes_train.py").is_file():
        raise Missing(f"no comfy_extras/nodes_train.py in the folder given as --{COMFYUI}")
    size, lora = task.material.size, out / "lora.safetensors"
    node = {
        "batch_size": 2 * task.batch, "grad_accumulation_steps": 1, "steps": task.steps,
        "learning_rate": RATE, "rank": 8, "optimizer": "AdamW", "loss_function": "MSE", "seed": 0,
        "training_dtype": "bf16", "lora_dtype": "bf16", "algorithm": "LoRA",
        "gradient_checkpointing": True, "existing_lora": "[None]", **row.settings,
    }  # fmt: skip
    told = {
        "device": task.device,
        "base": str(task.material.checkpoint),
        "prompts": {INSTANCE_PROMPT: size.instances, CLASS_PROMPT: size.classes},
        "latent_shape": [4, *[size.resolution // 8] * 2],
        "node": node,
        "out": str(lora),
    }
    path = out / "task.json"
    path.write_text(json.dumps(told), "utf-8")
    return Start(HERE / "run_comfyui.py", [str(checkout), str(path)], lora)


def as_flags(options: Mapping[str, object]) -> list[str]:
    """``{"a": 1, "b": True}`` → ``--a 1 --b``."""
    flags = []
    for name, value in options.items():
        flags += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return flags
