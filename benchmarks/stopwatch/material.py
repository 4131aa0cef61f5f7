"""What every trainer is given: the same seeded weights as one file and as folders, pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from torch import nn
from transformers import CLIPTokenizer

from ...trainer.checkpoint import Layout, export, write_checkpoint
from ...trainer.checkpoint.convert import make_module
from ...trainer.tokenizer import write_vocabulary

SEED = 0
INSTANCE_PROMPT, CLASS_PROMPT = "a photo of zwx dog", "a photo of a dog"


@dataclass(frozen=True)
class Size:
    """A model, and the job it is given.

    The counts of pictures have no common divisor: the k-th instance and the k-th class image, both
    modulo, are then every pair there is.
    """

    channels: tuple[int, ...]
    layers: int
    text: tuple[int, int]
    """Width and layers of the text encoder."""
    vae: tuple[int, ...]
    resolution: int
    instances: int
    classes: int
    steps: int

    @property
    def layout(self) -> Layout:
        last = len(self.channels) - 1
        attended = [n < last or not last for n in range(len(self.channels))]
        down = tuple("CrossAttnDownBlock2D" if yes else "DownBlock2D" for yes in attended)
        width, layers = self.text
        unet = {
            "in_channels": 4, "out_channels": 4, "block_out_channels": self.channels,
            "layers_per_block": self.layers, "down_block_types": down,
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "up_block_types": tuple(name.replace("Down", "Up") for name in reversed(down)),
            "transformer_layers_per_block": 1, "cross_attention_dim": width,
            "attention_head_dim": 8, "sample_size": 64,
        }  # fmt: skip
        text = {
            "vocab_size": 49408, "hidden_size": width, "intermediate_size": 4 * width,
            "projection_dim": width, "num_hidden_layers": layers,
            "num_attention_heads": max(1, width // 64), "max_position_embeddings": 77,
            "hidden_act": "quick_gelu", "bos_token_id": 49406, "eos_token_id": 49407,
            "pad_token_id": 49407,
        }  # fmt: skip
        blocks = len(self.vae)
        vae = {
            "in_channels": 3, "out_channels": 3, "block_out_channels": self.vae,
            "down_block_types": ("DownEncoderBlock2D",) * blocks,
            "up_block_types": ("UpDecoderBlock2D",) * blocks, "layers_per_block": 2,
            "latent_channels": 4, "sample_size": 512,
        }  # fmt: skip
        return Layout("sd1", unet, text, "kl", vae)


SIZES = {
    "toy": Size((32, 64), 1, (32, 2), (32, 64, 64, 64), 64, 3, 4, 10),
    "small": Size((320,), 1, (768, 12), (64, 128, 256, 256), 64, 5, 12, 30),
    "sd15": Size(
        (320, 640, 1280, 1280), 2, (768, 12), (128, 256, 512, 512), 512, 10, 49, 130
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Material:
    """Files on disk."""

    size: Size
    folder: Path

    @property
    def checkpoint(self) -> Path:
        return self.folder / "base.safetensors"

    @property
    def diffusers(self) -> Path:
        return self.folder / "diffusers"

    @property
    def tokenizers(self) -> Path:
        """Holds CLIP's as sd-scripts keeps what it has downloaded."""
        return self.folder / "tokenizers"

    @property
    def instances(self) -> Path:
        return self.folder / "instances"

    @property
    def classes(self) -> Path:
        return self.folder / "classes"

    def pictures(self, folder: Path) -> list[str]:
        return [str(path) for path in sorted(folder.iterdir())]


def make_material(size: Size, folder: Path) -> Material:
    """Makes what is not there yet."""
    material, mark = Material(size, folder), folder / "made_of.json"
    made_of = json.dumps([repr(size), SEED, torch.__version__])
    if mark.is_file() and mark.read_text("utf-8") == made_of:
        return material
    folder.mkdir(parents=True, exist_ok=True)
    modules = dict(make_modules(size.layout))
    tensors = {}
    for part, module in modules.items():
        tensors |= export(module, size.layout, part)
    write_checkpoint(material.checkpoint, tensors, {})
    vocabulary = material.tokenizers / "openai_clip-vit-large-patch14"
    write_tokenizer(vocabulary)
    write_diffusers(modules, vocabulary, material.diffusers)
    for place, count, seed in (
        (material.instances, size.instances, 100),
        (material.classes, size.classes, 200),
    ):
        place.mkdir(exist_ok=True)
        for number in range(count):
            draw(size.resolution, seed + number).save(place / f"{number:03}.png")
    mark.write_text(made_of, "utf-8")
    return material


def make_modules(layout: Layout) -> Iterator[tuple[str, nn.Module]]:
    """Every part with its own initialisation, fp32; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        for part in layout.parts:
            yield part, make_module(layout, part, "cpu").eval()


def write_tokenizer(folder: Path) -> None:
    """As OpenAI published CLIP's, for old and new versions of transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    write_vocabulary(folder)
    start, end = "<|startoftext|>", "<|endoftext|>"
    said = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "add_prefix_space": False,
        "bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(said), "utf-8")


def write_diffusers(modules: dict[str, nn.Module], vocabulary: Path, folder: Path) -> None:
    """As Stable Diffusion 1.5 is published."""
    tokenizer = CLIPTokenizer.from_pretrained(vocabulary)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    StableDiffusionPipeline(
        unet=modules["unet"],
        vae=modules["vae"],
        text_encoder=modules["text_encoder"],
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    shutil.copytree(vocabulary, folder / "tokenizer", dirs_exist_ok=True)


def draw(side: int, seed: int) -> Image.Image:
    """A smooth picture with colours of its own; of the size that is trained, so that nobody has to
    scale or cut it."""
    g = torch.Generator().manual_seed(seed)
    coarse = (torch.rand(5, 5, 3, generator=g) * 255).to(torch.uint8).numpy()
    return Image.fromarray(coarse, "RGB").resize((side, side), Image.Resampling.BICUBIC)
