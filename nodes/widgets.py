"""Widgets from the config dataclasses: one source for default, bounds, choices and tooltip."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io

# The browser counts in doubles; a larger seed would change on its way.
_MAX_SAFE_INTEGER = 2**53 - 1


def widget(
    config: type,
    name: str,
    *,
    optional: bool = False,
    choices: Sequence[str] | None = None,
    **extra: Any,
) -> io.Input:
    """The widget of one field made by ``trainer.config.option``.

    Args:
        choices: of a text that only the host knows the choices of.
    """
    field = {f.name: f for f in dataclasses.fields(config)}[name]
    metadata = field.metadata
    common = {"default": field.default, "tooltip": metadata["help"], "optional": optional} | extra
    if choices := metadata["choices"] or choices:
        return io.Combo.Input(name, options=list(choices), **common)
    kind = type(field.default)
    if kind is bool:
        return io.Boolean.Input(name, **common)
    if kind is str:
        return io.String.Input(name, **common)
    bounds = {key: metadata[key] for key in ("min", "max", "step") if metadata[key] is not None}
    if kind is int:
        # the page would change a seed after every run, and every queue would train anew
        common = {"control_after_generate": False} | common
        bounds["max"] = min(bounds.get("max", _MAX_SAFE_INTEGER), _MAX_SAFE_INTEGER)
        return io.Int.Input(name, **bounds, **common)
    return io.Float.Input(name, **bounds, round=False, **common)


def widgets(config: type, **defaults: Any) -> list[io.Input]:
    """One widget per option, in field order.

    Args:
        defaults: of options that begin as something else in a node than without it, by name.
    """
    return [
        widget(config, f.name, **({"default": defaults[f.name]} if f.name in defaults else {}))
        for f in dataclasses.fields(config)
        if f.metadata
    ]
