"""A LoRA from a graph: handed on, listed at once, and the same through the host's Load LoRA."""

import os

import numpy as np
from graphs import QUICK, Graph, forget, pixels, text_of, trained
from pack.trainer.checkpoint import read_checkpoint

RATES = {"learning_rate": 1e-2, "text_encoder_learning_rate": 1e-2}
SETTINGS = QUICK | RATES | {"trains": "unet + text encoder", "preview_every": 2}


def test_a_lora_is_trained_and_loaded(client, info, base_name, drawn, server) -> None:
    """No class images, no checkpoint; queued again it is handed over."""
    graph = Graph(info)
    base = graph.load(base_name)
    settings = graph.add("DreamBoothSettings", **SETTINGS)
    lora = graph.add(
        "DreamBoothLoRA", settings=settings[0], kind="lora", rank=4, prior_without_images=True
    )
    concept = graph.concept(graph.photos(drawn), identifier="zwx", class_noun="dog")
    inputs = {"model": base.model, "clip": base.clip, "vae": base.vae, "concepts": concept[0]}
    train = graph.add("DreamBoothTrain", **inputs, settings=lora[0], name="my lora")
    file = graph.add(
        "LoraLoader",
        model=base.model,
        clip=base.clip,
        lora_name=train[5],
        strength_model=1.0,
        strength_clip=1.0,
    )
    from_memory = graph.sample(trained(train))
    from_file = graph.sample(base._replace(model=file[0], clip=file[1]))
    untouched = graph.sample(base)
    outcome = client.run(graph)
    memory, loaded, before = (
        pixels(client, outcome, node) for node in (from_memory, from_file, untouched)
    )
    assert np.array_equal(memory, loaded)
    assert not np.array_equal(memory, before), "training changed nothing"
    assert len(outcome.images(train.id)) == 1, "the sample picture"

    output = server.folder("output")
    path = output / "loras" / "dreambooth" / "my lora.safetensors"
    assert not (output / "checkpoints" / "dreambooth" / "my lora.safetensors").exists()
    _, about = read_checkpoint(path)
    assert about["ss_network_dim"] == "4" and about["dreambooth.steps"] == "2"
    loader = client.object_info()["LoraLoader"]["input"]["required"]["lora_name"]
    assert os.path.join("dreambooth", path.name) in loader[0]

    written = path.stat().st_mtime_ns
    forget(client, info)
    again = client.run(graph)
    assert "is handed over" in text_of(again, train) and path.stat().st_mtime_ns == written
    assert np.array_equal(pixels(client, again, from_memory), memory)
