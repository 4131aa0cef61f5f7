"""Texts beside photos: read from files, made to name the subject, shuffled and left out by draw."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from .config import Concept, DataConfig
from .randomness import generator, permutation

PROMPT, FILES, BOTH = "prompt", "files", "prompt + file"
SOURCES = (PROMPT, FILES, BOTH)
ENDINGS = (".txt", ".caption")
_MAX_BYTES = 65_536  # of 77 tokens, a few hundred count


@dataclass(frozen=True)
class Caption:
    """What a caption file says, on one line; ``remark`` says what is odd about it."""

    text: str = ""
    remark: str = ""


def caption_file(photo: Path) -> Path | None:
    """``dog.txt`` or else ``dog.caption`` beside ``dog.jpg``."""
    paths = (photo.with_suffix(ending) for ending in ENDINGS)
    return next((path for path in paths if path.is_file()), None)


def read_caption(path: Path) -> Caption:
    """A text in UTF-8 with or without its mark, in UTF-16 with one, else in Windows-1252.

    An unreadable one is empty and says why.
    """
    try:
        data = path.read_bytes() if path.stat().st_size <= _MAX_BYTES else None
    except OSError as error:
        return Caption(remark=f"cannot be read ({error.strerror})")
    if data is None:
        return Caption(remark=f"is longer than {_MAX_BYTES // 1024} KB: no caption")
    remark = ""
    try:
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        text = data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        text, remark = data.decode("cp1252", errors="replace"), "is no UTF-8: read as Windows-1252"
    if "\0" in text:
        return Caption(remark="holds a NUL character: no text")
    text = " ".join(text.split())
    return Caption(text, remark or ("" if text else "is empty"))


def instance_texts(
    captions: tuple[str, ...], source: str, prompt: str, identifier: str, class_noun: str
) -> tuple[str, ...]:
    """The text of each photo, every one with the identifier in it.

    A photo without a caption has the concept's prompt. A caption that lacks the identifier gets it
    in front, with the class noun, as a tag: ``zwx dog, lying on grass``.
    """
    texts = []
    for caption in captions:
        if not caption:
            texts.append(prompt)
        elif source == BOTH:
            texts.append(f"{prompt}, {caption}")
        elif names(caption, identifier):
            texts.append(caption)
        else:
            texts.append(f"{identifier} {class_noun}, {caption}")
    return tuple(texts)


def names(text: str, identifier: str) -> bool:
    """Whether a text holds the identifier as a word, in letters of any case.

    "masks" does not name "sks".
    """
    word = rf"(?<!\w){re.escape(identifier)}(?!\w)"
    return re.search(word, text, re.IGNORECASE) is not None


class Texts:
    """The text that a row trains with, as a function of (seed, position)."""

    def __init__(self, seed: int = 0, data: DataConfig | None = None) -> None:
        self._seed = seed
        self._data = data or DataConfig()

    def instance(self, concept: Concept, photo: int, position: int) -> str:
        """Of the instance row at ``position``, which shows the concept's photo of this index."""
        if self._is_left_out("caption", self._data.caption_dropout, position):
            return ""
        text = concept.texts[photo]
        if not self.shuffles(concept):
            return text
        tags = [tag for part in text.split(",") if (tag := part.strip())]
        kept, rest = tags[: self._data.keep_tags], tags[self._data.keep_tags :]
        order = permutation(len(rest), self._seed, "tag order", position)
        return ", ".join([*kept, *(rest[index] for index in order)])

    def class_(self, concept: Concept, position: int) -> str:
        """Of the class row that joins the instance row at ``position``."""
        left_out = self._is_left_out("class caption", self._class_dropout, position)
        return "" if left_out else concept.class_prompt

    def fixed(self, concept: Concept) -> list[str]:
        """The texts that are known before the run; shuffled ones are not among them."""
        texts = [] if self.shuffles(concept) else [*concept.texts]
        empty = [""] if self._class_dropout else []
        return [*texts, concept.class_prompt, *empty]

    @property
    def _class_dropout(self) -> float:
        return max(self._data.caption_dropout, self._data.class_caption_dropout)

    def shuffles(self, concept: Concept) -> bool:
        """Whether its texts are drawn in the run, and not known before it."""
        return self._data.shuffle_tags and bool(concept.captions)

    def _is_left_out(self, what: str, rate: float, position: int) -> bool:
        if not rate:
            return False
        draw = torch.rand((), generator=generator(self._seed, f"{what} dropout", position))
        return float(draw) < rate
