"""What the host sees. Each node turns widgets into a config and makes one call."""

from comfy_api.latest import ComfyExtension, io

from .class_images import DreamBoothClassImages
from .concept import DreamBoothConcept, DreamBoothConceptsFile
from .data import DreamBoothData
from .difference import DreamBoothDifference, DreamBoothSaveDifference
from .images import DreamBoothInstanceImages
from .lora import DreamBoothLora
from .loss import DreamBoothLoss
from .plot import DreamBoothLossPlot
from .settings import DreamBoothSettings
from .train import DreamBoothTrain

NODES: list[type[io.ComfyNode]] = [
    DreamBoothInstanceImages,
    DreamBoothClassImages,
    DreamBoothConcept,
    DreamBoothConceptsFile,
    DreamBoothSettings,
    DreamBoothData,
    DreamBoothTrain,
    DreamBoothLossPlot,
    DreamBoothLora,
    DreamBoothLoss,
    DreamBoothDifference,
    DreamBoothSaveDifference,
]


class DreamBoothExtension(ComfyExtension):
    """The pack, as the host's V3 loader asks for it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES


async def comfy_entrypoint() -> DreamBoothExtension:
    return DreamBoothExtension()
