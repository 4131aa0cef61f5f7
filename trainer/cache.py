"""What is computed once: the photos' latents (as a posterior) and, if frozen, the text states."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .images import fit_square, pixel_digest, read_image, to_tensor
from .model import StableDiffusion, placed
from .tokenizer import tokenize

Progress = Callable[[int, int], None]


class LatentCache:
    """Posterior mean and std of every image, in memory and, for the next run, on disk.

    A sample is drawn afresh each step (kohya's cache freezes one sample, OneTrainer's keeps the
    mean alone). The key on disk covers the pixels, the crop and the VAE's weights, so that an
    edited photo or another VAE can never meet an old latent.
    """

    def __init__(self, folder: Path | None, model: StableDiffusion, vae_digest: str, side: int):
        self._folder = folder
        self._model = model
        self._vae_digest = vae_digest
        self._side = side
        self._latents: dict[str, tuple[Tensor, Tensor]] = {}

    def fill(self, paths: Iterable[str], device: torch.device, progress: Progress) -> None:
        """Encode what is not on disk yet, one image at a time so that no batch changes a bit.

        Raises:
            ImageError: a picture became unreadable.
        """
        todo = list(dict.fromkeys(paths))
        with placed(self._model.vae, device):
            for done, path in enumerate(todo):
                progress(done, len(todo))
                self._latents[path] = self._load_or_encode(path, device)
        progress(len(todo), len(todo))

    def _load_or_encode(self, path: str, device: torch.device) -> tuple[Tensor, Tensor]:
        picture = fit_square(read_image(path), self._side)
        key = hashlib.sha256(
            f"fit square {self._side}:{pixel_digest(picture)}:{self._vae_digest}".encode()
        ).hexdigest()
        file = self._folder / key[:2] / f"{key}.safetensors" if self._folder else None
        if file is not None and (found := _read(file)) is not None:
            return found[0].to(device), found[1].to(device)
        pixels = to_tensor(picture)[None].to(device)
        mean, std = (moment[0] for moment in self._model.encode_images(pixels))
        if not bool(torch.isfinite(mean).all() and torch.isfinite(std).all()):
            raise ValueError(f"the VAE makes non-finite numbers of {path}: use another VAE")
        if file is not None:
            # kept or not: it only saves the next run time, so a full disk ends no run here
            with contextlib.suppress(OSError, SafetensorError):
                _write(file, mean.cpu(), std.cpu())
        return mean, std

    def sample(self, path: str, noise: Tensor) -> Tensor:
        """A draw from the image's posterior: mean + std · noise, ``[4, h, w]``."""
        mean, std = self._latents[path]
        return mean + std * noise.to(mean)


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


def encode_texts(
    model: StableDiffusion, prompts: Iterable[str], device: torch.device
) -> dict[str, Tensor]:
    """Hidden states ``[77, C]`` of each distinct prompt from the frozen text encoder."""
    distinct = list(dict.fromkeys(prompts))
    with placed(model.text_encoder, device), torch.no_grad():
        return {
            prompt: model.encode_prompts(tokenize([prompt]).to(device))[0] for prompt in distinct
        }
