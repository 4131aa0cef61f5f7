"""What the two sorts of CLIP text encoder share: their configuration and their modules' names."""

from functools import cache

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from .errors import UnsupportedModel

TextModel = type[CLIPTextModel] | type[CLIPTextModelWithProjection]

_LEVEL = "text_model."
_VOCABULARY = 49408


def text_config(
    embedding: tuple[int, ...], *, inner: int, layers: int, positions: int, act: str, pad: int
) -> dict:
    """Keyword arguments of CLIPTextConfig.

    ``embedding`` is the shape of the tokens' table; ``pad`` is the token that the host fills a
    prompt up with. Raises UnsupportedModel for another vocabulary than CLIP's.
    """
    vocabulary, hidden = embedding[0], embedding[1]
    if vocabulary != _VOCABULARY:
        raise UnsupportedModel(
            f"The text encoder knows {vocabulary} tokens and not CLIP's {_VOCABULARY}: use a "
            "checkpoint with the original CLIP vocabulary."
        )
    return {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "projection_dim": hidden,
        "num_hidden_layers": layers,
        # CLIP's heads are 64 wide; toy encoders are narrower than one head.
        "num_attention_heads": max(1, hidden // 64),
        "max_position_embeddings": positions,
        "hidden_act": act,
        # The pooled output is the state at the first end token (ComfyUI sd1_clip_config.json).
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": pad,
    }


@cache
def module_level(model: TextModel) -> str:
    """The level that the installed transformers has in this class's keys.

    CLIPTextModel lost ``text_model.`` in 5.6, the one with a projection kept it.
    """
    with torch.device("meta"):
        probe = model(
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
