"""A run's losses over its steps, from ``log.jsonl``; a damaged line is left out."""

import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .files import mapping


def read_points(log: Path, tail: int | None = None) -> list[list[Any]]:
    """``[step, instance loss, class loss, learning rate]`` of each line; None where there is none.

    Args:
        tail: read only so many bytes of the end.
    """
    try:
        with log.open("rb") as file:
            if tail:
                file.seek(max(0, log.stat().st_size - tail))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [point for line in lines if (point := _point(line))]


def _point(line: str) -> list[Any] | None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = mapping(values).get("step")
    if type(step) is not int:
        return None
    names = ("instance_loss", "class_loss", "learning_rate")
    return [step, *(number(values.get(name)) for name in names)]


def thin(points: list[list[Any]], most: int) -> dict[str, Any]:
    """At most ``most`` points: each the mean of ``every`` steps, at the last of them."""
    every = max(1, math.ceil(len(points) / most))
    pieces = (points[start : start + every] for start in range(0, len(points), every))
    means = [[piece[-1][0], *map(mean, list(zip(*piece, strict=True))[1:])] for piece in pieces]
    return {"every": every, "points": means}


def mean(values: Iterable[float | None]) -> float | None:
    """Of the numbers among them; None where there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def number(value: Any) -> float | None:
    """A finite number, or None."""
    known = type(value) in (int, float) and abs(value) <= sys.float_info.max
    return value if known else None
