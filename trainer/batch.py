"""The rows of one forward pass as tensors, drawn from (seed, position)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .cache import LatentCache
from .config import LossConfig
from .dataset import PairedRows, Row
from .noise import shaped
from .objective import draw_row


@dataclass
class Batch:
    """Rows of one forward pass: instance rows first, then the class rows that join them.

    All of it is in memory, whatever device computes: to ask how many rows are what is no reason to
    wait for it.

    Attributes:
        latents: ``[B, 4, h, w]`` fp32.
        noise: ε, which the net is to find; ``[B, 4, h, w]`` fp32.
        input_noise: what the latents are noised with: ε, unless it is perturbed.
        timesteps: ``[B]`` int64.
        weights: ``[B]`` fp32; 1 for an instance row, λ for a class row.
        is_class: ``[B]`` bool.
        taught: ``[B]`` bool; rows whose target is what the base predicts.
        positions: of each row in the run; a class row has its partner's.
        prompts: one per row.
        time_ids: ``[B, 6]`` fp32, each row's own image in pixels, SDXL's micro-conditioning:
            (original height, original width, crop top, crop left, target height, target width).
        masks: ``[B, 1, h, w]`` fp32 in 0…1; None where no row has one.
    """

    latents: Tensor
    noise: Tensor
    input_noise: Tensor
    timesteps: Tensor
    weights: Tensor
    is_class: Tensor
    taught: Tensor
    positions: list[int]
    prompts: list[str]
    time_ids: Tensor
    masks: Tensor | None = None

    def select(self, rows: Tensor) -> "Batch":
        """Some of the rows, ``rows``: ``[B]`` bool."""
        chosen = rows.tolist()
        return Batch(
            self.latents[rows],
            self.noise[rows],
            self.input_noise[rows],
            self.timesteps[rows],
            self.weights[rows],
            self.is_class[rows],
            self.taught[rows],
            [position for position, keep in zip(self.positions, chosen, strict=True) if keep],
            [prompt for prompt, keep in zip(self.prompts, chosen, strict=True) if keep],
            self.time_ids[rows],
            None if self.masks is None else self.masks[rows],
        )


def make_batch(
    rows: PairedRows,
    latents: LatentCache,
    positions: range,
    *,
    loss: LossConfig,
    seed: int,
) -> Batch:
    """The instance rows at ``positions`` (counted over the run) with their class rows."""
    drawn: list[tuple[int, Row]] = [(p, rows.instance(p)) for p in positions]
    drawn += [(p, row) for p in positions if (row := rows.class_(p)) is not None]
    timesteps = range(loss.min_timestep, loss.max_timestep)
    samples, noises, inputs, times = [], [], [], []
    for position, row in drawn:
        posterior, noise, time = draw_row(
            latents.shape(row.view), timesteps, seed, position, row.is_class
        )
        noise, input_noise = shaped(noise, loss, seed, position, row.is_class)
        samples.append(latents.sample(row.view, posterior))
        noises.append(noise)
        inputs.append(input_noise)
        times.append(time)
    return Batch(
        latents=torch.stack(samples),
        noise=torch.stack(noises),
        input_noise=torch.stack(inputs),
        timesteps=torch.tensor(times),
        weights=torch.tensor([row.weight for _, row in drawn]),
        is_class=torch.tensor([row.is_class for _, row in drawn]),
        taught=torch.tensor([row.taught for _, row in drawn]),
        positions=[position for position, _ in drawn],
        prompts=[row.prompt for _, row in drawn],
        time_ids=torch.tensor([latents.time_ids(row.view) for _, row in drawn]),
        masks=_masks([row for _, row in drawn], latents),
    )


def _masks(rows: list[Row], latents: LatentCache) -> Tensor | None:
    """A class row counts whole: it stands for its class, not for a part of a picture."""
    masks = [None if row.is_class else latents.mask(row.view) for row in rows]
    if not any(mask is not None for mask in masks):
        return None
    whole = torch.ones(1, *latents.shape(rows[0].view)[1:])
    return torch.stack([whole if mask is None else mask for mask in masks])
