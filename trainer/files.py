"""Small files of a run: a text is written whole or not at all, JSON that is damaged is no JSON."""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def move(temporary: Path, path: Path) -> None:
    """Replace a file in one move.

    Windows refuses that while another program reads either of them, such as one that looks for
    viruses in what has just been written: that is over soon.

    Raises:
        OSError: it is not.
    """
    for wait in (0.05, 0.2, 0.5, 1.0, 2.0):
        try:
            os.replace(temporary, path)
            return
        except PermissionError:
            if os.name != "nt":
                raise
            time.sleep(wait)
    os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Replace a file in one move."""
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; empty if there is none that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def mapping(value: object) -> Mapping[str, Any]:
    """A JSON object as it is, anything else as an empty one."""
    return value if isinstance(value, Mapping) else {}


def sha256(path: Path) -> str:
    """Of a file's bytes, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(2**22):
            digest.update(piece)
    return digest.hexdigest()
