"""A small base in Stable Diffusion 1.5's layout, for machines without a checkpoint or a GPU.

Seeded random weights that have never seen a picture, wired by hand in two places so that a short
run has something to show: the VAE is a box average down to 1/8 and a smooth way up again, and the
UNet starts by answering with its own input, which is the right noise at high noise levels. 25.8 M
parameters in the UNet, CLIP-L's 123 M in the text encoder: ComfyUI takes it for an SD 1.5.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from ..trainer.checkpoint import Layout, detect, export, write_checkpoint

VERSION = "1"
LATENT_SCALE = 0.18215
# Four directions in centred RGB; the transpose times 1/4 is their inverse on colours.
FRAME = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
GAIN = 1.6  # gives photographs latents of about unit spread

LAYOUT = Layout(
    family="sd1",
    unet_config={
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (320,),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D",),
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "up_block_types": ("CrossAttnUpBlock2D",),
        "transformer_layers_per_block": 1,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "sample_size": 64,
    },
    text_config={
        "vocab_size": 49408,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "projection_dim": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407,
    },
    vae_kind="tiny",
    vae_config={"latent_channels": 4},
    vae_scale=LATENT_SCALE,
)


def ensure_base(path: Path, seed: int = 0) -> Path:
    """Writes the base unless this version of it is there; returns its path."""
    mark = path.with_suffix(".version")
    wanted = f"{VERSION} {seed}"
    if path.is_file() and mark.is_file() and mark.read_text() == wanted:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = make_tensors(seed)
    metadata = {"modelspec.title": "Small random base of the DreamBooth demo"}
    write_checkpoint(path, tensors, metadata, dtypes=dict.fromkeys(tensors, torch.float16))
    mark.write_text(wanted)
    return path


def make_tensors(seed: int = 0) -> dict[str, Tensor]:
    """The base's state dict in fp32; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        unet = wire_unet(UNet2DConditionModel(**LAYOUT.unet_config))
        text = CLIPTextModel(CLIPTextConfig(**LAYOUT.text_config))
        vae = wire_vae(AutoencoderTiny(**LAYOUT.vae_config))
    parts = {"unet": unet, "text_encoder": text, "vae": vae}
    tensors: dict[str, Tensor] = {}
    for part, module in parts.items():
        tensors |= export(module, LAYOUT, part)
    found = detect(tensors)
    if found.family != LAYOUT.family or found.vae_kind != LAYOUT.vae_kind:
        raise AssertionError(f"the base is taken for {found}")
    return tensors


def wire_unet(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Makes the UNet answer with its input, scaled to unit spread, plus a little of its own.

    Eight channels of the first normalisation group carry the input and its negative past every
    block; SiLU(a) - SiLU(-a) = a then gives it back behind the last activation.
    """
    keep = slice(0, 8)
    unet.conv_in.weight[keep] = 0
    for channel in range(4):
        unet.conv_in.weight[channel, channel, 1, 1] = 1
        unet.conv_in.weight[channel + 4, channel, 1, 1] = -1
    unet.conv_in.bias[keep] = 0
    last, attention = unet.up_blocks[0].resnets[-1], unet.up_blocks[0].attentions[-1]
    width = last.conv_shortcut.out_channels
    last.conv_shortcut.weight[keep] = 0
    for channel in range(8):  # the skip from conv_in lies behind the running state
        last.conv_shortcut.weight[channel, width + channel] = 1
    for layer in (last.conv_shortcut, last.conv2, attention.proj_out):
        layer.bias[keep] = 0
    for layer in (last.conv2, attention.proj_out):
        layer.weight[keep] = 0
    unet.conv_out.weight *= 0.3
    unet.conv_out.weight[:, keep] = 0
    unet.conv_out.bias.zero_()
    for channel in range(4):
        unet.conv_out.weight[channel, channel, 1, 1] = 1
        unet.conv_out.weight[channel, channel + 4, 1, 1] = -1
    return unet


def wire_vae(vae: AutoencoderTiny) -> AutoencoderTiny:
    """An autoencoder without training: block means down, a smooth picture up."""
    for layer in vae.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.zero_()
            if layer.bias is not None:
                layer.bias.zero_()
    first, *halves, last = own_convolutions(vae.encoder)
    for colour in range(3):
        first.weight[colour, colour, 1, 1] = 1
        for half in halves:
            half.weight[colour, colour, 1:, 1:] = 0.25
    last.weight[:, :3, 1, 1] = GAIN * FRAME
    last.bias.copy_(-GAIN * FRAME.sum(1) / 2)

    first, *doubles, last = own_convolutions(vae.decoder)
    colours = FRAME.T / (4 * GAIN)
    first.weight[:3, :, 1, 1], first.bias[:3] = colours, 0.5
    first.weight[3:6, :, 1, 1], first.bias[3:6] = -colours, 0.5  # one minus the colour
    blur = torch.tensor([0.25, 0.5, 0.25])
    for double in doubles:
        for channel in range(6):
            double.weight[channel, channel] = torch.outer(blur, blur)
    for colour in range(3):
        last.weight[colour, colour, 1, 1] = 0.5
        last.weight[colour, colour + 3, 1, 1] = -0.5
    last.bias.fill_(0.5)
    return vae


def own_convolutions(side: nn.Module) -> list[nn.Conv2d]:
    """The convolutions between the residual blocks, which stay at zero and pass their input on."""
    return [layer for layer in side.layers if isinstance(layer, nn.Conv2d)]
