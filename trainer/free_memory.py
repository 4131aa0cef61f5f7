"""How much memory a run may still take, of its device and of the computer."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .setup import Prepared

_PINNED = 1.5  # what a state takes in pinned memory, whose blocks torch rounds up to powers of two


def free_memory(prepared: Prepared) -> int | None:
    """Bytes that the run may still take; on a processor its weights are there already."""
    device = prepared.device
    if device.type == "cuda":
        return free_on_card(device)
    if device.type == "cpu":
        here = (p for module in prepared.trained.modules.values() for p in module.parameters())
        return _free_ram() + sum(p.nbytes for p in here)
    return None


def free_on_card(device: torch.device) -> int:
    free, total = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device)
    allowed = int(total * _allowed_share(device))
    return min(free + held, allowed) - torch.cuda.memory_allocated(device)


def held_on_card(device: torch.device) -> int | None:
    """Bytes that torch has taken from a card for this process; None where that is not known."""
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else None


@contextmanager
def kept_on_card(device: torch.device) -> Iterator[None]:
    """Inside, torch refuses what the card has no room for, so that it can be cut up finer.

    Under Windows the driver puts it into the computer's memory instead, without a word, and every
    step takes many times as long ("CUDA - Sysmem Fallback Policy").
    """
    if device.type != "cuda" or not _driver_spills():
        yield
        return
    free, total = torch.cuda.mem_get_info(device)
    allowed = (free + torch.cuda.memory_reserved(device)) / total
    before = _allowed_share(device)
    torch.cuda.set_per_process_memory_fraction(min(before, allowed), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device)


def _allowed_share(device: torch.device) -> float:
    """Of the card, which torch may take for this process."""
    ask = getattr(torch.cuda, "get_per_process_memory_fraction", None)  # torch 2.9
    return ask(device) if ask else 1.0


def _driver_spills() -> bool:
    return os.name == "nt" or "microsoft" in platform.release().lower()  # WSL has its driver


def has_room_in_ram(device: torch.device, state: int) -> bool:
    """Whether a card's run may keep so many bytes of state in pinned memory."""
    return device.type == "cuda" and _free_ram() > _PINNED * state


def _free_ram() -> int:
    import psutil  # comes with accelerate

    return psutil.virtual_memory().available
