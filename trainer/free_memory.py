"""How much memory a run may still take, of its device and of the computer."""

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
    ask = getattr(torch.cuda, "get_per_process_memory_fraction", None)  # torch 2.9
    allowed = int(total * ask(device)) if ask else total
    return min(free + held, allowed) - torch.cuda.memory_allocated(device)


def has_room_in_ram(device: torch.device, state: int) -> bool:
    """Whether a card's run may keep so many bytes of state in pinned memory."""
    return device.type == "cuda" and _free_ram() > _PINNED * state


def _free_ram() -> int:
    import psutil  # comes with accelerate

    return psutil.virtual_memory().available
