"""Between memory and a device, in the background where that can be."""

import torch
from torch import Tensor


def bring(values: Tensor, device: torch.device) -> Tensor:
    """On ``device``. Nobody waits for a card to take them: they go there from pinned memory."""
    if device.type == "cuda" and values.device.type == "cpu":
        return pinned(values).to(device, non_blocking=True)
    return values.to(device)


def pinned(values: Tensor) -> Tensor:
    """In memory; where there is a card, in such that it reads and writes by itself."""
    values = values.cpu()
    return values.pin_memory() if torch.cuda.is_available() else values


def put_back(values: Tensor, place: Tensor) -> None:
    """Where :func:`bring` got them from, unless they were there all along.

    A card does it in the background: who reads ``place`` has to wait for the card first.
    """
    if values.data_ptr() != place.data_ptr():
        place.copy_(values, non_blocking=True)
