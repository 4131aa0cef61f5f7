"""Seeded random checkpoints in the single-file layout, for every test that needs a model.

``random_checkpoint("toy")`` takes well under a second (but the host cannot load it: it wants 320
channels); "small" is the least that the host takes for SD 1.x; "full" is Stable Diffusion 1.5."""

import torch
from pack.trainer.checkpoint import PARTS, Layout, export
from pack.trainer.checkpoint.convert import make_module

# kind: (channels, resnets per level, which levels attend, middle block, CLIP hidden, CLIP layers)
KINDS = {
    "toy": ((32,), 1, (1,), True, 32, 2),
    "toy2": ((32, 64), 1, (1, 0), True, 32, 2),
    "small": ((320,), 1, (1,), True, 768, 12),
    "small2": ((320, 640), 1, (1, 1), True, 768, 12),
    "late": ((320, 320), 1, (0, 1), True, 768, 12),
    "full": ((320, 640, 1280, 1280), 2, (1, 1, 1, 0), True, 768, 12),
    "bk_base": ((320, 640, 1280, 1280), 1, (1, 1, 1, 0), True, 768, 12),
    "bk_small": ((320, 640, 1280, 1280), 1, (1, 1, 1, 0), False, 768, 12),
    "bk_tiny": ((320, 640, 1280), 1, (1, 1, 1), False, 768, 12),
}
VAE_CHANNELS = {"kl": (128, 256, 512, 512), "kl_toy": (32, 64, 64, 64)}


def make_layout(kind: str = "toy", vae: str = "tiny") -> Layout:
    """The layout of ``kind``; ``vae`` is "tiny" (TAESD), "kl" (SD's own) or "kl_toy"."""
    channels, layers, attends, middle, hidden, clip_layers = KINDS[kind]
    down = tuple("CrossAttnDownBlock2D" if here else "DownBlock2D" for here in attends)
    return Layout(
        family="sd1",
        unet_config={
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": channels,
            "layers_per_block": layers,
            "down_block_types": down,
            "mid_block_type": "UNetMidBlock2DCrossAttn" if middle else None,
            "up_block_types": tuple(name.replace("Down", "Up") for name in reversed(down)),
            "transformer_layers_per_block": 1,
            "cross_attention_dim": hidden,
            "attention_head_dim": 8,
            "sample_size": 64,
        },
        text_config=_text_config(hidden, clip_layers),
        vae_kind="tiny" if vae == "tiny" else "kl",
        vae_config={"latent_channels": 4} if vae == "tiny" else _kl_config(VAE_CHANNELS[vae]),
    )


def _text_config(hidden: int, layers: int) -> dict:
    return {
        "vocab_size": 49408,
        "hidden_size": hidden,
        "intermediate_size": hidden * 4,
        "projection_dim": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, hidden // 64),
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": 49407,
    }


def _kl_config(channels: tuple[int, ...]) -> dict:
    return {
        "in_channels": 3,
        "out_channels": 3,
        "down_block_types": ("DownEncoderBlock2D",) * len(channels),
        "up_block_types": ("UpDecoderBlock2D",) * len(channels),
        "block_out_channels": channels,
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": 512,
    }


def random_checkpoint(
    kind: str = "toy",
    vae: str = "tiny",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> dict[str, torch.Tensor]:
    """A checkpoint of ``kind``, the same for the same seed; on device "meta" names and shapes only.

    The modules' own initialisation; what they set to zero or one (norms, biases) is moved a little,
    so that no two tensors of a shape are alike and a swapped pair of names shows.
    """
    layout = make_layout(kind, vae)
    tensors = {}
    for number, part in enumerate(PARTS):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed * len(PARTS) + number)
            part_tensors = export(make_module(layout, part, device), layout, part)
            if device != "meta":
                part_tensors = {key: _moved(value) for key, value in part_tensors.items()}
        tensors |= {key: value.to(dtype) for key, value in part_tensors.items()}
    return tensors


def _moved(tensor: torch.Tensor) -> torch.Tensor:
    constant = tensor.ndim == 1 and bool((tensor == tensor[0]).all())
    return tensor + 0.05 * torch.randn(tensor.shape) if constant else tensor
