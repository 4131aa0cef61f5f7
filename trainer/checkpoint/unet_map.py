"""The UNet's names: diffusers UNet2DConditionModel ↔ the single-file layout.

The layout is CompVis ``ldm/modules/diffusionmodules/openaimodel.py``: input, middle and output
blocks numbered in one run across the levels, each a sequence [resnet, transformer?, resample?].
"""

from collections.abc import Iterator, Mapping, Sequence

from .shapes import UNET

_PAIR = ("weight", "bias")
_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
# SDXL's sizes and pooled text, added to the timestep's embedding.
_ADDED = {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
}
_TRANSFORMER_ENDS = ("norm", "proj_in", "proj_out")
_TRANSFORMER_BLOCK = (
    *(
        f"attn{i}.{name}"
        for i in (1, 2)
        for name in (
            "to_q.weight",
            "to_k.weight",
            "to_v.weight",
            "to_out.0.weight",
            "to_out.0.bias",
        )
    ),
    *(f"norm{i}.{kind}" for i in (1, 2, 3) for kind in _PAIR),
    *(f"ff.net.{name}.{kind}" for name in ("0.proj", "2") for kind in _PAIR),
)


def unet_names(config: Mapping) -> dict[str, str]:
    """Module key → file key for a UNet of this ``unet_config``."""
    return {key: UNET + name for key, name in _unet_names(config)}


def _unet_names(config: Mapping) -> Iterator[tuple[str, str]]:
    channels = config["block_out_channels"]
    layers = _per_level(config["layers_per_block"], len(channels))
    depths = _per_level(config["transformer_layers_per_block"], len(channels))
    attends = [name.startswith("CrossAttn") for name in config["down_block_types"]]
    up_depths = config.get("reverse_transformer_layers_per_block") or depths[::-1]
    up_layers = [blocks + 1 for blocks in reversed(layers)]
    middle_depth = _per_level(depths[-1], 1)[0]

    yield from _pairs(_TOP.items())
    if config.get("addition_embed_type"):
        yield from _pairs(_ADDED.items())
    yield from _down(channels, _per_block(depths, layers, attends))
    yield from _mid(config["mid_block_type"], middle_depth)
    yield from _up(_per_block(up_depths, up_layers, attends[::-1]))


def _per_level(value: int | tuple, levels: int) -> list:
    return [value] * levels if isinstance(value, int) else list(value)


def _per_block(depths: Sequence, layers: list[int], attends: list[bool]) -> list[list[int]]:
    """Transformer depth of each block, one list per level; 0 without attention."""
    return [
        _per_level(depth if here else 0, blocks)
        for depth, blocks, here in zip(depths, layers, attends, strict=True)
    ]


def _down(channels: tuple, depths: list[list[int]]) -> Iterator[tuple[str, str]]:
    number, before = 1, channels[0]
    for level, (width, blocks) in enumerate(zip(channels, depths, strict=True)):
        module = f"down_blocks.{level}"
        for i, depth in enumerate(blocks):
            block = f"input_blocks.{number}"
            yield from _resnet(f"{module}.resnets.{i}", f"{block}.0", shortcut=before != width)
            yield from _transformer(f"{module}.attentions.{i}", f"{block}.1", depth)
            before = width
            number += 1
        if level < len(channels) - 1:
            yield from _pairs([(f"{module}.downsamplers.0.conv", f"input_blocks.{number}.0.op")])
            number += 1


def _mid(kind: str | None, depth: int) -> Iterator[tuple[str, str]]:
    if kind is None:
        return
    yield from _resnet("mid_block.resnets.0", "middle_block.0", shortcut=False)
    if kind == "UNetMidBlock2DCrossAttn":
        yield from _transformer("mid_block.attentions.0", "middle_block.1", depth)
        yield from _resnet("mid_block.resnets.1", "middle_block.2", shortcut=False)


def _up(depths: list[list[int]]) -> Iterator[tuple[str, str]]:
    number = 0
    for level, blocks in enumerate(depths):
        module = f"up_blocks.{level}"
        for i, depth in enumerate(blocks):
            # The input is always wider than the output: a skip connection joins it.
            block = f"output_blocks.{number + i}"
            yield from _resnet(f"{module}.resnets.{i}", f"{block}.0", shortcut=True)
            yield from _transformer(f"{module}.attentions.{i}", f"{block}.1", depth)
        number += len(blocks)
        if level < len(depths) - 1:
            place = 2 if blocks[-1] else 1
            file = f"output_blocks.{number - 1}.{place}.conv"
            yield from _pairs([(f"{module}.upsamplers.0.conv", file)])


def _pairs(names) -> Iterator[tuple[str, str]]:
    for module, file in names:
        for kind in _PAIR:
            yield f"{module}.{kind}", f"{file}.{kind}"


def _resnet(module: str, file: str, *, shortcut: bool) -> Iterator[tuple[str, str]]:
    names = _RESNET | ({"conv_shortcut": "skip_connection"} if shortcut else {})
    yield from _pairs((f"{module}.{ours}", f"{file}.{theirs}") for ours, theirs in names.items())


def _transformer(module: str, file: str, depth: int) -> Iterator[tuple[str, str]]:
    if not depth:
        return
    yield from _pairs((f"{module}.{name}", f"{file}.{name}") for name in _TRANSFORMER_ENDS)
    for i in range(depth):
        block = f"transformer_blocks.{i}"
        for name in _TRANSFORMER_BLOCK:
            yield f"{module}.{block}.{name}", f"{file}.{block}.{name}"
