"""The photos that a node read last, for the page: what is known of them, and small copies."""

import io
from typing import Any

from ...trainer.history import UnknownRun
from ...trainer.image_set import ImageSet
from ...trainer.images import ImageError, read_image
from ...trainer.photo_marks import describe

MOST = 100  # photos that are looked at and shown
KEPT = 64  # nodes whose photos are remembered

_FOUND: dict[str, tuple[str, ImageSet, dict[str, Any]]] = {}


def show_photos(node_id: str | None, source: str, found: ImageSet) -> None:
    """Remember them for the page; ``source`` is what the node's widgets say."""
    if not node_id:
        return
    _FOUND.pop(node_id, None)
    while len(_FOUND) >= KEPT:
        _FOUND.pop(next(iter(_FOUND)))
    skipped = [list(entry) for entry in found.skipped]
    shown = {"total": len(found.files), "photos": describe(found, MOST), "skipped": skipped}
    shown |= {"captions": found.caption_source, "remarks": list(found.remarks)}
    _FOUND[node_id] = (source, found, shown)


def photos_of(node_id: str, source: str) -> dict[str, Any] | None:
    """What this node read last, if it is still what its widgets say."""
    known, _, shown = _FOUND.get(node_id, ("", None, None))
    return shown if known == source else None


def small_photo(node_id: str, number: int, side: int) -> bytes:
    """A photo upright and uncut, as a JPEG no larger than ``side``.

    Raises:
        UnknownRun: nothing of that number is remembered, or its file is gone.
    """
    _, found, _ = _FOUND.get(node_id, ("", None, None))
    if found is None or number >= min(len(found.files), MOST):
        raise UnknownRun(f"node {node_id!r} has no photo {number}")
    try:
        colour = "white" if found.transparent == "mask" else found.transparent
        picture = read_image(found.files[number].path, colour)
    except ImageError as error:
        raise UnknownRun(f"photo {number} cannot be read any more") from error
    picture.thumbnail((side, side))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=88)
    return out.getvalue()
