"""DreamBooth Settings: every option of the trainer, one widget each."""

from typing import Any

from comfy_api.latest import io

from ..trainer.config import TrainConfig
from . import host
from .types import CATEGORY, Settings
from .widgets import widgets


class DreamBoothSettings(io.ComfyNode):
    """How to train."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="DreamBoothSettings",
            display_name="DreamBooth Settings",
            category=CATEGORY,
            description="How to train. Without this node the defaults apply.",
            search_aliases=["dreambooth", "training settings", "hyperparameters"],
            inputs=widgets(TrainConfig),
            outputs=[Settings.Output("settings", display_name="settings")],
        )

    @classmethod
    def execute(cls, **values: Any) -> io.NodeOutput:
        return io.NodeOutput(TrainConfig(**values))
