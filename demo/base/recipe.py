"""How the base is trained: one set of numbers for a card, one for a processor."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace

import torch

from ...trainer.precision import has_bf16_instructions
from ..world.kinds import KINDS


class BaseFailed(RuntimeError):
    """Something the user can mend; the message says what."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides the result besides the number of steps. A run resumes only with its own."""

    size: int = 96
    """Pixels of a picture's side, a multiple of 8. At 64 no face comes through the autoencoder."""
    seed: int = 0
    pool: int = 200_000
    """Pictures drawn once and used again."""
    captions: int = 2
    """Captions for each of them."""
    texts: int = 0
    """Most different captions; each is encoded once, which is minutes on a processor. 0: any."""
    vae_batch: int = 256
    vae_crop: int = 0
    """Side of the squares that the autoencoder learns from, a multiple of 8: more steps of
    different pictures for the same work. 0: whole pictures."""
    vae_lr: float = 6e-4
    unet_batch: int = 512
    unet_lr: float = 5e-4
    gamma: float = 5.0
    """Rows are spread over the noise levels as min-SNR-γ weighs them (Hang et al. 2023)."""
    empty: float = 0.1
    """Share of rows with the empty caption, for guidance."""
    decay: float = 0.999
    """Of the running mean of the UNet's weights, which is what is kept."""
    favour: str = ""
    """Kinds of things, or of these some poses (dog:sitting), with commas, whose pictures the UNet
    sees `FAVOUR` times as often. What is drawn in few poses is drawn whole sooner."""

    def __post_init__(self) -> None:
        if self.size % 8 or self.size < 16:
            raise BaseFailed(f"size = {self.size}: choose a multiple of 8 from 16 up (64, 96, 128)")
        if self.vae_crop and (self.vae_crop % 8 or not 16 <= self.vae_crop <= self.size):
            raise BaseFailed(f"vae_crop = {self.vae_crop}: a multiple of 8 in 16…{self.size}, or 0")
        poses = {f"{name}:{pose}" for name, kind in KINDS.items() for pose in kind.poses}
        if unknown := set(self.favoured) - KINDS.keys() - poses:
            known = ", ".join([*KINDS, *sorted(poses)])
            raise BaseFailed(f"favour: no {sorted(unknown)[0]!r} among {known}")
        if min(self.pool, self.captions, self.vae_batch, self.unet_batch) < 1:
            raise BaseFailed("pool, captions and batches must be at least 1")

    @property
    def favoured(self) -> tuple[str, ...]:
        return tuple(filter(None, (kind.strip() for kind in self.favour.split(","))))

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def check(self, stored: str, stage: str) -> None:
        """Refuses to go on with what another recipe began, naming what differs.

        Only what ``stage`` ("vae" or "unet") depends on: a finished autoencoder serves any UNet.
        """
        theirs, ours = {"favour": "", **json.loads(stored)}, asdict(self)  # younger than some runs
        for name in sorted(theirs.keys() | ours.keys()):
            if theirs.get(name) != ours.get(name) and not name.startswith(OTHERS[stage]):
                raise BaseFailed(
                    f"this folder's run has {name} = {theirs.get(name)}, not {ours.get(name)}: "
                    "give it the same options, or choose another --out"
                )


OTHERS = {
    "vae": ("unet_", "captions", "texts", "gamma", "empty", "decay", "favour"),
    "unet": ("vae_",),
}
VAE_DECAY = 0.995  # of the running mean of the autoencoder's weights

CARD = Recipe()
PROCESSOR = Recipe(
    pool=16_000, captions=1, texts=2000, vae_batch=16, vae_crop=32, vae_lr=8e-4, unet_batch=16,
    unet_lr=3e-4, decay=0.998,
)  # fmt: skip


def recipe_for(device: torch.device, **changes: int | float | None) -> Recipe:
    """The device's recipe with what the user changed."""
    given = {name: value for name, value in changes.items() if value is not None}
    return replace(PROCESSOR if device.type == "cpu" else CARD, **given)


FAVOUR = 8
WARMUP, COOLDOWN = 100, 0.3


def learning_rate(peak: float, step: int, steps: int | None) -> float:
    """Up over the first steps, then constant, then along a cosine to zero in the last 30 %.

    ``steps`` is None while the pace is still being measured, which is early.
    """
    rate = peak * min(1.0, (step + 1) / WARMUP)
    if steps is None:
        return rate
    left = (steps - step) / max(1.0, COOLDOWN * steps)
    return rate * (1.0 if left >= 1 else (1 - math.cos(math.pi * left)) / 2)


def has_fast_bf16(device: torch.device) -> bool:
    """Where bf16 pays: cards that have it, and processors with instructions for it.

    Measured on two cores with AVX-512 BF16 (Zen 4): 1.5 times as many pictures a second.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and has_bf16_instructions(unknown=False)
