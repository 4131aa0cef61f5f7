"""DreamBooth LoRA: small matrices learn in place of all weights."""

from typing import Any

from comfy_api.latest import io

from ..trainer.config import LoraConfig, TrainConfig
from ..trainer.config.lora import LORA
from . import host
from .types import CATEGORY, Settings, with_group
from .widgets import widgets


class DreamBoothLora(io.ComfyNode):
    """Settings with the LoRA's added."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="DreamBoothLoRA",
            display_name="DreamBooth LoRA",
            category=CATEGORY,
            description=(
                "Trains a LoRA or a DoRA beside the frozen model instead of the model itself: less"
                " memory, a small file for any Load LoRA, and a prior without class images. Set a"
                " learning rate of about 1e-4 in DreamBooth Settings."
            ),
            search_aliases=["dreambooth lora", "dora", "low rank"],
            inputs=[
                Settings.Input("settings", optional=True, tooltip="Without: the defaults."),
                *widgets(LoraConfig, kind=LORA),  # who adds this node wants one
            ],
            outputs=[Settings.Output("settings_out", display_name="settings")],
        )

    @classmethod
    def execute(cls, settings: TrainConfig | None = None, **values: Any) -> io.NodeOutput:
        return io.NodeOutput(with_group(settings, lora=LoraConfig(**values)))
