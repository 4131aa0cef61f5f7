"""Single-file checkpoints ↔ diffusers modules: detect the family from shapes, build, export, read,
write and verify."""

from .convert import build, export, file_keys, key_map, part_keys
from .errors import CheckpointError, FileInUse, UnsupportedModel
from .file import checksums, file_size, read_checkpoint, write_checkpoint
from .layout import TITLES, Layout, detect
from .prediction import V_PREDICTION_SPREAD, prediction_spread
from .values import check_finite, is_finite, lossless_dtype, weights_digest

__all__ = [
    "TITLES",
    "V_PREDICTION_SPREAD",
    "CheckpointError",
    "FileInUse",
    "Layout",
    "UnsupportedModel",
    "build",
    "check_finite",
    "checksums",
    "detect",
    "export",
    "file_keys",
    "file_size",
    "is_finite",
    "key_map",
    "lossless_dtype",
    "part_keys",
    "prediction_spread",
    "read_checkpoint",
    "weights_digest",
    "write_checkpoint",
]
