"""The translators' files: nothing lost, nothing left over, nothing the page would misread."""

import json
import re

import pytest
from pack.demo.locales import FOLDER, languages, strings, texts_of, translated

NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?:e-\d+)?|#\w{6}")
# widgets, option names, file names, formulas and placeholders: read the same in every language
KEPT = re.compile(
    r"\w+_\w+(?:\.json)?|<[\w ]+>|'a photo[^']*'"
    r"|(?:(?<=^)|(?<=\. ))[a-z]\w*(?=:)|\b\w+\.[a-z]{3,}\b"
)
LANGUAGES = ["de", "fr", "ja", "zh"]


def english() -> dict:
    return json.loads((FOLDER / "en" / "nodeDefs.json").read_text("utf-8"))


def test_the_languages_are_there() -> None:
    assert languages() == LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_and_no_other(language: str) -> None:
    texts = texts_of(language)
    wanted = dict.fromkeys(strings(english()))
    assert [text for text in wanted if text not in texts] == []
    assert [text for text in texts if text not in wanted] == []
    assert all(text.strip() == text and text for text in texts.values())
    stored = json.loads((FOLDER / language / "nodeDefs.json").read_text("utf-8"))
    assert stored == translated(english(), texts), "run: python demo/run.py --write-example"


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_and_names_are_kept(language: str) -> None:
    for text, other in texts_of(language).items():
        lost = [number for number in NUMBER.findall(text) if number not in NUMBER.findall(other)]
        lost += [name for name in KEPT.findall(text) if name not in other]
        assert not lost, (text, other)


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_the_page_reads_them_as_plain_text(language: str) -> None:
    """vue-i18n takes braces, ``@`` and ``|`` for its own: a text with one comes out cut."""
    stored = json.loads((FOLDER / language / "nodeDefs.json").read_text("utf-8"))
    assert [text for text in strings(stored) if set(text) & set("{}@|")] == []
