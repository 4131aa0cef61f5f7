"""DreamBooth Loss: noise and loss, as changes to the settings that come in."""

from typing import Any

from comfy_api.latest import io

from ..trainer.config import LossConfig, TrainConfig
from . import host
from .types import CATEGORY, Settings, with_group
from .widgets import widgets


class DreamBoothLoss(io.ComfyNode):
    """What noise is drawn, and how a wrong guess counts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="DreamBoothLoss",
            display_name="DreamBooth Loss",
            category=CATEGORY,
            description=(
                "Noise and loss: min-SNR and debiased weights, Huber loss, offset and"
                " multi-resolution noise, input perturbation, a range of noise levels. Each is off"
                " until you switch it on."
            ),
            search_aliases=["dreambooth", "min snr", "huber", "noise offset", "multires noise"],
            inputs=[
                Settings.Input("settings", optional=True, tooltip="Without: the defaults."),
                *widgets(LossConfig),
            ],
            outputs=[Settings.Output("settings_out", display_name="settings")],
        )

    @classmethod
    def execute(cls, settings: TrainConfig | None = None, **values: Any) -> io.NodeOutput:
        return io.NodeOutput(with_group(settings, loss=LossConfig(**values)))
