"""LoRA files on a checkpoint by ComfyUI's own functions: python host_lora.py CHECKPOINT INPUTS
OUTPUTS SDXL_NAMES LORA...

As host_parity.py: in a ComfyUI tree, in a process of its own, everything in float32. SDXL_NAMES is
a JSON list of what our LoRA of SDXL calls its layers; the host must know them all."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, ".")
checkpoint, inputs_path, outputs_path, names_path, *loras = sys.argv[1:]
del sys.argv[1:]

from comfy.cli_args import args  # noqa: E402

args.cpu = True
args.use_pytorch_cross_attention = True

import comfy.lora  # noqa: E402
import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

# comfy/model_detection.py, unet_config_from_diffusers_unet
SDXL = {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
}


@torch.inference_mode()
def main() -> None:
    single = {"dtype": torch.float32}
    model, clip, *_ = comfy.sd.load_checkpoint_guess_config(
        checkpoint, output_vae=False, model_options=single, te_model_options=single
    )
    model.model.diffusion_model.float()
    clip.cond_stage_model.float()
    given = load_file(inputs_path)
    known = comfy.lora.model_lora_keys_unet(model.model, {})
    known = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, known)
    out = answers("base", model, clip, given)
    for path in loras:
        file = comfy.utils.load_torch_file(path, safe_load=True)
        assert {name.split(".")[0] for name in file} <= known.keys()
        for strength in (1.0, 0.0):
            patched = comfy.sd.load_lora_for_models(model, clip, file, strength, strength)
            out |= answers(f"{Path(path).stem} {strength:g}", *patched, given)
    ours = set(json.loads(Path(names_path).read_text()))
    assert ours <= sdxl_names(), sorted(ours - sdxl_names())[:5]
    save_file({name: tensor.float().contiguous() for name, tensor in out.items()}, outputs_path)


def answers(name: str, model, clip, given: dict) -> dict:
    model.patch_model()
    net = model.model.diffusion_model
    out = {f"{name} unet": net(given["x"], given["t"], context=given["context"]).clone()}
    model.unpatch_model()
    clip.patcher.patch_model()
    encoder = clip.cond_stage_model.clip_l.transformer
    out[f"{name} text"] = encoder(given["tokens"])[0].clone()
    clip.patcher.unpatch_model()
    return out


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


main()
