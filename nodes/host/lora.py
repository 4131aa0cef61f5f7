"""A LoRA file on the host's MODEL and CLIP, by the host's own loader."""

from pathlib import Path
from typing import Any

import comfy.lora
import comfy.sd
import comfy.utils

from .weights import paint_and_unload


def load_lora(path: Path, model: Any, clip: Any, strength: float = 1.0) -> tuple[Any, Any]:
    """MODEL and CLIP as *Load LoRA* gives them at this strength.

    Raises:
        ValueError: a layer of the file is none of this model's, which the host would only log.
    """
    # copies, or the host's patches would keep the file open, which Windows then cannot replace
    mapped = comfy.utils.load_torch_file(str(path), safe_load=True)
    tensors = {name: tensor.clone() for name, tensor in mapped.items()}
    del mapped
    known = comfy.lora.model_lora_keys_unet(model.model, {})
    known = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, known)
    if strange := sorted({name.split(".")[0] for name in tensors} - known.keys()):
        raise ValueError(f"{len(strange)} of its layers are unknown here, such as {strange[0]}")
    return comfy.sd.load_lora_for_models(model, clip, tensors, strength, strength)


def try_lora(path: Path, model: Any, clip: Any, vae: Any) -> None:
    """Load a file as the graph will at the end, and paint one tiny picture with it.

    Raises:
        ValueError: see :func:`load_lora` and :func:`weights.paint_and_unload`.
    """
    paint_and_unload(lambda: (*load_lora(path, model, clip), vae))
