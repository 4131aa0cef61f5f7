"""Our files through diffusers' own single-file loader: the field reads them too."""

import json
from pathlib import Path

import pytest
import torch
from nets import random_checkpoint
from pack.trainer.checkpoint import Layout, build, detect, write_checkpoint

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
INDEX = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
    "safety_checker": [None, None],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


def write_config(folder: Path, layout: Layout, tokenizer: Path) -> None:
    """The folder that ``from_single_file`` asks for, from our layout alone: no network."""
    files = {
        "model_index.json": INDEX,
        "scheduler/scheduler_config.json": SCHEDULER,
        "unet/config.json": layout.unet_config | {"_class_name": "UNet2DConditionModel"},
        "vae/config.json": layout.vae_config | {"_class_name": "AutoencoderKL"},
        "text_encoder/config.json": layout.text_config
        | {"model_type": "clip_text_model", "architectures": ["CLIPTextModel"]},
    }
    for name, config in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(config))
    (folder / "tokenizer").mkdir()
    for file in tokenizer.iterdir():
        (folder / "tokenizer" / file.name).write_bytes(file.read_bytes())


@pytest.mark.slow
def test_from_single_file(tmp_path: Path, comfyui: Path, monkeypatch) -> None:
    from diffusers import StableDiffusionPipeline

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source = random_checkpoint("full", "kl", dtype=torch.float16)
    layout = detect(source)
    path = tmp_path / "net.safetensors"
    write_checkpoint(path, source, {})
    write_config(tmp_path / "config", layout, comfyui / "comfy" / "sd1_tokenizer")
    pipeline = StableDiffusionPipeline.from_single_file(
        str(path),
        config=str(tmp_path / "config"),
        local_files_only=True,
        torch_dtype=torch.float16,
    )
    path.unlink()
    for part in ("unet", "text_encoder", "vae"):
        ours = build(source, layout, part, dtype=torch.float16).state_dict()
        theirs = getattr(pipeline, part).state_dict()
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[key], ours[key]) for key in ours), part
