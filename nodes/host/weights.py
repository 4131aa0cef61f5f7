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
SUPPORTED_CLASSES = {"SD15", "SD20", "SDXL", "SSD1B", "Segmind_Vega", "KOALA_700M", "KOALA_1B"}


@dataclasses.dataclass(frozen=True)
class Usage:
    """How a graph uses its weights, beyond what a file of them says.

    Attributes:
        clip_layer: from *CLIP Set Last Layer*; None: the family's own.
        sampling: the host's ``model_sampling``, as *ModelSamplingDiscrete* may have set it.
    """

    clip_layer: int | None
    sampling: Any

    @property
    def prediction(self) -> str:
        return "epsilon" if _predicts(self.sampling) is comfy.model_sampling.EPS else "v_prediction"

    @property
    def zero_terminal_snr(self) -> bool:
        return bool(getattr(self.sampling, "zsnr", False))

    def apply(self, model: Any, clip: Any) -> None:
        """To a MODEL and a CLIP that were loaded from a file."""
        if self.clip_layer is not None:
            clip.clip_layer(self.clip_layer)
        as_loaded = Usage(None, model.get_model_object("model_sampling"))
        said = (as_loaded.prediction, as_loaded.zero_terminal_snr)
        if said != (self.prediction, self.zero_terminal_snr):
            model.add_object_patch("model_sampling", self.sampling)


@dataclasses.dataclass
class Weights:
    """What the wires hold: a single-file state dict on the CPU that is ours to use up.

    Attributes:
        clip_skip: as the trainer counts; the family's own where the graph sets none.
    """

    state_dict: dict[str, Tensor]
    held_as: str
    usage: Usage
    clip_skip: int


def take_weights(model: Any, clip: Any, vae: Any) -> Weights:
    """Copy MODEL, CLIP and VAE, patches included, as the host's own checkpoint saver would.

    Raises:
        ConfigError: a wire carries nothing.
        UnsupportedModel: another family, prediction type or quantized weights.
    """
    # not at the top: they need packages that may be missing, and then the pack should still load
    from ...trainer.checkpoint import detect
    from ...trainer.families import family_of

    _require_wires(model, clip, vae)
    usage = Usage(clip.layer_idx, model.get_model_object("model_sampling"))
    _require_supported(model.model.model_config, usage.sampling)
    tensors = _as_saved(model, clip, vae)
    if model.model.model_config.sampling_settings.get("zsnr"):
        tensors["ztsnr"] = torch.tensor([])  # the mark of SDXL files, which the host's saver adds
    layout = detect(tensors)
    with torch.inference_mode(False):  # a copy made inside stays an inference tensor: no training
        copies = {key: _copy(tensors.pop(key)) for key in list(tensors)}
    skip = family_of(layout).clip_skip if clip.layer_idx is None else -clip.layer_idx
    return Weights(copies, _held_as(copies), usage, skip)


def _as_saved(model: Any, clip: Any, vae: Any) -> dict[str, Tensor]:
    """All weights in the single-file layout with their patches, as comfy.sd.save_checkpoint has it.

    Since early 2026 the host patches a weight when it is moved to the CPU. Those of text encoders
    are moved before they are cut and joined for the file, which would lose it.
    """
    models = [model, clip.load_model()]
    if hasattr(model, "state_dict_for_saving"):
        management.load_models_gpu(models)
        text = getattr(clip, "state_dict_for_saving", clip.get_sd)()
        tensors = model.state_dict_for_saving(_moved(text), vae.get_sd())
    else:
        management.load_models_gpu(models, force_patch_weights=True)
        tensors = model.model.state_dict_for_saving(clip.get_sd(), vae.get_sd())
    return {key: value for key, value in _moved(tensors).items() if isinstance(value, Tensor)}


def _moved(tensors: dict[str, Any]) -> dict[str, Any]:
    return {key: t.to("cpu") if isinstance(t, Tensor) else t for key, t in tensors.items()}


def _copy(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="cpu").copy_(tensor)


def _require_supported(config: Any, sampling: Any) -> None:
    """Refuse another family and another prediction, both by their names in the host."""
    from ...trainer.checkpoint import UnsupportedModel

    name = type(config).__name__
    if name not in SUPPORTED_CLASSES:
        raise UnsupportedModel(
            f"this model is {name}: DreamBooth trains Stable Diffusion 1.x, 2.x and XL checkpoints"
        )
    prediction = _predicts(sampling)
    known = (comfy.model_sampling.EPS, comfy.model_sampling.V_PREDICTION)
    if prediction not in known:
        raise UnsupportedModel(
            f"this model predicts {prediction.__name__}, not the noise (EPS) or the velocity"
            " (V_PREDICTION): DreamBooth trains checkpoints that predict one of these"
        )
    if not isinstance(sampling, comfy.model_sampling.ModelSamplingDiscrete):
        names = ", ".join(c.__name__ for c in type(sampling).__mro__[:2])
        raise UnsupportedModel(
            f"this model's noise levels ({names}) are not Stable Diffusion's thousand steps:"
            " DreamBooth trains checkpoints that are sampled with these"
        )


def _predicts(sampling: Any) -> type:
    """The class that says what the model's answer means; most of them are subclasses of EPS."""
    return next(c for c in type(sampling).__mro__ if "calculate_denoised" in vars(c))


_ADVICE = "connect one from a Load Checkpoint, or from a loader of its own"


def require_model(model: Any, clip: Any) -> None:
    """Refuse a wire that carries nothing, or a queued graph that has a value in its place.

    Raises:
        ConfigError: which of them.
    """
    if getattr(model, "model", None) is None:
        raise ConfigError(f"the model input carries nothing: {_ADVICE}")
    if getattr(clip, "cond_stage_model", None) is None:
        raise ConfigError(
            f"the clip input carries nothing, the file has no text encoder: {_ADVICE}"
        )


def _require_wires(model: Any, clip: Any, vae: Any) -> None:
    require_model(model, clip)
    if vae is None or getattr(vae, "first_stage_model", None) is None:
        raise ConfigError(f"the vae input carries nothing, the file has no VAE: {_ADVICE}")


def _held_as(tensors: dict[str, Tensor]) -> str:
    parts = {
        "UNet": "model.diffusion_model.",
        "text encoder": ("cond_stage_model.", "conditioner."),
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
    """What tells these weights from others: their digest, how the text is read and, where it is
    not plain ε-prediction, what they are sampled as."""
    from ...trainer.checkpoint import weights_digest

    weights = take_weights(model, clip, vae)
    said = {"base": weights_digest(weights.state_dict), "clip_skip": weights.clip_skip}
    usage = weights.usage
    if usage.prediction != "epsilon":
        said |= {"prediction": usage.prediction, "zsnr": usage.zero_terminal_snr}
    return said


def load_checkpoint(path: Path, usage: Usage) -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of a file through the host's own loader, used as before."""
    embeddings = folder_paths.get_folder_paths("embeddings")
    model, clip, vae = comfy.sd.load_checkpoint_guess_config(
        str(path), output_vae=True, output_clip=True, embedding_directory=embeddings
    )[:3]
    usage.apply(model, clip)
    return model, clip, vae


def try_checkpoint(path: Path, usage: Usage) -> None:
    """Load a file as the graph will at the end, and paint one tiny picture with it.

    Raises:
        ValueError: see :func:`paint_and_unload`.
    """
    paint_and_unload(lambda: load_checkpoint(path, usage))


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
