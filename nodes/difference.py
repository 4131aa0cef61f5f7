"""DreamBooth Difference and DreamBooth Save Difference: how much of a training, and as a file."""

from typing import Any

from comfy_api.latest import io, ui

from ..trainer.config import DifferenceConfig
from ..trainer.names import check_name
from ..trainer.packages import check_packages
from . import host
from .types import CATEGORY
from .widgets import widgets


class DreamBoothDifference(io.ComfyNode):
    """The trained model at a strength."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="DreamBoothDifference",
            display_name="DreamBooth Difference",
            category=CATEGORY,
            description=(
                "A fully trained model at a strength, like a LoRA: base + strength x (trained -"
                " base). 0 is the base, 1 the trained model, less than 1 softens what is overdone."
            ),
            search_aliases=["strength", "merge", "delta"],
            inputs=[
                io.Model.Input("model", tooltip="The model that was trained from."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Combo.Input(
                    "ckpt_name",
                    options=host.checkpoint_names(),
                    tooltip="The trained checkpoint; also a wire from DreamBooth Train.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="0: the base. 1: the trained model.",
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="MODEL"),
                io.Clip.Output("clip_out", display_name="CLIP"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, ckpt_name: str | None = None, **others: Any) -> str:
        """A run that goes on replaces its file."""
        return host.checkpoint_stamp(ckpt_name)

    @classmethod
    def execute(cls, model: Any, clip: Any, ckpt_name: str, strength: float) -> io.NodeOutput:
        return io.NodeOutput(*host.blend(model, clip, host.load_trained(ckpt_name), strength))


class DreamBoothSaveDifference(io.ComfyNode):
    """What a training changed, as a file for Load LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="DreamBoothSaveDifference",
            display_name="DreamBooth Save Difference",
            category=CATEGORY,
            description=(
                "Saves what a full training changed as a file for any Load LoRA: whole, or as a"
                " LoRA of a rank you choose."
            ),
            search_aliases=["extract lora", "svd", "delta"],
            inputs=[
                io.Model.Input("model", tooltip="The model that was trained from."),
                io.Clip.Input("clip", tooltip="Its text encoder."),
                io.Combo.Input(
                    "ckpt_name",
                    options=host.checkpoint_names(),
                    tooltip="The trained checkpoint; also a wire from DreamBooth Train.",
                ),
                *widgets(DifferenceConfig),
                io.String.Input(
                    "name",
                    default="my_difference",
                    tooltip="Of the file. A taken one gets a number.",
                ),
            ],
            outputs=[
                io.AnyType.Output(
                    "lora_name", display_name="lora_name", tooltip="For any Load LoRA."
                ),
                io.String.Output(
                    "report", display_name="report", tooltip="What changed, and how much is kept."
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def fingerprint_inputs(cls, ckpt_name: str | None = None, **others: Any) -> str:
        """As of *DreamBooth Difference*."""
        return host.checkpoint_stamp(ckpt_name)

    @classmethod
    def execute(
        cls, model: Any, clip: Any, ckpt_name: str, name: str, **options: Any
    ) -> io.NodeOutput:
        check_packages()
        from ..trainer.difference import save_difference, take_difference

        config = DifferenceConfig(**options)
        check_name(name.strip())
        pairs = host.pairs(model, clip, host.load_trained(ckpt_name))
        difference = take_difference(pairs, config, host.device())
        path = save_difference(difference, config, host.lora_folder(), name.strip())
        report = (
            f"{path.name}: {difference.changed} tensors changed,"
            f" {difference.share:.1%} of the change is in the file"
        )
        host.say(cls.hidden.unique_id, report)
        return io.NodeOutput(host.result_name(path), report, ui=ui.PreviewText(report).as_dict())
