"""Class images on disk: which belong to a recipe, which are missing, which were taken away."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .buckets import Size, bucket_of, bucket_sizes, shares
from .config import ConfigError, DataConfig, check_options, option
from .images import ImageError, ImageFile, check_image, save_png


@dataclass(frozen=True, kw_only=True)
class ClassImagesConfig:
    """What to sample. One widget of the *DreamBooth Class Images* node per option."""

    prompt: str = option(
        "a photo of a dog", "What the class looks like without your subject's name."
    )
    count: int = option(
        200, "How many pictures in all. Only what is missing is made.", min=1, max=10_000
    )
    resolution: int = option(
        512, "Side in pixels: the one you train at.", min=64, max=2048, step=64
    )
    sampler_name: str = option("ddim", "The host's sampler.")
    scheduler: str = option("ddim_uniform", "The host's noise schedule.")
    steps: int = option(24, "Sampling steps.", min=1, max=1000)
    cfg: float = option(7.5, "Guidance.", min=1.0, max=100.0, step=0.5)
    seed: int = option(0, "Of the first picture; each next one adds 1.", min=0, max=2**53 - 20_000)
    batch_size: int = option(4, "Pictures sampled at once.", min=1, max=256)
    negative: str = option("", "What they should not show.")

    def __post_init__(self) -> None:
        check_options(self)
        if not self.prompt.strip():
            raise ConfigError("the class prompt is empty: say what the class is, as in 'a dog'")

    def recipe(self, base: Mapping[str, Any], size: Size) -> dict[str, Any]:
        """All that decides what a picture shows but its seed.

        Args:
            base: what tells the base's weights from others.
            size: width and height in pixels.
        """
        names = ("prompt", "negative", "sampler_name", "scheduler", "steps", "cfg")
        values = {name: getattr(self, name) for name in names}
        width, height = size
        values["resolution"] = width if width == height else f"{width}x{height}"
        return values | dict(base)

    def unlike(self, resolution: int) -> str:
        """What to know where training is at ``resolution``; empty if these are made for it."""
        if resolution == self.resolution:
            return ""
        return (
            f"these are made at resolution = {self.resolution}, but the settings train at"
            f" {resolution}: training would scale them. Make them at {resolution}"
        )

    def sizes(self, photos: Sequence[Size], data: DataConfig | None) -> dict[Size, int]:
        """How many pictures of which size: squares, or as the photos' buckets need them.

        Args:
            photos: sizes of the instance images; empty: they are not known.
            data: of the run's settings; None: not known, and photos ask for buckets.
        """
        data = data or DataConfig(buckets=bool(photos))
        if not photos or not data.buckets:
            return {(self.resolution, self.resolution): self.count}
        there = bucket_sizes(self.resolution, data)
        return shares(self.count, Counter(bucket_of(size, there, data) for size in photos))


class ClassImageStore:
    """The pictures of one recipe: a folder named by prompt and by a hash of all that made them."""

    def __init__(self, root: Path, recipe: dict[str, Any], seed: int, size: Size) -> None:
        self._recipe, self._seed, self.size = recipe, seed, size
        text = json.dumps(recipe, sort_keys=True)
        slug = re.sub(r"[^a-z0-9]+", "_", recipe["prompt"].lower()).strip("_")[:48] or "class"
        self.folder = root / f"{slug}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def _path(self, number: int) -> Path:
        return self.folder / f"seed{self._seed + number:012d}.png"

    def valid(self, count: int) -> dict[int, ImageFile]:
        """The pictures that can be read and have the right size, by number."""
        found = {}
        for number in range(count):
            path = self._path(number)
            if not path.is_file():
                continue
            try:
                image = check_image(path)
            except ImageError:
                continue  # damaged: it is made again
            if (image.width, image.height) == self.size:
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


class HandedOn:
    """Files that went to later nodes; a host's cache of results knows nothing of files."""

    def __init__(self) -> None:
        self._paths: dict[ClassImagesConfig, tuple[str, ...]] = {}
        self._lost: dict[ClassImagesConfig, int] = {}

    def remember(self, config: ClassImagesConfig, paths: tuple[str, ...]) -> None:
        self._paths[config] = paths

    def times_lost(self, config: ClassImagesConfig) -> int:
        """How often a file of this config's last result was found gone: changes only then."""
        if not all(Path(path).is_file() for path in self._paths.get(config, ())):
            del self._paths[config]  # until it is made again
            self._lost[config] = self._lost.get(config, 0) + 1
        return self._lost.get(config, 0)
