"""Which layers get a LoRA, and what kohya's scripts call it.

kohya-ss/sd-scripts ``networks/lora.py``: a prefix for the part, then the module's path in diffusers
or transformers with underscores. Its usual layers are those of the transformer blocks
(``Transformer2DModel``, ``CLIPAttention``, ``CLIPMLP``).
"""

import re
from collections.abc import Mapping

from torch import nn

from .config.lora import ALL_LAYERS, ATTENTION, TRANSFORMERS

_UNET_LAYERS = {
    ATTENTION: re.compile(r".*\.attn\d\.(to_q|to_k|to_v|to_out\.0)"),
    TRANSFORMERS: re.compile(r".*attentions\.\d+\..*"),
    ALL_LAYERS: re.compile(r".*"),
}
_TEXT_LAYERS = {
    ATTENTION: re.compile(r".*\.self_attn\.\w+"),
    TRANSFORMERS: re.compile(r".*\.(self_attn|mlp)\.\w+"),
    ALL_LAYERS: re.compile(r".*\.(self_attn|mlp)\.\w+"),
}


def layers_of(part: str, module: nn.Module, layers: str) -> list[str]:
    """Paths of the linear and convolutional layers of a part that get a LoRA."""
    pattern = (_UNET_LAYERS if part == "unet" else _TEXT_LAYERS)[layers]
    return [
        path
        for path, layer in module.named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and pattern.fullmatch(path)
    ]


def file_name(part: str, path: str, text_encoders: int) -> str:
    """What the LoRA of one layer is called: ``lora_unet_mid_block_attentions_0_proj_in``.

    Args:
        text_encoders: that the model has: with two, theirs are numbered.
    """
    if part == "unet":
        return f"lora_unet_{path.replace('.', '_')}"
    number = {"text_encoder": "1", "text_encoder_2": "2"}[part] if text_encoders > 1 else ""
    # transformers 5.6 flattened CLIPTextModel; the files keep the level that it lost
    path = f"text_model.{path.removeprefix('text_model.')}"
    return f"lora_te{number}_{path.replace('.', '_')}"


def file_names(parts: Mapping[str, nn.Module], layers: str, text_encoders: int) -> dict:
    """Per part: path → name in the file."""
    return {
        part: {path: file_name(part, path, text_encoders) for path in layers_of(part, m, layers)}
        for part, m in parts.items()
    }
