"""What the families of Stable Diffusion differ in beside their shapes."""

from collections.abc import Mapping
from dataclasses import dataclass

from .checkpoint import Layout
from .config import PREDICTIONS


@dataclass(frozen=True)
class Family:
    """One family, as its authors trained it and as ComfyUI samples it.

    Attributes:
        architectures: by what the UNet predicts, ModelSpec's name.
        versions: the same for kohya's scripts.
        sides: by what the UNet predicts, the side in pixels that it was trained at.
        clip_skip: the layer whose states the UNet was trained on; 1 is the last.
        normed: whether these states pass through the text encoder's final norm.
        unbuilt: how many of the file's last layers the module leaves out, because none reads them.
        says_prediction: whether a file can tell the host that it predicts v.
    """

    architectures: Mapping[str, str]
    versions: Mapping[str, str]
    sides: Mapping[str, int]
    clip_skip: int
    normed: bool
    unbuilt: int = 0
    says_prediction: bool = True


FAMILIES = {
    "sd1": Family(
        architectures=dict.fromkeys(PREDICTIONS, "stable-diffusion-v1"),
        versions={"epsilon": "sd_v1", "v_prediction": "sd_v1_v"},
        sides=dict.fromkeys(PREDICTIONS, 512),
        clip_skip=1,
        normed=True,
        says_prediction=False,
    ),
    "sd2": Family(
        architectures={
            "epsilon": "stable-diffusion-v2-512",
            "v_prediction": "stable-diffusion-v2-768-v",
        },
        versions={"epsilon": "sd_v2", "v_prediction": "sd_v2_v"},
        sides={"epsilon": 512, "v_prediction": 768},
        clip_skip=2,
        normed=True,
        unbuilt=1,
    ),
    "sdxl": Family(
        architectures=dict.fromkeys(PREDICTIONS, "stable-diffusion-xl-v1-base"),
        versions=dict.fromkeys(PREDICTIONS, "sdxl_base_v1-0"),
        sides=dict.fromkeys(PREDICTIONS, 1024),
        clip_skip=2,
        normed=False,
    ),
}


def family_of(layout: Layout) -> Family:
    return FAMILIES[layout.family]
