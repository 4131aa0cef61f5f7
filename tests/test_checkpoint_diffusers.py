"""Our files through diffusers' own single-file loader: the field reads them too."""

import json
import shutil
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
XL_INDEX = {key: value for key, value in INDEX.items() if "safety" not in key} | {
    "_class_name": "StableDiffusionXLPipeline",
    "image_encoder": [None, None],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
}


def write_config(folder: Path, layout: Layout, tokenizer: Path) -> None:
    """The folder that ``from_single_file`` asks for, from our layout alone: no network."""
    index = XL_INDEX if layout.text_config_2 else INDEX
    files = {
        "model_index.json": index,
        "scheduler/scheduler_config.json": SCHEDULER,
        "unet/config.json": layout.unet_config,
        "vae/config.json": layout.vae_config,
        "text_encoder/config.json": layout.text_config | {"model_type": "clip_text_model"},
    }
    if layout.text_config_2:
        config = layout.text_config_2 | {"model_type": "clip_text_model"}
        files["text_encoder_2/config.json"] = config
    for name, config in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (_, made_by) = index.get(name.split("/")[0], (None, None))
        named = {"_class_name": made_by, "architectures": [made_by]} if made_by else {}
        (folder / name).write_text(json.dumps(named | config))
    for name in ("tokenizer", "tokenizer_2"):
        if name in index:
            shutil.copytree(tokenizer, folder / name)


def assert_read_by_diffusers(
    folder: Path, comfyui: Path, kind: str, vae: str, dtype: torch.dtype
) -> None:
    import diffusers

    source = random_checkpoint(kind, vae, dtype=dtype)
    layout = detect(source)
    path = folder / "net.safetensors"
    write_checkpoint(path, source, {})
    write_config(folder / "config", layout, comfyui / "comfy" / "sd1_tokenizer")
    name = (XL_INDEX if layout.text_config_2 else INDEX)["_class_name"]
    pipeline = getattr(diffusers, name).from_single_file(
        str(path), config=str(folder / "config"), local_files_only=True, torch_dtype=dtype
    )
    path.unlink()
    for part in layout.parts:
        ours = build(source, layout, part, dtype=dtype).state_dict()
        theirs = getattr(pipeline, part).state_dict()
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[key], ours[key]) for key in ours), part


@pytest.mark.parametrize("kind", ["toy_sd2", "toy_sdxl", "toy_ssd1b"])
def test_other_families_from_single_file(
    tmp_path: Path, comfyui: Path, monkeypatch, kind: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_read_by_diffusers(tmp_path, comfyui, kind, "kl_toy", torch.float32)


@pytest.mark.slow
def test_from_single_file(tmp_path: Path, comfyui: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_read_by_diffusers(tmp_path, comfyui, "full", "kl", torch.float16)
