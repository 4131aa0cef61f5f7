"""Models that cannot be trained: refused by name, before anything is trained."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from graphs import Graph, Loaded, small_run
from pack.trainer.checkpoint import UnsupportedModel, detect
from safetensors.torch import load_file, save_file

UNET, TEXT, VAE = "model.diffusion_model.", "cond_stage_model.", "first_stage_model."


@pytest.fixture
def made_from_base(small_base: Path, place_model, tmp_path) -> Callable[..., str]:
    """Places a checkpoint that is the base after ``change``; returns its name."""

    def make(name: str, change: Callable[[dict], dict]) -> str:
        file = tmp_path / f"{name}.safetensors"
        save_file(change(load_file(small_base)), file)
        return place_model(file)

    return make


@pytest.fixture
def foreign(comfyui: Path, place_model, tmp_path) -> Callable[[str], str]:
    """Places a random UNet of another family; returns its name."""

    def make(kind: str) -> str:
        file = tmp_path / f"{kind}.safetensors"
        script = Path(__file__).with_name("make_unet.py")
        command = [sys.executable, str(script), str(comfyui), kind, str(file)]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return place_model(file, "diffusion_models")

    return make


def train_on(info: dict, base_name: str, folder: str) -> Graph:
    return small_run(info, base_name, folder, "refused")[0]


def with_unet(info: dict, base_name: str, folder: str, unet: str, dtype: str = "default") -> Graph:
    """A graph whose MODEL comes from *Load Diffusion Model*."""
    graph = Graph(info)
    model = graph.add("UNETLoader", unet_name=unet, weight_dtype=dtype)[0]
    base = graph.load(base_name)
    loaded = Loaded(model, base.clip, base.vae)
    graph.train(loaded, graph.concept(graph.photos(folder)), "refused")
    return graph


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("unclip", "this model is SD21UnclipL: DreamBooth trains Stable Diffusion 1.x, 2.x and XL"),
        ("sd2", "There is no OpenCLIP text encoder of Stable Diffusion 2.x here"),
        ("inpaint", "inpaint"),
    ],
)
def test_another_family(kind, message, foreign, refuse, info, base_name, drawn) -> None:
    said = refuse(with_unet(info, base_name, drawn, foreign(kind)), "DreamBoothTrain")
    assert message in said


def test_a_flux_checkpoint_is_named() -> None:
    flux = {
        "double_blocks.0.img_attn.norm.key_norm.scale": torch.zeros(128),
        "double_blocks.0.img_attn.qkv.weight": torch.zeros(9216, 3072, device="meta"),
        "img_in.weight": torch.zeros(3072, 64),
    }
    keys = {f"{UNET}{key}": value for key, value in flux.items()}
    with pytest.raises(UnsupportedModel, match="Flux"):
        detect(keys)


def test_weights_that_are_quantised(
    place_model, small_base, refuse, info, base_name, drawn
) -> None:
    name = place_model(small_base, "diffusion_models")
    graph = with_unet(info, base_name, drawn, name, "fp8_e4m3fn")
    said = refuse(graph, "DreamBoothTrain")
    assert "quantised" in said
    assert "float8_e4m3fn" in said


def test_a_file_without_text_encoder(made_from_base, refuse, info, drawn) -> None:
    def change(tensors: dict) -> dict:
        return {key: value for key, value in tensors.items() if not key.startswith(TEXT)}

    name = made_from_base("no_clip", change)
    said = refuse(train_on(info, name, drawn), "DreamBoothTrain")
    assert "the clip input carries nothing, the file has no text encoder" in said


def test_a_file_without_vae(made_from_base, refuse, info, drawn) -> None:
    def change(tensors: dict) -> dict:
        return {key: value for key, value in tensors.items() if not key.startswith(VAE)}

    name = made_from_base("no_vae", change)
    said = refuse(train_on(info, name, drawn), "DreamBoothTrain")
    assert "the vae input carries nothing, the file has no VAE" in said


def test_class_images_name_the_missing_vae_too(made_from_base, refuse, info) -> None:
    def change(tensors: dict) -> dict:
        return {key: value for key, value in tensors.items() if not key.startswith(VAE)}

    graph = Graph(info)
    node = graph.class_images(graph.load(made_from_base("no_vae_2", change)))
    graph.add("PreviewImage", images=node[1])
    assert "the file has no VAE" in refuse(graph, "DreamBoothClassImages")


def test_a_broken_base(made_from_base, refuse, info, drawn) -> None:
    key = f"{UNET}out.2.weight"

    def change(tensors: dict) -> dict:
        tensors[key][0, 0, 0, 0] = float("nan")
        return tensors

    said = refuse(train_on(info, made_from_base("nan", change), drawn), "DreamBoothTrain")
    assert f"{key} holds 1 of " in said
    assert "not finite" in said


@pytest.mark.parametrize(
    ("sampling", "zsnr", "message"),
    [
        ("x0", False, "predicts X0, not the noise (EPS) or the velocity (V_PREDICTION)"),
        ("lcm", False, "predicts LCM, not the noise"),
        ("eps", True, "sampled as epsilon with zero terminal SNR"),
    ],
)
def test_a_model_that_predicts_neither_noise_nor_velocity(
    sampling, zsnr, message, refuse, info, base_name, drawn
) -> None:
    graph = Graph(info)
    base = graph.load(base_name)
    patch = graph.add("ModelSamplingDiscrete", model=base.model, sampling=sampling, zsnr=zsnr)
    loaded = base._replace(model=patch[0])
    graph.train(loaded, graph.concept(graph.photos(drawn)), "refused")
    assert message in refuse(graph, "DreamBoothTrain")
