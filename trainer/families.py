"""What the families of Stable Diffusion differ in beside their shapes."""

from collections.abc import Mapping
from dataclasses import dataclass

from .checkpoint import Layout
from .tokenizer import END


@dataclass(frozen=True)
class Family:
    """One family, as its authors trained it and as ComfyUI samples it.

    Attributes:
        title: for messages.
        architecture: ModelSpec's name of it.
        paddings: part → the token behind the end marker, for each text encoder in order. CLIP
            pads with the end marker, OpenCLIP with 0.
        clip_skip: the layer whose states the UNet was trained on; 1 is the last.
        unbuilt: how many of the file's last layers the module leaves out, because none reads them.
        normed: whether these states pass through the text encoder's final norm.
    """

    title: str
    architecture: str
    paddings: Mapping[str, int]
    clip_skip: int
    normed: bool
    unbuilt: int = 0


FAMILIES = {
    "sd1": Family(
        title="Stable Diffusion 1.x",
        architecture="stable-diffusion-v1",
        paddings={"text_encoder": END},
        clip_skip=1,
        normed=True,
    ),
    "sd2": Family(
        title="Stable Diffusion 2.x",
        architecture="stable-diffusion-v2",
        paddings={"text_encoder": 0},
        clip_skip=2,
        normed=True,
        unbuilt=1,
    ),
    "sdxl": Family(
        title="Stable Diffusion XL",
        architecture="stable-diffusion-xl-v1-base",
        paddings={"text_encoder": END, "text_encoder_2": 0},
        clip_skip=2,
        normed=False,
    ),
}


def family_of(layout: Layout) -> Family:
    return FAMILIES[layout.family]
