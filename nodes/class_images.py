"""DreamBooth Class Images: regularization pictures from the wired base, only what is missing."""

from typing import Any

from comfy_api.latest import io

from ..trainer.class_images import ClassImagesConfig, ClassImageStore, HandedOn
from ..trainer.config import ConfigError
from ..trainer.image_set import ImageSet
from ..trainer.images import ImageFile
from ..trainer.packages import check_packages
from . import host
from .types import CATEGORY, Images, batch_to_pictures, preview_batch, shown
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
        cls, model: Any = None, clip: Any = None, vae: Any = None, **widgets: Any
    ) -> int:
        """Changes once when a picture that was handed on is gone: people weed out bad ones."""
        if None in widgets.values():
            return 0  # what comes over a wire is not known here
        return _HANDED_ON.times_lost(ClassImagesConfig(**widgets))

    @classmethod
    def execute(cls, model: Any, clip: Any, vae: Any, **widgets: Any) -> io.NodeOutput:
        check_packages()
        config = ClassImagesConfig(**widgets)
        _require_choices(config)
        recipe = config.recipe(host.describe_weights(model, clip, vae))
        store = ClassImageStore(host.output_folder() / "class_images", recipe, config.seed)
        found = store.valid(config.count)
        missing = [number for number in range(config.count) if number not in found]
        if missing:
            progress = host.Progress(cls.hidden.unique_id or "")
            _sample_missing(model, clip, vae, config, missing, store, found, progress)
        files = ImageSet(tuple(found[n] for n in range(config.count)), prompt=config.prompt)
        report = (
            f"{config.count} class images of {config.prompt!r}:"
            f" {config.count - len(missing)} were there, {len(missing)} made, in {store.folder}"
        )
        _HANDED_ON.remember(config, files.paths)
        host.say(cls.hidden.unique_id, report)
        preview = preview_batch(files.photos, min(config.resolution, 512))
        return io.NodeOutput(files, preview, report, ui=shown(preview, report))


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
    missing: list[int],
    store: ClassImageStore,
    found: dict[int, ImageFile],
    progress: host.Progress,
) -> None:
    """Sample and save batch by batch; a cancel keeps the batches before it."""
    how = host.Sampling(
        config.resolution, config.sampler_name, config.scheduler, config.steps, config.cfg
    )
    texts = [host.encode_text(clip, text) for text in (config.prompt, config.negative)]
    for start in range(0, len(missing), config.batch_size):
        numbers = missing[start : start + config.batch_size]
        last = start + len(numbers)
        progress.say(f"class image {last} of {len(missing)}", always=True)

        def on_step(step: int, start: int = start, size: int = len(numbers)) -> None:
            done = start * config.steps + step * size
            progress.bar(done, len(missing) * config.steps)
            progress.raise_if_interrupted()

        seeds = [config.seed + number for number in numbers]
        pixels = host.sample_pictures(model, vae, *texts, seeds, how, on_step)
        for number, picture in zip(numbers, batch_to_pictures(pixels), strict=True):
            found[number] = store.save(number, picture)
