"""What a checkpoint says about itself: modelspec fields and how it was made.

No date and no path: the same inputs give the same bytes.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable

from .config import Concept, Job, Photo
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


def metadata(job: Job, base_digest: str, data_digest: str, precision: str) -> dict[str, str]:
    """The header of the file, as strings: https://github.com/Stability-AI/ModelSpec and ours."""
    config = job.config
    identifiers = ", ".join(dict.fromkeys(f"{c.identifier} {c.class_noun}" for c in job.concepts))
    values = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1",
        "modelspec.implementation": "diffusers",
        "modelspec.title": job.name,
        "modelspec.resolution": f"{config.resolution}x{config.resolution}",
        "modelspec.prediction_type": "epsilon",
        "dreambooth.version": VERSION,
        "dreambooth.libraries": _libraries(),
        "dreambooth.base_sha256": base_digest,
        "dreambooth.dataset_sha256": data_digest,
        "dreambooth.clip_skip": str(job.clip_skip),
        "dreambooth.precision": precision,
        "dreambooth.config": _config(job),
    }
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


def _config(job: Job) -> str:
    values = dataclasses.asdict(job.config)
    if not job.config.save_prompts:
        values.pop("preview_prompt", None)
    return json.dumps(values, sort_keys=True, ensure_ascii=False)


def _libraries() -> str:
    names = ("torch", "diffusers", "transformers", "accelerate")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
