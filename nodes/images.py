"""DreamBooth Instance Images: a folder, or pictures on a wire, read once and reported."""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io
from PIL import Image

from ..trainer.captions import PROMPT, SOURCES
from ..trainer.config import ConfigError, Photo, background
from ..trainer.image_set import ImageSet, read_folder
from ..trainer.images import ImageError, check_photo, pixel_digest, save_png
from . import host
from .types import (
    CATEGORY,
    Images,
    batch_to_masks,
    batch_to_pictures,
    check_wires,
    preview_batch,
    shown,
)

WIRE = "(wire)"  # what the page calls pictures that came over one
NO_FOLDER = "(put photos into a folder under input)"


class DreamBoothInstanceImages(io.ComfyNode):
    """Photos of the subject."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return host.schema(
            node_id="DreamBoothInstanceImages",
            display_name="DreamBooth Instance Images",
            category=CATEGORY,
            description=(
                "The photos of your subject: a folder under ComfyUI's input, or pictures on a"
                " wire. Every file is read once; what cannot be used is named."
            ),
            search_aliases=["dreambooth", "training images", "dataset"],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=host.input_subfolders() or [NO_FOLDER],
                    tooltip="A folder under ComfyUI's input that holds 3 to 20 photos.",
                ),
                io.String.Input(
                    "path",
                    default="",
                    optional=True,
                    tooltip=(
                        "Typed instead of chosen: a folder under input, or the full path of one"
                        " under output or temp. Wins over the choice above when it is not empty."
                    ),
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="Pictures from other nodes. They win over both folders.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "What counts in these pictures: white trains, black hardly. Load Image"
                        " gives the transparent part: put an Invert Mask behind it."
                    ),
                ),
                io.String.Input(
                    "transparent",
                    default="white",
                    optional=True,
                    tooltip=(
                        "What lies under transparent pixels: white, black, grey, a colour such as"
                        " #ff8800; or mask: they keep their colour and hardly count."
                    ),
                ),
                io.Combo.Input(
                    "caption_source",
                    options=list(SOURCES),
                    default="prompt",
                    optional=True,
                    tooltip=(
                        "What a photo's text is: the concept's prompt; the file beside it (dog.txt"
                        " or dog.caption of dog.jpg); or the prompt and the file, one after the"
                        " other."
                    ),
                ),
            ],
            outputs=[
                Images.Output("images_out", display_name="images"),
                io.Image.Output(
                    "preview", display_name="preview", tooltip="What the trainer will see, cropped."
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="What is used and what was skipped, and why.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls, folder: str | None = None, transparent: str | None = None
    ) -> bool | str:
        """Newer hosts would refuse a folder that was made after the page was loaded."""
        try:
            if transparent is not None:
                background(transparent)
        except ConfigError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(
        cls, folder: str | None, path: str | None = "", **others: Any
    ) -> str | float:
        """Changes when a file in the folder does; always, where a wire names the folder."""
        if folder is None or path is None:
            return float("nan")
        target = host.resolve(path or folder)
        entries = sorted(os.scandir(target), key=lambda e: e.name) if target.is_dir() else []
        listing = [(e.name, e.stat().st_mtime_ns, e.stat().st_size) for e in entries]
        return hashlib.sha256(repr((str(target), listing)).encode()).hexdigest()

    @classmethod
    def execute(
        cls,
        folder: str,
        path: str = "",
        images: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        transparent: str = "white",
        caption_source: str = PROMPT,
    ) -> io.NodeOutput:
        if caption_source not in SOURCES:  # older hosts let any text through in a choice
            raise ConfigError(f"caption_source = {caption_source!r}: choose {', '.join(SOURCES)}")
        check_wires(images=(images, torch.Tensor | None), mask=(mask, torch.Tensor | None))
        if images is not None:
            if caption_source != PROMPT:
                raise ImageError("pictures on a wire have no caption files: choose prompt")
            found = store_batch(images, mask, host.output_folder() / "intake")
        elif mask is not None:
            raise ImageError("a mask without images: wire the pictures that it belongs to, too")
        else:
            if folder == NO_FOLDER and not path.strip():
                raise ImageError("no photos: make a folder with photos under ComfyUI's input")
            found = read_folder(
                host.resolve(path if path.strip() else folder), transparent, caption_source
            )
        preview = preview_batch(found.photos)
        source = WIRE if images is not None else path.strip() or folder
        host.show_photos(cls.hidden.unique_id, source, found)
        host.say(cls.hidden.unique_id, found.report())
        return io.NodeOutput(found, preview, found.report(), ui=shown(preview, found.report()))


def store_batch(images: torch.Tensor, masks: torch.Tensor | None, folder: Path) -> ImageSet:
    """Pictures from a wire as PNG files named by their content, so that a run can be repeated."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = batch_to_pictures(images)
    if not pictures:
        raise ImageError("the images input carries an empty batch")
    paths = [_store(picture, folder, "") for picture in pictures]
    mask_paths = [""] * len(paths)
    if masks is not None:
        mask_paths = [_store(m, folder, "-mask") for m in batch_to_masks(masks, len(paths))]
    pairs = zip(paths, mask_paths, strict=True)
    files = []
    for number, (path, mask) in enumerate(pairs, 1):
        try:
            files.append(check_photo(Photo(path, mask=mask)))
        except ImageError as error:
            raise ImageError(f"picture {number} of the wire: {error}") from error
    return ImageSet(tuple(files))


def _store(picture: Image.Image, folder: Path, ending: str) -> str:
    path = folder / f"{pixel_digest(picture)[:24]}{ending}.png"
    if not path.is_file():
        save_png(picture, path)
    return str(path)
