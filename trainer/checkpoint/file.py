"""Checkpoint files: read, and write one atomically with every byte verified.

The format is safetensors (https://github.com/huggingface/safetensors, "Format"): eight bytes with
the header's length, a JSON header, the tensors. We write it ourselves because ``save_file`` wants
all tensors at once in their final dtype (a second copy of the model in memory) and, as of 0.8,
writes several metadata keys in a random order."""

import contextlib
import json
import os
import secrets
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..files import move
from .errors import CheckpointError, FileInUse
from .values import is_finite, raw_bytes

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
_GIB = 2**30

Dtypes = Mapping[str, torch.dtype]


def read_checkpoint(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors on the CPU, metadata) of a ``.safetensors`` file; CheckpointError if damaged.

    The tensors are mapped from the file and read when first used, privately: changing one does not
    change the file, and the file may be replaced (not overwritten in place) meanwhile.
    """
    path = Path(path)
    if path.suffix.lower() in _PICKLES:
        raise CheckpointError(
            f"{path.name} is a pickle file, and reading one can run code hidden in it: convert it "
            "to .safetensors first (ComfyUI: Load Checkpoint, then Save Checkpoint)."
        )
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        said = str(error)[:300]  # it may quote a name, as long as the damaged header says
        raise CheckpointError(
            f"{path.name} is damaged, cut short or not a safetensors file ({said}): get it again."
        ) from error


def file_size(tensors: Mapping[str, Tensor], dtypes: Dtypes | None = None) -> int:
    """Bytes that ``write_checkpoint`` will write for these tensors, without its metadata."""
    header, entries = _plan(tensors, {}, dtypes or {})
    return len(header) + sum(tensors[name].numel() * dtype.itemsize for name, dtype in entries)


def write_checkpoint(
    path: str | os.PathLike,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    *,
    dtypes: Dtypes | None = None,
) -> dict[str, int]:
    """Writes one safetensors file so that ``path`` is either the old file or a verified new one.

    ``dtypes`` says which tensors to cast; the others keep their own dtype. One tensor at a time is
    cast, checked and written. The same inputs give the same bytes. Raises CheckpointError and
    leaves an old file untouched if a value is not finite (also after the cast), if the disk
    refuses, or if the written bytes read back differently. Returns the file's ``checksums``.
    """
    path = Path(path)
    header, entries = _plan(tensors, metadata, dtypes or {})
    # No model extension: a host that lists its folder must not offer a half-written file.
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial")
    try:
        sums = _write(temporary, header, tensors, entries)
        _verify(temporary, tensors, entries, metadata, sums)
        move(temporary, path)
        _sync_folder(path.parent)
        return sums
    except PermissionError as error:
        raise FileInUse(
            f"Could not write {path} ({error.strerror or error}): another program has it open, or"
            " its folder cannot be written to. A file that was there before is untouched."
        ) from error
    except OSError as error:
        size = file_size(tensors, dtypes) / _GIB
        raise CheckpointError(
            f"Could not write {path} ({error.strerror or error}): it needs {size:.2f} GiB of room "
            "in a folder that can be written to. A file that was there before is untouched."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def checksums(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """The CRC-32 of each tensor's bytes."""
    return {name: zlib.crc32(raw_bytes(tensor)) for name, tensor in tensors.items()}


def _plan(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], dtypes: Dtypes
) -> tuple[bytes, list[tuple[str, torch.dtype]]]:
    """(length and header, the (name, dtype) in file order)."""
    _check_arguments(tensors, metadata, dtypes)
    final = {
        name: dtypes.get(name, tensor.dtype) if tensor.is_floating_point() else tensor.dtype
        for name, tensor in tensors.items()
    }
    # Wide dtypes first, as safetensors itself does: every tensor then starts aligned.
    entries = sorted(final.items(), key=lambda entry: (-entry[1].itemsize, entry[0]))
    fields: dict = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    start = 0
    for name, dtype in entries:
        end = start + tensors[name].numel() * dtype.itemsize
        shape = list(tensors[name].shape)
        fields[name] = {"dtype": _NAMES[dtype], "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, entries


def _check_arguments(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], dtypes: Dtypes
) -> None:
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata must be text, but {key!r} is {type(value).__name__}")
    if unknown := sorted(dtypes.keys() - tensors.keys()):
        raise ValueError(f"dtypes names {len(unknown)} tensors that are not there: {unknown[:3]}")
    for name, tensor in tensors.items():
        for dtype in (tensor.dtype, dtypes.get(name, tensor.dtype)):
            if dtype not in _NAMES:
                raise ValueError(f"{name}: {dtype} cannot be written")


def _write(
    path: Path, header: bytes, tensors: Mapping[str, Tensor], entries: list
) -> dict[str, int]:
    """Writes and syncs the file; the CRC-32 of each tensor's bytes."""
    sums = {}
    with open(path, "xb") as file:  # open() honours the umask, mkstemp does not
        file.write(header)
        for name, dtype in entries:
            data = raw_bytes(_cast(name, tensors[name], dtype))
            sums[name] = zlib.crc32(data)
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return sums


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    cast = tensor.detach().to(device="cpu", dtype=dtype)
    if is_finite(cast):
        return cast
    if is_finite(tensor):
        largest = float(tensor.detach().abs().max())
        narrow = str(dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{name} holds a value of {largest:.4g}, which {narrow} cannot hold: save as bfloat16 "
            "or float32. Nothing was written."
        )
    raise CheckpointError(
        f"{name} holds values that are not finite (NaN or infinite), so the model is broken and "
        "was not written: lower the learning rate and train again from the last good checkpoint."
    )


def _verify(
    path: Path,
    tensors: Mapping[str, Tensor],
    entries: list,
    metadata: Mapping[str, str],
    sums: Mapping[str, int],
) -> None:
    """Reads the file back with safetensors and compares names, shapes, dtypes, bytes, metadata."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            whole = set(file.keys()) == set(sums) and (file.metadata() or {}) == dict(metadata)
            wrong = None if whole else "the header"
            for name, dtype in entries if whole else ():
                tensor = file.get_tensor(name)
                same = tensor.dtype == dtype and tensor.shape == tensors[name].shape
                if not same or zlib.crc32(raw_bytes(tensor)) != sums[name]:
                    wrong = name
                    break
    except SafetensorError as error:
        wrong = str(error)
    if wrong:
        raise CheckpointError(
            f"What was written to {path.parent} reads back differently ({wrong}), so it was thrown "
            "away: check the disk. A file that was there before is untouched."
        )


def _sync_folder(folder: Path) -> None:
    """Makes the rename durable; Windows has no way to sync a folder, and does not need one.

    Some file systems of other computers have none either, and the file is in its place by now.
    """
    if os.name == "nt":
        return
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
