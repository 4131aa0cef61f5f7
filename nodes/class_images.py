"""DreamBooth Class Images: regularization pictures from the wired base, only what is missing."""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_api.latest import io
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..trainer.config import ConfigError, option
from ..trainer.images import ImageError, ImageFile, ImageSet, check_image
from ..trainer.packages import check_packages
from . import host
from .images import save_png, shown
from .types import CATEGORY, Images, batch_to_pictures, preview_batch
from .widgets import widget


@dataclass(frozen=True, kw_only=True)
class ClassImagesConfig:
    """Bounds and help of the node's widgets."""

    prompt: str = option(
        "a photo of a dog", "What the class looks like without your subject's name."
    )
    count: int = option(
        200, "How many pictures in all. Only what is missing is made.", min=1, max=10_000
    )
    resolution: int = option(
        512, "Side in pixels: the one you train at.", min=64, max=2048, step=64
    )
    steps: int = option(24, "Sampling steps.", min=1, max=1000)
    cfg: float = option(7.5, "Guidance.", min=1.0, max=100.0, step=0.5)
    seed: int = option(0, "Of the first picture; each next one adds 1.", min=0, max=2**53 - 20_000)
    batch_size: int = option(4, "Pictures sampled at once.", min=1, max=256)
    negative: str = option("", "What they should not show.")


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
                io.Model.Input("model", tooltip="The model you are about to train."),
                io.Clip.Input("clip", tooltip="The text encoder that goes with it."),
                io.Vae.Input("vae", tooltip="Decodes the pictures."),
                widget(config, "prompt"),
                widget(config, "count"),
                widget(config, "resolution"),
                io.Combo.Input(
                    "sampler_name",
                    options=list(host.SAMPLERS),
                    default="ddim",
                    tooltip="The host's sampler.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(host.SCHEDULERS),
                    default="ddim_uniform",
                    tooltip="The host's noise schedule.",
                ),
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
    def fingerprint_inputs(cls, **values: Any) -> int:
        """Changes once when a picture that was handed on is gone: people weed out bad ones."""
        return _HANDED_ON.times_lost(values)

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        prompt: str,
        count: int,
        resolution: int,
        sampler_name: str,
        scheduler: str,
        steps: int,
        cfg: float,
        seed: int,
        batch_size: int,
        negative: str = "",
    ) -> io.NodeOutput:
        values = dict(locals())
        check_packages()
        if not prompt.strip():
            raise ConfigError("the class prompt is empty: say what the class is, as in 'a dog'")
        for name, value, known in (
            ("sampler_name", sampler_name, host.SAMPLERS),
            ("scheduler", scheduler, host.SCHEDULERS),
        ):
            if value not in known:
                raise ConfigError(f"{name} = {value!r}: this ComfyUI has {', '.join(known)}")
        how = host.Sampling(resolution, sampler_name, scheduler, steps, cfg)
        base = host.describe_weights(model, clip, vae)
        recipe = {"prompt": prompt, "negative": negative, **base, **vars(how)}
        store = ClassImageStore(host.output_folder() / "class_images", recipe, seed)
        found = store.valid(count)
        missing = [number for number in range(count) if number not in found]
        if missing:
            texts = [host.encode_text(clip, text) for text in (prompt, negative)]
            progress = _Counter(host.Progress(cls.hidden.unique_id or ""), len(missing), steps)
            for start in range(0, len(missing), batch_size):
                numbers = missing[start : start + batch_size]
                progress.begin(start, len(numbers))
                seeds = [seed + number for number in numbers]
                pixels = host.sample_pictures(model, vae, *texts, seeds, how, progress)
                for number, picture in zip(numbers, batch_to_pictures(pixels), strict=True):
                    found[number] = store.save(number, picture)
        files = ImageSet(tuple(found[number] for number in range(count)), prompt=prompt)
        report = f"{count} class images of {prompt!r}: {count - len(missing)} were there,"
        report += f" {len(missing)} made, in {store.folder}"
        _HANDED_ON.remember(values, files.paths)
        host.say(cls.hidden.unique_id, report)
        preview = preview_batch(files.paths, min(resolution, 512))
        return io.NodeOutput(files, preview, report, ui=shown(preview, report))


class _HandedOn:
    """The files of the last result by widget values; the host's cache knows nothing of files."""

    def __init__(self) -> None:
        self._paths: dict[str, tuple[str, ...]] = {}
        self._lost: dict[str, int] = {}

    def remember(self, values: dict[str, Any], paths: tuple[str, ...]) -> None:
        self._paths[_key(values)] = paths

    def times_lost(self, values: dict[str, Any]) -> int:
        key = _key(values)
        if not all(Path(path).is_file() for path in self._paths.get(key, ())):
            del self._paths[key]  # until it is made again
            self._lost[key] = self._lost.get(key, 0) + 1
        return self._lost.get(key, 0)


def _key(values: dict[str, Any]) -> str:
    names = {field.name for field in dataclasses.fields(ClassImagesConfig)}
    names |= {"sampler_name", "scheduler"}
    return repr(sorted((k, v) for k, v in values.items() if k in names))


_HANDED_ON = _HandedOn()


class _Counter:
    """Sampling steps of all missing pictures as one bar; lets a cancel through."""

    def __init__(self, progress: host.Progress, missing: int, steps: int) -> None:
        self._progress, self._missing, self._steps = progress, missing, steps
        self._done = self._batch = 0

    def begin(self, done: int, batch: int) -> None:
        self._done, self._batch = done, batch
        self._progress.say(f"class image {done + batch} of {self._missing}", always=True)

    def __call__(self, step: int) -> None:
        value = self._done * self._steps + step * self._batch
        self._progress.bar(value, self._missing * self._steps)
        self._progress.raise_if_interrupted()


class ClassImageStore:
    """The pictures of one recipe: a folder named by prompt and by a hash of all that made them."""

    def __init__(self, root: Path, recipe: dict[str, Any], seed: int) -> None:
        self._recipe, self._seed = recipe, seed
        text = json.dumps(recipe, sort_keys=True)
        slug = re.sub(r"[^a-z0-9]+", "_", recipe["prompt"].lower()).strip("_")[:48] or "class"
        self.folder = root / f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def _path(self, number: int) -> Path:
        return self.folder / f"seed{self._seed + number:012d}.png"

    def valid(self, count: int) -> dict[int, ImageFile]:
        """The pictures that can be read and have the right size, by number."""
        side, found = self._recipe["resolution"], {}
        for number in range(count):
            path = self._path(number)
            if not path.is_file():
                continue
            try:
                image = check_image(path)
            except ImageError:
                continue  # damaged: it is made again
            if (image.width, image.height) == (side, side):
                found[number] = image
        return found

    def save(self, number: int, picture: Image.Image) -> ImageFile:
        """Write one picture with what made it in its header."""
        self.folder.mkdir(parents=True, exist_ok=True)
        info = PngInfo()
        facts = self._recipe | {"seed": self._seed + number}
        info.add_itxt("dreambooth", json.dumps(facts, sort_keys=True, ensure_ascii=False))
        path = self._path(number)
        save_png(picture, path, pnginfo=info)
        return check_image(path)
