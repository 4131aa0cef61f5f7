"""Seeded random checkpoints in the single-file layout, for every test that needs a model.

``random_checkpoint("toy")`` takes well under a second (but the host cannot load it: it wants 320
channels); "small" is the least that the host takes for SD 1.x, "full" is Stable Diffusion 1.5. Of
the other families "toy_x" is a toy, "small_x" has a UNet that the host loads and the real widths of
text encoders with the fewest layers, "full_x" is the real thing."""

from dataclasses import dataclass
from functools import cache

import torch
from pack.trainer.checkpoint import Layout, export
from pack.trainer.checkpoint.convert import make_module


@dataclass(frozen=True)
class Net:
    """One geometry: the UNet, and the text encoders as (hidden width, layers of the module)."""

    channels: tuple[int, ...]
    layers: int
    depths: tuple[int, ...]
    """Transformer blocks in each block of a level, 0 without attention."""
    text: tuple[int, int]
    text_2: tuple[int, int] | None = None
    middle: str | None = "UNetMidBlock2DCrossAttn"
    up: tuple[tuple[int, ...], ...] | None = None
    """Transformer blocks of each block going up, where that is no mirror of going down."""
    family: str = "sd1"
    prediction: str = "epsilon"
    zero_terminal_snr: bool = False


CLIP_L, OPEN_CLIP_H, OPEN_CLIP_G = (768, 12), (1024, 23), (1280, 32)
PLAIN = "UNetMidBlock2D"
FULL, XL = (320, 640, 1280, 1280), (320, 640, 1280)
V = {"prediction": "v_prediction"}
SD2 = {"family": "sd2"}
SDXL = {"family": "sdxl", "text": CLIP_L, "text_2": OPEN_CLIP_G}
SMALL_SDXL = {"family": "sdxl", "text": (768, 3), "text_2": (1280, 3)}
TOY_SDXL = {"family": "sdxl", "text": (32, 2), "text_2": (64, 2)}
TOY_SSD_DEPTHS = {"depths": (0, 2, 3), "up": ((3, 3, 4), (2, 1, 1), (0, 0, 0)), "middle": PLAIN}
SSD_DEPTHS = {"depths": (0, 2, 4), "up": ((4, 4, 10), (2, 1, 1), (0, 0, 0)), "middle": PLAIN}

KINDS = {
    "toy": Net((32,), 1, (1,), (32, 2)),
    "toy2": Net((32, 64), 1, (1, 0), (32, 2)),
    "small": Net((320,), 1, (1,), CLIP_L),
    "small2": Net((320, 640), 1, (1, 1), CLIP_L),
    "late": Net((320, 320), 1, (0, 1), CLIP_L),
    "full": Net(FULL, 2, (1, 1, 1, 0), CLIP_L),
    "bk_base": Net(FULL, 1, (1, 1, 1, 0), CLIP_L),
    "bk_small": Net(FULL, 1, (1, 1, 1, 0), CLIP_L, middle=None),
    "bk_tiny": Net((320, 640, 1280), 1, (1, 1, 1), CLIP_L, middle=None),
    "toy_sd2": Net((32, 64), 1, (1, 0), (32, 2), **SD2),
    # the host tells v-prediction by a bias of the twelfth output block
    "toy_sd2_v": Net((32,) * 4, 2, (1, 1, 1, 0), (32, 2), **SD2, **V),
    "small_sd2": Net((320,), 1, (1,), (1024, 3), **SD2),
    "small_sd2_v": Net((320,) * 4, 2, (1, 0, 0, 0), (1024, 3), **SD2, **V),
    "full_sd2": Net(FULL, 2, (1, 1, 1, 0), OPEN_CLIP_H, **SD2),
    "full_sd21": Net(FULL, 2, (1, 1, 1, 0), OPEN_CLIP_H, **SD2, **V),
    "toy_sdxl": Net((32, 64), 1, (0, 2), **TOY_SDXL),
    "toy_sdxl_v": Net((32, 64), 1, (0, 2), **TOY_SDXL, **V, zero_terminal_snr=True),
    "toy_ssd1b": Net((32, 32, 64), 2, **TOY_SSD_DEPTHS, **TOY_SDXL),
    "toy_koala": Net((32, 32, 64), 1, (0, 2, 3), **TOY_SDXL, middle=None),
    # the last level has no attention, the middle block has
    "toy_late": Net((32, 64), 1, (2, 0), **TOY_SDXL, up=((0, 0), (2, 3))),
    "small_sdxl": Net((320,) * 3, 2, (0, 2, 10), **SMALL_SDXL),
    "small_ssd1b": Net((320,) * 3, 2, **SSD_DEPTHS, **SMALL_SDXL),
    "small_vega": Net((320,) * 3, 2, (0, 1, 2), **SMALL_SDXL, middle=PLAIN),
    "small_vega_v": Net((320,) * 3, 2, (0, 1, 2), **SMALL_SDXL, **V, zero_terminal_snr=True),
    "small_koala": Net((320,) * 3, 1, (0, 2, 5), **SMALL_SDXL, middle=None),
    "small_koala_1b": Net((320,) * 3, 1, (0, 2, 6), **SMALL_SDXL),
    "full_sdxl": Net(XL, 2, (0, 2, 10), **SDXL),
    "ssd1b": Net(XL, 2, **SSD_DEPTHS, **SDXL),
    "vega": Net(XL, 2, (0, 1, 2), **SDXL, middle=PLAIN),
    "koala_700m": Net(XL, 1, (0, 2, 5), **SDXL, middle=None),
    "koala_1b": Net(XL, 1, (0, 2, 6), **SDXL),
}
VAE_CHANNELS = {"kl": (128, 256, 512, 512), "kl_toy": (32, 64, 64, 64)}
TELLTALE = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"


def make_layout(kind: str = "toy", vae: str = "tiny") -> Layout:
    """The layout of ``kind``; ``vae`` is "tiny" (TAESD), "kl" (SD's own) or "kl_toy"."""
    net = KINDS[kind]
    text_2 = net.text_2 and _text_config(*net.text_2, act="gelu", pad=0)
    open_clip = {"act": "gelu", "pad": 0} if net.family == "sd2" else {}
    return Layout(
        family=net.family,
        unet_config=_unet_config(net),
        text_config=_text_config(*net.text, **open_clip),
        vae_kind="tiny" if vae == "tiny" else "kl",
        vae_config={"latent_channels": 4} if vae == "tiny" else _kl_config(VAE_CHANNELS[vae]),
        text_config_2=text_2,
        prediction=net.prediction,
        zero_terminal_snr=net.zero_terminal_snr,
        latent_scale=0.13025 if net.family == "sdxl" else 0.18215,
    )


def _unet_config(net: Net) -> dict:
    down = tuple("CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in net.depths)
    depths = tuple(depth or 1 for depth in net.depths)
    config = {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": net.channels,
        "layers_per_block": net.layers,
        "down_block_types": down,
        "mid_block_type": net.middle,
        "up_block_types": tuple(name.replace("Down", "Up") for name in reversed(down)),
        "transformer_layers_per_block": _same(depths),
        "cross_attention_dim": net.text[0] + (net.text_2[0] if net.text_2 else 0),
        "attention_head_dim": 8,
        "sample_size": {"sd1": 64, "sd2": 96, "sdxl": 128}[net.family],
    }
    if net.up:
        config["transformer_layers_per_block"] = tuple(
            (depth,) * net.layers if depth else 1 for depth in net.depths
        )
        config["reverse_transformer_layers_per_block"] = tuple(
            level if any(level) else 1 for level in net.up
        )
    if net.family != "sd1":
        heads = tuple(max(1, width // 64) for width in net.channels)
        config |= {"attention_head_dim": _same(heads), "use_linear_projection": True}
    if net.family == "sd2":
        config["upcast_attention"] = True
    if net.family == "sdxl":
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": net.text_2[0] + 6 * 256,
        }
    return config


def _same(values: tuple) -> int | tuple:
    return values[0] if len(set(values)) == 1 else values


def _text_config(hidden: int, layers: int, act: str = "quick_gelu", pad: int = 49407) -> dict:
    return {
        "vocab_size": 49408,
        "hidden_size": hidden,
        "intermediate_size": hidden * 4,
        "projection_dim": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, hidden // 64),
        "max_position_embeddings": 77,
        "hidden_act": act,
        "bos_token_id": 49406,
        "eos_token_id": 49407,
        "pad_token_id": pad,
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
    with torch.random.fork_rng(devices=[]):
        for number, part in enumerate(layout.parts):
            torch.manual_seed(seed * len(layout.parts) + number)
            part_tensors = export(make_module(layout, part, device), layout, part)
            if device != "meta":
                part_tensors = {key: _moved(value) for key, value in part_tensors.items()}
            tensors |= {key: value.to(dtype) for key, value in part_tensors.items()}
        if layout.family != "sd1":
            tensors |= _extras(layout, tensors, device, dtype)
    return tensors


def _moved(tensor: torch.Tensor) -> torch.Tensor:
    constant = tensor.ndim == 1 and bool((tensor == tensor[0]).all())
    return tensor + 0.05 * torch.randn(tensor.shape) if constant else tensor


def _extras(
    layout: Layout, tensors: dict[str, torch.Tensor], device: str, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """What the published files have besides the modules' tensors."""
    if layout.family == "sdxl":
        extras = {
            "conditioner.embedders.0.transformer.text_model.embeddings.position_ids": torch.arange(
                77
            )[None],
            "conditioner.embedders.1.model.logit_scale": torch.tensor(4.6, dtype=dtype),
        }
        if layout.prediction == "v_prediction":
            extras["v_pred"] = torch.tensor([])
        if layout.zero_terminal_snr:
            extras["ztsnr"] = torch.tensor([])
        return extras
    root = "cond_stage_model.model."
    layers, width = (layout.text_config[key] for key in ("num_hidden_layers", "hidden_size"))
    before, last = (f"{root}transformer.resblocks.{i}." for i in (layers - 1, layers))
    extras = {
        key.replace(before, last): torch.randn(tensor.shape, device=device, dtype=dtype)
        for key, tensor in tensors.items()
        if key.startswith(before)
    }
    extras[root + "text_projection"] = torch.randn(width, width, device=device, dtype=dtype)
    extras[root + "logit_scale"] = torch.tensor(4.6, dtype=dtype)
    if TELLTALE in tensors:  # real on every device: its values are looked at
        spread = 0.2 if layout.prediction == "v_prediction" else 0.05
        extras[TELLTALE] = spread * torch.randn(tensors[TELLTALE].shape).to(dtype)
    return extras


def meta(kind: str = "toy", vae: str = "tiny") -> dict[str, torch.Tensor]:
    """Names, shapes and dtypes of a checkpoint, without values."""
    return dict(_meta(kind, vae))


@cache
def _meta(kind: str, vae: str) -> dict[str, torch.Tensor]:
    return random_checkpoint(kind, vae, device="meta")


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor to put among them."""
    return torch.empty(shape, dtype=dtype, device="meta")
