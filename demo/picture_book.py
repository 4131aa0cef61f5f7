"""The trained picture-book base, as the checkpoint that ComfyUI loads: expanded once."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .base.pack import FORMAT, PACKED, expand


def ensure_base(path: Path, packed: Path = PACKED) -> Path:
    """Expands the packed base to ``path`` unless that was made from these very bytes.

    Raises:
        BaseFailed, CheckpointError: the packed file is damaged or of another format.
    """
    mark = path.with_suffix(".digest")
    wanted = f"{FORMAT} {hashlib.sha256(packed.read_bytes()).hexdigest()}"
    if path.is_file() and mark.is_file() and mark.read_text() == wanted:
        return path
    expand(path, packed)
    mark.write_text(wanted)
    return path
