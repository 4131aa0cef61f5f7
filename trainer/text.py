"""Prompts → what the UNet is told: one text encoder, or two side by side."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .conditioning import Conditioning
from .families import Family
from .tokenizer import tokenize


def encode(
    encoders: Mapping[str, nn.Module],
    prompts: Sequence[str],
    family: Family,
    clip_skip: int,
    device: torch.device,
) -> Conditioning:
    """Each prompt through every encoder of the family; the states lie side by side.

    Args:
        encoders: part → module, on ``device``.
        clip_skip: see :class:`model.StableDiffusion`.
    """
    layer = clip_skip - family.unbuilt
    states, pooled = [], None
    for part, padding in family.paddings.items():
        tokens = tokenize(list(prompts), padding).to(device)
        hidden, projected = _encode(encoders[part], tokens, layer, family.normed)
        states.append(hidden)
        pooled = projected if projected is not None else pooled
    return Conditioning(states[0] if len(states) == 1 else torch.cat(states, -1), pooled)


def _encode(
    encoder: nn.Module, tokens: Tensor, layer: int, normed: bool
) -> tuple[Tensor, Tensor | None]:
    """Hidden states ``[B, 77, C]``; of an encoder with a projection its vector ``[B, P]``, too.

    ``layer`` counts the module's own from the end. The vector is the state at the first end marker,
    after the last layer and the final norm.
    """
    if layer == 1 and normed:
        output = encoder(tokens)
        return output.last_hidden_state, getattr(output, "text_embeds", None)
    output = encoder(tokens, output_hidden_states=True)
    states = output.hidden_states[-layer]
    if normed:
        states = _inner(encoder).final_layer_norm(states)
    return states, getattr(output, "text_embeds", None)


def _inner(encoder: nn.Module) -> nn.Module:
    """transformers 5.6 flattened CLIPTextModel: embeddings and layers moved up one level."""
    return getattr(encoder, "text_model", encoder)
