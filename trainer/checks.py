"""What can be refused before the model is loaded, cheap checks first, and what it finds out."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import provenance
from .auto import resolve
from .base import advise, read_as, record_base
from .buckets import square_cuts
from .captions import Texts
from .checkpoint import Layout, check_finite, detect
from .config import Concept, ConfigError, Job, Photo
from .dataset import PairedRows
from .events import Listener, Note, Phase
from .fingerprint import Fingerprint, take_fingerprint
from .images import ImageError, ImageFile, check_photo
from .names import check_name
from .packages import check_peft, do_without_broken_peft
from .precision import check_attention, resolve_precision, slow_because
from .tokenizer import overflow
from .views import Frames

_NAMED = 5  # of many prompts that are too long
LOW_LORA_RATE = 1e-5
_MUCH = 0.25  # of a photo, to be cut off without a word


@dataclass(frozen=True)
class Plan:
    """A run that nothing speaks against so far.

    Attributes:
        job: with the digest of the weights that it really starts from, and how they lie in memory.
        precision: as resolved for the device.
        files: every picture and its mask, as read.
        metadata: of the checkpoint.
    """

    job: Job
    device: torch.device
    precision: str
    layout: Layout
    files: dict[Photo, ImageFile]
    metadata: dict[str, str]
    fingerprint: Fingerprint

    def rows(self) -> PairedRows:
        """Which rows each step of the run trains on."""
        config = self.job.config
        sizes = {photo: (file.width, file.height) for photo, file in self.files.items()}
        frames = Frames(config.resolution, config.seed, config.data, sizes)
        texts = Texts(config.seed, config.data)
        taught = config.lora.prior_without_images
        return PairedRows(self.job.concepts, config.seed, frames, texts, taught, config.batch_size)


def check(
    job: Job,
    base: dict[str, Tensor],
    device: torch.device,
    listener: Listener,
    check_stop: Callable[[], None],
) -> Plan:
    """Check everything that needs no model, read the pictures, take the digests.

    Raises:
        ConfigError, ImageError, UnsupportedModel, CheckpointError: one sentence for the user.
    """
    check_name(job.name)
    job = replace(job, config=resolve(job.config, device))
    precision = resolve_precision(job.config.precision, device, job.config.weights)
    if said := slow_because(precision, device):
        listener(Note(said))
    check_attention(job.config.attention, device)
    _check_lora(job, listener)
    layout = read_as(detect(base), job)
    check_finite(base)
    _check_prompts(job, listener)
    files = _read_pictures(job.concepts, listener, check_stop)
    listener(Phase("Looking at the base", 0, 1))
    _advise_buckets(job, layout, files, listener)
    job = record_base(job, base, layout)
    advise(job, layout, listener)
    fingerprint = take_fingerprint(job, files, precision)
    data_digest = provenance.dataset_digest(job.concepts, files)
    metadata = provenance.metadata(job, layout, job.base_digest, data_digest, precision)
    metadata["dreambooth.fingerprint"] = fingerprint.digest
    listener(Phase("Looking at the base", 1, 1))
    return Plan(job, device, precision, layout, files, metadata, fingerprint)


def _check_lora(job: Job, listener: Listener) -> None:
    """A LoRA needs peft, and a prior that the base gives needs a prompt of the class.

    The rates that suit whole weights hardly move it, which is said.

    Raises:
        ConfigError: one of them is missing.
    """
    if not job.config.lora.is_on:
        do_without_broken_peft()
        return
    check_peft()
    rates = {"learning_rate": job.config.learning_rate}
    if job.config.trains_text_encoder:
        rates["text_encoder_learning_rate"] = job.config.text_encoder_learning_rate
    for name, rate in rates.items():
        if 0 < rate < LOW_LORA_RATE:
            listener(Note(f"{name} = {rate:g} hardly moves a LoRA: about 1e-4 is usual"))
    for concept in job.concepts if job.config.lora.prior_without_images else ():
        if concept.lacks_class_images and not concept.class_prompt.strip():
            raise ConfigError(
                f"prior_without_images: concept {concept.instance_prompt!r} has no class_prompt;"
                " say what the class is, as in 'a dog'"
            )


def _check_prompts(job: Job, listener: Listener) -> None:
    prompts = [p for c in job.concepts for p in (*c.texts, c.class_prompt)]
    long = [p for p in dict.fromkeys([*prompts, job.config.preview_prompt]) if overflow(p)]
    for prompt in long[:_NAMED]:
        said = f"{overflow(prompt)!r} is cut off"
        listener(Note(f"the prompt {prompt!r} is longer than 77 tokens: {said}"))
    if len(long) > _NAMED:
        listener(Note(f"{len(long) - _NAMED} more prompts are longer than 77 tokens"))
    if job.config.data.shuffle_tags and not any(c.captions for c in job.concepts):
        listener(Note("shuffle_tags does nothing: no concept has captions from files"))


def _advise_buckets(
    job: Job, layout: Layout, files: dict[Photo, ImageFile], listener: Listener
) -> None:
    """SDXL was trained in buckets, unlike the families before it."""
    photos = [files[photo] for concept in job.concepts for photo in concept.photos]
    cut = sum(square_cuts(file.width, file.height) > _MUCH for file in photos)
    if layout.family == "sdxl" and cut and not job.config.data.buckets:
        listener(
            Note(
                f"{cut} of {len(photos)} photos lose more than a quarter where they are cut to a"
                " square: SDXL knows other shapes, too, and DreamBooth Data has buckets for them"
            )
        )


def _read_pictures(
    concepts: tuple[Concept, ...], listener: Listener, check_stop: Callable[[], None]
) -> dict[Photo, ImageFile]:
    """Decode every picture once, before anything costs time."""
    photos = [photo for c in concepts for photo in c.photos]
    photos += [photo for c in concepts if c.has_prior for photo in c.class_photos]
    photos = list(dict.fromkeys(photos))
    files = {}
    for done, photo in enumerate(photos, 1):
        try:
            files[photo] = check_photo(photo)
        except ImageError as error:
            raise ImageError(f"{photo.path}: {error}") from error
        listener(Phase("Reading pictures", done, len(photos)))
        check_stop()
    return files
