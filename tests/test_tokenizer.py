"""Our tokenizer against transformers' own, on the host's copy of the vocabulary."""

from pathlib import Path

import pytest
from pack.trainer.tokenizer import END, START, overflow, pieces, tokenize
from transformers import CLIPTokenizer

TEXTS = [
    "",
    "a photo of zwx dog",
    "Hello, World! it's 2026 — naïve café 犬 😀 don't",
    "  two   spaces\n and a tab\t",
    "x" * 300,
    "word " * 200,
    "1234567890 3.14 #hash @at (round:1.2) [square]",
    "ẞß İ ﬁ Ω ά",
]


@pytest.mark.parametrize("text", TEXTS)
def test_equals_transformers(comfyui: Path, text: str) -> None:
    theirs = CLIPTokenizer.from_pretrained(comfyui / "comfy" / "sd1_tokenizer")
    expected = theirs(text, padding="max_length", max_length=77, truncation=True)["input_ids"]
    assert tokenize([text])[0].tolist() == expected


def test_shape_and_markers() -> None:
    ids = tokenize(["dog", "a cat"])
    assert ids.shape == (2, 77)
    assert ids[0].tolist()[:3] == [START, 1929, END] and set(ids[0].tolist()[3:]) == {END}
    assert tokenize([]).shape == (0, 77)


def test_overflow_names_what_is_cut() -> None:
    assert overflow("dog " * 75) == ""
    assert overflow("dog " * 75 + "purple cow") == "purple cow"


def test_pieces() -> None:
    assert pieces("sks") == ["sks</w>"]
    assert len(pieces("zwx")) == 2
