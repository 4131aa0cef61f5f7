"""A model and the one that was trained from it: blended by the host, and tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import comfy.lora
import comfy.sd
import comfy.utils
import folder_paths
import torch

from ...trainer.config import ConfigError
from .weights import require_model

if TYPE_CHECKING:
    from ...trainer.difference import Pair

# Not weights: the host's own merge nodes leave the first two alone, too; CLIP-L's projection is in
# no file of these families, so the host leaves it uninitialised, and nothing uses it.
_NO_WEIGHTS = (".position_ids", ".logit_scale", "clip_l.transformer.text_projection.weight")
Patched = dict[str, list]  # weight's name → [(weight, how to convert it), patch, patch...]


def load_trained(name: str) -> tuple[Any, Any]:
    """MODEL and CLIP of a checkpoint as *Load Checkpoint* lists it."""
    path = folder_paths.get_full_path("checkpoints", str(name))
    if path is None:
        raise ConfigError(f"ckpt_name = {name!r}: there is no such checkpoint; refresh the page")
    embeddings = folder_paths.get_folder_paths("embeddings")
    return comfy.sd.load_checkpoint_guess_config(
        path, output_vae=False, output_clip=True, embedding_directory=embeddings
    )[:2]


def checkpoint_stamp(name: str | None) -> str:
    """Another one when the file is another; "" where a wire names it, or there is none."""
    path = folder_paths.get_full_path("checkpoints", name) if name else None
    if path is None:
        return ""
    about = os.stat(path)
    return f"{about.st_mtime_ns} {about.st_size}"


def checkpoint_names() -> list[str]:
    return folder_paths.get_filename_list("checkpoints")


def blend(model: Any, clip: Any, trained: tuple[Any, Any], strength: float) -> tuple[Any, Any]:
    """base + strength · (trained − base), as patches that the host applies when it samples.

    Each tensor that differs is (1 − strength) · base + strength · trained, in fp32, so that 0
    gives the base and 1 the trained model, bit for bit. What is the same in both stays untouched.

    Raises:
        ConfigError: the two are not of one kind.
    """
    require_model(model, clip)
    blended = []
    for base, ours, theirs in _sides(model, clip, trained):
        made = base.clone()
        if strength:
            for key in _changed(ours, theirs):
                made.add_patches({key: theirs[key]}, strength, 1.0 - strength)
        blended.append(made)
    return tuple(blended)


def pairs(model: Any, clip: Any, trained: tuple[Any, Any]) -> Iterator[Pair]:
    """Every weight that differs, with what is patched onto it, and its names in a file.

    Raises:
        ConfigError: the two are not of one kind.
    """
    from ...trainer.difference import Pair  # not at the top: it needs packages that may be missing

    require_model(model, clip)
    loras = _lora_names(model, clip)
    for base, ours, theirs in _sides(model, clip, trained):
        for key in _changed(ours, theirs):
            layer, _, kind = key.rpartition(".")
            root = layer if base is model else f"text_encoders.{layer}"
            name = f"{root}.diff" if kind == "weight" else f"{root}.diff_{kind[0]}"
            lora = loras.get(key)
            yield Pair(name, lora, _weight(ours[key], key), _weight(theirs[key], key))


def _sides(
    model: Any, clip: Any, trained: tuple[Any, Any]
) -> Iterator[tuple[Any, Patched, Patched]]:
    """(base, its weights, the trained ones) of UNet and text encoder, checked to be alike."""
    for base, other, only in ((model, trained[0], ["diffusion_model."]), (clip, trained[1], [])):
        if base is None or other is None:
            raise ConfigError("one of the models has no text encoder: connect a whole checkpoint")
        ours, theirs = base.get_key_patches(*only), other.get_key_patches(*only)
        if {k: v[0][0].shape for k, v in ours.items()} != {
            k: v[0][0].shape for k, v in theirs.items()
        }:
            raise ConfigError(
                "the checkpoint is another kind of model than the one on the wires: wire the model"
                " that it was trained from"
            )
        yield base, ours, theirs


def _changed(ours: Patched, theirs: Patched) -> list[str]:
    """Keys whose weights differ, or have something patched onto them."""
    return [
        key
        for key in theirs
        if not key.endswith(_NO_WEIGHTS)
        and (len(ours[key]) > 1 or not _same(ours[key][0][0], theirs[key][0][0]))
    ]


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.detach().cpu().float(), b.detach().cpu().float())


def _weight(patched: list, key: str) -> torch.Tensor:
    """A weight in fp32 with its patches, as the host computes it."""
    (weight, convert), *patches = patched
    weight = convert(weight.detach().to("cpu", torch.float32, copy=True), inplace=True)
    return comfy.lora.calculate_weight(patches, weight, key)


def _lora_names(model: Any, clip: Any) -> dict[str, str]:
    """Weight → what kohya's scripts call a LoRA of its layer, for every layer that has one."""
    diffusers = comfy.utils.unet_to_diffusers(model.model.model_config.unet_config)
    names = {
        f"diffusion_model.{key}": f"lora_unet_{path[: -len('.weight')].replace('.', '_')}"
        for path, key in diffusers.items()
        if path.endswith(".weight")
    }
    text = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    numbered = any(name.startswith("lora_te2_") for name in text)
    starts = ("lora_te1_text_model", "lora_te2_text_model") if numbered else ("lora_te_text_model",)
    names |= {key: name for name, key in text.items() if name.startswith(starts)}
    matrices = [model.model.state_dict(), clip.cond_stage_model.state_dict()]
    return {k: n for k, n in names.items() if any(k in m and m[k].ndim in (2, 4) for m in matrices)}
