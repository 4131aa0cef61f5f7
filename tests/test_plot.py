"""The loss as a picture: what is drawn where."""

import math

import numpy as np
import pytest
from pack.trainer.plot import SERIES, log_ticks, plot_losses, smooth, ticks

PHOTOS, CLASSES = (tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for _, _, colour in SERIES)


def heights(picture, colour: tuple[int, int, int]) -> np.ndarray:
    """Rows of the pixels of a colour among the curves, left of their names."""
    pixels = np.asarray(picture).astype(int)[96:-70, 90:-175]
    return np.argwhere(np.abs(pixels - colour).sum(-1) < 60)[:, 0]


def points(count: int, photos, classes=lambda n: None) -> list[list]:
    return [[n, photos(n), classes(n), 1e-6] for n in range(1, count + 1)]


def test_curves_lie_where_their_values_are() -> None:
    picture = plot_losses(points(50, lambda n: 0.2, lambda n: 0.1), "Loss")
    assert picture.size == (1100, 600)
    box = 600 - 96 - 70
    top = 0.2 * 1.12
    assert np.median(heights(picture, PHOTOS)) == pytest.approx(box * (1 - 0.2 / top), abs=3)
    assert np.median(heights(picture, CLASSES)) == pytest.approx(box * (1 - 0.1 / top), abs=3)


def test_a_logarithmic_axis() -> None:
    """On it the middle of 0.01 and 1 is 0.1."""
    three = lambda n: (0.01, 0.1, 1.0)[n % 3]  # noqa: E731
    wide = points(60, three, lambda n: 0.1)
    picture = plot_losses(wide, "Loss", log_scale=True)
    box = 600 - 96 - 70
    assert np.median(heights(picture, CLASSES)) == pytest.approx(box / 2, abs=3)


def test_without_class_images_there_is_one_curve() -> None:
    picture = plot_losses(points(20, lambda n: 1 / n), "Loss", (800, 500))
    assert picture.size == (800, 500)
    assert len(heights(picture, PHOTOS)) and not len(heights(picture, CLASSES))


@pytest.mark.parametrize("log_scale", [False, True])
@pytest.mark.parametrize("values", [[], [0.0] * 5, [0.2], [None, 0.3, None], [None]])
def test_little_or_nothing_is_drawn_without_a_word(values, log_scale: bool) -> None:
    rows = [[n, value, value, None] for n, value in enumerate(values, 1)]
    assert plot_losses(rows, "Loss", log_scale=log_scale).size == (1100, 600)


def test_smoothing_and_ticks() -> None:
    assert smooth([2.0, 2.0, 2.0], 10) == pytest.approx([2, 2, 2])
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert log_ticks(-1.1, 0.1) == pytest.approx([-1, math.log10(0.2), math.log10(0.5), 0])
