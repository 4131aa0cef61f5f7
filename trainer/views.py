"""How a photo is shown: scaled to cover a size, cut there, mirrored; and its mask just so."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .buckets import Size, bucket_of, bucket_sizes
from .config import DataConfig, Photo
from .randomness import pick


@dataclass(frozen=True)
class View:
    """One way of showing a photo.

    Attributes:
        size: width and height in pixels.
        place: of the cut along the photo's longer side, 0 (left or top) to 1.
        mirrored: left and right are swapped after the cut.
    """

    photo: Photo
    size: tuple[int, int]
    place: float = 0.5
    mirrored: bool = False

    def show(self, picture: Image.Image) -> Image.Image:
        """Scale so that ``size`` is just covered, cut, mirror."""
        shown = self._fit(picture, self.size, Image.Resampling.LANCZOS)
        return ImageOps.mirror(shown) if self.mirrored else shown

    def show_mask(self, mask: Image.Image, downscale: int) -> Tensor:
        """The mask of the same cut, averaged over the area of each latent pixel.

        Returns:
            ``[1, h, w]`` fp32 in 0…1, h and w in latent pixels.
        """
        values = Image.fromarray(np.asarray(mask, dtype=np.float32) / 255.0)
        size = (self.size[0] // downscale, self.size[1] // downscale)
        shown = self._fit(values, size, Image.Resampling.BOX)
        shown = ImageOps.mirror(shown) if self.mirrored else shown
        return torch.from_numpy(np.asarray(shown, dtype=np.float32).copy())[None]

    def time_ids(self, original: tuple[int, int]) -> tuple[float, ...]:
        """What SDXL is told of this view of a picture of ``original`` width and height.

        (original height, original width, crop top, crop left, target height, target width); the
        crop is in whole pixels of the scaled picture, which was mirrored before it (Podell et al.
        2023, section 2.2; as diffusers' ``train_text_to_image_sdxl.py``).
        """
        (width, height), (w, h) = original, self.size
        scale = max(w / width, h / height)
        place = 1.0 - self.place if self.mirrored else self.place
        left, top = round((width * scale - w) * place), round((height * scale - h) * self.place)
        return tuple(map(float, (height, width, top, left, h, w)))

    def _fit(self, image: Image.Image, size: tuple[int, int], how: Image.Resampling) -> Image.Image:
        return ImageOps.fit(image, size, how, centering=(self.place, self.place))


class Frames:
    """Which view of a photo each row gets, as a function of (seed, position)."""

    def __init__(
        self,
        resolution: int,
        seed: int = 0,
        data: DataConfig | None = None,
        sizes: Mapping[Photo, Size] | None = None,
    ) -> None:
        """
        Args:
            sizes: width and height of every photo; needed for several crops and for buckets.
        """
        self._square = (resolution, resolution)
        self._seed = seed
        self._data = data or DataConfig()
        self._sizes = sizes or {}
        self._buckets: dict[Photo, Size] = {}
        if self._data.buckets:
            there = bucket_sizes(resolution, self._data)
            self._buckets = {p: bucket_of(s, there, self._data) for p, s in self._sizes.items()}

    def size_of(self, photo: Photo) -> Size:
        """At which a photo trains by itself."""
        return self._buckets[photo] if self._data.buckets else self._square

    def views(self, photo: Photo) -> list[View]:
        """Every view that an instance row can get."""
        turns = (False, True) if self._data.flip else (False,)
        size, places = self.size_of(photo), self._places(photo)
        return [View(photo, size, place, turn) for place in places for turn in turns]

    def instance(self, photo: Photo, position: int) -> View:
        """The view of the instance row at ``position``."""
        places = self._places(photo)
        place = places[pick(len(places), self._seed, "crop", position)]
        mirrored = self._data.flip and bool(pick(2, self._seed, "flip", position))
        return View(photo, self.size_of(photo), place, mirrored)

    def class_(self, photo: Photo, size: Size) -> View:
        """A class image at its partner's size. They are many: one view of each does."""
        return View(photo, size)

    def _places(self, photo: Photo) -> list[float]:
        """Where cuts may lie; one that leaves less than a pixel to move has one place."""
        count = self._data.crops
        if count == 1:
            return [0.5]
        (width, height), (w, h) = self._sizes[photo], self.size_of(photo)
        scale = max(w / width, h / height)
        if max(width * scale - w, height * scale - h) < 1:
            return [0.5]
        return [number / (count - 1) for number in range(count)]
