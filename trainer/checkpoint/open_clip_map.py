"""OpenCLIP's text encoders, H of SD 2.x and bigG of SDXL: their geometry and names, module ↔ file.

The files hold open_clip's names (``open_clip/transformer.py:TextTransformer``) under ``root``:
``cond_stage_model.model.`` or ``conditioner.embedders.1.model.`` Three things differ from a plain
renaming, and ``convert.py`` does two of them by the names given here:

- query, key and value are one tensor, ``in_proj``: three module keys have the same file key;
- ``text_projection`` is used as x @ P, so the file has a Linear's weight transposed;
- SD 2.x reads the last but one layer: the module leaves out the last, the file keeps it.
"""

from collections.abc import Iterator, Mapping

from transformers import CLIPTextModel, CLIPTextModelWithProjection

from .shapes import Shapes, count
from .text_map import module_level, text_config

_BLOCKS = "transformer.resblocks."
_PROJECTION = "text_projection"
_BLOCK = {
    "layer_norm1": "ln_1",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
# OpenCLIP-H has 24 layers. Files converted from diffusers' folders hold the 23 that are read.
_READ_OF_H = 23


def detect_open_clip(shapes: Shapes, root: str, *, projected: bool) -> dict:
    """Keyword arguments of CLIPTextConfig for the text encoder in ``shapes``; KeyError on a gap.

    ``projected``: the encoder gives a pooled, projected vector, so that all its layers are read.
    """
    blocks = count(shapes, root + _BLOCKS + "{}.")
    config = text_config(
        shapes[root + "token_embedding.weight"],
        inner=shapes[f"{root}{_BLOCKS}0.mlp.c_fc.weight"][0],
        layers=blocks if projected or blocks == _READ_OF_H else blocks - 1,
        positions=shapes[root + "positional_embedding"][0],
        act="gelu",
        pad=0,
    )
    if projected and f"{root}{_PROJECTION}.weight" not in shapes:
        config["projection_dim"] = shapes[root + _PROJECTION][1]
    return config


def open_clip_names(config: Mapping, root: str, *, projected: bool) -> dict[str, str]:
    """Module key → file key; the class is CLIPTextModelWithProjection if ``projected``."""
    level = module_level(CLIPTextModelWithProjection if projected else CLIPTextModel)
    names = {level + ours: root + theirs for ours, theirs in _names(config["num_hidden_layers"])}
    if projected:
        names["text_projection.weight"] = root + _PROJECTION
    return names


def _names(layers: int) -> Iterator[tuple[str, str]]:
    yield "embeddings.token_embedding.weight", "token_embedding.weight"
    yield "embeddings.position_embedding.weight", "positional_embedding"
    for i in range(layers):
        ours, theirs = f"encoder.layers.{i}.", f"{_BLOCKS}{i}."
        for kind in ("weight", "bias"):
            for name in ("q_proj", "k_proj", "v_proj"):
                yield f"{ours}self_attn.{name}.{kind}", f"{theirs}attn.in_proj_{kind}"
            for name, other in _BLOCK.items():
                yield f"{ours}{name}.{kind}", f"{theirs}{other}.{kind}"
    for kind in ("weight", "bias"):
        yield f"final_layer_norm.{kind}", f"ln_final.{kind}"


def is_transposed(file_key: str) -> bool:
    """Whether the file has this matrix the other way round than the module's Linear."""
    return file_key.endswith("." + _PROJECTION)


def projection_spellings(file_key: str) -> tuple[str, ...]:
    """Some files hold the projection as a Linear's weight, not transposed: the host reads both."""
    return (file_key, file_key + ".weight") if is_transposed(file_key) else (file_key,)


def is_open_clip_extra(file_key: str, config: Mapping, root: str, *, projected: bool) -> bool:
    """Whether the file has this tensor but the module has no place for it: carried along as it is.

    The scale of CLIP's loss; without ``projected`` the unread last layer and the projection, too.
    """
    extras = ["logit_scale"]
    if not projected:
        extras += [_PROJECTION, f"{_PROJECTION}.weight"]
        if file_key.startswith(f"{root}{_BLOCKS}{config['num_hidden_layers']}."):
            return True
    return file_key in [root + name for name in extras]
