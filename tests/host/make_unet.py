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
SD2 = SD | {"context_dim": 1024, "use_linear_in_transformer": True}
KINDS = {
    "inpaint": SD | {"in_channels": 9},
    "sd2": SD2,
    # SD 2.1 with a picture's embedding beside the text: the host knows it by that one's width
    "unclip": SD2 | {"num_classes": "sequential", "adm_in_channels": 1536},
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
