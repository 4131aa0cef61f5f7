"""DreamBooth Class Images: regularization pictures from the wired base, only what is missing."""

import dataclasses
from typing import Any

from comfy_api.latest import io

from ..trainer.class_images import ClassImagesConfig, ClassImageStore, HandedOn
from ..trainer.config import ConfigError, TrainConfig
from ..trainer.image_set import ImageSet
from ..trainer.images import ImageFile
from ..trainer.packages import check_packages
from . import host
from .types import CATEGORY, Images, Settings, batch_to_pictures, check_wires, preview_batch, shown
from .widgets import widget

_HANDED_ON = HandedOn()


class DreamBoothClassImages(io.ComfyNode):
    """What the class looked like before training, so that it stays."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        config = ClassImagesConfig
        return host.schema(
            node_id="DreamBoothClassImages",
            display_name="DreamBooth Class Images",
            category=CATEGORY,
            description=(
                "Pictures of the class (any dog) from the model you are about to train. Training"
                " on them beside your photos keeps the class from turning into your subject."
                " They are kept on disk and used again for the same model, prompt and size."
            ),
            search_aliases=["regularization images", "prior preservation"],
            inputs=[
                io.Model.Input("model", tooltip="The model that you will train."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Vae.Input("vae", tooltip="Its VAE."),
                widget(config, "prompt"),
                widget(config, "count"),
                widget(config, "resolution"),
                widget(config, "sampler_name", choices=host.SAMPLERS),
                widget(config, "scheduler", choices=host.SCHEDULERS),
                widget(config, "steps"),
                widget(config, "cfg"),
                widget(config, "seed"),
                widget(config, "batch_size"),
                widget(config, "negative", optional=True),
                Images.Input(
                    "instance_images",
                    optional=True,
                    tooltip=(
                        "Your photos, if they train in buckets: the class images get their shapes."
                    ),
                ),
                Settings.Input(
                    "settings",
                    optional=True,
                    tooltip="What you train with, if its buckets are not the usual ones.",
                ),
            ],
            outputs=[
                Images.Output("images", display_name="images"),
                io.Image.Output("preview", display_name="preview", tooltip="The first of them."),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="How many there were and how many were made.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(
        cls,
        model: Any = None,
        clip: Any = None,
        vae: Any = None,
        instance_images: Any = None,
        settings: Any = None,
        **widgets: Any,
    ) -> int:
        """Changes once when a picture that was handed on is gone: people weed out bad ones."""
        if None in widgets.values():
            return 0  # what comes over a wire is not known here
        return _HANDED_ON.times_lost(ClassImagesConfig(**widgets))

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        instance_images: ImageSet | None = None,
        settings: TrainConfig | None = None,
        **widgets: Any,
    ) -> io.NodeOutput:
        check_packages()
        check_wires(
            instance_images=(instance_images, ImageSet | None),
            settings=(settings, TrainConfig | None),
        )
        config = ClassImagesConfig(**widgets)
        _require_choices(config)
        base, root = host.describe_weights(model, clip, vae), host.output_folder() / "class_images"
        photos = [(f.width, f.height) for f in instance_images.files] if instance_images else []
        jobs = []
        for size, count in config.sizes(photos, settings.data if settings else None).items():
            store = ClassImageStore(root, config.recipe(base, size), config.seed, size)
            jobs.append(_Job(store, count, store.valid(count)))
        unlike = config.unlike(settings.resolution) if settings else ""
        report = "\n".join([*(job.report(config.prompt) for job in jobs), unlike]).rstrip()
        if any(job.missing for job in jobs):
            progress = host.Progress(cls.hidden.unique_id or "")
            _sample_missing(model, clip, vae, config, jobs, progress)
        files = ImageSet(tuple(file for job in jobs for file in job.files), prompt=config.prompt)
        _HANDED_ON.remember(config, files.paths)
        host.say(cls.hidden.unique_id, report)
        preview = preview_batch(files.photos, min(config.resolution, 512))
        return io.NodeOutput(files, preview, report, ui=shown(preview, report))


@dataclasses.dataclass
class _Job:
    """The pictures of one size: how many there should be, and which there are."""

    store: ClassImageStore
    count: int
    found: dict[int, ImageFile]

    @property
    def missing(self) -> list[int]:
        return [number for number in range(self.count) if number not in self.found]

    @property
    def files(self) -> list[ImageFile]:
        return [self.found[number] for number in range(self.count)]

    def report(self, prompt: str) -> str:
        """Of what is to be done."""
        width, height = self.store.size
        missing = len(self.missing)
        return (
            f"{self.count} class images of {prompt!r}, {width}×{height}:"
            f" {self.count - missing} were there, {missing} made, in {self.store.folder}"
        )


def _require_choices(config: ClassImagesConfig) -> None:
    """Older hosts let any text through in a choice."""
    known = {"sampler_name": host.SAMPLERS, "scheduler": host.SCHEDULERS}
    for name, choices in known.items():
        if getattr(config, name) not in choices:
            value = getattr(config, name)
            raise ConfigError(f"{name} = {value!r}: this ComfyUI has {', '.join(choices)}")


def _sample_missing(
    model: Any,
    clip: Any,
    vae: Any,
    config: ClassImagesConfig,
    jobs: list[_Job],
    progress: host.Progress,
) -> None:
    """Sample and save batch by batch; a cancel keeps the batches before it."""
    texts = [host.encode_text(clip, text) for text in (config.prompt, config.negative)]
    batches = [
        (job, job.missing[start : start + config.batch_size])
        for job in jobs
        for start in range(0, len(job.missing), config.batch_size)
    ]
    total, made = sum(len(numbers) for _, numbers in batches), 0
    for job, numbers in batches:
        progress.say(f"class image {made + len(numbers)} of {total}", always=True)

        def on_step(step: int, before: int = made, size: int = len(numbers)) -> None:
            progress.bar(before * config.steps + step * size, total * config.steps)
            progress.raise_if_interrupted()

        how = host.Sampling(
            *job.store.size, config.sampler_name, config.scheduler, config.steps, config.cfg
        )
        seeds = [config.seed + number for number in numbers]
        pixels = host.sample_pictures(model, vae, *texts, seeds, how, on_step)
        for number, picture in zip(numbers, batch_to_pictures(pixels), strict=True):
            job.found[number] = job.store.save(number, picture)
        made += len(numbers)
