"""Without diffusers and accelerate the pack still loads, and says what to install."""

from pathlib import Path

import pytest
from graphs import Graph
from pack.demo.client import ComfyClient, PromptFailed
from pack.demo.server import ComfyServer
from PIL import Image

HIDE = """
from importlib.machinery import PathFinder
real = PathFinder.find_spec
def find_spec(name, path=None, target=None):
    hidden = name.split(".")[0] in ("diffusers", "accelerate")
    return None if hidden else real(name, path, target)
PathFinder.find_spec = staticmethod(find_spec)
"""


def test_the_pack_loads_and_names_what_is_missing(
    comfyui: Path, small_base: Path, tmp_path: Path
) -> None:
    hide = tmp_path / "custom_nodes" / "hide"
    hide.mkdir(parents=True)
    (hide / "prestartup_script.py").write_text(HIDE)
    (hide / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    models = tmp_path / "models" / "checkpoints"
    models.mkdir(parents=True)
    (models / "base.safetensors").symlink_to(small_base)
    (tmp_path / "input" / "dog").mkdir(parents=True)
    Image.new("RGB", (64, 64), "red").save(tmp_path / "input" / "dog" / "a.png")
    with ComfyServer(comfyui, tmp_path) as server:
        client = ComfyClient(server.address)
        info = client.object_info()
        assert "DreamBoothTrain" in info
        graph = Graph(info)
        base = graph.load("base.safetensors")
        concept = graph.concept(graph.photos("dog"), identifier="zwx", class_noun="dog")
        graph.train(base, concept, name="x")
        with pytest.raises(PromptFailed, match=r"diffusers.*requirements\.txt"):
            client.run(graph)
        client.close()
