"""The order of rows in buckets: sizes never mix, every photo is used equally often."""

from collections import Counter

import pytest
from pack.trainer.buckets import bucket_of, bucket_sizes
from pack.trainer.config import Concept, DataConfig
from pack.trainer.dataset import PairedRows
from pack.trainer.views import Frames

ON = DataConfig(buckets=True)
SHAPES = {"tall": (600, 1000), "square": (800, 800), "wide": (900, 600), "flat": (2000, 500)}


def concept(name: str, photos: dict[str, int], classes: dict[str, int], **options) -> Concept:
    """So many files of each shape; a file's name says its shape."""
    return Concept(
        instance_prompt=f"a {name}",
        instance_images=tuple(f"{name} {s} {i}" for s, n in photos.items() for i in range(n)),
        class_prompt="any",
        class_images=tuple(f"{name} class {s} {i}" for s, n in classes.items() for i in range(n)),
        **options,
    )


def rows_of(concepts: list[Concept], seed: int, batch_size: int, **data) -> PairedRows:
    photos = [photo for c in concepts for photo in (*c.photos, *c.class_photos)]
    sizes = {photo: SHAPES[photo.path.split()[-2]] for photo in photos}
    frames = Frames(512, seed, DataConfig(buckets=True, **data), sizes)
    return PairedRows(concepts, seed, frames, batch_size=batch_size)


MIXED = [
    concept("a", {"tall": 3, "square": 1, "wide": 2}, {"tall": 2, "square": 3}, repeats=2),
    concept("b", {"tall": 1, "flat": 1}, {"wide": 2}),
    concept("c", {"square": 2}, {}),
]
EPOCH = 2 * 6 + 2 + 2


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_a_batch_has_one_size_and_class_rows_have_it_too(batch_size: int) -> None:
    for seed in range(20):
        rows = rows_of(MIXED, seed, batch_size)
        assert rows.epoch_length == EPOCH
        for batch in range(2 * EPOCH):
            positions = range(batch * batch_size, (batch + 1) * batch_size)
            instance = [rows.instance(p) for p in positions]
            classes = [row for p in positions if (row := rows.class_(p))]
            assert len({row.view.size for row in (*instance, *classes)}) == 1
            for row in instance:
                shape = row.view.photo.path.split()[1]
                assert row.view.size == bucket_of(SHAPES[shape], bucket_sizes(512, ON), ON)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_every_photo_is_used_equally_often(batch_size: int) -> None:
    """After batch_size epochs exactly; on the way no photo is a batch ahead of its share."""
    for seed in range(10):
        rows = rows_of(MIXED, seed, batch_size)
        seen: Counter[str] = Counter()
        passes = {"tall": 7, "square": 4, "wide": 4, "flat": 1}
        for position in range(3 * EPOCH * batch_size):
            seen[rows.instance(position).view.photo.path] += 1
            done = (position + 1) / EPOCH  # in epochs
            for path, count in seen.items():
                repeats = 2 if path[0] == "a" else 1
                of_pass = passes[path.split()[1]]
                ahead = count - done * repeats
                assert ahead <= repeats * (1 + batch_size * (1 / of_pass + 4 / EPOCH)) + 1e-9
            if (position + 1) % (EPOCH * batch_size) == 0:
                turns = (position + 1) // EPOCH
                assert set(seen.values()) == {turns, 2 * turns} and len(seen) == 10
                assert all(n == turns * (2 if p[0] == "a" else 1) for p, n in seen.items())


def test_class_images_of_the_same_shape_join_and_others_where_there_are_none() -> None:
    rows = rows_of(MIXED, 0, 2)
    joined: dict[str, Counter[str]] = {}
    for position in range(EPOCH * 2 * 30):
        row, partner = rows.instance(position), rows.class_(position)
        if partner is None:
            assert row.view.photo.path[0] == "c"
            continue
        assert partner.view.photo.path[0] == row.view.photo.path[0]
        kind = row.view.photo.path.rsplit(" ", 1)[0]
        joined.setdefault(kind, Counter())[partner.view.photo.path] += 1
    assert {p.split()[2] for p in joined["a tall"]} == {"tall"}
    assert {p.split()[2] for p in joined["a square"]} == {"square"}
    assert {p.split()[2] for p in joined["a wide"]} == {"tall", "square"}  # cut to it
    for counts in joined.values():
        assert max(counts.values()) - min(counts.values()) <= 1
    drawn = {rows.class_(p).view for p in range(400) if rows.class_(p)}
    drawn |= {rows.instance(p).view for p in range(400)}
    assert drawn == set(rows.views()) and rows.idle_classes() == 0
    lonely = [concept("a", {"tall": 1}, {"tall": 1, "wide": 3})]
    assert rows_of(lonely, 0, 1).idle_classes() == 3


def test_position_alone_decides() -> None:
    for batch_size in (1, 3):
        rows, fresh = rows_of(MIXED, 4, batch_size), rows_of(MIXED, 4, batch_size)
        straight = [(rows.instance(p), rows.class_(p)) for p in range(200)]
        for p in (199, 3, 150, 42, 0, 77):
            assert (fresh.instance(p), fresh.class_(p)) == straight[p]
        other = rows_of(MIXED, 5, batch_size)
        assert [other.instance(p) for p in range(200)] != [row for row, _ in straight]


def test_rounds_differ() -> None:
    rows = rows_of(MIXED, 0, 2)
    order = [rows.instance(2 * batch).view.size for batch in range(4 * EPOCH)]
    rounds = {tuple(order[start : start + EPOCH]) for start in range(0, 4 * EPOCH, EPOCH)}
    assert len(rounds) == 4 and all(Counter(r) == Counter(order[:EPOCH]) for r in rounds)


def test_one_size_is_the_order_without_buckets() -> None:
    one = [concept("a", {"square": 5}, {"square": 3})]
    rows, plain = rows_of(one, 1, 3), PairedRows(one, 1, Frames(512))
    for position in range(60):
        assert rows.instance(position) == plain.instance(position)
        assert rows.class_(position) == plain.class_(position)
