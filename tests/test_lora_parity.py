"""Our LoRA files on the host's model, by its own functions, against the model in training."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from nets import random_checkpoint
from pack.trainer.checkpoint import detect, write_checkpoint
from pack.trainer.config import LoraConfig
from pack.trainer.config.lora import ALL_LAYERS
from pack.trainer.lora import Adapters
from pack.trainer.lora_layers import file_names
from pack.trainer.model import StableDiffusion
from safetensors.torch import load_file, save_file
from test_checkpoint_parity import make_inputs, our_nets, relative_error
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

HOST = Path(__file__).with_name("host_lora.py")
KINDS = ("lora", "dora")


def sdxl_names() -> list[str]:
    """What we call the layers of SDXL, from nets without values."""
    config = {"num_hidden_layers": 12, "hidden_size": 768, "intermediate_size": 3072}
    large = {"num_hidden_layers": 32, "hidden_size": 1280, "intermediate_size": 5120}
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        parts = {
            "unet": unet,
            "text_encoder": CLIPTextModel(CLIPTextConfig(**config)),
            "text_encoder_2": CLIPTextModelWithProjection(CLIPTextConfig(**large)),
        }
    files = file_names(parts, ALL_LAYERS, text_encoders=2)
    names = [name for part in files.values() for name in part.values()]
    # 722 layers of transformer blocks, as kohya's scripts count, and 72 + 192 of the encoders
    usual = [name for name in names if "attentions" in name]
    assert len(usual) == 722 and sum("lora_te" in name for name in names) == 72 + 192
    return names


def adapted(base: dict[str, torch.Tensor], kind: str) -> tuple[StableDiffusion, Adapters]:
    """Adapters that change what the model says by some percent."""
    model = StableDiffusion(base, detect(base))
    parts = {part: module for part, module in model.parts.items() if part != "vae"}
    config = LoraConfig(kind=kind, rank=3, alpha=2.0, layers=ALL_LAYERS)
    adapters = Adapters(parts, config, 0, len(model.text_encoders))
    g = torch.Generator().manual_seed(1)
    for module in parts.values():
        for name, parameter in module.named_parameters():
            if "lora_B" in name:
                parameter.data = torch.randn(parameter.shape, generator=g) * 0.02
            elif "magnitude" in name:
                parameter.data *= 1 + 0.1 * torch.rand(parameter.shape, generator=g)
    return model, adapters


@torch.no_grad()
def answers(model: StableDiffusion, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = our_nets(model.parts, model.layout, given)
    return {name: tensor for name, tensor in found.items() if "graph" not in name}


@pytest.mark.parametrize(
    "net", ["small", "small_sdxl", pytest.param("small_sd2", marks=pytest.mark.slow)]
)
def test_the_host_applies_what_was_trained(tmp_path: Path, comfyui: Path, net: str) -> None:
    """At strength 1 the model in training, at 0 the base; every layer's name is known."""
    base = random_checkpoint(net, "tiny")
    given = make_inputs(detect(base))
    write_checkpoint(tmp_path / "net.safetensors", base, {})
    save_file(given, tmp_path / "inputs.safetensors")
    (tmp_path / "names.json").write_text(json.dumps(sdxl_names()))
    ours, files = {}, []
    for kind in KINDS:
        model, adapters = adapted(dict(base), kind)
        ours[kind] = answers(model, given)
        files.append(tmp_path / f"{kind}.safetensors")
        adapters.writer("fp32", {}).write(files[-1], adapters.tensors(), 1)
        del model, adapters
    names = ["net.safetensors", "inputs.safetensors", "outputs.safetensors", "names.json"]
    paths = [*(tmp_path / name for name in names), *files]
    host = subprocess.run(
        [sys.executable, str(HOST), *map(str, paths)], cwd=comfyui, capture_output=True, text=True
    )
    assert host.returncode == 0, host.stderr[-4000:]
    assert "not loaded" not in host.stderr.lower()
    theirs = load_file(tmp_path / "outputs.safetensors")
    for kind, made in ours.items():
        for what, trained in made.items():
            before = theirs[f"base {what}"]
            assert torch.equal(theirs[f"{kind} 0 {what}"], before)
            assert relative_error(theirs[f"{kind} 1 {what}"], trained) <= 1e-4, (kind, what)
            assert relative_error(before, trained) > 1e-2, "the LoRA does something"
