"""Prompts → what the UNet is told: one text encoder, or two side by side."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .conditioning import Conditioning
from .families import Family
from .tokenizer import tokenize


def tokens_of(encoders: Mapping[str, nn.Module], prompts: Sequence[str]) -> dict[str, Tensor]:
    """What each encoder reads, by part: ``[B, 77]`` int64, in memory."""
    return {
        part: tokenize(list(prompts), encoder.config.pad_token_id)
        for part, encoder in encoders.items()
    }


def encode(
    encoders: Mapping[str, nn.Module], tokens: Mapping[str, Tensor], family: Family, clip_skip: int
) -> Conditioning:
    """Each prompt through every encoder; their states lie side by side, in this order.

    Args:
        encoders: by part.
        tokens: of :func:`tokens_of`, on the encoders' device.
        clip_skip: see :class:`model.StableDiffusion`.
    """
    layer = clip_skip - family.unbuilt
    states, pooled = [], None
    for part, encoder in encoders.items():
        hidden, projected = _encode(encoder, tokens[part], layer, family.normed)
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


def unread(encoder: nn.Module, family: Family, clip_skip: int) -> set[str]:
    """Parameters of an encoder that no answer of the UNet depends on, by name.

    Layers behind the one that is read and, where its states stay as they are, the final norm; but
    for the pooled vector of an encoder that has a projection all of them are read.
    """
    if hasattr(encoder, "text_projection"):
        return set()
    inner = _inner(encoder)
    layers = list(inner.encoder.layers)
    idle: list[nn.Module] = layers[len(layers) + 1 - (clip_skip - family.unbuilt) :]
    idle += [] if family.normed else [inner.final_layer_norm]
    ids = {id(parameter) for module in idle for parameter in module.parameters()}
    return {name for name, parameter in encoder.named_parameters() if id(parameter) in ids}


def _inner(encoder: nn.Module) -> nn.Module:
    """transformers 5.6 flattened CLIPTextModel: embeddings and layers moved up one level."""
    return getattr(encoder, "text_model", encoder)
