"""DreamBooth Data: how photos become training rows, for a whole run."""

from typing import Any

from comfy_api.latest import io

from ..trainer.config import DataConfig, TrainConfig
from . import host
from .types import CATEGORY, Settings, with_group
from .widgets import widgets


class DreamBoothData(io.ComfyNode):
    """Adds its options to the settings that come in."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="DreamBoothData",
            display_name="DreamBooth Data",
            category=CATEGORY,
            description=(
                "How the photos of a run are shown while it trains: mirrored, cut, masked. What"
                " belongs to one folder of photos is on its DreamBooth Instance Images."
            ),
            search_aliases=["dreambooth", "flip", "crop", "mask", "augmentation"],
            inputs=[
                Settings.Input(
                    "settings", optional=True, tooltip="To add to; without: the defaults."
                ),
                *widgets(DataConfig),
            ],
            outputs=[Settings.Output("settings_out", display_name="settings")],
        )

    @classmethod
    def execute(cls, settings: TrainConfig | None = None, **values: Any) -> io.NodeOutput:
        return io.NodeOutput(with_group(settings, data=DataConfig(**values)))
