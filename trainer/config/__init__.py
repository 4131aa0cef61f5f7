"""What a run is told: concepts, settings, the job. Frozen, checked once, passed down.

Every user-facing option is a field made by :func:`option`: its default, bounds, choices and help
live here and nowhere else. The nodes' widgets, the shell and the tests read them from here.
"""

from .data import DataConfig
from .difference import DifferenceConfig
from .job import PREDICTIONS, Concept, Job
from .lora import LoraConfig
from .loss import LossConfig
from .options import (
    MAX_SEED,
    ConfigError,
    check_options,
    check_text,
    flat,
    from_mapping,
    group,
    option,
    option_fields,
    shown,
)
from .photo import AS_MASK, Photo, background
from .train import (
    UNET,
    UNET_AND_TEXT_ENCODER,
    WITHOUT_EFFECT_ON_WEIGHTS,
    YOUNGER_OPTIONS,
    TrainConfig,
)

__all__ = [
    "AS_MASK",
    "MAX_SEED",
    "PREDICTIONS",
    "UNET",
    "UNET_AND_TEXT_ENCODER",
    "WITHOUT_EFFECT_ON_WEIGHTS",
    "YOUNGER_OPTIONS",
    "Concept",
    "ConfigError",
    "DataConfig",
    "DifferenceConfig",
    "Job",
    "LoraConfig",
    "LossConfig",
    "Photo",
    "TrainConfig",
    "background",
    "check_options",
    "check_text",
    "flat",
    "from_mapping",
    "group",
    "option",
    "option_fields",
    "shown",
]
