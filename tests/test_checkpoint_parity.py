"""Our modules against the host's own, from the same file: same names, same numbers."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from nets import random_checkpoint
from pack.trainer.checkpoint import Layout, build, detect, read_checkpoint, write_checkpoint
from pack.trainer.families import family_of
from pack.trainer.objective import alphas_cumprod, zero_terminal_snr
from pack.trainer.text import encode, tokens_of
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

PROMPT = "a photo of zwx dog, 3 balls"
HOST = Path(__file__).with_name("host_parity.py")
EXPECTED = (
    "clip missing: ['clip_l.logit_scale', 'clip_l.transformer.text_projection.weight']",
    "clip unexpected ['clip_l.transformer.text_model.embeddings.position_ids']:",
    "left over keys: dict_keys([])",
    "left over keys: dict_keys(['v_pred', 'ztsnr'])",
)
CLASSES = {"sd1": "SD15", "sd2": "SD20", "sdxl": "SDXL", "small_vega_v": "Segmind_Vega"}
CLASSES |= {"vega": "Segmind_Vega", "small_vega": "Segmind_Vega", "small_ssd1b": "SSD1B"}
CLASSES |= {"small_koala": "KOALA_700M", "small_koala_1b": "KOALA_1B"}


def make_inputs(layout: Layout) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    tokens = torch.full((3, 77), 49407)
    tokens[:, 0] = 49406
    tokens[0, 1:6] = torch.tensor([320, 1125, 539, 320, 1929])
    tokens[1, 1:76] = torch.randint(0, 49406, (75,), generator=generator)
    given = {
        "x": noise(2, 4, 16, 16),
        "t": torch.tensor([17.0, 803.0]),
        "context": noise(2, 77, layout.unet_config["cross_attention_dim"]),
        "tokens": tokens,  # a short prompt, a full one, an empty one
        "image": noise(1, 3, 64, 64).clamp(-1, 1),
        "latent": noise(1, 4, 8, 8),
    }
    if layout.text_config["pad_token_id"] == 0:
        given["tokens"] = padded_with_zero(tokens)
    if layout.text_config_2:
        given["tokens_g"] = padded_with_zero(tokens)
        given["pooled"] = noise(2, layout.text_config_2["projection_dim"])
        given["sizes"] = torch.tensor([512.0, 768.0, 8.0, 16.0, 1024.0, 640.0])
    return given


def padded_with_zero(tokens: torch.Tensor) -> torch.Tensor:
    after = (tokens == 49407).cumsum(1) > 1
    return tokens.masked_fill(after, 0)


@torch.no_grad()
def ours(source: dict[str, torch.Tensor], given: dict[str, torch.Tensor]) -> dict:
    """What the host's modules must give: see host_parity.py for the names."""
    layout = detect(source)
    parts = {part: build(source, layout, part) for part in layout.parts}
    texts = our_nets(parts, layout, given) | our_prompts(parts, layout)
    return texts | our_pictures(source, layout, given)


def our_prompts(parts: Mapping[str, nn.Module], layout: Layout) -> dict:
    """The trainer's own way from a prompt to the UNet: tokens, padding, layers, pooled vector."""
    encoders = {part: module for part, module in parts.items() if part.startswith("text_encoder")}
    family, out = family_of(layout), {}
    for name, clip_skip in (("prompt", family.clip_skip), ("prompt-3", 3)):
        made = encode(encoders, tokens_of(encoders, [PROMPT]), family, clip_skip)
        out[name] = made.states
        if made.pooled is not None:
            out[f"{name}.pooled"] = made.pooled
    return out


def our_nets(parts: Mapping[str, nn.Module], layout: Layout, given: dict) -> dict:
    added = None
    if layout.family == "sdxl":
        added = {"text_embeds": given["pooled"], "time_ids": given["sizes"].expand(2, 6)}
    unet = parts["unet"]
    sample = unet(given["x"], given["t"], given["context"], added_cond_kwargs=added).sample
    return {"unet": sample} | our_texts(parts, layout, given)


def our_texts(parts: Mapping[str, nn.Module], layout: Layout, given: dict) -> dict:
    text = parts["text_encoder"](given["tokens"], output_hidden_states=True)
    if layout.family == "sd1":
        return {"l.last": text.last_hidden_state, "l.pooled": text.pooler_output} | {
            "graph": text.last_hidden_state
        }
    if layout.family == "sd2":
        return {"h.hidden": text.last_hidden_state, "graph": text.last_hidden_state}
    states = {
        "l.last": text.last_hidden_state,
        "l.hidden": text.hidden_states[-2],
        "l.pooled": text.pooler_output,
    }
    text = parts["text_encoder_2"](given["tokens_g"], output_hidden_states=True)
    states |= {"g.last": text.last_hidden_state, "g.hidden": text.hidden_states[-2]}
    states |= {"g.projected": text.text_embeds, "graph_pooled": text.text_embeds}
    return states | {"graph": torch.cat((states["l.hidden"], states["g.hidden"]), dim=-1)}


def our_pictures(source: dict, layout: Layout, given: dict) -> dict:
    vae = build(source, layout, "vae")
    if layout.vae_kind == "kl":
        posterior = vae.encode(given["image"]).latent_dist
        decoded = vae.decode(given["latent"]).sample
        return {"mean": posterior.mean, "std": posterior.std, "decoded": decoded}
    latents = vae.encode(given["image"]).latents
    raw = (given["latent"] - layout.vae_shift) * layout.vae_scale
    return {
        "mean": latents / layout.vae_scale + layout.vae_shift,
        "decoded": vae.decode(raw).sample,
    }


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def complaints(log: str) -> list[str]:
    """The host's lines about keys that it lacks or does not know.

    Files hold neither CLIP-L's projection nor its logit scale, which the host always lists (at
    debug level, comfy/sd.py:load_state_dict_guess_config) and never uses. It has no place for the
    position ids of SDXL files, and does not take the marks of the prediction out."""
    words = ("missing", "unexpected", "leftover", "left over")
    return [
        line
        for line in log.splitlines()
        if line.startswith("HOST")
        and any(word in line.lower() for word in words)
        and not line.endswith(EXPECTED)
    ]


@contextlib.contextmanager
def as_file(folder: Path, source: dict[str, torch.Tensor]) -> Iterator[Path]:
    """The weights on disk for a while: full nets are too large to be kept."""
    file = folder / "net.safetensors"
    write_checkpoint(file, source, {})
    try:
        yield file
    finally:
        file.unlink()


def run_host(folder: Path, comfyui: Path, net: Path, given: dict) -> tuple[dict, list[str]]:
    """What the host makes of this file and these inputs, and what it complained about."""
    save_file(given, folder / "inputs.safetensors")
    paths = [str(net), *(str(folder / f"{name}.safetensors") for name in ("inputs", "outputs"))]
    host = subprocess.run(
        [sys.executable, str(HOST), *paths, PROMPT], cwd=comfyui, capture_output=True, text=True
    )
    assert host.returncode == 0, host.stderr[-4000:]
    return load_file(folder / "outputs.safetensors"), complaints(host.stderr)


def assert_parity(
    folder: Path,
    comfyui: Path,
    kind: str,
    vae: str,
    extra: dict[str, torch.Tensor] | None = None,
    stored: torch.dtype = torch.float32,
) -> None:
    """Both load the same file, whatever it stores, as fp32."""
    with as_file(folder, random_checkpoint(kind, vae, dtype=stored) | (extra or {})) as file:
        source, _ = read_checkpoint(file)  # mapped: the host's process needs the memory
        layout = detect(source)
        given = make_inputs(layout)
        theirs, said = run_host(folder, comfyui, file, given)
        assert said == []
        assert_detected_alike(folder, kind, layout)
        mine = ours(source, given)
    assert_same_schedule(layout, theirs["sigmas"])
    errors = {name: relative_error(tensor, theirs[name]) for name, tensor in mine.items()}
    assert max(errors.values()) <= 1e-4, errors
    assert all(tensor.std() > 1e-3 for name, tensor in theirs.items() if name in mine)


def assert_same_schedule(layout: Layout, sigmas: torch.Tensor) -> None:
    """The host's σ_t; with zero terminal SNR its last one stays finite, 4519."""
    acp = alphas_cumprod()
    acp = zero_terminal_snr(acp) if layout.zero_terminal_snr else acp
    torch.testing.assert_close((sigmas.double() ** 2 + 1) ** -1, acp, rtol=1e-4, atol=1e-7)


def assert_detected_alike(folder: Path, kind: str, layout: Layout) -> None:
    with safe_open(folder / "outputs.safetensors", framework="pt") as file:
        host = file.metadata()
    assert host["class"] == CLASSES.get(kind, CLASSES[layout.family])
    assert (
        host["prediction"] == {"epsilon": "EPS", "v_prediction": "V_PREDICTION"}[layout.prediction]
    )
    assert (float(host["sigma_max"]) > 1000) == layout.zero_terminal_snr
    assert float(host["latent_scale"]) == layout.latent_scale


def test_small_net(tmp_path: Path, comfyui: Path) -> None:
    affine = {
        "first_stage_model.vae_scale": torch.tensor(1.7),
        "first_stage_model.vae_shift": torch.tensor(0.3),
    }
    assert_parity(tmp_path, comfyui, "small", "tiny", affine)


def test_the_comparison_sees_what_it_should(tmp_path: Path, comfyui: Path) -> None:
    """A lost tensor in each part is in the host's log, a swapped pair in the numbers."""
    source = random_checkpoint("small", "tiny")
    given = make_inputs(detect(source))
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
    with as_file(tmp_path, swapped) as file:
        theirs, said = run_host(tmp_path, comfyui, file, given)
    assert sum("missing" in line.lower() for line in said) == 3
    # what the host lacks it leaves uninitialised: not a number is a difference too
    assert not relative_error(ours(source, given)["unet"], theirs["unet"]) <= 1e-3


@pytest.mark.parametrize("kind", ["small_sd2_v", "small_vega_v"])
def test_other_families(tmp_path: Path, comfyui: Path, kind: str) -> None:
    assert_parity(tmp_path, comfyui, kind, "tiny")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "vae"),
    [
        ("small_sd2", "kl"),
        ("small_ssd1b", "tiny"),
        ("small_koala", "tiny"),
        ("small_koala_1b", "tiny"),
        ("small_sdxl", "kl"),
    ],
)
def test_more_of_other_families(tmp_path: Path, comfyui: Path, kind: str, vae: str) -> None:
    assert_parity(tmp_path, comfyui, kind, vae)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["small2", "late", "bk_base", "bk_small", "bk_tiny"])
def test_other_depths(tmp_path: Path, comfyui: Path, kind: str) -> None:
    assert_parity(tmp_path, comfyui, kind, "tiny")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "full_sd2", "full_sd21", "vega", "full_sdxl"])
def test_full_size(tmp_path: Path, comfyui: Path, kind: str) -> None:
    """As published files are stored, in fp16; SDXL wants 16 GiB for each side in turn."""
    assert_parity(tmp_path, comfyui, kind, "kl", stored=torch.float16)
