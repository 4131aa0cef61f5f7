"""The loss curve of a run, and the colours and letters of the demo's own pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

INK, FAINT, GRID, PAPER = "#22262b", "#7b848e", "#e6e9ed", "#ffffff"
SERIES = (("instance_loss", "your photos", "#2f6fd0"), ("class_loss", "class images", "#e07b2a"))
FINE = 2  # drawn twice as large, then scaled down

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def font(size: int) -> Font:
    return ImageFont.load_default(size)


def read_log(path: Path) -> list[dict]:
    """The lines of a run's ``log.jsonl``; a line cut off by a crash is left out."""
    rows = []
    for line in path.read_text("utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def smooth(values: Sequence[float], span: float) -> list[float]:
    """An exponential mean over about ``span`` values, corrected at its start."""
    keep, total, weight, out = 1 - 1 / max(span, 1), 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        out.append(total / weight)
    return out


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers between two values."""
    rough = (high - low) / count or 1.0
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def draw_loss(log: Path, target: Path, title: str = "Training loss") -> bool:
    """The loss of every step, faint, and its running mean; False where the log is empty."""
    rows = read_log(log)
    curves = []
    for key, name, colour in SERIES:
        points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
        if points:
            curves.append((name, colour, points))
    if not curves:
        return False
    width, height = 1100 * FINE, 600 * FINE
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    box = (90 * FINE, 96 * FINE, width - 170 * FINE, height - 70 * FINE)
    values = sorted(value for _, _, points in curves for _, value in points)
    # One wild step must not flatten the rest: the top is just above 98 % of the values.
    top = values[min(len(values) - 1, int(0.98 * len(values)))] * 1.12 or 1.0
    steps = max(points[-1][0] for _, _, points in curves)
    plot = Plot(draw, box, (0, max(steps, 2)), (0, top))
    draw.text((90 * FINE, 26 * FINE), title, INK, font(26 * FINE))
    subtitle = "mean squared error per step (faint) and its running mean"
    draw.text((90 * FINE, 60 * FINE), subtitle, FAINT, font(15 * FINE))
    plot.axes("step")
    for _, colour, points in curves:
        plot.line(points, blend(colour, 0.72), 1)
    labels = []
    for name, colour, points in curves:
        means = smooth([value for _, value in points], max(3, len(points) / 12))
        plot.line([(x, y) for (x, _), y in zip(points, means, strict=True)], colour, 3)
        labels.append((plot.at(points[-1][0], means[-1])[1], name, colour, means[-1]))
    label_ends(draw, labels, box[2] + 12 * FINE)
    picture.resize((width // FINE, height // FINE), Image.Resampling.LANCZOS).save(target)
    return True


def label_ends(
    draw: ImageDraw.ImageDraw, labels: list[tuple[float, str, str, float]], x: float
) -> None:
    """Names each curve at its end, pushed apart where the ends lie close together."""
    last = -math.inf
    for y, name, colour, value in sorted(labels):
        y = max(y - 16 * FINE, last + 44 * FINE)
        draw.text((x, y), name, colour, font(17 * FINE))
        draw.text((x, y + 20 * FINE), f"{value:.3f}", FAINT, font(15 * FINE))
        last = y


def blend(colour: str, amount: float) -> tuple[int, int, int]:
    """A colour moved towards the paper."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    red, green, blue = (round(part + (255 - part) * amount) for part in parts)
    return red, green, blue


class Plot:
    """Axes in a box of pixels."""

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        box: tuple[int, int, int, int],
        x: tuple[float, float],
        y: tuple[float, float],
    ) -> None:
        self.draw, self.box, self.x, self.y = draw, box, x, y

    def at(self, x: float, y: float) -> tuple[float, float]:
        left, top, right, bottom = self.box
        y = min(max(y, self.y[0]), self.y[1])
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return left + across * (right - left), bottom - up * (bottom - top)

    def axes(self, label: str) -> None:
        left, _, right, bottom = self.box
        for value in ticks(*self.y):
            _, y = self.at(self.x[0], value)
            self.draw.line((left, y, right, y), GRID, FINE)
            text = f"{value:.3g}"
            self.draw.text((left - 12 * FINE, y), text, FAINT, font(15 * FINE), anchor="rm")
        for value in ticks(*self.x, count=6):
            x, _ = self.at(value, 0)
            text = f"{value:.0f}"
            self.draw.text((x, bottom + 10 * FINE), text, FAINT, font(15 * FINE), anchor="mt")
        self.draw.line((left, bottom, right, bottom), FAINT, FINE)
        middle = ((left + right) / 2, bottom + 38 * FINE)
        self.draw.text(middle, label, FAINT, font(15 * FINE), anchor="mt")

    def line(self, points: Sequence[tuple[float, float]], colour, width: int) -> None:
        if len(points) > 1:
            path = [self.at(*point) for point in points]
            self.draw.line(path, colour, width * FINE, joint="curve")
