"""Writes a random UNet of another family: python make_unet.py COMFYUI KIND FILE

The host's own module gives the names, in a process of its own: importing comfy parses the command
line and claims the device."""

import sys

comfyui, kind, target = sys.argv[1:]
del sys.argv[1:]
sys.path.insert(0, comfyui)

from comfy.cli_args import args  # noqa: E402

args.cpu = True

import torch  # noqa: E402
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

SD = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [1],
    "channel_mult": (1,),
    "transformer_depth": [1],
    "transformer_depth_output": [1, 1],
    "transformer_depth_middle": 1,
    "num_heads": 8,
    "use_spatial_transformer": True,
    "context_dim": 768,
    "use_linear_in_transformer": False,
    "legacy": False,
}
# A distilled SDXL that the host knows by the depths of its blocks.
KOALA = SD | {
    "num_res_blocks": [1, 1, 1],
    "channel_mult": (1, 1, 1),
    "transformer_depth": [0, 2, 5],
    "transformer_depth_output": [0, 0, 2, 2, 5, 5],
    "transformer_depth_middle": -1,
    "context_dim": 2048,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}
KINDS = {
    "inpaint": SD | {"in_channels": 9},
    "sd2": SD | {"context_dim": 1024, "use_linear_in_transformer": True},
    "koala": KOALA,
}

with torch.device("meta"):
    shapes = UNetModel(**KINDS[kind]).state_dict()
random = torch.Generator().manual_seed(0)
save_file(
    {
        f"model.diffusion_model.{key}": (torch.randn(v.shape, generator=random) * 0.02).half()
        for key, v in shapes.items()
    },
    target,
)
