"""OpenAI's CLIP text encoder, of SD 1.x and SDXL: its geometry and names, module ↔ file.

The files hold the Hugging Face names (CompVis ``ldm/modules/encoders/modules.py``,
``FrozenCLIPEmbedder``) under ``root``: ``cond_stage_model.`` or ``conditioner.embedders.0.``"""

from collections.abc import Mapping

from transformers import CLIPTextModel

from .shapes import Shapes, count, has
from .text_map import module_level, text_config

_INNER = "transformer."
_LEVEL = "text_model."
_LINEARS = (
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
    "layer_norm1",
    "mlp.fc1",
    "mlp.fc2",
    "layer_norm2",
)


def detect_clip(shapes: Shapes, root: str) -> dict:
    """Keyword arguments of CLIPTextConfig for the text encoder in ``shapes``; KeyError on a gap."""
    root += _INNER
    root += _LEVEL if has(shapes, root + _LEVEL) else ""
    return text_config(
        shapes[root + "embeddings.token_embedding.weight"],
        inner=shapes[root + "encoder.layers.0.mlp.fc1.weight"][0],
        layers=count(shapes, root + "encoder.layers.{}."),
        positions=shapes[root + "embeddings.position_embedding.weight"][0],
        act="quick_gelu",
        pad=49407,
    )


def clip_names(config: Mapping, root: str) -> dict[str, str]:
    """Module key (CLIPTextModel) → file key for a text encoder of this ``text_config``."""
    names = ["embeddings.token_embedding.weight", "embeddings.position_embedding.weight"]
    for i in range(config["num_hidden_layers"]):
        for linear in _LINEARS:
            names += [f"encoder.layers.{i}.{linear}.{kind}" for kind in ("weight", "bias")]
    names += ["final_layer_norm.weight", "final_layer_norm.bias"]
    return {module_level(CLIPTextModel) + name: root + _INNER + _LEVEL + name for name in names}


def flat_spellings(file_key: str, root: str) -> tuple[str, ...]:
    """Some old SD 1.x files lack the ``text_model.`` level. In SDXL files the host needs it."""
    return (file_key, root + _INNER + file_key.removeprefix(root + _INNER + _LEVEL))


def clip_extras(root: str) -> frozenset[str]:
    """Not in the module: ids that older transformers saved, projections that only CLIP's loss uses.

    They are carried along as they are.
    """
    return frozenset(
        root + name
        for name in (
            f"{_INNER}{_LEVEL}embeddings.position_ids",
            f"{_INNER}embeddings.position_ids",
            f"{_INNER}text_projection.weight",
            "text_projection",
            "text_projection.weight",
            "logit_scale",
        )
    )
