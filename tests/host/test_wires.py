"""What is wired in is what is trained: patches, merges, clip skip, another VAE."""

from pathlib import Path

import numpy as np
import pytest
import torch
from graphs import Graph, Loaded, pixels, trained
from pack.demo.client import ComfyClient
from pack.trainer.checkpoint import read_checkpoint
from safetensors.torch import save_file

UNET, VAE = "model.diffusion_model.", "first_stage_model."
LAYERS = [f"input_blocks.1.1.transformer_blocks.0.attn{n}.to_{m}" for n in (1, 2) for m in "qv"]
# A run that learns nothing: its result is the weights that it took from the wires.
STILL = {
    "trains": "unet + text encoder",
    "steps": 1,
    "learning_rate": 0.0,
    "text_encoder_learning_rate": 0.0,
    "weight_decay": 0.0,
    "save_precision": "fp32",
}


@pytest.fixture(scope="module")
def lora(place_model, tmp_path_factory) -> str:
    """A strong random LoRA for a few layers of UNet and text encoder."""
    random = torch.Generator().manual_seed(1)
    tensors = {}

    def add(layer: str, width: int, inside: int) -> None:
        tensors[f"{layer}.lora_up.weight"] = torch.randn(width, 4, generator=random) * 0.1
        tensors[f"{layer}.lora_down.weight"] = torch.randn(4, inside, generator=random) * 0.1
        tensors[f"{layer}.alpha"] = torch.tensor(4.0)

    for layer in LAYERS:
        add(f"diffusion_model.{layer}", 320, 768 if "attn2.to_v" in layer else 320)
    for number in range(0, 12, 2):
        add(f"lora_te_text_model_encoder_layers_{number}_mlp_fc1", 3072, 768)
    file = tmp_path_factory.mktemp("lora") / "random.safetensors"
    save_file(tensors, file)
    return place_model(file, "loras")


@pytest.fixture(scope="module")
def other_base(small_base: Path, place_model, tmp_path_factory) -> str:
    """Another checkpoint: its own UNet values and a VAE with a tint."""
    tensors, _ = read_checkpoint(small_base)
    random = torch.Generator().manual_seed(2)
    for key in [k for k in tensors if k.startswith(UNET) and "attn" in k]:
        tensors[key] += torch.randn(tensors[key].shape, generator=random).half() * 0.05
    last = max(
        (k for k in tensors if k.startswith(f"{VAE}taesd_decoder.") and k.endswith(".bias")),
        key=lambda key: int(key.split(".")[2]),
    )
    tensors[last] += torch.tensor([0.3, 0.0, 0.0]).half()
    file = tmp_path_factory.mktemp("other") / "other_base.safetensors"
    save_file(tensors, file)
    return place_model(file)


def still_run(
    client: ComfyClient, graph: Graph, wired: Loaded, plain: Loaded, folder: str, name: str
) -> list[np.ndarray]:
    """Pictures of the wired model, of the run's result and of the plain base; and its file."""
    train = graph.train(wired, graph.concept(graph.photos(folder)), name, STILL)
    nodes = [graph.sample(loaded) for loaded in (wired, trained(train), plain)]
    outcome = client.run(graph)
    return [pixels(client, outcome, node) for node in nodes]


def test_a_lora_is_part_of_what_is_trained(
    client, info, base_name, drawn, lora, checkpoints, small_base
) -> None:
    graph = Graph(info)
    base = graph.load(base_name)
    node = graph.add(
        "LoraLoader",
        model=base.model,
        clip=base.clip,
        lora_name=lora,
        strength_model=1.0,
        strength_clip=1.0,
    )
    patched = Loaded(node[0], node[1], base.vae)
    wired, result, plain = still_run(client, graph, patched, base, drawn, "with lora")
    assert not np.array_equal(wired, plain), "the LoRA does nothing"
    assert np.array_equal(result, wired)

    before, _ = read_checkpoint(small_base)
    after, _ = read_checkpoint(checkpoints / "with lora.safetensors")
    changed = {k for k, v in after.items() if not v.float().equal(before[k].float())}
    text = "cond_stage_model.transformer.text_model.encoder.layers.{}.mlp.fc1.weight"
    expected = {f"{UNET}{layer}.weight" for layer in LAYERS}
    assert changed == expected | {text.format(number) for number in range(0, 12, 2)}


def test_a_merge_is_what_is_trained(client, info, base_name, other_base, drawn) -> None:
    graph = Graph(info)
    base, other = graph.load(base_name), graph.load(other_base)
    merged = graph.add("ModelMergeSimple", model1=base.model, model2=other.model, ratio=0.5)
    loaded = base._replace(model=merged[0])
    wired, result, plain = still_run(client, graph, loaded, base, drawn, "merged")
    assert not np.array_equal(wired, plain), "the merge does nothing"
    assert np.array_equal(result, wired)


def test_the_base_is_as_it_was_before_the_patches(client, info, base_name, drawn, lora) -> None:
    """Baking patches in must not leave them in the host's own model."""
    graph = Graph(info)
    base = graph.load(base_name)
    before = picture_of(client, info, base_name)
    node = graph.add("LoraLoaderModelOnly", model=base.model, lora_name=lora, strength_model=1.0)
    patched = base._replace(model=node[0])
    graph.train(patched, graph.concept(graph.photos(drawn)), "baked", {"steps": 1})
    client.run(graph)
    assert np.array_equal(picture_of(client, info, base_name), before)


def picture_of(client: ComfyClient, info: dict, checkpoint: str) -> np.ndarray:
    graph = Graph(info)
    node = graph.sample(graph.load(checkpoint))
    return pixels(client, client.run(graph), node)


def test_clip_skip_is_kept_and_trained_with(client, info, base_name, drawn, checkpoints) -> None:
    graph = Graph(info)
    base = graph.load(base_name)
    skip = graph.add("CLIPSetLastLayer", clip=base.clip, stop_at_clip_layer=-2)
    skipping = base._replace(clip=skip[0])
    wired, result, plain = still_run(client, graph, skipping, base, drawn, "clip skip")
    assert not np.array_equal(wired, plain), "clip skip does nothing"
    assert np.array_equal(result, wired)
    _, metadata = read_checkpoint(checkpoints / "clip skip.safetensors")
    assert metadata["dreambooth.clip_skip"] == "2"


def test_the_vae_may_come_from_another_loader(
    client, info, base_name, other_base, drawn, checkpoints, server
) -> None:
    graph = Graph(info)
    base, other = graph.load(base_name), graph.load(other_base)
    loaded = base._replace(vae=other.vae)
    wired, result, plain = still_run(client, graph, loaded, base, drawn, "other vae")
    assert not np.array_equal(wired, plain), "both VAEs are the same"
    assert np.array_equal(result, wired)
    theirs, _ = read_checkpoint(server.folder("models/checkpoints") / other_base)
    ours, _ = read_checkpoint(checkpoints / "other vae.safetensors")
    assert all(ours[k].float().equal(v.float()) for k, v in theirs.items() if k.startswith(VAE))


def test_what_a_run_from_two_files_cannot_say_is_left_out(runs: Path) -> None:
    """Its job.json names no base, so that a shell does not start from the wrong one."""
    assert '"base": null' in (runs / "other vae" / "job.json").read_text()
