"""A folder's photos with their masks: what is used, what is left out, and why."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .captions import ENDINGS, PROMPT, Caption, caption_file, read_caption
from .config import Photo
from .images import ImageError, ImageFile, check_photo

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"})
HEIF = frozenset({".heic", ".heif"})  # what phones write; Pillow reads it only with a plugin
MASK_ENDING = "-masklabel"  # of a mask's name beside its photo's, as OneTrainer writes them


@dataclass(frozen=True)
class ImageSet:
    """The pictures of one source, in order, and what was left out with the reason.

    Attributes:
        prompt: set for class images: the text that made them.
        transparent: see :func:`config.background`.
        caption_source: one of :data:`captions.SOURCES`.
        captions: what each picture's file says, "" where there is none; empty: none were read.
        remarks: what is odd about captions.
    """

    files: tuple[ImageFile, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    prompt: str = ""
    transparent: str = "white"
    caption_source: str = PROMPT
    captions: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(file.path for file in self.files)

    @property
    def masks(self) -> tuple[str, ...]:
        """A mask's file per picture, "" for those without; empty if there is none at all."""
        masks = tuple(file.mask for file in self.files)
        return masks if any(masks) else ()

    @property
    def photos(self) -> tuple[Photo, ...]:
        return tuple(Photo(file.path, self.transparent, file.mask) for file in self.files)

    @property
    def duplicates(self) -> list[list[str]]:
        """Names of files with the same pixels; all of them train, so the picture counts twice."""
        groups: dict[str, list[str]] = {}
        for file in self.files:
            groups.setdefault(file.digest, []).append(Path(file.path).name)
        return [names for names in groups.values() if len(names) > 1]

    def report(self) -> str:
        """One line for what is used, one per file that is not, one per picture there twice."""
        sizes = sorted({(file.width, file.height) for file in self.files})
        shapes = ", ".join(f"{w}×{h}" for w, h in sizes[:4]) + (" …" if len(sizes) > 4 else "")
        lines = [f"{len(self.files)} images" + (f" ({shapes})" if sizes else "")]
        if masked := sum(file.masked for file in self.files):
            lines.append(f"{masked} with a mask: what is black in it counts little")
        if self.caption_source != PROMPT:
            lines.append(f"{sum(map(bool, self.captions))} with a caption")
        lines += self.remarks
        lines += [f"skipped {name}: {reason}" for name, reason in self.skipped]
        lines += [f"the same picture: {', '.join(names)}" for names in self.duplicates]
        return "\n".join(lines)


def list_images(folder: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """The candidates of a folder in sorted order, and the entries that are none, with reasons.

    Masks are among the candidates, see :func:`pair_masks`.
    """
    candidates, skipped = [], []
    for path in sorted(folder.iterdir(), key=lambda p: p.name):
        if path.name.startswith("."):
            continue  # .DS_Store, ._x.jpg: never the user's own pictures
        if path.is_dir():
            skipped.append((path.name + "/", "a folder: only pictures directly inside count"))
        elif path.suffix.lower() in HEIF and not _reads_heif():
            reason = "HEIC needs the package pillow-heif: install it, or save the photo as JPEG"
            skipped.append((path.name, reason))
        elif path.suffix.lower() in ENDINGS:
            skipped.append((path.name, "a text: caption_source says whether captions are read"))
        elif path.suffix.lower() not in SUFFIXES | HEIF:
            skipped.append((path.name, f"not a picture ({path.suffix or 'no ending'})"))
        elif path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            skipped.append((path.name, "a link that leaves the folder"))
        else:
            candidates.append(path)
    return candidates, skipped


def _reads_heif() -> bool:
    """Whether some pack of the host registered a decoder with Pillow."""
    return ".heic" in Image.registered_extensions()


def pair_masks(candidates: list[Path]) -> tuple[dict[Path, str], list[tuple[str, str]]]:
    """Each photo with the file of its mask, or ""; and the masks that have no photo, with why."""
    masks = {path.stem.removesuffix(MASK_ENDING): path for path in candidates if _is_mask(path)}
    photos = [path for path in candidates if not _is_mask(path)]
    stems = {path.stem for path in photos}
    lonely = [
        (path.name, "a mask without its photo") for stem, path in masks.items() if stem not in stems
    ]
    return {path: str(masks.get(path.stem, "")) for path in photos}, lonely


def _is_mask(path: Path) -> bool:
    return path.stem.endswith(MASK_ENDING) and path.stem != MASK_ENDING


def _read_captions(photos: list[Path]) -> tuple[tuple[str, ...], list[str], set[str]]:
    """Of each photo its text; what is odd; the names of the files that were read."""
    texts, remarks, names = [], [], set()
    for photo in photos:
        path = caption_file(photo)
        caption = read_caption(path) if path else Caption()
        texts.append(caption.text)
        if path is None:
            remarks.append(f"{photo.name} has no caption: it trains with the concept's prompt")
        else:
            names.add(path.name)
            if caption.remark:
                remarks.append(f"{path.name} {caption.remark}")
    return tuple(texts), remarks, names


def read_folder(folder: Path, transparent: str = "white", caption_source: str = PROMPT) -> ImageSet:
    """Read every picture of a folder once; a bad one is skipped and named.

    A mask lies beside its photo: ``dog-masklabel.png`` of ``dog.jpg``.

    Args:
        transparent: see :func:`config.background`.
        caption_source: one of :data:`captions.SOURCES`.

    Raises:
        ImageError: no such folder, or nothing in it can be used.
    """
    if not folder.is_dir():
        raise ImageError(f"no folder {str(folder)!r}: choose one that holds your photos")
    candidates, skipped = list_images(folder)
    masks, lonely = pair_masks(candidates)
    skipped += lonely
    files = []
    for path, mask in masks.items():
        try:
            files.append(check_photo(Photo(str(path), transparent, mask)))
        except ImageError as error:
            skipped.append((path.name, str(error)))
    if not files:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped[:5])
        detail = f" Skipped: {reasons}" if reasons else " It is empty."
        raise ImageError(f"no usable picture in {str(folder)!r}.{detail}")
    captions: tuple[str, ...] = ()
    remarks: list[str] = []
    if caption_source != PROMPT:
        captions, remarks, used = _read_captions([Path(file.path) for file in files])
        skipped = [entry for entry in skipped if entry[0] not in used]
    return ImageSet(
        tuple(files),
        tuple(skipped),
        transparent=transparent,
        caption_source=caption_source,
        captions=captions,
        remarks=tuple(remarks),
    )
