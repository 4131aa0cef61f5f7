"""Everything before the first step: checks that cost nothing first, then the model and caches."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from . import provenance
from .cache import LatentCache, encode_texts
from .checkpoint import Layout, check_finite, detect, export, part_keys, weights_digest
from .config import Concept, Job
from .dataset import PairedRows
from .events import Listener, Note, Phase
from .images import ImageError, ImageFile, check_image
from .model import StableDiffusion
from .names import check_name
from .optim import check_optimizer
from .precision import check_attention, resolve_precision
from .state import CheckpointWriter, RunFolder, check_room
from .tokenizer import overflow

_CACHE_BYTES = 128 * 1024  # of one 512² image's mean and std: 2 · 4 · 64² fp32 values


@dataclass
class Prepared:
    """A run that is ready for its first step.

    Attributes:
        texts: hidden states by prompt where the text encoder is frozen, else None.
        previews: prompts of the sample pictures.
        spelling: per trained part, the names and shapes of its tensors in the base's file.
    """

    job: Job
    device: torch.device
    precision: str
    model: StableDiffusion
    rows: PairedRows
    latents: LatentCache
    texts: dict[str, Tensor] | None
    previews: list[str]
    writer: CheckpointWriter
    folder: RunFolder
    spelling: dict[str, dict[str, Tensor]]

    @property
    def trained_parts(self) -> dict[str, nn.Module]:
        return {part: getattr(self.model, part) for part in self.spelling}

    def trained_tensors(self) -> dict[str, Tensor]:
        """The weights that learn, under their names in the base's file; no copies."""
        return _export(self.model, self.spelling)


def prepare(
    job: Job,
    base: dict[str, Tensor],
    device: torch.device,
    listener: Listener,
    check_stop: Callable[[], None],
) -> Prepared:
    """Check the whole plan, then load, encode and reserve the run's folder.

    Args:
        base: the single-file state dict. It is used up: what trains is taken out of it, so that
            no second copy stays in memory.

    Raises:
        ConfigError, ImageError, UnsupportedModel, CheckpointError: one sentence for the user.
    """
    precision, layout = _check_plan(job, base, device, listener)
    files = _read_pictures(job.concepts, listener, check_stop)

    listener(Phase("Loading the model", 0, 1))
    job = _record_base(job, base, listener)
    vae_digest = weights_digest({key: base[key] for key in part_keys(base, layout, "vae")})
    model = StableDiffusion(base, layout, job.clip_skip)
    trained = ["unet"] + ["text_encoder"] * job.config.trains_text_encoder
    spelling = {part: _take_out(base, model, part) for part in trained}
    _set_up_modules(model, job)
    data_digest = provenance.dataset_digest(job.concepts, files)
    metadata = provenance.metadata(job, job.base_digest, data_digest, precision)
    writer = CheckpointWriter(base, job.config.save_precision, metadata)
    _check_disk(job, writer.size(_export(model, spelling)), len(files))
    listener(Phase("Loading the model", 1, 1))

    latents = LatentCache(Path(job.cache), model, vae_digest, job.config.resolution)

    def on_encoded(done: int, total: int) -> None:
        listener(Phase("Encoding pictures", done, total))
        check_stop()

    latents.fill(files, device, on_encoded)
    return Prepared(
        job=job,
        device=device,
        precision=precision,
        model=model,
        rows=PairedRows(job.concepts, job.config.seed),
        latents=latents,
        texts=_frozen_texts(job, model, device),
        previews=_preview_prompts(job),
        writer=writer,
        folder=RunFolder(job),
        spelling=spelling,
    )


def _check_plan(
    job: Job, base: dict[str, Tensor], device: torch.device, listener: Listener
) -> tuple[str, Layout]:
    """Everything that needs no picture and no model; returns the precision and the layout."""
    check_name(job.name)
    precision = resolve_precision(job.config.precision, device)
    check_attention(job.config.attention, device)
    check_optimizer(job.config, device)
    layout = detect(base)
    check_finite(base)
    _check_prompts(job, listener)
    return precision, layout


def _record_base(job: Job, base: dict[str, Tensor], listener: Listener) -> Job:
    """The job with the digest of the weights that it really starts from."""
    digest = weights_digest(base)
    if job.base_digest and job.base_digest != digest:
        listener(Note("the base's weights are not those of the recorded run: the result differs"))
    return replace(job, base_digest=digest)


def _frozen_texts(
    job: Job, model: StableDiffusion, device: torch.device
) -> dict[str, Tensor] | None:
    """Hidden states of every prompt of the run if the text encoder does not train."""
    if job.config.trains_text_encoder:
        return None
    prompts = [p for c in job.concepts for p in (c.instance_prompt, c.class_prompt)]
    return encode_texts(model, [*prompts, *_preview_prompts(job), ""], device)


def _take_out(base: dict[str, Tensor], model: StableDiffusion, part: str) -> dict[str, Tensor]:
    """Remove a part's weights from ``base``; returns all its names with shapes, as meta tensors.

    What belongs to the part but has no place in the module (``position_ids``) stays in ``base``.
    """
    like = {key: base[key] for key in part_keys(base, model.layout, part)}
    for key, tensor in export(getattr(model, part), model.layout, part, like=like).items():
        if tensor is not base[key]:
            del base[key]
    return {key: tensor.to("meta") for key, tensor in like.items()}


def _export(model: StableDiffusion, spelling: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for part, like in spelling.items():
        tensors |= export(getattr(model, part), model.layout, part, like=like)
    return {key: tensor for key, tensor in tensors.items() if not tensor.is_meta}


def _check_disk(job: Job, size: int, images: int) -> None:
    """Room for the final file, the extra ones, one more while it is written, and the pictures.

    Raises:
        ConfigError: not enough.
    """
    config = job.config
    extras = min(config.keep + 1, config.steps // config.save_every) if config.save_every else 0
    shots = config.steps // config.preview_every + 2 if config.preview_every else 0
    pictures = shots * len(_preview_prompts(job)) * config.resolution**2 * 3
    latents = images * _CACHE_BYTES * (config.resolution / 512) ** 2
    Path(job.checkpoints).mkdir(parents=True, exist_ok=True)
    check_room(Path(job.checkpoints), int(size * (1 + extras) + pictures + latents))


def _set_up_modules(model: StableDiffusion, job: Job) -> None:
    config = job.config
    if config.attention == "xformers":
        model.unet.enable_xformers_memory_efficient_attention()
    if config.channels_last:
        model.unet.to(memory_format=torch.channels_last)
    trained: list[nn.Module] = [model.unet]
    if config.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
    if config.trains_text_encoder:
        trained.append(model.text_encoder)
        if config.gradient_checkpointing:
            _enable_checkpointing(model.text_encoder)
    for module in trained:
        # train() switches recomputation on in transformers; neither part has any dropout
        module.requires_grad_(True).train()


def _enable_checkpointing(text_encoder: nn.Module) -> None:
    """transformers 5 renamed ``gradient_checkpointing_enable``."""
    new = getattr(text_encoder, "activation_checkpointing_enable", None)
    (new or text_encoder.gradient_checkpointing_enable)()


def _check_prompts(job: Job, listener: Listener) -> None:
    prompts = [p for c in job.concepts for p in (c.instance_prompt, c.class_prompt)]
    for prompt in dict.fromkeys([*prompts, job.config.preview_prompt]):
        if cut := overflow(prompt):
            listener(Note(f"the prompt {prompt!r} is longer than 77 tokens: {cut!r} is cut off"))


def _preview_prompts(job: Job) -> list[str]:
    if not job.config.preview_every:
        return []
    if job.config.preview_prompt.strip():
        return [job.config.preview_prompt]
    return list(dict.fromkeys(c.instance_prompt for c in job.concepts))


def _read_pictures(
    concepts: tuple[Concept, ...], listener: Listener, check_stop: Callable[[], None]
) -> dict[str, ImageFile]:
    """Decode every picture once, before anything costs time."""
    paths = [path for c in concepts for path in c.instance_images]
    paths += [path for c in concepts if c.has_prior for path in c.class_images]
    paths = list(dict.fromkeys(paths))
    files = {}
    for done, path in enumerate(paths, 1):
        try:
            files[path] = check_image(path)
        except ImageError as error:
            raise ImageError(f"{path}: {error}") from error
        listener(Phase("Reading pictures", done, len(paths)))
        check_stop()
    return files
