"""What is computed once of the photos: their latents, as a posterior, and their masks."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .config import Photo
from .images import pixel_digest, read_photo, to_tensor
from .model import StableDiffusion, placed
from .ranks import ALONE, Ranks
from .views import View

Progress = Callable[[int, int], None]


class LatentCache:
    """Posterior mean and std of every view, in memory (the computer's: rows are drawn there) and,
    for the next run, on disk.

    A sample is drawn afresh each step (kohya's cache freezes one sample, OneTrainer's keeps the
    mean alone). The key on disk covers the pixels as they are shown and the VAE's weights, so that
    an edited photo or another VAE can never meet an old latent.
    """

    def __init__(
        self, folder: Path | None, model: StableDiffusion, vae_digest: str, ranks: Ranks = ALONE
    ) -> None:
        """
        Args:
            ranks: the first of these processes encodes, the others are given what it has.
        """
        self._folder = folder
        self._ranks = ranks
        self._model = model
        self._vae_digest = vae_digest
        self._latents: dict[View, tuple[Tensor, Tensor]] = {}
        self._masks: dict[View, Tensor] = {}
        self._sizes: dict[Photo, tuple[int, int]] = {}

    def fill(self, views: Iterable[View], device: torch.device, progress: Progress) -> None:
        """Encode what is not on disk yet, one image at a time so that no batch changes a bit.

        Raises:
            ImageError: a picture became unreadable.
        """
        todo, photo = list(dict.fromkeys(views)), None
        with placed(self._model.vae, device if self._ranks.is_first else torch.device("cpu")):
            for done, view in enumerate(todo):
                progress(done, len(todo))
                if view.photo != photo:  # the views of a photo follow each other: it is read once
                    photo = view.photo
                    picture, mask = read_photo(photo)
                    self._sizes[photo] = picture.size
                self._latents[view] = self._moments(view, picture, device)
                if mask:
                    self._masks[view] = view.show_mask(mask, self._model.layout.downscale)
        progress(len(todo), len(todo))

    def _moments(
        self, view: View, whole: Image.Image, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        if not self._ranks.several:
            return self._load_or_encode(view, whole, device)
        both = torch.empty(2, *self._model.latent_shape(view.size))
        if self._ranks.is_first:
            both.copy_(torch.stack(self._load_or_encode(view, whole, device)))
        mean, std = self._ranks.give(both)
        return mean, std

    def _load_or_encode(
        self, view: View, whole: Image.Image, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        picture = view.show(whole)
        key = hashlib.sha256(f"{pixel_digest(picture)}:{self._vae_digest}".encode()).hexdigest()
        file = self._folder / key[:2] / f"{key}.safetensors" if self._folder else None
        if file is not None and (found := _read(file)) is not None:
            return found
        pixels = to_tensor(picture)[None].to(device)
        mean, std = (moment[0].cpu() for moment in self._model.encode_images(pixels))
        if not bool(torch.isfinite(mean).all() and torch.isfinite(std).all()):
            raise ValueError(
                f"the VAE makes non-finite numbers of {view.photo.path}: use another VAE"
            )
        if file is not None:
            # kept or not: it only saves the next run time, so a full disk ends no run here
            with contextlib.suppress(OSError, SafetensorError):
                _write(file, mean, std)
        return mean, std

    def shape(self, view: View) -> tuple[int, ...]:
        """Of the view's latent, ``(4, h, w)``."""
        return tuple(self._latents[view][0].shape)

    def sample(self, view: View, noise: Tensor) -> Tensor:
        """A draw from the view's posterior: mean + std · noise, ``[4, h, w]``."""
        mean, std = self._latents[view]
        return mean + std * noise.to(mean)

    def mask(self, view: View) -> Tensor | None:
        """How much each latent pixel counts, ``[1, h, w]`` in 0…1; None: all of them count."""
        return self._masks.get(view)

    def unseen_masks(self) -> list[str]:
        """Photos of which some view has nothing of the mask's white part in it."""
        return list(dict.fromkeys(v.photo.path for v, m in self._masks.items() if not m.any()))

    def time_ids(self, view: View) -> tuple[float, ...]:
        """The view's own six numbers, see :class:`batch.Batch`."""
        return view.time_ids(self._sizes[view.photo])


def _read(file: Path) -> tuple[Tensor, Tensor] | None:
    """The stored moments; None where there are none or they are damaged."""
    if not file.is_file():
        return None
    try:
        stored = load_file(file)
        return stored["mean"], stored["std"]
    except (SafetensorError, OSError, KeyError):
        return None


def _write(file: Path, mean: Tensor, std: Tensor) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        save_file({"mean": mean.contiguous(), "std": std.contiguous()}, temporary)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)
