"""Buckets: which sizes there are, the order that never mixes them, equal use, exact resume."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nets import random_checkpoint
from pack.trainer.buckets import bucket_of, bucket_sizes, shares
from pack.trainer.checks import check
from pack.trainer.class_images import ClassImagesConfig, ClassImageStore
from pack.trainer.config import Concept, ConfigError, DataConfig
from pack.trainer.dataset import PairedRows
from pack.trainer.events import Command, Note, Preview, Step, ignore
from pack.trainer.loop import train
from pack.trainer.precision import accelerator
from pack.trainer.resume import Start
from pack.trainer.setup import prepare
from pack.trainer.views import Frames
from PIL import Image
from test_gradient import expect_float64, prepared_run
from toy import CPU, make_concept, make_job, picture, run, same, toy_base

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


def toy_concept(folder: Path, **options: object) -> Concept:
    """Photos of three shapes, class images of two."""
    made = make_concept(folder)
    sizes = [(80, 320), (130, 128), (300, 80), (310, 80), (128, 128)]
    photos = tuple(picture(folder / f"p{n}.png", n, size) for n, size in enumerate(sizes))
    classes = tuple(
        picture(folder / f"c{n}.png", 50 + n, size)
        for n, size in enumerate([(64, 256), (128, 128)])
    )
    return replace(made, instance_images=photos, class_images=classes, **options)


TOY = {"resolution": 128, "data": DataConfig(buckets=True, bucket_min_side=64, flip=True)}


def test_a_run_goes_on_where_it_was_to_the_same_bytes(tmp_path: Path) -> None:
    """Stopped after 1 of 3 steps of 2 batches of 2 rows, in buckets, mirrored."""
    one = toy_concept(tmp_path / "pictures")
    options = {**TOY, "batch_size": 2, "gradient_accumulation_steps": 2, "steps": 3}
    whole = run(make_job(tmp_path / "whole", (one,), **options))
    job, events = make_job(tmp_path / "broken", (one,), **options), []

    def control() -> Command:
        enough = sum(isinstance(e, Step) for e in events) >= 1
        return Command.STOP if enough else Command.GO_ON

    stopped = train(job, toy_base(), device=CPU, listener=events.append, control=control)
    assert stopped.stopped and stopped.steps == 1
    resumed = run(job, train_again=False)
    assert resumed.result.steps == 3 and len(resumed.of(Step)) == 2
    assert same(resumed.tensors, whole.tensors)


def test_a_step_in_buckets_with_masks_equals_float64(tmp_path: Path) -> None:
    """Two batches of two rows of one size each; two photos with masks, all with captions."""
    one = toy_concept(tmp_path / "pictures", captions=tuple(f"zwx {n}" for n in range(5)))
    masks = [""] * 5
    for n in (0, 2, 3):
        with Image.open(one.instance_images[n]) as photo:
            masks[n] = str(tmp_path / f"mask{n}.png")
            Image.linear_gradient("L").rotate(90 * n).resize(photo.size).save(masks[n])
    options = {"batch_size": 2, "gradient_accumulation_steps": 2, **TOY}
    with accelerator("fp32", CPU) as accelerate:
        made = prepared_run(
            tmp_path, accelerate, concept=replace(one, masks=tuple(masks)), **options
        )
        batches = [made.gradients.batch(range(n, n + 2)) for n in (0, 2)]
        assert len({batch.latents.shape[2:] for batch in batches}) > 1
        assert sum(batch.masks is not None for batch in batches) > 0
        expect_float64(made)


def test_previews_have_the_size_of_most_photos(tmp_path: Path) -> None:
    one = toy_concept(tmp_path / "pictures", captions=tuple(f"zwx {n}" for n in range(5)))
    made = run(make_job(tmp_path, (one,), **TOY, steps=1, preview_every=1, preview_steps=1))
    assert made.of(Preview)[0].image.size == (128, 128)  # as many lie down: the squarer wins
    assert not [note for note in made.of(Note) if "left out" in note.text]


def test_sizes_change_what_is_learned(tmp_path: Path) -> None:
    one = toy_concept(tmp_path / "pictures")
    plain = run(make_job(tmp_path, (one,), **{**TOY, "data": DataConfig()})).tensors
    assert not same(run(make_job(tmp_path, (one,), **TOY)).tensors, plain)
    wide = {"buckets": True, "bucket_min_side": 128}
    narrow = run(make_job(tmp_path, (one,), **{**TOY, "data": DataConfig(**wide)})).tensors
    assert same(narrow, plain)  # nothing but the square is left


def test_every_view_is_encoded_at_its_size(tmp_path: Path) -> None:
    job = make_job(tmp_path, (toy_concept(tmp_path / "pictures"),), **TOY)
    base = toy_base()
    prepared = prepare(
        check(job, base, CPU, ignore, lambda: None), base, Start(), ignore, lambda: None
    )
    views = prepared.rows.views()
    for view in views:
        width, height = view.size
        assert prepared.latents.shape(view) == (4, height // 8, width // 8)
        assert prepared.latents.time_ids(view)[-2:] == (height, width)
    assert {view.size for view in views} == {(64, 256), (128, 128), (256, 64)}
    # 5 photos both ways; class images of two shapes, and both of them cut to the third
    assert len(views) == 5 * 2 + 2 + 2


def test_sdxl_trains_in_buckets_and_is_advised_to(tmp_path: Path) -> None:
    """With two frozen text encoders, texts shuffled on the way, and sizes told row by row."""
    texts = tuple(f"zwx dog, a, b, c{n}" for n in range(5))
    one = toy_concept(tmp_path / "pictures", captions=texts)
    base = random_checkpoint("toy_sdxl")

    def notes(**data: object) -> list[str]:
        options = {**TOY, "data": DataConfig(bucket_min_side=64, shuffle_tags=True, **data)}
        job = make_job(tmp_path, (one,), **options, trains="unet", batch_size=2)
        made = run(job, {key: tensor.clone() for key, tensor in base.items()})
        assert len(made.of(Step)) == 2
        return [note.text for note in made.of(Note)]

    assert not any("DreamBooth Data has buckets" in note for note in notes(buckets=True))
    assert any("3 of 5 photos lose more than a quarter" in note for note in notes())


def test_class_images_of_another_resolution_are_told() -> None:
    config = ClassImagesConfig(resolution=512)
    assert config.unlike(512) == ""
    said = config.unlike(768)
    assert "made at resolution = 512" in said and "train at 768" in said


def test_class_images_are_made_as_the_photos_need_them(tmp_path: Path) -> None:
    config = ClassImagesConfig(count=8, resolution=512)
    photos = [(3000, 4000)] * 5 + [(4000, 3000)]
    assert config.sizes([], None) == config.sizes([], ON) == {(512, 512): 8}
    assert config.sizes(photos, DataConfig()) == {(512, 512): 8}
    wanted = config.sizes(photos, None)
    assert wanted == config.sizes(photos, ON) == {(448, 576): 6, (576, 448): 2}
    for size in wanted:  # and where they are trained on they find their partners
        assert bucket_of(size, bucket_sizes(512, ON), ON) == size
    square = config.recipe({}, (512, 512))
    assert square["resolution"] == 512 and config.recipe({}, (448, 576)) != square
    stores = [ClassImageStore(tmp_path, config.recipe({}, size), 0, size) for size in wanted]
    assert stores[0].folder != stores[1].folder
    stores[0].save(0, Image.new("RGB", (448, 576)))
    stores[1].save(0, Image.new("RGB", (448, 576)))  # of another size: not what was asked for
    assert [list(store.valid(2)) for store in stores] == [[0], []]
