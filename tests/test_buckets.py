"""Buckets: which sizes there are, which a picture gets, how many class images each gets."""

from collections import Counter

import pytest
import torch
from pack.trainer.buckets import bucket_of, bucket_sizes, shares
from pack.trainer.config import ConfigError, DataConfig

ON = DataConfig(buckets=True)
SHAPES = {"tall": (600, 1000), "square": (800, 800), "wide": (900, 600), "flat": (2000, 500)}


def test_the_usual_sizes_of_512() -> None:
    """NovelAI's list (256 to 1024 at 512²), without what another size contains."""
    sizes = bucket_sizes(512, ON)
    tall = [(256, 1024), (320, 768), (384, 640), (448, 576)]
    assert sizes == sorted([*tall, (512, 512), *((h, w) for w, h in tall)])
    assert bucket_sizes(512, DataConfig(bucket_max_side=512, bucket_min_side=512)) == [(512, 512)]


@pytest.mark.parametrize("resolution", [64, 72, 128, 512, 520, 768, 1024, 2048])
@pytest.mark.parametrize("sides", [(64, 4096), (256, 2048), (512, 768), (2048, 2048)])
def test_sizes_keep_to_their_bounds(resolution: int, sides: tuple[int, int]) -> None:
    low, high = sides
    sizes = bucket_sizes(resolution, DataConfig(bucket_min_side=low, bucket_max_side=high))
    assert sizes and len(set(sizes)) == len(sizes)
    for width, height in sizes:
        assert width % 64 == height % 64 == 0 and width * height <= resolution**2
        assert max(width, height) <= high
        assert min(width, height) >= min(low, resolution // 64 * 64, high)
        assert (height, width) in sizes
        grown = min((width + 64) * height, width * (height + 64))
        assert grown > resolution**2 or max(width, height) + 64 > high


def test_a_picture_gets_the_nearest_shape() -> None:
    sizes = bucket_sizes(512, ON)
    assert bucket_of((3000, 3000), sizes, ON) == (512, 512)
    assert bucket_of((3000, 4000), sizes, ON) == (448, 576)
    assert bucket_of((4000, 3000), sizes, ON) == (576, 448)
    assert bucket_of((100, 9000), sizes, ON) == (256, 1024)
    for size in sizes:
        assert bucket_of(size, sizes, ON) == size
        assert bucket_of((size[0] * 3, size[1] * 3), sizes, ON) == size


def test_nothing_is_enlarged_where_that_is_not_wanted() -> None:
    data = DataConfig(buckets=True, bucket_no_upscale=True)
    sizes = bucket_sizes(512, data)
    assert bucket_of((3000, 3000), sizes, data) == (512, 512)
    assert bucket_of((300, 500), sizes, data) == (256, 448)
    assert bucket_of((400, 400), sizes, data) == (384, 384)
    assert bucket_of((100, 100), sizes, data) == (256, 256)  # the least there is
    for width in range(256, 900, 37):
        for height in range(256, 900, 41):
            w, h = bucket_of((width, height), sizes, data)
            assert w <= width and h <= height and w % 64 == h % 64 == 0


@pytest.mark.parametrize("sides", [{"bucket_min_side": 100}, {"bucket_min_side": 2048 + 64}])
def test_sides_that_make_no_sense_are_refused(sides: dict) -> None:
    with pytest.raises(ConfigError, match="bucket_min_side"):
        DataConfig(**sides)
    with pytest.raises(ConfigError, match="bucket_max_side"):
        DataConfig(bucket_min_side=512, bucket_max_side=256)


def test_shares_are_whole_and_add_up() -> None:
    g = torch.Generator().manual_seed(0)
    for trial in range(200):
        kinds = int(torch.randint(1, 6, (), generator=g))
        weights = Counter({(n, n): int(torch.randint(1, 9, (), generator=g)) for n in range(kinds)})
        count = trial % 40 + 1
        given = shares(count, weights)
        assert sum(given.values()) == max(count, kinds) and min(given.values()) >= 1
        rest, total = max(0, count - kinds), sum(weights.values())
        for size, part in given.items():
            assert abs(part - 1 - rest * weights[size] / total) < 1
    assert shares(10, Counter({(1, 1): 3, (2, 2): 1})) == {(1, 1): 7, (2, 2): 3}
