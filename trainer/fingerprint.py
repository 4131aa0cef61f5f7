"""What makes a run the run it is: two runs with one fingerprint have the same weights after the
same number of steps."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from .config import WITHOUT_EFFECT_ON_WEIGHTS, YOUNGER_OPTIONS, Concept, Job, Photo, flat
from .images import ImageFile

# Raised whenever the same inputs come to train to other weights.
TRAINING = 1
MOMENTS = 2  # likewise, of 8-bit ones alone


@dataclass(frozen=True)
class Fingerprint:
    """Everything that the weights depend on, as JSON values, so that a difference has a name."""

    parts: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the parts."""
        return hashlib.sha256(json.dumps(self.parts, sort_keys=True).encode()).hexdigest()


def take_fingerprint(job: Job, files: dict[Photo, ImageFile], precision: str) -> Fingerprint:
    """Of a job that knows its ``base_digest``, ``clip_skip`` and ``prediction``.

    Args:
        files: every picture of the job.
        precision: as resolved for the device.
    """
    settings = {
        name: value
        for name, value in flat(job.config).items()
        if name not in WITHOUT_EFFECT_ON_WEIGHTS and YOUNGER_OPTIONS.get(name) != value
    }
    if not job.config.lora.is_on:  # then only that counts
        settings = {name: value for name, value in settings.items() if name[:5] != "lora."}
        settings["lora.kind"] = job.config.lora.kind
    if job.config.optimizer == "adamw8bit":
        settings["moments"] = MOMENTS
    taught = job.config.lora.prior_without_images
    return Fingerprint(
        {
            "training": TRAINING,
            "base": job.base_digest,
            "clip_skip": job.clip_skip,
            "prediction": job.prediction,
            "zero_terminal_snr": job.zero_terminal_snr,
            "settings": settings | {"precision": precision},
            "concepts": [_concept(concept, files, taught) for concept in job.concepts],
        }
    )


def _concept(concept: Concept, files: dict[Photo, ImageFile], taught: bool) -> dict[str, Any]:
    values: dict[str, Any] = {
        "instance_prompt": concept.instance_prompt,
        "instance images": [files[photo].digest for photo in concept.photos],
        "repeats": concept.repeats,
    }
    if concept.captions:
        values["captions"] = list(concept.captions)
    if concept.has_prior:
        values |= {
            "class_prompt": concept.class_prompt,
            "class images": [files[photo].digest for photo in concept.class_photos],
            "prior_weight": concept.prior_weight,
        }
    elif taught and concept.lacks_class_images:
        values |= {
            "class_prompt": concept.class_prompt,
            "prior_weight": concept.prior_weight,
        }
    return values


def differences(before: Fingerprint, now: Fingerprint) -> list[str]:
    """What differs, in words: settings and prompts with both values, pictures with their number."""
    said = []
    old, new = before.parts, now.parts
    if old.get("training") != new["training"]:
        said.append("another version of this trainer")
    if old.get("base") != new["base"]:
        said.append("the base's weights")
    names = ("clip_skip", "prediction", "zero_terminal_snr")
    said += _changed({n: old.get(n) for n in names}, {n: new.get(n) for n in names})
    said += _changed(old.get("settings", {}), new["settings"])
    concepts = old.get("concepts", []), new["concepts"]
    if len(concepts[0]) != len(concepts[1]):
        return [*said, f"number of concepts {len(concepts[0])} → {len(concepts[1])}"]
    for one, other in zip(*concepts, strict=True):
        said += _changed(one, other)
    return said


def _changed(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    said = []
    for name in dict.fromkeys([*old, *new]):
        one, other = old.get(name), new.get(name)
        if one == other:
            continue
        if name.endswith("images") or name == "captions":
            one, other = len(one or ()), len(other or ())
            what = "texts" if name == "captions" else "pictures"
            said.append(f"{name} {one} → {other}" if one != other else f"{name}: {what} changed")
        else:
            said.append(f"{name} {_shown(one)} → {_shown(other)}")
    return said


def _shown(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else repr(value)
