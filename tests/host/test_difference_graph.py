"""A training at a strength, and as a file for the host's Load LoRA, through the server."""

import os
import shutil

import numpy as np
from graphs import Graph, pixels, small_run, text_of
from pack.trainer.checkpoint import read_checkpoint

SETTINGS = {"trains": "unet + text encoder", "learning_rate": 1e-3, "save_precision": "fp32"}
SETTINGS |= {"text_encoder_learning_rate": 1e-3}


def named(key: str) -> str:
    """What a tensor of the checkpoint is called in the file."""
    key = key.replace("model.diffusion_model.", "diffusion_model.")
    key = key.replace("cond_stage_model.", "text_encoders.clip_l.")
    return key.removesuffix("weight") + "diff" if key.endswith("weight") else key[:-4] + "diff_b"


def test_strengths_and_files(client, info, base_name, drawn, server) -> None:
    graph, train = small_run(info, base_name, drawn, "different", SETTINGS)
    base = graph.load(base_name)
    nodes = {"base": graph.sample(base), "trained": graph.sample(graph.load(train[3]))}
    wires = {"model": base.model, "clip": base.clip, "ckpt_name": train[3]}
    for strength in (0.0, 0.5, 1.0):
        made = graph.add("DreamBoothDifference", **wires, strength=strength)
        nodes[f"strength {strength}"] = graph.sample(base._replace(model=made[0], clip=made[1]))
    saved = {}
    for kind, rank in (("difference", 1), ("lora", 4)):
        options = {"kind": kind, "rank": rank, "save_precision": "fp32", "name": kind}
        saved[kind] = graph.add("DreamBoothSaveDifference", **wires, **options)
        loaded = graph.add(
            "LoraLoader",
            model=base.model,
            clip=base.clip,
            lora_name=saved[kind][0],
            strength_model=1.0,
            strength_clip=1.0,
        )
        nodes[kind] = graph.sample(base._replace(model=loaded[0], clip=loaded[1]))
    outcome = client.run(graph)
    seen = {name: pixels(client, outcome, node).astype(int) for name, node in nodes.items()}

    def far(one: str, other: str) -> float:
        return float(np.abs(seen[one] - seen[other]).max())

    assert far("strength 0.0", "base") == 0 and far("strength 1.0", "trained") == 0
    assert far("difference", "trained") <= 1, "but for rounding"
    assert far("base", "trained") > 1 and far("lora", "base") > 1
    assert far("strength 0.5", "base") > 0 and far("strength 0.5", "trained") > 0
    assert "100.0% of the change" in text_of(outcome, saved["difference"])

    folder = server.folder("output")
    before, _ = read_checkpoint(server.folder("models") / "checkpoints" / base_name)
    after, _ = read_checkpoint(folder / "checkpoints" / "dreambooth" / "different.safetensors")
    file, _ = read_checkpoint(folder / "loras" / "dreambooth" / "difference.safetensors")
    changed = {named(key) for key, tensor in after.items() if not tensor.equal(before[key])}
    # the host holds this text encoder in fp16, where the smallest changes are gone
    unets = [{name for name in names if name[:10] == "diffusion_"} for names in (file, changed)]
    assert unets[0] == unets[1] and file.keys() <= changed
    assert len(file.keys() - unets[0]) > 100
    lora, about = read_checkpoint(folder / "loras" / "dreambooth" / "lora.safetensors")
    ups = [t for name, t in lora.items() if name.endswith("lora_up.weight")]
    assert ups and all(t.shape[1] <= 4 for t in ups) and about["ss_network_dim"] == "4"
    assert all(name.startswith(("lora_unet_", "lora_te_text_model_")) for name in lora)


def test_a_file_that_has_changed_is_read_again(client, info, base_name, server) -> None:
    path = server.folder("models") / "checkpoints" / "replaced.safetensors"
    shutil.copy(server.folder("models") / "checkpoints" / base_name, path)

    def executed() -> bool:
        graph = Graph(info)
        base = graph.load(base_name)
        wires = {"model": base.model, "clip": base.clip, "ckpt_name": path.name}
        made = graph.add("DreamBoothDifference", **wires, strength=0.5)
        graph.sample(base._replace(model=made[0], clip=made[1]))
        outcome = client.run(graph)
        done = [e["data"].get("node") for e in outcome.events if e["type"] == "executing"]
        return made.id in done

    assert executed() and not executed()
    os.utime(path, ns=(0, 10**18))
    assert executed() and not executed()
