"""The UNet's geometry and its names: diffusers UNet2DConditionModel ↔ the single-file layout.

The layout is CompVis ``ldm/modules/diffusionmodules/openaimodel.py``: input, middle and output
blocks numbered in one run across the levels, each a sequence [resnet, transformer?, resample?].
"""

from collections.abc import Iterator, Mapping

from .errors import UnsupportedModel
from .shapes import UNET, Shapes, context_width, count, has

_PAIR = ("weight", "bias")
_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
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


def detect_unet(shapes: Shapes) -> dict:
    """Keyword arguments of UNet2DConditionModel for the UNet in ``shapes``; KeyError on a gap."""
    levels = _levels(shapes)
    middle_type, middle_depth = _middle(shapes)
    channels = tuple(level[0][0] for level in levels)
    depths = tuple(level[0][1] for level in levels)
    _check_expressible(shapes, levels, middle_depth)
    first = shapes[UNET + "input_blocks.0.0.weight"]
    types = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    return {
        "in_channels": first[1],
        "out_channels": shapes[UNET + "out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": _common(tuple(len(level) for level in levels)),
        "down_block_types": tuple(types),
        "mid_block_type": middle_type,
        "up_block_types": tuple(name.replace("Down", "Up") for name in reversed(types)),
        # diffusers gives the middle block the last level's depth.
        "transformer_layers_per_block": _common(
            (*(depth or 1 for depth in depths[:-1]), depths[-1] or middle_depth or 1)
        ),
        "cross_attention_dim": context_width(shapes),
        # diffusers' name is misleading: for SD 1.x this is the number of heads.
        "attention_head_dim": 8,
        "sample_size": 64,
    }


def _common(values: tuple[int, ...]) -> int | tuple[int, ...]:
    return values[0] if len(set(values)) == 1 else values


def _levels(shapes: Shapes) -> list[list[tuple[int, int]]]:
    """(channels, transformer depth) of each input block, one list per resolution."""
    levels: list[list[tuple[int, int]]] = [[]]
    blocks = count(shapes, UNET + "input_blocks.{}.")
    for number in range(1, blocks):
        block = f"{UNET}input_blocks.{number}."
        if has(shapes, block + "0.op."):
            levels.append([])
        else:
            channels = shapes[block + "0.out_layers.3.weight"][0]
            levels[-1].append((channels, _depth(shapes, block + "1.")))
    if not all(levels):
        raise KeyError(f"{UNET}input_blocks.{blocks}.0.in_layers.0.weight")
    return levels


def _depth(shapes: Shapes, prefix: str) -> int:
    """Number of transformer blocks under ``prefix``; 0 without attention."""
    return count(shapes, prefix + "transformer_blocks.{}.")


def _middle(shapes: Shapes) -> tuple[str | None, int]:
    """diffusers' type of the middle block (None: the net has none) and its depth."""
    depth = _depth(shapes, UNET + "middle_block.1.")
    if depth:
        return "UNetMidBlock2DCrossAttn", depth
    if has(shapes, UNET + "middle_block.0."):
        return "UNetMidBlock2D", 0
    return None, 0


def _check_expressible(shapes: Shapes, levels: list[list[tuple[int, int]]], middle: int) -> None:
    """UNet2DConditionModel has one width and one depth per level, the same going down and up."""
    why = None
    if not any(depth for level in levels for _, depth in level):
        why = "has no cross-attention, so no prompt can steer it"
    elif any(len(set(level)) > 1 for level in levels):
        why = "changes width or attention within one resolution"
    elif levels[0][0][0] != shapes[UNET + "input_blocks.0.0.weight"][0]:
        why = "changes width between its first convolution and its first block"
    elif middle and levels[-1][0][1] not in (0, middle):
        why = "has a middle block whose attention depth differs from the last level's"
    else:
        wanted = [level[0][1] for level in reversed(levels) for _ in range(len(level) + 1)]
        found = [_depth(shapes, f"{UNET}output_blocks.{i}.1.") for i in range(len(wanted))]
        if found != wanted:
            why = "has other attention on its way up than on its way down"
    if why:
        raise UnsupportedModel(
            f"This UNet {why}, which diffusers cannot express: use a Stable Diffusion 1.x "
            "checkpoint or one of its distilled versions with the same attention in every block "
            "of a level."
        )


def unet_names(config: Mapping) -> dict[str, str]:
    """Module key → file key for a UNet of this ``unet_config``."""
    return {key: UNET + name for key, name in _unet_names(config)}


def _unet_names(config: Mapping) -> Iterator[tuple[str, str]]:
    channels = config["block_out_channels"]
    layers = _per_level(config["layers_per_block"], len(channels))
    depths = _per_level(config["transformer_layers_per_block"], len(channels))
    attends = [name.startswith("CrossAttn") for name in config["down_block_types"]]
    middle_depth = depths[-1]
    depths = [depth if here else 0 for depth, here in zip(depths, attends, strict=True)]

    yield from _pairs(_TOP.items())
    yield from _down(channels, layers, depths)
    yield from _mid(config["mid_block_type"], middle_depth)
    yield from _up(layers, depths)


def _per_level(value: int | tuple[int, ...], levels: int) -> list[int]:
    return [value] * levels if isinstance(value, int) else list(value)


def _down(channels: tuple, layers: list[int], depths: list[int]) -> Iterator[tuple[str, str]]:
    number, before = 1, channels[0]
    for level, (width, blocks, depth) in enumerate(zip(channels, layers, depths, strict=True)):
        module = f"down_blocks.{level}"
        for i in range(blocks):
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


def _up(layers: list[int], depths: list[int]) -> Iterator[tuple[str, str]]:
    number = 0
    for level, (blocks, depth) in enumerate(zip(layers[::-1], depths[::-1], strict=True)):
        module = f"up_blocks.{level}"
        for i in range(blocks + 1):
            # The input is always wider than the output: a skip connection joins it.
            block = f"output_blocks.{number + i}"
            yield from _resnet(f"{module}.resnets.{i}", f"{block}.0", shortcut=True)
            yield from _transformer(f"{module}.attentions.{i}", f"{block}.1", depth)
        number += blocks + 1
        if level < len(layers) - 1:
            place = 2 if depth else 1
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
