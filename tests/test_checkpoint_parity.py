"""Our modules against the host's own, from the same file: same names, same numbers."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nets import random_checkpoint
from pack.trainer.checkpoint import build, detect, write_checkpoint
from safetensors.torch import load_file, save_file

HOST = Path(__file__).with_name("host_parity.py")


def make_inputs(width: int = 768) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    tokens = torch.full((3, 77), 49407)
    tokens[:, 0] = 49406
    tokens[0, 1:6] = torch.tensor([320, 1125, 539, 320, 1929])
    tokens[1, 1:76] = torch.randint(0, 49406, (75,), generator=generator)
    return {
        "x": noise(2, 4, 16, 16),
        "t": torch.tensor([17.0, 803.0]),
        "context": noise(2, 77, width),
        "tokens": tokens,  # a short prompt, a full one, an empty one
        "image": noise(1, 3, 64, 64).clamp(-1, 1),
        "latent": noise(1, 4, 8, 8),
    }


@torch.no_grad()
def ours(source: dict[str, torch.Tensor], given: dict[str, torch.Tensor]) -> dict:
    layout = detect(source)
    unet = build(source, layout, "unet")
    out = {"unet": unet(given["x"], given["t"], given["context"]).sample}
    text = build(source, layout, "text_encoder")(given["tokens"])
    out |= {"last": text.last_hidden_state, "graph": text.last_hidden_state}
    out["pooled"] = text.pooler_output
    vae = build(source, layout, "vae")
    if layout.vae_kind == "kl":
        posterior = vae.encode(given["image"]).latent_dist
        out |= {"mean": posterior.mean, "std": posterior.std}
        out["decoded"] = vae.decode(given["latent"]).sample
        return out
    latents = vae.encode(given["image"]).latents
    out["mean"] = latents / layout.vae_scale + layout.vae_shift
    raw = (given["latent"] - layout.vae_shift) * layout.vae_scale
    out["decoded"] = vae.decode(raw).sample
    return out


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def complaints(log: str) -> list[str]:
    """The host's lines about keys that it lacks or does not know.

    SD 1.x files hold neither CLIP's projection nor its logit scale, which the host always lists
    (at debug level, comfy/sd.py:load_state_dict_guess_config) and never uses."""
    words = ("missing", "unexpected", "leftover", "left over")
    expected = (
        "clip missing: ['clip_l.logit_scale', 'clip_l.transformer.text_projection.weight']",
        "left over keys: dict_keys([])",
    )
    return [
        line
        for line in log.splitlines()
        if line.startswith("HOST")
        and any(word in line.lower() for word in words)
        and not line.endswith(expected)
    ]


def run_host(folder: Path, comfyui: Path, source: dict, given: dict) -> tuple[dict, list[str]]:
    """What the host makes of these weights and inputs, and what it complained about."""
    write_checkpoint(folder / "net.safetensors", source, {})
    save_file(given, folder / "inputs.safetensors")
    paths = [str(folder / f"{name}.safetensors") for name in ("net", "inputs", "outputs")]
    host = subprocess.run(
        [sys.executable, str(HOST), *paths], cwd=comfyui, capture_output=True, text=True
    )
    (folder / "net.safetensors").unlink()
    assert host.returncode == 0, host.stderr[-4000:]
    return load_file(folder / "outputs.safetensors"), complaints(host.stderr)


def assert_parity(
    folder: Path, comfyui: Path, kind: str, vae: str, extra: dict[str, torch.Tensor] | None = None
) -> None:
    source = random_checkpoint(kind, vae) | (extra or {})
    given = make_inputs()
    theirs, said = run_host(folder, comfyui, source, given)
    assert said == []
    mine = ours(source, given)
    assert mine.keys() == theirs.keys()
    errors = {name: relative_error(mine[name], theirs[name]) for name in theirs}
    assert max(errors.values()) <= 1e-4, errors
    assert all(tensor.std() > 1e-3 for tensor in theirs.values())


def test_small_net(tmp_path: Path, comfyui: Path) -> None:
    affine = {
        "first_stage_model.vae_scale": torch.tensor(1.7),
        "first_stage_model.vae_shift": torch.tensor(0.3),
    }
    assert_parity(tmp_path, comfyui, "small", "tiny", affine)


def test_the_comparison_sees_what_it_should(tmp_path: Path, comfyui: Path) -> None:
    """A lost tensor in each part is in the host's log, a swapped pair in the numbers."""
    source, given = random_checkpoint("small", "tiny"), make_inputs()
    block = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0."
    swapped = dict(source)
    for kind in ("weight", "bias"):
        first, second = f"{block}norm1.{kind}", f"{block}norm2.{kind}"
        swapped[first], swapped[second] = source[second], source[first]
    for lost in (
        "first_stage_model.taesd_decoder.3.conv.0.bias",
        "cond_stage_model.transformer.text_model.final_layer_norm.bias",
        "model.diffusion_model.out.2.bias",
    ):
        del swapped[lost]
    theirs, said = run_host(tmp_path, comfyui, swapped, given)
    assert sum("missing" in line.lower() for line in said) == 3
    # what the host lacks it leaves uninitialised: not a number is a difference too
    assert not relative_error(ours(source, given)["unet"], theirs["unet"]) <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["small2", "late", "bk_base", "bk_small", "bk_tiny"])
def test_other_depths(tmp_path: Path, comfyui: Path, kind: str) -> None:
    assert_parity(tmp_path, comfyui, kind, "tiny")


@pytest.mark.slow
def test_full_size(tmp_path: Path, comfyui: Path) -> None:
    assert_parity(tmp_path, comfyui, "full", "kl")
