"""Schemas that older hosts take, too."""

import dataclasses
from typing import Any

from comfy_api.latest import io


def schema(**keywords: Any) -> io.Schema:
    """An ``io.Schema`` without the keywords that this host does not know yet."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return io.Schema(**{key: value for key, value in keywords.items() if key in known})
