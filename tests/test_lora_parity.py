"""Our LoRA files on the host's model, by its own functions, against the model in training."""

import json
import subprocess
import sys
from pathlib import Path

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
from test_checkpoint_parity import make_inputs, relative_error
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
    parts = {part: model.parts[part] for part in ("unet", "text_encoder")}
    config = LoraConfig(kind=kind, rank=3, alpha=2.0, layers=ALL_LAYERS)
    adapters = Adapters(parts, config, seed=0, text_encoders=1)
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
    image = model.unet(given["x"], given["t"], given["context"]).sample
    return {"unet": image, "text": model.parts["text_encoder"](given["tokens"]).last_hidden_state}


def test_the_host_applies_what_was_trained(tmp_path: Path, comfyui: Path) -> None:
    """At strength 1 the model in training, at 0 the base; every layer's name is known."""
    base, given = random_checkpoint("small", "tiny"), make_inputs()
    write_checkpoint(tmp_path / "net.safetensors", base, {})
    save_file(given, tmp_path / "inputs.safetensors")
    (tmp_path / "names.json").write_text(json.dumps(sdxl_names()))
    ours, files = {}, []
    for kind in KINDS:
        model, adapters = adapted(dict(base), kind)
        ours |= {f"{kind} 1 {part}": answer for part, answer in answers(model, given).items()}
        files.append(tmp_path / f"{kind}.safetensors")
        adapters.writer("fp32", {}).write(files[-1], adapters.tensors(), 1)
    names = ["net.safetensors", "inputs.safetensors", "outputs.safetensors", "names.json"]
    paths = [*(tmp_path / name for name in names), *files]
    host = subprocess.run(
        [sys.executable, str(HOST), *map(str, paths)], cwd=comfyui, capture_output=True, text=True
    )
    assert host.returncode == 0, host.stderr[-4000:]
    assert "not loaded" not in host.stderr.lower()
    theirs = load_file(tmp_path / "outputs.safetensors")
    for part in ("unet", "text"):
        before = theirs[f"base {part}"]
        for kind in KINDS:
            assert torch.equal(theirs[f"{kind} 0 {part}"], before)
            trained = ours[f"{kind} 1 {part}"]
            assert relative_error(theirs[f"{kind} 1 {part}"], trained) <= 1e-4
            assert relative_error(before, trained) > 1e-2, "the LoRA does something"
