"""What a checkpoint says about itself: modelspec fields and how it was made.

No date and no path: the same inputs give the same bytes.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable

from .checkpoint import Layout
from .config import Concept, Job, Photo
from .config.lora import ALL_LAYERS, DORA
from .families import family_of
from .images import ImageFile

VERSION = "0.1.0"


def dataset_digest(concepts: Iterable[Concept], files: dict[Photo, ImageFile]) -> str:
    """SHA-256 over the pixels, prompts and weights that a run learns from, in order."""
    digest = hashlib.sha256()
    for concept in concepts:
        classes = concept.class_photos if concept.has_prior else ()
        pixels = [files[photo].digest for photo in concept.photos]
        pixels += ["class:", *(files[photo].digest for photo in classes)]
        text = [concept.instance_prompt, concept.class_prompt, concept.prior_weight]
        text += concept.captions
        digest.update(json.dumps([text, concept.repeats, pixels]).encode())
    return digest.hexdigest()


def metadata(
    job: Job, layout: Layout, base_digest: str, data_digest: str, precision: str
) -> dict[str, str]:
    """The header of the file, as strings: https://github.com/Stability-AI/ModelSpec and ours."""
    config = job.config
    identifiers = ", ".join(dict.fromkeys(f"{c.identifier} {c.class_noun}" for c in job.concepts))
    values = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": family_of(layout).architectures[layout.prediction],
        "modelspec.implementation": "diffusers",
        "modelspec.title": job.name,
        "modelspec.resolution": f"{config.resolution}x{config.resolution}",
        "modelspec.prediction_type": {"v_prediction": "v"}.get(layout.prediction, "epsilon"),
        "dreambooth.version": VERSION,
        "dreambooth.libraries": _libraries(),
        "dreambooth.base_sha256": base_digest,
        "dreambooth.dataset_sha256": data_digest,
        "dreambooth.clip_skip": str(job.clip_skip),
        "dreambooth.precision": precision,
        "dreambooth.config": _config(job),
    }
    if config.lora.is_on:
        values |= {"modelspec.architecture": values["modelspec.architecture"] + "/lora"}
        values |= _kohya(job, layout, base_digest)
    if config.save_prompts:
        values["modelspec.trigger_phrase"] = identifiers
        values["dreambooth.concepts"] = json.dumps(
            [
                {
                    "identifier": c.identifier,
                    "class": c.class_noun,
                    "instance_prompt": c.instance_prompt,
                    "class_prompt": c.class_prompt,
                    "instance_images": len(c.instance_images),
                    "class_images": len(c.class_images),
                    "prior_weight": c.prior_weight,
                }
                for c in job.concepts
            ],
            ensure_ascii=False,
        )
    return values


def _kohya(job: Job, layout: Layout, base_digest: str) -> dict[str, str]:
    """What kohya's scripts write into a LoRA file, and its readers show, as far as it is known.

    kohya-ss/sd-scripts ``train_network.py``. DoRA is LyCORIS's module, by the same file layout.
    """
    config, lora = job.config, job.config.lora
    is_dora = lora.kind == DORA
    arguments = {"algo": "lora", "dora_wd": True} if is_dora else {}
    if lora.layers == ALL_LAYERS:
        arguments |= {"conv_dim": lora.rank, "conv_alpha": lora.alpha}
    rate = config.text_encoder_learning_rate if config.trains_text_encoder else None
    values = {
        "ss_network_module": "lycoris.kohya" if is_dora else "networks.lora",
        "ss_network_dim": lora.rank,
        "ss_network_alpha": lora.alpha,
        "ss_network_dropout": lora.dropout,
        "ss_network_args": json.dumps(arguments),
        "ss_base_model_version": family_of(layout).versions[layout.prediction],
        "ss_v2": layout.family == "sd2",
        "ss_sd_model_hash": base_digest,
        "ss_output_name": job.name,
        "ss_learning_rate": config.learning_rate,
        "ss_unet_lr": config.learning_rate,
        "ss_text_encoder_lr": rate,
        "ss_lr_scheduler": config.lr_schedule,
        "ss_optimizer": config.optimizer,
        "ss_resolution": f"({config.resolution}, {config.resolution})",
        "ss_batch_size_per_device": config.batch_size,
        "ss_gradient_accumulation_steps": config.gradient_accumulation_steps,
        "ss_clip_skip": job.clip_skip,
        "ss_seed": config.seed,
        "ss_num_train_images": sum(len(c.instance_images) * c.repeats for c in job.concepts),
        "ss_num_reg_images": sum(len(c.class_images) for c in job.concepts if c.has_prior),
        "ss_prior_loss_weight": job.concepts[0].prior_weight,
    }
    return {key: str(value) for key, value in values.items()}


def _config(job: Job) -> str:
    values = dataclasses.asdict(job.config)
    if not job.config.save_prompts:
        values.pop("preview_prompt", None)
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def _libraries() -> str:
    names = ("torch", "diffusers", "transformers", "accelerate")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
