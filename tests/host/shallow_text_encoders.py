"""Lets the host load small SD 2.x and SDXL files: a pack of its own in the server of the tests.

The host takes the depth of OpenCLIP from its own folder and not from the file: 32 layers of 20
million weights each. Here it builds as many as the small nets have (``tests/nets.py``)."""

import comfy.sdxl_clip
import comfy.text_encoders.sd2_clip

NODE_CLASS_MAPPINGS = {}


def build_less(model: type, depths: dict[str, int]) -> None:
    """``depths``: layers of each text encoder by the host's name for it."""
    configs = {f"{name}_model_config": {"num_hidden_layers": n} for name, n in depths.items()}
    original = model.__init__

    def __init__(self, *args, model_options=(), **options):
        original(self, *args, model_options=dict(model_options) | configs, **options)

    model.__init__ = __init__


build_less(comfy.sdxl_clip.SDXLClipModel, {"clip_l": 3, "clip_g": 3})
build_less(comfy.text_encoders.sd2_clip.SD2ClipModel, {"clip_h": 4})
