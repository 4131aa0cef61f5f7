"""Which rows a step trains on."""

from collections import Counter

from pack.trainer.config import Concept
from pack.trainer.dataset import PairedRows


def concept(name: str, photos: int, classes: int = 0, **options: object) -> Concept:
    return Concept(
        instance_prompt=f"a {name}",
        instance_images=tuple(f"{name}{i}" for i in range(photos)),
        class_prompt="any",
        class_images=tuple(f"{name}_class{i}" for i in range(classes)),
        **options,
    )


def test_an_epoch_holds_every_photo_as_often_as_it_repeats() -> None:
    rows = PairedRows([concept("a", 3, repeats=2), concept("b", 2)], seed=1)
    assert rows.epoch_length == 8
    for epoch in range(3):
        seen = Counter(rows.instance(epoch * 8 + i).image for i in range(8))
        assert seen == {"a0": 2, "a1": 2, "a2": 2, "b0": 1, "b1": 1}


def test_each_epoch_has_its_own_order_and_position_alone_decides() -> None:
    rows = PairedRows([concept("a", 8)], seed=1)
    epochs = [[rows.instance(e * 8 + i).image for i in range(8)] for e in range(4)]
    assert len({tuple(order) for order in epochs}) == 4
    fresh = PairedRows([concept("a", 8)], seed=1)
    assert [fresh.instance(3 * 8 + i).image for i in reversed(range(8))] == epochs[3][::-1]
    assert [PairedRows([concept("a", 8)], seed=2).instance(i).image for i in range(8)] != epochs[0]


def test_class_images_are_all_used_equally_often() -> None:
    rows = PairedRows([concept("a", 3, classes=7)], seed=0)
    seen = Counter(rows.class_(i).image for i in range(7 * 5))
    assert set(seen.values()) == {5} and len(seen) == 7


def test_pairs_change_from_epoch_to_epoch() -> None:
    rows = PairedRows([concept("a", 4, classes=4)], seed=0)
    pairs = [
        {(rows.instance(e * 4 + i).image, rows.class_(e * 4 + i).image) for i in range(4)}
        for e in range(6)
    ]
    assert len({frozenset(p) for p in pairs}) > 3


def test_class_rows_belong_to_their_instance_rows_concept() -> None:
    concepts = [concept("a", 3, classes=2, prior_weight=0.5), concept("b", 2, classes=5)]
    rows = PairedRows(concepts, seed=3)
    for position in range(100):
        instance, class_ = rows.instance(position), rows.class_(position)
        assert class_.image.startswith(instance.image[0])
        assert class_.weight == {"a": 0.5, "b": 1.0}[instance.image[0]]
        assert class_.is_class and not instance.is_class and instance.weight == 1.0


def test_concepts_without_prior_have_no_class_rows() -> None:
    rows = PairedRows([concept("a", 2), concept("b", 2, classes=2, prior_weight=0.0)], seed=0)
    assert all(rows.class_(i) is None for i in range(20))
