"""DreamBooth Loss Plot: the losses of a run as a picture on a wire."""

from typing import Any

from comfy_api.latest import io, ui

from ..trainer.curve import read_points
from ..trainer.plot import plot_losses
from . import host
from .types import CATEGORY, Run, check_wires, image_batch


class DreamBoothLossPlot(io.ComfyNode):
    """For those who keep the curve beside the pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="DreamBoothLossPlot",
            display_name="DreamBooth Loss Plot",
            category=CATEGORY,
            description=(
                "Draws the losses of a run: your photos and the class images apart, each step"
                " faint and its running mean above it."
            ),
            search_aliases=["loss curve", "loss graph", "training loss"],
            inputs=[
                Run.Input("run", tooltip="From DreamBooth Train."),
                io.Boolean.Input(
                    "log_scale", default=False, tooltip="A logarithmic axis for the loss."
                ),
                io.Int.Input("width", default=1100, min=480, max=4096, tooltip="In pixels."),
                io.Int.Input("height", default=600, min=320, max=4096, tooltip="In pixels."),
            ],
            outputs=[io.Image.Output("image", display_name="image")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, run: Any, log_scale: bool, width: int, height: int) -> io.NodeOutput:
        from ..trainer.state import Result  # not at the top: it needs packages that may be missing

        check_wires(run=(run, Result))
        points = read_points(run.folder / "log.jsonl")
        picture = plot_losses(points, f"Loss of {run.name}", (width, height), log_scale=log_scale)
        image = image_batch([picture])
        return io.NodeOutput(image, ui=ui.PreviewImage(image).as_dict())
