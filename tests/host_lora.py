"""LoRA files on a checkpoint by ComfyUI's own functions: python host_lora.py CHECKPOINT INPUTS
OUTPUTS SDXL_NAMES LORA...

As host_parity.py, in a process of its own, everything in float32. SDXL_NAMES is a JSON list of what
our LoRA of a full SDXL calls its layers; the host must know them all."""

import json
from pathlib import Path
from types import SimpleNamespace

import host_parity  # first: it takes the command line from the host

# isort: split
import comfy.lora
import comfy.sd
import comfy.utils
import torch
from safetensors.torch import load_file, save_file

# comfy/model_detection.py, unet_config_from_diffusers_unet
SDXL = {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
}


@torch.inference_mode()
def main(names: str, *loras: str) -> None:
    single = {"dtype": torch.float32}
    model, clip, *_ = comfy.sd.load_checkpoint_guess_config(
        host_parity.checkpoint,
        output_vae=False,
        model_options=single,
        te_model_options=single | host_parity.depths(),
    )
    given = load_file(host_parity.inputs_path)
    known = comfy.lora.model_lora_keys_unet(model.model, {})
    known = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, known)
    out = answers("base", model, clip, given)
    for path in loras:
        file = comfy.utils.load_torch_file(path, safe_load=True)
        assert {name.split(".")[0] for name in file} <= known.keys()
        for strength in (1.0, 0.0):
            patched = comfy.sd.load_lora_for_models(model, clip, file, strength, strength)
            out |= answers(f"{Path(path).stem} {strength:g}", *patched, given)
    ours = set(json.loads(Path(names).read_text()))
    assert ours <= sdxl_names(), sorted(ours - sdxl_names())[:5]
    tensors = {name: tensor.float().contiguous() for name, tensor in out.items()}
    save_file(tensors, host_parity.outputs_path)


def answers(name: str, model, clip, given: dict) -> dict:
    """Of the nets themselves; a prompt's way through the graph would patch them by itself."""
    for patcher in (model, clip.patcher):
        patcher.patch_model()
    out = {"unet": host_parity.unet(model, given)} | host_parity.states(clip, given)
    for patcher in (model, clip.patcher):
        patcher.unpatch_model()
    return {f"{name} {what}": tensor.clone() for what, tensor in out.items() if tensor is not None}


def sdxl_names() -> set[str]:
    """What the host calls the layers of an SDXL model, which is stood in for by its names."""
    config = SimpleNamespace(unet_config=SDXL)
    unet = SimpleNamespace(state_dict=dict, model_config=config)
    text = {
        f"clip_{kind}.transformer.text_model.encoder.layers.{n}.{layer}.weight": None
        for kind, layers in (("l", 12), ("g", 32))
        for n in range(layers)
        for layer in comfy.lora.LORA_CLIP_MAP
    }
    encoder = SimpleNamespace(state_dict=lambda: text)
    known = comfy.lora.model_lora_keys_unet(unet, {})
    return set(comfy.lora.model_lora_keys_clip(encoder, known))


main(*host_parity.more)
