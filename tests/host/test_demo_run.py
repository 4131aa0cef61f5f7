"""The demo on a real server, with as few steps as there can be: from its base to the sheet."""

import dataclasses
import time

import numpy as np
import pytest
from pack.demo.main import train_and_show
from pack.demo.picture_book import PACKED
from pack.demo.plan import prepare_inputs
from pack.demo.run import arguments
from pack.demo.sampling import Sampling, Shot, sample
from PIL import Image

QUICK = ["--steps", "1", "--resolution", "64", "--class-images", "1", "--subject", "cat-1"]


@pytest.fixture(scope="module")
def results(server):
    """What a short run of the demo left in its folder; of the trained base where there is one."""
    base = [] if PACKED.is_file() else ["--random-base"]
    plan = prepare_inputs(arguments([*QUICK, *base]), server)
    recipe = dataclasses.replace(plan.recipe, sampling_steps=2, previews=1)
    rows = train_and_show(server, dataclasses.replace(plan, recipe=recipe), time.monotonic())
    return dict(rows)


def test_the_demo_trains_and_leaves_its_pictures(results) -> None:
    folder = results["pictures"]
    names = {"sheet.png", "before.png", "after.png", "from_file.png", "loss.png"}
    assert {path.name for path in folder.iterdir()} == names
    assert results["checkpoint"].is_file() and "1 steps in" in results["run"]
    after, again, before = (
        np.asarray(Image.open(folder / f"{name}.png")) for name in ("after", "from_file", "before")
    )
    assert (after == again).all() and (after != before).any()


def test_a_shot_depends_on_its_prompt_and_seed_alone(client, base_name, server) -> None:
    first, second, third = Shot("a dog", 1), Shot("a dog", 2), Shot("a cat", 1)
    how, seen = Sampling(64, 2, 4.0), []
    shots = [first, second, third, first]
    made = sample(client, base_name, shots, how, "test/shots", lambda: seen.append(1))
    pixels = [np.asarray(picture) for picture in made]
    assert len(seen) == 4 and {picture.shape for picture in pixels} == {(64, 64, 3)}
    assert (pixels[0] == pixels[3]).all()
    assert all((pixels[0] != other).any() for other in pixels[1:3])
    (alone,) = sample(client, base_name, [third], how, "test/alone")
    assert (np.asarray(alone) == pixels[2]).all()
