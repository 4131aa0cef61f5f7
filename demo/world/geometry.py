"""Outlines as arrays of points, ``[n, 2]``: ovals, closed curves, limbs, rounded boxes, stars."""

# fmt: off
from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

Points = np.ndarray
Controls = Sequence[tuple[float, float]]
SUBDIVISIONS = 5


@cache
def circle(count: int) -> Points:
    """Points of the unit circle; shared, so never changed in place."""
    angles = np.arange(count) * (2 * math.pi / count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def oval(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> Points:
    """An ellipse around (x, y), turned by degrees."""
    points = circle(14 if max(rx, ry) < 0.12 else 28) * (rx, ry)
    return turned(points, turn) + (x, y) if turn else points + (x, y)


def turned(points: Points, degrees: float, about: tuple[float, float] = (0.0, 0.0)) -> Points:
    """Rotated clockwise on the picture, where y runs down."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (np.asarray(points) - about) @ np.array([[c, s], [-s, c]]) + about


@cache
def _spline(count: int, closed: bool) -> np.ndarray:
    """Catmull-Rom through ``count`` points as one matrix, ``[samples, count]``."""
    spans = count if closed else count - 1
    rows = []
    for span in range(spans):
        for part in range(SUBDIVISIONS):
            t = part / SUBDIVISIONS
            weights = ((-t + 2 * t**2 - t**3) / 2, (2 - 5 * t**2 + 3 * t**3) / 2,
                       (t + 4 * t**2 - 3 * t**3) / 2, (-(t**2) + t**3) / 2)
            row = np.zeros(count)
            for offset, weight in zip((-1, 0, 1, 2), weights, strict=True):
                at = span + offset
                row[at % count if closed else min(max(at, 0), count - 1)] += weight
            rows.append(row)
    if not closed:
        rows.append(np.eye(count)[-1])
    return np.array(rows)


def curve(*controls: tuple[float, float]) -> Points:
    """A smooth closed outline through the points."""
    return _spline(len(controls), True) @ np.asarray(controls, dtype=float)


def path(*controls: tuple[float, float]) -> Points:
    """A smooth open line through the points."""
    return _spline(len(controls), False) @ np.asarray(controls, dtype=float)


def limb(controls: Controls, start: float, end: float | None = None) -> Points:
    """A leg, a tail, a handle: a line with half-width ``start`` … ``end`` and round ends."""
    line = path(*controls) if len(controls) > 2 else np.asarray(controls, dtype=float)
    end = start if end is None else end
    ends = np.concatenate([2 * line[:1] - line[1:2], line, 2 * line[-1:] - line[-2:-1]])
    along = ends[2:] - ends[:-2]
    along /= np.maximum(np.hypot(along[:, 0], along[:, 1])[:, None], 1e-9)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
    widths = np.linspace(start, end, len(line))[:, None]
    left, right = line + normal * widths, line - normal * widths
    cap = circle(16)[1:8]  # from one side over the tip to the other
    tip = line[-1] + end * (cap[:, :1] * normal[-1] + cap[:, 1:] * along[-1])
    back = line[0] + start * (-cap[:, :1] * normal[0] - cap[:, 1:] * along[0])
    return np.concatenate([left, tip, right[::-1], back])


def box(left: float, top: float, right: float, bottom: float, radius: float = 0.0) -> Points:
    """A rectangle with round corners."""
    if radius <= 0:
        return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    quarter = circle(16)
    corners = ((right - radius, bottom - radius, quarter[0:5]),
               (left + radius, bottom - radius, quarter[4:9]),
               (left + radius, top + radius, quarter[8:13]),
               (right - radius, top + radius, np.concatenate([quarter[12:], quarter[:1]])))
    return np.concatenate([arc * radius + (x, y) for x, y, arc in corners])


def star(x: float, y: float, radius: float, tips: int = 5, inner: float = 0.45) -> Points:
    points = circle(2 * tips) * np.where(np.arange(2 * tips) % 2, inner, 1.0)[:, None] * radius
    return turned(points, -90) + (x, y)


def heart(x: float, y: float, radius: float) -> Points:
    shape = curve((0, -0.45), (0.5, -0.95), (1, -0.4), (0.6, 0.35), (0, 1), (-0.6, 0.35),
                  (-1, -0.4), (-0.5, -0.95))
    return shape * radius + (x, y)


def slice_of(
    x: float, y: float, rx: float, ry: float, start: float, end: float, steps: int = 7
) -> Points:
    """The part of an ellipse between two heights, −1 (top) … 1 (bottom)."""
    heights = np.linspace(start, end, steps)
    widths = np.sqrt(np.maximum(0.0, 1 - heights**2))
    right = np.stack([widths, heights], axis=1)
    left = np.stack([-widths, heights], axis=1)[::-1]
    return np.concatenate([right, left]) * (rx, ry) + (x, y)


def grown(points: Points, by: float) -> Points:
    """The outline moved outwards by ``by``, corners mitred."""
    closed = np.concatenate([points[-1:], points, points[:1]])
    sides = closed[1:] - closed[:-1]
    length = np.hypot(sides[:, 0], sides[:, 1])
    if length.min() < 1e-6:
        return grown(points[length[1:] > 1e-6], by)
    x, y = closed[:, 0], closed[:, 1]
    area = float((x[1:-1] * y[2:] - y[1:-1] * x[2:]).sum())
    normal = sides[:, ::-1] * (1, -1) / length[:, None]
    both = normal[1:] + normal[:-1]
    square = np.maximum(both[:, :1] ** 2 + both[:, 1:] ** 2, 0.8)  # limits the mitre
    return points + both * ((2 * by if area > 0 else -2 * by) / square)
