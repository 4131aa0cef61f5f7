"""Full-size files against the host's own list of keys, on the meta device: none more, none less."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from nets import random_checkpoint

HOST = Path(__file__).with_name("host_keys.py")
# What the host has of CLIP-L but never uses, and what a file may hold that the host does not.
UNUSED = ["missing clip_l.logit_scale", "missing clip_l.transformer.text_projection.weight"]
IDS = ["unexpected clip_l.transformer.text_model.embeddings.position_ids"]
KINDS = {
    "full": ("SD15", UNUSED),
    "full_sd21": ("SD20", []),
    "full_sdxl": ("SDXL", UNUSED + IDS),
    "ssd1b": ("SSD1B", UNUSED + IDS),
    "vega": ("Segmind_Vega", UNUSED + IDS),
    "koala_700m": ("KOALA_700M", UNUSED + IDS),
    "koala_1b": ("KOALA_1B", UNUSED + IDS),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, comfyui: Path) -> dict:
    folder = tmp_path_factory.mktemp("keys")
    shapes = {
        kind: {k: list(t.shape) for k, t in random_checkpoint(kind, "kl", device="meta").items()}
        for kind in KINDS
    }
    # as if the UNet's last block had lost a tensor: the comparison must see it
    shapes["damaged"] = dict(shapes["vega"])
    del shapes["damaged"]["model.diffusion_model.output_blocks.8.0.out_layers.3.bias"]
    shapes["damaged"]["conditioner.embedders.1.model.ln_final.weight"] = [7]
    (folder / "shapes.json").write_text(json.dumps(shapes))
    paths = [str(folder / name) for name in ("shapes.json", "found.json")]
    host = subprocess.run(
        [sys.executable, str(HOST), *paths], cwd=comfyui, capture_output=True, text=True
    )
    assert host.returncode == 0, host.stderr[-4000:]
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_the_host_has_the_same_names_and_shapes(kind: str, found: dict) -> None:
    name, expected = KINDS[kind]
    assert found[kind] == {"class": name, "unet": [], "text": expected}


def test_the_comparison_sees_what_it_should(found: dict) -> None:
    assert found["damaged"]["unet"] == ["missing output_blocks.8.0.out_layers.3.bias"]
    ln_final = "clip_g.transformer.text_model.final_layer_norm.weight is [7], not [1280]"
    assert ln_final in found["damaged"]["text"]
