"""The one door to ComfyUI: every use of its internals is in this room.

Written for 0.3.60 and later; what differs in newer hosts is looked up by name, never assumed.
"""

from . import routes as _routes  # noqa: F401  registers them
from .card import (
    Progress,
    card_to_ourselves,
    device,
    interrupt,
    nothing_follows,
    release_memory,
    say,
)
from .difference import blend, checkpoint_names, checkpoint_stamp, load_trained, pairs
from .folders import (
    checkpoint_folder,
    find_checkpoint,
    input_subfolders,
    lora_folder,
    output_folder,
    resolve,
    result_name,
)
from .live import Live, watched
from .lora import load_lora, try_lora
from .photos import show_photos
from .sampling import SAMPLERS, SCHEDULERS, Sampling, encode_text, sample_pictures
from .schema import schema
from .weights import (
    SUPPORTED_CLASSES,
    Weights,
    describe_weights,
    load_checkpoint,
    take_weights,
    try_checkpoint,
)

__all__ = [
    "Live",
    "Progress",
    "SAMPLERS",
    "SCHEDULERS",
    "SUPPORTED_CLASSES",
    "Sampling",
    "Weights",
    "blend",
    "card_to_ourselves",
    "checkpoint_folder",
    "checkpoint_names",
    "checkpoint_stamp",
    "describe_weights",
    "device",
    "encode_text",
    "find_checkpoint",
    "input_subfolders",
    "interrupt",
    "load_checkpoint",
    "load_lora",
    "load_trained",
    "lora_folder",
    "nothing_follows",
    "output_folder",
    "pairs",
    "release_memory",
    "resolve",
    "result_name",
    "sample_pictures",
    "say",
    "schema",
    "show_photos",
    "take_weights",
    "try_checkpoint",
    "try_lora",
    "watched",
]
