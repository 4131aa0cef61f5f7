"""ComfyUI's own *Train LoRA* node: ``run_comfyui.py CHECKOUT TASK.json``, see ``tools.py``.

It trains from latents, which other nodes have made of the pictures before it; here they are noise,
which takes the same time to train on. It knows no prior: class images are more images of its list.
Stands alone, because it runs ComfyUI's modules.
"""

import json
import sys

import torch
from safetensors.torch import save_file

checkout, task = sys.argv[1:]
with open(task, encoding="utf-8") as file:
    told = json.load(file)
sys.path[0] = checkout
sys.argv = sys.argv[:1] + ["--cpu"] * (told["device"] == "cpu")

import comfy.options  # noqa: E402 - from the checkout

comfy.options.enable_args_parsing()

import comfy.sd  # noqa: E402 - reads the arguments
from comfy_extras.nodes_train import TrainLoraNode  # noqa: E402

with torch.inference_mode():  # as the host runs its nodes
    model, clip, *_ = comfy.sd.load_checkpoint_guess_config(
        told["base"], output_vae=False, output_clip=True
    )
    g = torch.Generator().manual_seed(0)
    positive, latents = [], []
    for prompt, count in told["prompts"].items():
        text = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        positive += [text] * count
        drawn = torch.randn(count, 1, *told["latent_shape"], generator=g)
        latents += [{"samples": 0.2 * latent} for latent in drawn]
    made = TrainLoraNode.execute(
        [model], latents, positive, **{name: [value] for name, value in told["node"].items()}
    )
lora = {name: tensor.detach().cpu().contiguous() for name, tensor in made.args[1].items()}
save_file(lora, told["out"])
