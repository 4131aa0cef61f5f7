"""MODEL, CLIP and VAE as one state dict, and a file as MODEL, CLIP and VAE."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.model_management as management
import comfy.model_sampling
import comfy.sd
import folder_paths
import torch
from torch import Tensor

from ...trainer.config import ConfigError
from .card import release_memory
from .sampling import Sampling, encode_text, sample_pictures

# Their class in comfy.supported_models, for a refusal before anything large is copied.
SUPPORTED_CLASSES = {"SD15"}


@dataclasses.dataclass
class Weights:
    """What the wires hold: a single-file state dict on the CPU that is ours to use up."""

    state_dict: dict[str, Tensor]
    held_as: str
    clip_layer: int | None

    @property
    def clip_skip(self) -> int:
        return 1 if self.clip_layer is None else -self.clip_layer


def take_weights(model: Any, clip: Any, vae: Any) -> Weights:
    """Copy MODEL, CLIP and VAE, patches included, as the host's own checkpoint saver would.

    Raises:
        ConfigError: a wire carries nothing.
        UnsupportedModel: another family, prediction type or quantized weights.
    """
    # not at the top: it needs packages that may be missing, and then the pack should still load
    from ...trainer.checkpoint import UnsupportedModel, detect

    _require_wires(model, clip, vae)
    config = type(model.model.model_config).__name__
    sampling = model.get_model_object("model_sampling")
    if config not in SUPPORTED_CLASSES:
        raise UnsupportedModel(
            f"this model is {config}: DreamBooth trains Stable Diffusion 1.x checkpoints"
        )
    # most of the others are subclasses of EPS
    prediction = next(c for c in type(sampling).__mro__ if "calculate_denoised" in vars(c))
    if prediction is not comfy.model_sampling.EPS:
        raise UnsupportedModel(
            f"this model predicts {prediction.__name__}, not the noise (EPS):"
            " DreamBooth trains ε-prediction checkpoints"
        )
    # baking the patches in is what comfy.sd.save_checkpoint does
    management.load_models_gpu([model, clip.load_model()], force_patch_weights=True)
    tensors = model.model.state_dict_for_saving(clip.get_sd(), vae.get_sd())
    tensors = {key: value for key, value in tensors.items() if isinstance(value, Tensor)}
    detect(tensors)
    with torch.inference_mode(False):  # a copy made inside stays an inference tensor: no training
        copies = {key: torch.empty_like(t, device="cpu").copy_(t) for key, t in tensors.items()}
    return Weights(copies, _held_as(copies), clip.layer_idx)


def _require_wires(model: Any, clip: Any, vae: Any) -> None:
    advice = "connect one from a Load Checkpoint, or from a loader of its own"
    if model is None:
        raise ConfigError(f"the model input carries nothing: {advice}")
    if clip is None:
        raise ConfigError(f"the clip input carries nothing, the file has no text encoder: {advice}")
    if vae is None or getattr(vae, "first_stage_model", None) is None:
        raise ConfigError(f"the vae input carries nothing, the file has no VAE: {advice}")


def _held_as(tensors: dict[str, Tensor]) -> str:
    parts = {
        "UNet": "model.diffusion_model.",
        "text encoder": "cond_stage_model.",
        "VAE": "first_stage_model.",
    }
    said = []
    for name, prefix in parts.items():
        dtypes = {
            t.dtype for k, t in tensors.items() if k.startswith(prefix) and t.is_floating_point()
        }
        said.append(f"{name} {'/'.join(sorted(str(d).removeprefix('torch.') for d in dtypes))}")
    return ", ".join(said)


def describe_weights(model: Any, clip: Any, vae: Any) -> dict[str, Any]:
    """What tells these weights from others: their digest and how the text is read."""
    from ...trainer.checkpoint import weights_digest

    weights = take_weights(model, clip, vae)
    return {"base": weights_digest(weights.state_dict), "clip_skip": weights.clip_skip}


def load_checkpoint(path: Path, clip_layer: int | None) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of a file through the host's own loader."""
    embeddings = folder_paths.get_folder_paths("embeddings")
    model, clip, vae = comfy.sd.load_checkpoint_guess_config(
        str(path), output_vae=True, output_clip=True, embedding_directory=embeddings
    )[:3]
    if clip_layer is not None:
        clip.clip_layer(clip_layer)
    return model, clip, vae


def try_checkpoint(path: Path, clip_layer: int | None) -> None:
    """Load a file as the graph will at the end, and paint one tiny picture with it.

    Raises:
        ValueError: see :func:`paint_and_unload`.
    """
    paint_and_unload(lambda: load_checkpoint(path, clip_layer))


def paint_and_unload(load: Callable[[], tuple[Any, Any, Any]]) -> None:
    """One tiny picture with the MODEL, CLIP and VAE that ``load`` gives; nothing of them stays.

    Raises:
        ValueError: the picture holds values that are not finite; or what the host's loader raises.
    """
    model = clip = vae = None
    try:
        with torch.inference_mode():
            model, clip, vae = load()
            _require_wires(model, clip, vae)
            text = encode_text(clip, "a photo")
            how = Sampling(64, 64, "euler", "normal", steps=1, cfg=1.0)
            picture = sample_pictures(model, vae, text, text, [0], how, lambda step: None)
        if not torch.isfinite(picture).all():
            raise ValueError("a picture painted with it holds values that are not finite")
    finally:
        del model, clip, vae
        management.unload_all_models()
        release_memory()
