"""The UNet's geometry: names and shapes → the configuration of diffusers' UNet2DConditionModel."""

from .errors import UnsupportedModel
from .shapes import UNET, Shapes, context_width, count, has

_TIME_ID_WIDTH = 256
TIME_IDS_WIDTH = 6 * _TIME_ID_WIDTH
"""Of SDXL's six numbers (size, crop, target size) as they are embedded beside the pooled text."""
_SAMPLE_SIZES = {"sd1": 64, "sd2": 96, "sdxl": 128}
# What else makes a family's UNet: the names are diffusers', the values those of its files.
_SD2 = {"use_linear_projection": True, "upcast_attention": True}
_SDXL = {
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": _TIME_ID_WIDTH,
}


def detect_unet(shapes: Shapes, family: str) -> dict:
    """Keyword arguments of UNet2DConditionModel for the UNet in ``shapes``; KeyError on a gap."""
    levels = _levels(shapes)
    middle_type, middle_depth = _middle(shapes)
    channels = tuple(level[0][0] for level in levels)
    up = _way_up(shapes, levels)
    _check_expressible(shapes, levels, middle_depth, up)
    first = shapes[UNET + "input_blocks.0.0.weight"]
    attends = [bool(level[0][1]) for level in levels]
    types = ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attends]
    return {
        "in_channels": first[1],
        "out_channels": shapes[UNET + "out.2.weight"][0],
        "block_out_channels": channels,
        "layers_per_block": _common(tuple(len(level) for level in levels)),
        "down_block_types": tuple(types),
        "mid_block_type": middle_type,
        "up_block_types": tuple(name.replace("Down", "Up") for name in reversed(types)),
        **_depths(levels, middle_depth, up),
        "cross_attention_dim": context_width(shapes),
        "attention_head_dim": _heads(family, channels),
        "sample_size": _SAMPLE_SIZES[family],
        **_of_family(shapes, family),
    }


def _heads(family: str, channels: tuple[int, ...]) -> int | tuple[int, ...]:
    """For ``attention_head_dim``, a misleading name: these are numbers of heads.

    SD 1.x has eight of them everywhere, the others make them 64 wide.
    """
    if family == "sd1":
        return 8
    return _common(tuple(max(1, width // 64) for width in channels))


def _of_family(shapes: Shapes, family: str) -> dict:
    if family == "sdxl":
        width = shapes[UNET + "label_emb.0.0.weight"][1]
        return _SDXL | {"projection_class_embeddings_input_dim": width}
    return _SD2 if family == "sd2" else {}


def _depths(levels: list[list[tuple[int, int]]], middle: int, up: list[list[int]]) -> dict:
    """Transformer blocks: a number per level, or per block where the way up has others.

    diffusers gives the middle block the last level's depth; that of another level without
    attention is not read.
    """
    down = [[depth for _, depth in level] for level in levels]
    if up == _mirrored(down):
        depths = [level[0] for level in down]
        ends = (*(depth or 1 for depth in depths[:-1]), depths[-1] or middle or 1)
        return {"transformer_layers_per_block": _common(ends)}
    return {
        "transformer_layers_per_block": tuple(tuple(d) if any(d) else middle or 1 for d in down),
        "reverse_transformer_layers_per_block": tuple(tuple(d) if any(d) else 1 for d in up),
    }


def _mirrored(down: list[list[int]]) -> list[list[int]]:
    """The usual way up: the levels from the last to the first, each with one block more."""
    return [[level[0]] * (len(level) + 1) for level in reversed(down)]


def _way_up(shapes: Shapes, levels: list[list[tuple[int, int]]]) -> list[list[int]]:
    """Transformer depth of each output block, one list per resolution, the last one first."""
    up, number = [], 0
    for level in reversed(levels):
        blocks = range(number, number + len(level) + 1)
        up.append([_depth(shapes, f"{UNET}output_blocks.{i}.1.") for i in blocks])
        number = blocks.stop
    return up


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


def _check_expressible(
    shapes: Shapes, levels: list[list[tuple[int, int]]], middle: int, up: list[list[int]]
) -> None:
    """UNet2DConditionModel has one width per level, and attention in all of its blocks or none."""
    attends = [[bool(depth) for _, depth in level] for level in levels]
    why = None
    if not any(map(any, attends)):
        why = "has no cross-attention, so no prompt can steer it"
    elif any(len(set(level)) > 1 for level in levels):
        why = "changes width or attention within one resolution"
    elif levels[0][0][0] != shapes[UNET + "input_blocks.0.0.weight"][0]:
        why = "changes width between its first convolution and its first block"
    elif middle and levels[-1][0][1] not in (0, middle):
        why = "has a middle block whose attention depth differs from the last level's"
    elif [[bool(depth) for depth in level] for level in up] != _mirrored(attends):
        why = "has other attention on its way up than on its way down"
    if why:
        raise UnsupportedModel(
            f"This UNet {why}, which diffusers cannot express: use a Stable Diffusion checkpoint "
            "or one of its distilled versions with the same attention in every block of a level."
        )
