"""The trained base in about 16 MB, and back to the checkpoint that ComfyUI loads.

Matrices are stored as small integers with one scale for each output channel, the rest as fp16, in
numpy's compressed archive; the text encoder comes from its seed. Expanding gives the same bytes
everywhere.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...trainer.checkpoint import (
    Layout,
    build,
    detect,
    export,
    key_map,
    read_checkpoint,
    write_checkpoint,
)
from ..random_base import LAYOUT
from .autoencoder import fresh
from .recipe import BaseFailed
from .text import SEED, text_tensors

FORMAT = "3"
PACKED = Path(__file__).with_name("base.npz")
ABOUT = "about"
STEPS = {"unet": 0.3, "vae": 0.04}  # standard deviations: what an autoencoder loses, nobody mends
MOST_BYTES = 32_000_000
SCALE = ".scale"
TITLE = "Small picture-book base of the DreamBooth demo"


def trained_tensors(folder: Path, layout: Layout = LAYOUT) -> dict[str, Tensor]:
    """UNet and autoencoder of a run, mean weights, in fp32 under the file's names."""
    tensors: dict[str, Tensor] = {}
    for part in ("unet", "vae"):
        file = folder / f"{part}.safetensors"
        if not file.is_file():
            raise BaseFailed(f"there is no {file}: run `python -m demo.base train` first")
        stored, _ = read_checkpoint(file)
        module = fresh(part, 0, layout)
        mean = {k.removeprefix("ema."): v for k, v in stored.items() if k.startswith("ema.")}
        module.load_state_dict(mean, strict=False)
        if missing := dict(module.named_parameters()).keys() - mean.keys():
            raise BaseFailed(f"{file} lacks {sorted(missing)[:3]}")
        tensors |= export(module, layout, part)
    return tensors


def quantize(weight: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """int8 values and one fp16 scale for each row.

    A step of 0.3 standard deviations errs by 0.3/√12 = 9 % of the weights' spread. It moves the
    UNet's answers by 3 %, a tenth of what they still err. Such integers hold some 3.8 bits, which
    deflate nearly finds.
    """
    flat = weight.float().flatten(1)
    spread = flat.square().mean(dim=1).sqrt() * step
    most = flat.abs().amax(dim=1) / 126.8  # fp16 may round the scale down
    scale = torch.maximum(spread, most).half().float().clamp(min=2.0**-24)
    values = (flat / scale[:, None]).round().clamp(-127, 127)
    return values.to(torch.int8).view(weight.shape), scale.half()


def dequantize(values: Tensor, scale: Tensor) -> Tensor:
    """fp16 weights; the product is exact in fp32, so rounding it is the only error."""
    rows = scale.float().view(-1, *[1] * (values.ndim - 1))
    return (values.float() * rows).half()


def pack_tensors(tensors: Mapping[str, Tensor], layout: Layout = LAYOUT) -> dict[str, Tensor]:
    """What is stored: int8 and scales for matrices, fp16 for everything else."""
    steps = {name: STEPS[part] for part in STEPS for name in key_map(layout, part).values()}
    packed = {}
    for name, tensor in tensors.items():
        if tensor.ndim > 1:
            packed[name], packed[name + SCALE] = quantize(tensor, steps[name])
        else:
            packed[name] = tensor.to(torch.float16)
    return packed


def unpack_tensors(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: dequantize(tensor, packed[name + SCALE]) if name + SCALE in packed else tensor
        for name, tensor in packed.items()
        if not name.endswith(SCALE)
    }


def pack(folder: Path, out: Path = PACKED, layout: Layout = LAYOUT) -> dict[str, float]:
    """Stores a run's result; how far the integers move weights and answers."""
    tensors = trained_tensors(folder, layout)
    packed = pack_tensors(tensors, layout)
    metadata = {"format": FORMAT, "text_seed": str(SEED), "title": TITLE}
    for part in ("unet", "vae"):
        _, stored = read_checkpoint(folder / f"{part}.safetensors")
        metadata |= {f"{part}.{key}": value for key, value in stored.items()}
    arrays = {name: tensor.numpy() for name, tensor in packed.items()}
    np.savez_compressed(out, **arrays, **{ABOUT: np.array(json.dumps(metadata))})
    size = out.stat().st_size
    if size > MOST_BYTES:
        raise BaseFailed(f"{out} has {size} bytes, more than {MOST_BYTES}")
    return {"bytes": size, **errors(tensors, unpack_tensors(packed), layout)}


@torch.no_grad()
def errors(before: Mapping[str, Tensor], after: Mapping[str, Tensor], layout: Layout) -> dict:
    """Relative error of the UNet's weights, and of its answers to random inputs."""
    names = [name for name in key_map(layout, "unet").values() if before[name].ndim > 1]
    moved = sum(float((after[n].float() - before[n]).square().sum()) for n in names)
    whole = sum(float(before[n].square().sum()) for n in names)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(8, 4, 8, 8, generator=g)
    text = torch.randn(8, 77, layout.text_config["hidden_size"], generator=g)
    times = torch.arange(8) * 120 + 60
    first, second = (_answer(tensors, layout, x, times, text) for tensors in (before, after))
    answers = float((first - second).square().mean() / first.square().mean())
    return {"weights": (moved / whole) ** 0.5, "answers": answers**0.5}


def _answer(tensors: Mapping[str, Tensor], layout: Layout, x: Tensor, times: Tensor,
            text: Tensor) -> Tensor:  # fmt: skip
    unet: nn.Module = build({k: v.float() for k, v in tensors.items()}, layout, "unet")
    return unet(x, times, encoder_hidden_states=text).sample


def read_packed(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of the archive.

    Raises:
        BaseFailed: it is no whole archive.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive.items())
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise BaseFailed(f"{path} is damaged ({error}): fetch it again") from error
    metadata = json.loads(str(arrays.pop(ABOUT)))
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, metadata


def packed_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """UNet and autoencoder of the archive in fp32 under the file's names, and its metadata."""
    stored, about = read_packed(path)
    return {name: tensor.float() for name, tensor in unpack_tensors(stored).items()}, about


def expand(out: Path, packed: Path = PACKED, layout: Layout = LAYOUT) -> Path:
    """Writes the single-file fp16 checkpoint; the same bytes every time."""
    if not packed.is_file():
        raise BaseFailed(f"there is no {packed}: `python -m demo.base train`, then `pack`")
    stored, metadata = read_packed(packed)
    if metadata.get("format") != FORMAT:
        raise BaseFailed(f"{packed} has format {metadata.get('format')}, this program {FORMAT}")
    tensors = unpack_tensors(stored) | text_tensors(int(metadata["text_seed"]), layout)
    found = detect(tensors)
    assert (found.family, found.vae_kind) == (layout.family, layout.vae_kind)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(out, tensors, {"modelspec.title": TITLE})
    return out
