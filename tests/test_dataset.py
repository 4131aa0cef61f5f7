"""Which rows a step trains on."""

from collections import Counter

from pack.trainer.config import Concept
from pack.trainer.dataset import PairedRows, Row
from pack.trainer.views import Frames


def concept(name: str, photos: int, classes: int = 0, **options: object) -> Concept:
    return Concept(
        instance_prompt=f"a {name}",
        instance_images=tuple(f"{name}{i}" for i in range(photos)),
        class_prompt="any",
        class_images=tuple(f"{name}_class{i}" for i in range(classes)),
        **options,
    )


def rows_of(concepts: list[Concept], seed: int) -> PairedRows:
    return PairedRows(concepts, seed, Frames(64))


def file_of(row: Row) -> str:
    return row.view.photo.path


def test_an_epoch_holds_every_photo_as_often_as_it_repeats() -> None:
    rows = rows_of([concept("a", 3, repeats=2), concept("b", 2)], seed=1)
    assert rows.epoch_length == 8
    for epoch in range(3):
        seen = Counter(file_of(rows.instance(epoch * 8 + i)) for i in range(8))
        assert seen == {"a0": 2, "a1": 2, "a2": 2, "b0": 1, "b1": 1}


def test_each_epoch_has_its_own_order_and_position_alone_decides() -> None:
    rows = rows_of([concept("a", 8)], seed=1)
    epochs = [[file_of(rows.instance(e * 8 + i)) for i in range(8)] for e in range(4)]
    assert len({tuple(order) for order in epochs}) == 4
    fresh = rows_of([concept("a", 8)], seed=1)
    assert [file_of(fresh.instance(3 * 8 + i)) for i in reversed(range(8))] == epochs[3][::-1]
    assert [file_of(rows_of([concept("a", 8)], seed=2).instance(i)) for i in range(8)] != epochs[0]


def test_class_images_are_all_used_equally_often() -> None:
    rows = rows_of([concept("a", 3, classes=7)], seed=0)
    seen = Counter(file_of(rows.class_(i)) for i in range(7 * 5))
    assert set(seen.values()) == {5} and len(seen) == 7


def test_pairs_change_from_epoch_to_epoch() -> None:
    rows = rows_of([concept("a", 4, classes=4)], seed=0)
    pairs = [
        {(file_of(rows.instance(e * 4 + i)), file_of(rows.class_(e * 4 + i))) for i in range(4)}
        for e in range(6)
    ]
    assert len({frozenset(p) for p in pairs}) > 3


def test_class_rows_belong_to_their_instance_rows_concept() -> None:
    concepts = [concept("a", 3, classes=2, prior_weight=0.5), concept("b", 2, classes=5)]
    rows = rows_of(concepts, seed=3)
    for position in range(100):
        instance, class_ = rows.instance(position), rows.class_(position)
        assert file_of(class_).startswith(file_of(instance)[0])
        assert class_.weight == {"a": 0.5, "b": 1.0}[file_of(instance)[0]]
        assert class_.is_class and not instance.is_class and instance.weight == 1.0


def test_concepts_without_prior_have_no_class_rows() -> None:
    rows = PairedRows(
        [concept("a", 2), concept("b", 2, classes=2, prior_weight=0.0)], seed=0, frames=Frames(64)
    )
    assert all(rows.class_(i) is None for i in range(20))
