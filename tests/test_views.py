"""Flips and cuts: what is shown, which of them a row gets, and that the cache holds them all."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pack.trainer.config import DataConfig, Photo
from pack.trainer.images import fit_square
from pack.trainer.views import Frames, View
from PIL import Image
from toy import make_concept, make_job, run

PHOTO = Photo("a.png")


def ramp(width: int, height: int) -> Image.Image:
    """Grey that tells where a column lies: 0 at the left, 255 at the right."""
    row = np.linspace(0, 255, width).round().astype(np.uint8)
    return Image.fromarray(np.broadcast_to(row, (height, width)).copy()).convert("RGB")


def test_the_plain_view_is_the_middle_square() -> None:
    picture = ramp(300, 100)
    plain = Frames(64).instance(PHOTO, 7)
    assert plain == View(PHOTO, (64, 64))
    assert plain.show(picture).tobytes() == fit_square(picture, 64).tobytes()


def test_cuts_lie_evenly_along_the_longer_side() -> None:
    frames = Frames(100, data=DataConfig(crops=3), sizes={PHOTO: (300, 100)})
    shown = [np.asarray(view.show(ramp(300, 100)))[50, :, 0] for view in frames.views(PHOTO)]
    middles = [column[50] for column in shown]
    assert middles == pytest.approx([255 / 6, 255 / 2, 255 * 5 / 6], abs=2)
    assert shown[0][0] <= 1 and shown[2][-1] >= 254


@pytest.mark.parametrize("size", [(100, 100), (3000, 3001)])
def test_a_square_photo_has_one_cut(size: tuple[int, int]) -> None:
    frames = Frames(64, data=DataConfig(crops=5), sizes={PHOTO: size})
    assert frames.views(PHOTO) == [View(PHOTO, (64, 64))]


def test_mirroring_comes_after_the_cut() -> None:
    view = View(PHOTO, (100, 100), 0.0, mirrored=True)
    shown = np.asarray(view.show(ramp(300, 100)))[50, :, 0]
    assert shown[-1] <= 1 and shown[0] == pytest.approx(85, abs=2)


def test_every_view_is_as_likely_and_position_alone_decides() -> None:
    data = DataConfig(flip=True, crops=3)
    frames = Frames(64, 5, data, {PHOTO: (300, 100)})
    seen = Counter(frames.instance(PHOTO, position) for position in range(3000))
    assert set(seen) == set(frames.views(PHOTO)) and len(seen) == 6
    assert all(abs(count - 500) < 5 * (3000 * 1 / 6 * 5 / 6) ** 0.5 for count in seen.values())
    again = Frames(64, 5, data, {PHOTO: (300, 100)})
    assert [again.instance(PHOTO, p) for p in reversed(range(40))] == [
        frames.instance(PHOTO, p) for p in reversed(range(40))
    ]
    other = Frames(64, 6, data, {PHOTO: (300, 100)})
    assert [other.instance(PHOTO, p) for p in range(40)] != [
        frames.instance(PHOTO, p) for p in range(40)
    ]


def test_the_cache_holds_every_view(tmp_path: Path) -> None:
    """2 photos × 3 cuts × 2 turns and 3 class images, each encoded once."""
    concept = make_concept(tmp_path / "pictures")
    job = make_job(tmp_path, (concept,), data=DataConfig(flip=True, crops=3), steps=4)
    first = run(job)
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2 * 3 * 2 + 3
    assert run(job).sha == first.sha
