"""Runs in buckets: exact resume, gradients, previews, class images of the photos' sizes."""

from dataclasses import replace
from pathlib import Path

from nets import random_checkpoint
from pack.trainer.buckets import bucket_of, bucket_sizes
from pack.trainer.checks import check
from pack.trainer.class_images import ClassImagesConfig, ClassImageStore
from pack.trainer.config import Concept, DataConfig
from pack.trainer.events import Command, Note, Preview, Step, ignore
from pack.trainer.loop import train
from pack.trainer.precision import accelerator
from pack.trainer.resume import Start
from pack.trainer.setup import prepare
from PIL import Image
from test_gradient import expect_float64, prepared_run
from toy import CPU, make_concept, make_job, picture, run, same, toy_base

ON = DataConfig(buckets=True)


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
