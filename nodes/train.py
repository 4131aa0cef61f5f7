"""DreamBooth Train: the run, inside the host's process, from wires to wires."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from comfy_api.latest import io, ui

from ..trainer.config import Concept, ConfigError, Job, TrainConfig
from ..trainer.events import Note
from ..trainer.images import read_image
from ..trainer.names import check_name
from ..trainer.packages import check_packages
from . import host
from .reporter import Reporter
from .types import CATEGORY, Concepts, Run, Settings, check_wires, image_batch

SHELL = "shell"


class DreamBoothTrain(io.ComfyNode):
    """Trains, saves, and hands on the model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="DreamBoothTrain",
            display_name="DreamBooth Train",
            category=CATEGORY,
            description=(
                "Trains the wired model on your concepts, writes a checkpoint or a LoRA that every"
                " loader reads, and hands on the trained model in the same queue. Cancel stops"
                " within a"
                " step and keeps the finished ones: queue again, and it goes on."
            ),
            search_aliases=["dreambooth", "fine-tune", "train checkpoint"],
            inputs=[
                io.Model.Input("model", tooltip="Of a Stable Diffusion 1.x, 2.x or XL checkpoint."),
                io.Clip.Input("clip", tooltip="Its text encoders; a clip skip is kept."),
                io.Vae.Input("vae", tooltip="Encodes the photos; may come from another loader."),
                Concepts.Input("concepts", tooltip="From DreamBooth Concept."),
                io.String.Input(
                    "name",
                    default="my_dreambooth",
                    tooltip=(
                        "Of the file. The same run under the same name goes on, or is handed"
                        " over if it is finished; another one gets a number."
                    ),
                ),
                Settings.Input("settings", optional=True, tooltip="Without: the defaults."),
                io.Boolean.Input(
                    "train_again",
                    default=False,
                    optional=True,
                    tooltip=(
                        "Train from the first step under a fresh name, even if this very run is"
                        " finished or could go on."
                    ),
                ),
                io.Combo.Input(
                    "where",
                    options=["here", "shell"],
                    default="here",
                    optional=True,
                    tooltip=(
                        "here: now, in this ComfyUI. shell: only write job.json, to train it with"
                        " accelerate launch, on several GPUs if you like; nodes that follow wait."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="MODEL"),
                io.Clip.Output("clip_out", display_name="CLIP"),
                io.Vae.Output("vae_out", display_name="VAE"),
                io.AnyType.Output(
                    "ckpt_name",
                    display_name="ckpt_name",
                    tooltip="For any Load Checkpoint; empty if a LoRA was trained.",
                ),
                Run.Output("run", display_name="run", tooltip="Where the run is, for later nodes."),
                io.AnyType.Output(
                    "lora_name",
                    display_name="lora_name",
                    tooltip="For any Load LoRA; empty unless a LoRA was trained.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
            is_output_node=True,
            not_idempotent=True,
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        """A bad name is refused before anything runs; a linked one when it is known."""
        try:
            if name is not None:
                check_name(name.strip())
        except ConfigError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        concepts: tuple[Concept, ...],
        name: str,
        settings: TrainConfig | None = None,
        train_again: bool = False,
        where: str = "here",
    ) -> io.NodeOutput:
        check_packages()
        from ..trainer.loop import train  # not at the top: the pack loads without its packages

        node_id = cls.hidden.unique_id or ""
        check_wires(concepts=(concepts, tuple), settings=(settings, TrainConfig | None))
        config = settings or TrainConfig()
        is_lora = config.lora.is_on
        name = check_name(name.strip())
        with host.watched(node_id, name) as live:
            reporter = Reporter(host.Progress(node_id), live, "LoRA" if is_lora else "checkpoint")
            weights = host.take_weights(model, clip, vae)
            reporter(Note(f"trained from {weights.held_as}, as this ComfyUI holds them"))
            job = Job(
                name=name,
                base=host.find_checkpoint(cls.hidden.prompt, node_id),
                clip_skip=weights.clip_skip,
                prediction=weights.usage.prediction,
                zero_terminal_snr=weights.usage.zero_terminal_snr,
                concepts=tuple(concepts),
                config=config,
                checkpoints=str(host.lora_folder() if is_lora else host.checkpoint_folder()),
                runs=str(host.output_folder()),
                cache=str(host.output_folder() / "cache"),
            )

            if where == SHELL:
                return _write_down(job, weights, reporter)

            def load(path: Path) -> None:
                with reporter.progress.interrupt_kept():
                    if is_lora:
                        host.try_lora(path, model, clip, vae)
                    else:
                        host.try_checkpoint(path, weights.usage)

            with host.card_to_ourselves():
                result = train(
                    job,
                    weights.state_dict,
                    device=host.device(),
                    listener=reporter,
                    control=reporter.command,
                    train_again=train_again,
                    load=load,
                )
            reporter.progress.raise_if_interrupted()
            if result.checkpoint is None or result.folder is None:
                host.interrupt()  # stopped before there was anything to keep
            reporter.progress.say("loading the trained model", always=True)
            if is_lora:
                loaded = (*host.load_lora(result.checkpoint, model, clip), vae)
            else:
                loaded = host.load_checkpoint(result.checkpoint, weights.usage)
            file = host.result_name(result.checkpoint)
            text = reporter.finish(result)
        return io.NodeOutput(
            *loaded,
            "" if is_lora else file,
            result,
            file if is_lora else "",
            ui=_last_pictures(result.folder) | ui.PreviewText(text).as_dict(),
        )


def _write_down(job: Job, weights: host.Weights, reporter: Reporter) -> io.NodeOutput:
    """Instead of training: the job for a shell, after the same checks."""
    from ..trainer.checks import check
    from ..trainer.deferred import write_job

    stop = reporter.progress.raise_if_interrupted
    plan = check(job, weights.state_dict, host.device(), reporter, stop)
    job = dataclasses.replace(job, base_digest=plan.job.base_digest)
    path = write_job(job, weights.state_dict, host.output_folder() / "jobs" / job.name)
    text = reporter.written(path)
    return io.NodeOutput(*[host.nothing_follows()] * 6, ui=ui.PreviewText(text))


def _last_pictures(folder: Path) -> dict[str, Any]:
    """The newest preview of each prompt, under the node."""
    newest = {path.stem.split("_")[1]: path for path in sorted((folder / "samples").glob("*.png"))}
    if not newest:
        return {}
    return ui.PreviewImage(image_batch(read_image(p) for p in newest.values())).as_dict()
