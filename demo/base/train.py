"""Both stages one after the other, each resumed where it stands: ``python -m demo.base train``."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from ...trainer.checkpoint import (
    Layout,
    build,
    read_checkpoint,
    weights_digest,
    write_checkpoint,
)
from ...trainer.images import to_image
from ..random_base import LAYOUT
from ..world.sheet import tile
from .autoencoder import AutoencoderLoss, balance, encode_pool, fresh, head_start
from .diffusion import DiffusionLoss
from .grid import GRID, prompts_of, sample_grid
from .pack import packed_weights, trained_tensors
from .pool import captions_of, how_often, load_pool, to_pixels
from .recipe import VAE_DECAY, BaseFailed, Recipe, has_fast_bf16
from .stage import Budget, Stage, run
from .states import TextStates

VAE_SHARE = 0.3  # of the time; nothing the UNet learns is sharper than its autoencoder


@dataclass
class Plan:
    """What the command line asked for."""

    recipe: Recipe
    folder: Path
    device: torch.device
    minutes: float | None = None
    steps: tuple[int, int] | None = None
    """Of the autoencoder and of the UNet."""
    leave_after: float | None = None
    start: Path | None = None
    """A folder of a run, or a packed base, of any size: its autoencoder is taken as it is, its UNet
    goes on learning at this recipe's size (progressive growing; both are convolutional)."""
    layout: Layout = LAYOUT
    rows: int = len(GRID)

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.bf16 = has_fast_bf16(self.device)

    def budget(self, stage: int) -> Budget:
        share = 1.0 if self.start else (VAE_SHARE, 1 - VAE_SHARE)[stage]
        leave = self.started + self.leave_after * 60 if self.leave_after else float("inf")
        return Budget(
            steps=self.steps[stage] if self.steps else None,
            seconds=self.minutes * 60 * share if self.minutes else None,
            leave_at=leave,
            save_every=150.0 if self.device.type == "cuda" else 300.0,
        )


def train(plan: Plan) -> bool:
    """True when both stages are finished, False where it left early."""
    start = read_start(plan.start, plan.layout) if plan.start else {}
    plan.folder.mkdir(parents=True, exist_ok=True)
    show(f"pictures: {plan.recipe.pool} of {plan.recipe.size} pixels")
    pictures = load_pool(plan.folder, plan.recipe)
    if plan.device.type == "cuda":
        pictures = pictures.to(plan.device)
    vae = take_autoencoder(plan, start) if start else train_autoencoder(plan, pictures)
    return vae is not None and train_unet(plan, pictures, vae, start)


def read_start(path: Path, layout: Layout) -> dict[str, Tensor]:
    """UNet and autoencoder to begin with, in fp32 under the file's names.

    Raises:
        BaseFailed: there is neither a run nor a packed base, or it is not whole.
    """
    if path.is_dir():
        return trained_tensors(path, layout)
    if not path.is_file():
        raise BaseFailed(f"there is no {path}: give --start a run's folder or a packed base")
    return packed_weights(path)[0]


def take_autoencoder(plan: Plan, start: dict[str, Tensor]) -> nn.Module:
    """The start's, kept beside the UNet for ``pack``."""
    vae = build(start, plan.layout, "vae").to(plan.device)
    tensors = {f"ema.{name}": value for name, value in vae.state_dict().items()}
    write_checkpoint(plan.folder / "vae.safetensors", tensors, {"taken_from": plan.start.name})
    return vae.requires_grad_(False)


def train_autoencoder(plan: Plan, pictures: Tensor) -> nn.Module | None:
    """The finished autoencoder with its mean weights, None where time ran out."""
    recipe = plan.recipe
    vae = _placed(head_start(fresh("vae", recipe.seed, plan.layout)), plan.device)
    balance(vae, pictures, plan.device)
    loss = AutoencoderLoss(vae, pictures, recipe, plan.device, plan.bf16)
    stage = Stage("vae", vae, loss, recipe.vae_lr, recipe.vae_batch, recipe, plan.folder,
                  VAE_DECAY, show)  # fmt: skip

    @torch.no_grad()
    def picture() -> None:
        with averaged(stage):
            pixels = to_pixels(pictures[:24], plan.device)
            out = vae.decode(vae.encode(pixels).latents).sample
        rows = [[to_image(p) for p in part] for pair in zip(pixels.split(8), out.split(8),
                strict=True) for part in pair]  # fmt: skip
        save_grid(tile(rows), plan.folder / f"vae-{stage.step:06d}.png")

    stage.aim(plan.budget(0))
    if not stage.finished and not run(stage, _leaving(plan, 0), picture):
        return None
    vae.load_state_dict(stage.averaged())
    return vae.requires_grad_(False)


def train_unet(plan: Plan, pictures: Tensor, vae: nn.Module, start: dict[str, Tensor]) -> bool:
    recipe, origin = plan.recipe, weights_digest(vae.state_dict())
    latents = pool_latents(plan, vae, pictures, origin)
    show(f"latents: mean {latents.mean():.3f}, std {latents.std():.3f}")
    states, captions = caption_states(plan)
    if start:
        unet = build(start, plan.layout, "unet")
        origin += " " + weights_digest(unet.state_dict())
    else:
        unet = fresh("unet", recipe.seed + 1, plan.layout)
    unet = _placed(unet, plan.device)
    often = how_often(recipe) if recipe.favour else None
    loss = DiffusionLoss(unet, latents, captions, states, recipe, plan.bf16, often)
    stage = Stage("unet", unet, loss, recipe.unet_lr, recipe.unet_batch, recipe, plan.folder,
                  recipe.decay, show, origin=origin)  # fmt: skip

    def picture() -> None:
        with averaged(stage):
            page = sample_grid(unet, vae, states, plan.rows, recipe.size // 8, plan.bf16)
        save_grid(page, plan.folder / f"unet-{stage.step:06d}.png")

    stage.aim(plan.budget(1))
    return stage.finished or run(stage, _leaving(plan, 1), picture)


def pool_latents(plan: Plan, vae: nn.Module, pictures: Tensor, origin: str) -> Tensor:
    """Of all pictures; kept in the folder, since a processor takes minutes to make them."""
    recipe, file = plan.recipe, plan.folder / "latents.safetensors"
    made_of = {"autoencoder": origin, "pool": f"{recipe.size} {recipe.pool} {recipe.seed}"}
    if file.is_file():
        tensors, metadata = read_checkpoint(file)
        if metadata == made_of:
            return tensors["latents"].to(plan.device)
    latents = encode_pool(vae, pictures, plan.device, plan.bf16)
    write_checkpoint(file, {"latents": latents}, made_of)
    return latents


def caption_states(plan: Plan) -> tuple[TextStates, Tensor]:
    """States of all captions, and each picture's rows in them."""
    captions = captions_of(plan.recipe)
    states, last = TextStates(plan.device, plan.layout), time.monotonic()

    def progress(done: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last > 10:
            show(f"captions {done}/{of}")
            last = time.monotonic()

    file = plan.folder / "captions.safetensors" if plan.device.type == "cpu" else None
    states.fill(
        ["", *prompts_of(plan.rows), *(text for row in captions for text in row)], file, progress
    )
    show(f"captions: {len(states)} different ones")
    rows = states.rows(text for row in captions for text in row)
    return states, rows.view(-1, plan.recipe.captions)


@contextlib.contextmanager
def averaged(stage: Stage) -> Iterator[None]:
    """The mean weights in place inside the block, the training ones after it."""
    own = {name: value.detach().clone() for name, value in stage.parameters.items()}
    stage.module.load_state_dict(stage.ema, strict=False)
    try:
        yield
    finally:
        stage.module.load_state_dict(own, strict=False)


def save_grid(picture: Image.Image, path: Path) -> None:
    picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.LANCZOS).save(path)
    show(f"wrote {path.name}")


def show(line: str) -> None:
    print(f"  {line}", flush=True)


def _placed(module: nn.Module, device: torch.device) -> nn.Module:
    """On the device, ready to train, in the memory order that its convolutions like."""
    module = module.to(device).train().requires_grad_(True)
    return module.to(memory_format=torch.channels_last)  # a processor gains 8 % by it, too


def _leaving(plan: Plan, stage: int) -> Budget:
    """The stage's budget; Ctrl-C once ends the step and saves, twice is Python's usual way."""
    budget = plan.budget(stage)

    def on_signal(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        budget.leave_at = 0.0
        show("stopping after this step")

    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGINT, on_signal)
    return budget
