"""Buckets, captions, masks and class images of the photos' shapes in one queue."""

import json
from pathlib import Path

from graphs import QUICK, Graph, text_of
from PIL import Image, ImageDraw

SIZES = {"tall": (70, 270), "wide": (260, 66), "square": (140, 128)}
DATA = {
    "buckets": True,
    "bucket_min_side": 64,
    "flip": True,
    "shuffle_tags": True,
    "unmasked_weight": 0.2,
}


def make_photos(folder: Path) -> None:
    """Three shapes; the tall one has a mask, the wide one a caption, the square one is half air."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in SIZES.items():
        picture = Image.linear_gradient("L").resize(size).convert("RGBA")
        ImageDraw.Draw(picture).ellipse((10, 10, 60, 60), fill=(200, 40, 40, 255))
        if name == "square":
            picture.putalpha(Image.linear_gradient("L").resize(size))
        picture.save(folder / f"{name}.png")
    mask = Image.new("L", SIZES["tall"], 0)
    mask.paste(255, (0, 0, 70, 135))
    mask.save(folder / "tall-masklabel.png")
    (folder / "wide.txt").write_text("red ball, grey wall, studio", encoding="utf-8")


def test_what_a_folder_says_is_what_trains(client, server, info, base_name, runs) -> None:
    make_photos(server.folder("input") / "shapes")
    graph = Graph(info)
    base = graph.load(base_name)
    photos = graph.photos("", path="shapes", transparent="mask", caption_source="files")
    chosen = graph.add("DreamBoothSettings", **QUICK | {"resolution": 128, "batch_size": 2})
    data = graph.add("DreamBoothData", settings=chosen[0], **DATA)
    classes = graph.class_images(
        base, count=3, resolution=128, instance_images=photos[0], settings=data[0]
    )
    concept = graph.concept(
        photos, class_images=classes[0], identifier="zwx", class_noun="ball", class_prompt="a ball"
    )
    train = graph.train(base, concept, "shapes")
    graph[train.id]["inputs"]["settings"] = data[0]
    outcome = client.run(graph)

    assert "2 with a mask" in text_of(outcome, photos)
    made = text_of(outcome, classes)
    assert all(
        f"1 class images of 'a photo of a dog', {size}: 0 were there, 1 made" in made
        for size in ("64×256", "256×64", "128×128")
    )
    said = text_of(outcome, concept)
    assert "'zwx ball, red ball, grey wall, studio'" in said and "'a photo of zwx ball'" in said
    job = json.loads((runs / "shapes" / "job.json").read_text())
    (kept,) = job["concepts"]
    assert [Path(mask).name for mask in kept["masks"]] == ["", "tall-masklabel.png", ""]
    assert job["config"]["data"] == job["config"]["data"] | DATA
    sizes = {Image.open(path).size for path in kept["class_images"]}
    assert sizes == {(64, 256), (256, 64), (128, 128)}
    result = json.loads((runs / "shapes" / "result.json").read_text())
    assert result["steps"] == 2 and not result["stopped"]
