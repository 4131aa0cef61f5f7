"""The CLIP text encoder's geometry and its names: transformers CLIPTextModel ↔ the file.

SD 1.x files hold the Hugging Face names under ``cond_stage_model.transformer.`` (CompVis
``ldm/modules/encoders/modules.py:FrozenCLIPEmbedder``)."""

from collections.abc import Mapping
from functools import cache

import torch
from transformers import CLIPTextConfig, CLIPTextModel

from .errors import UnsupportedModel
from .shapes import TEXT, Shapes, count, has

_ROOT = TEXT + "transformer."
_LEVEL = "text_model."
_VOCABULARY = 49408
_LINEARS = (
    *(f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")),
    "layer_norm1",
    "mlp.fc1",
    "mlp.fc2",
    "layer_norm2",
)

# Not in the module: ids that older transformers saved, and projections that only CLIP's loss uses.
TEXT_EXTRAS = (
    f"{_ROOT}{_LEVEL}embeddings.position_ids",
    f"{_ROOT}embeddings.position_ids",
    f"{_ROOT}text_projection.weight",
    f"{TEXT}text_projection",
    f"{TEXT}text_projection.weight",
    f"{TEXT}logit_scale",
)


def detect_text(shapes: Shapes) -> dict:
    """Keyword arguments of CLIPTextConfig for the text encoder in ``shapes``; KeyError on a gap."""
    level = _LEVEL if has(shapes, _ROOT + _LEVEL) else ""
    root = _ROOT + level
    vocabulary, hidden = shapes[root + "embeddings.token_embedding.weight"]
    if vocabulary != _VOCABULARY:
        raise UnsupportedModel(
            f"The text encoder knows {vocabulary} tokens and not CLIP's {_VOCABULARY}: use a "
            "checkpoint with the original CLIP vocabulary."
        )
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": shapes[root + "encoder.layers.0.mlp.fc1.weight"][0],
        "projection_dim": hidden,
        "num_hidden_layers": count(shapes, root + "encoder.layers.{}."),
        # CLIP's heads are 64 wide; toy encoders are narrower than one head.
        "num_attention_heads": max(1, hidden // 64),
        "max_position_embeddings": shapes[root + "embeddings.position_embedding.weight"][0],
        "hidden_act": "quick_gelu",
        # The pooled output is the state at the first end token (ComfyUI sd1_clip_config.json).
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407,
    }


def text_names(config: Mapping) -> dict[str, str]:
    """Module key → file key for a text encoder of this ``text_config``."""
    names = ["embeddings.token_embedding.weight", "embeddings.position_embedding.weight"]
    for i in range(config["num_hidden_layers"]):
        for linear in _LINEARS:
            names += [f"encoder.layers.{i}.{linear}.{kind}" for kind in ("weight", "bias")]
    names += ["final_layer_norm.weight", "final_layer_norm.bias"]
    return {_module_level() + name: _ROOT + _LEVEL + name for name in names}


def text_spellings(file_key: str) -> tuple[str, ...]:
    """The names a file may use for ``file_key``: some old files lack the ``text_model.`` level."""
    return (file_key, _ROOT + file_key.removeprefix(_ROOT + _LEVEL))


@cache
def _module_level() -> str:
    """The level that the installed transformers has in its keys: 5.6 dropped ``text_model.``."""
    with torch.device("meta"):
        probe = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=8,
                hidden_size=8,
                intermediate_size=8,
                projection_dim=8,
                num_hidden_layers=1,
                num_attention_heads=1,
                # Inside the small vocabulary, or the configuration is refused.
                bos_token_id=0,
                eos_token_id=1,
                pad_token_id=1,
            )
        )
    return _LEVEL if any(key.startswith(_LEVEL) for key in probe.state_dict()) else ""
