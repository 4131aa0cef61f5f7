"""SD 2.x, a distilled SDXL and an SD 1.x that predicts velocity, each in the whole graph."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from graphs import Graph, Loaded, Node, pixels, text_of, trained
from nets import random_checkpoint
from pack.demo.client import Outcome
from pack.trainer.checkpoint import read_checkpoint, write_checkpoint
from pack.trainer.config.train import UNET_AND_TEXT_ENCODER

UNET = "model.diffusion_model."


@pytest.fixture(scope="module", params=["small_sd2", "small_vega_v"])
def base(request, place_model, tmp_path_factory) -> tuple[str, Path]:
    """A small net of the family: (its name in the server's list, the file)."""
    file = tmp_path_factory.mktemp("families") / f"{request.param}.safetensors"
    write_checkpoint(file, random_checkpoint(request.param, dtype=torch.float16), {})
    yield place_model(file), file
    file.unlink()


@dataclass
class Run:
    """One queue of the whole graph."""

    outcome: Outcome
    train: Node
    before: Node
    memory: Node
    file: Node


def queue(
    client,
    info,
    loaded: Callable[[Graph], Loaded],
    folder: str,
    name: str,
    after=None,
    **settings: object,
) -> Run:
    """Class images, a concept, two steps; pictures of the base and, both ways, of the result.

    Args:
        after: what stands behind the result's Load Checkpoint; nothing, if it is None.
    """
    graph = Graph(info)
    base = loaded(graph)
    concept = graph.concept(graph.photos(folder), class_images=graph.class_images(base)[0])
    train = graph.train(base, concept, name, {"preview_every": 2, "steps": 2} | settings)
    again = graph.load(train[3])
    before, memory = graph.sample(base), graph.sample(trained(train))
    file = graph.sample(after(graph, again) if after else again)
    return Run(client.run(graph), train, before, memory, file)


def compare(client, run: Run) -> None:
    memory, file, before = (
        pixels(client, run.outcome, node) for node in (run.memory, run.file, run.before)
    )
    assert np.array_equal(memory, file)
    assert memory.std() > 5, "an even picture shows nothing"
    assert not np.array_equal(memory, before), "training changed nothing"


def test_the_whole_graph(base, client, info, drawn, checkpoints: Path) -> None:
    name, file = base
    run = queue(client, info, lambda graph: graph.load(name), drawn, f"of {name}")
    compare(client, run)
    given, _ = read_checkpoint(file)
    result, metadata = read_checkpoint(checkpoints / f"of {name}.safetensors")
    changed = {key for key, value in given.items() if not value.equal(result[key].to(value.dtype))}
    assert changed and all(key.startswith(UNET) for key in changed)
    if "vega" in name:
        assert {"v_pred", "ztsnr"} <= result.keys()
        assert metadata["modelspec.prediction_type"] == "v"
    assert "made for pictures of" in text_of(run.outcome, run.train)


@pytest.mark.parametrize("base", ["small_vega_v"], indirect=True)
def test_both_text_encoders_of_sdxl_learn(base, client, info, drawn, checkpoints: Path) -> None:
    """What the graph hands on and what the file holds have the very encoders that were trained."""
    name, file = base
    learn = {"trains": UNET_AND_TEXT_ENCODER, "text_encoder_learning_rate": 1e-3}
    run = queue(client, info, lambda graph: graph.load(name), drawn, "both encoders", **learn)
    compare(client, run)
    given, _ = read_checkpoint(file)
    result, _ = read_checkpoint(checkpoints / "both encoders.safetensors")
    changed = {key for key, value in given.items() if not value.equal(result[key].to(value.dtype))}
    for prefix in (UNET, "conditioner.embedders.0.", "conditioner.embedders.1.model.transformer."):
        of_part = [key for key in given if key.startswith(prefix) and key.endswith(".weight")]
        assert len(changed & set(of_part)) > len(of_part) / 2, prefix
    assert not any(key.startswith("first_stage_model.") for key in changed)


def test_a_model_that_is_sampled_as_velocity(client, info, base_name, drawn) -> None:
    """An SD 1.x file cannot say it: the MODEL that comes out is set so, and the node says so."""

    def velocity(graph: Graph, loaded: Loaded) -> Loaded:
        patch = graph.add(
            "ModelSamplingDiscrete", model=loaded.model, sampling="v_prediction", zsnr=True
        )
        return loaded._replace(model=patch[0])

    run = queue(
        client, info, lambda g: velocity(g, g.load(base_name)), drawn, "velocity", after=velocity
    )
    compare(client, run)
    said = text_of(run.outcome, run.train)
    assert "ModelSamplingDiscrete with v_prediction and zsnr on" in said
