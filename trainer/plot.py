"""The loss curves of a run as a picture: every step faint, its running mean above it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from PIL import Image, ImageDraw, ImageFont

INK, FAINT, GRID, PAPER = "#22262b", "#6b747e", "#e6e9ed", "#ffffff"
SERIES = ((1, "your photos", "#2f6fd0"), (2, "class images", "#c2611a"))  # column of a point
FINE = 2  # drawn twice as large, then scaled down

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Point = tuple[float, float]


def font(size: int) -> Font:
    return ImageFont.load_default(size)


def plot_losses(
    points: Sequence[Sequence[float | None]],
    title: str,
    size: tuple[int, int] = (1100, 600),
    *,
    log_scale: bool = False,
) -> Image.Image:
    """Draw what :func:`curve.read_points` read; no points give a picture that says so."""
    width, height = size[0] * FINE, size[1] * FINE
    picture = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.text((90 * FINE, 26 * FINE), title, INK, font(26 * FINE))
    curves = list(_curves(points, log_scale))
    subtitle = "mean squared error per step (faint) and its running mean"
    said = subtitle if curves else "no step has a loss yet"
    draw.text((90 * FINE, 60 * FINE), said, FAINT, font(15 * FINE))
    if curves:
        box = (90 * FINE, 96 * FINE, width - 170 * FINE, height - 70 * FINE)
        _draw(draw, box, curves, log_scale)
    return picture.resize(size, Image.Resampling.LANCZOS)


def _curves(
    points: Sequence[Sequence[float | None]], log_scale: bool
) -> Iterator[tuple[str, str, list[Point]]]:
    """Name, colour and (step, loss) of what can be drawn."""
    for column, name, colour in SERIES:
        known = [(p[0], p[column]) for p in points if p[column] is not None]
        if curve := [(step, loss) for step, loss in known if loss > 0 or not log_scale]:
            yield name, colour, curve


def _draw(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    curves: list[tuple[str, str, list[Point]]],
    log_scale: bool,
) -> None:
    values = sorted(value for _, _, curve in curves for _, value in curve)
    steps = max(curve[-1][0] for _, _, curve in curves)
    if log_scale:
        low, high = math.log10(values[0]), math.log10(values[-1])
        bounds = (low - 0.05, max(high, low + 0.1) + 0.05)
    else:
        # one wild step must not flatten the rest: the top is just above 98 % of the values
        bounds = (0.0, values[min(len(values) - 1, int(0.98 * len(values)))] * 1.12 or 1.0)
    plot = _Plot(draw, box, (0, max(steps, 2)), bounds, math.log10 if log_scale else float)
    plot.axes("step", log_scale)
    for _, colour, curve in curves:
        plot.line(curve, _blend(colour, 0.72), 1)
    labels = []
    for name, colour, curve in curves:
        means = smooth([value for _, value in curve], max(3, len(curve) / 12))
        plot.line([(x, y) for (x, _), y in zip(curve, means, strict=True)], colour, 3)
        labels.append((plot.at(curve[-1][0], means[-1])[1], name, colour, means[-1]))
    _label_ends(draw, labels, box[2] + 12 * FINE)


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


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two powers of ten; given and returned as exponents."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    found = [power + math.log10(n) for power in powers for n in (1, 2, 5)]
    return [value for value in found if low <= value <= high]


def _label_ends(
    draw: ImageDraw.ImageDraw, labels: list[tuple[float, str, str, float]], x: float
) -> None:
    """Names each curve at its end, pushed apart where the ends lie close together."""
    last = -math.inf
    for y, name, colour, value in sorted(labels):
        y = max(y - 16 * FINE, last + 44 * FINE)
        draw.text((x, y), name, colour, font(17 * FINE))
        draw.text((x, y + 20 * FINE), f"{value:.3f}", FAINT, font(15 * FINE))
        last = y


def _blend(colour: str, amount: float) -> tuple[int, int, int]:
    """A colour moved towards the paper."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    red, green, blue = (round(part + (255 - part) * amount) for part in parts)
    return red, green, blue


class _Plot:
    """Axes in a box of pixels; ``scale`` turns a value into what the y axis counts."""

    def __init__(
        self,
        draw: ImageDraw.ImageDraw,
        box: tuple[int, int, int, int],
        x: Point,
        y: Point,
        scale: Callable[[float], float],
    ) -> None:
        self.draw, self.box, self.x, self.y, self.scale = draw, box, x, y, scale

    def at(self, x: float, value: float) -> Point:
        return self._place(x, self.scale(value))

    def _place(self, x: float, y: float) -> Point:
        left, top, right, bottom = self.box
        y = min(max(y, self.y[0]), self.y[1])
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return left + across * (right - left), bottom - up * (bottom - top)

    def axes(self, label: str, log_scale: bool) -> None:
        left, _, right, bottom = self.box
        for value in log_ticks(*self.y) if log_scale else ticks(*self.y):
            _, y = self._place(self.x[0], value)
            self.draw.line((left, y, right, y), GRID, FINE)
            text = f"{10**value if log_scale else value:.3g}"
            self.draw.text((left - 12 * FINE, y), text, FAINT, font(15 * FINE), anchor="rm")
        for value in ticks(*self.x, count=6):
            x, _ = self._place(value, self.y[0])
            text = f"{value:.0f}"
            self.draw.text((x, bottom + 10 * FINE), text, FAINT, font(15 * FINE), anchor="mt")
        self.draw.line((left, bottom, right, bottom), FAINT, FINE)
        middle = ((left + right) / 2, bottom + 38 * FINE)
        self.draw.text(middle, label, FAINT, font(15 * FINE), anchor="mt")

    def line(self, points: Sequence[Point], colour: str | tuple[int, ...], width: int) -> None:
        if len(points) > 1:
            path = [self.at(*point) for point in points]
            self.draw.line(path, colour, width * FINE, joint="curve")
