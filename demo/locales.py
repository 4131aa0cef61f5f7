"""Writes ``locales/<language>/nodeDefs.json``, the nodes' words in the page's other languages.

``en`` is what the nodes' schemas say. Another language is the same with each text looked up in its
``texts.json`` (English: translation), so an English text that changes stands out as untranslated
and can keep no old meaning. Names of inputs stay as they are in every language: messages, help
pages, ``job.json`` and the metadata of a checkpoint call them by these names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .server import ROOT
from .workflow import Json, inputs_of

FOLDER = ROOT / "locales"
PREFIX = "DreamBooth"
ENGLISH = "en"


def english(object_info: Mapping[str, Any]) -> Json:
    """The texts of this pack's nodes, in the page's format: a dot in a key becomes ``_``."""
    return {
        kind.replace(".", "_"): node_texts(info)
        for kind, info in sorted(object_info.items())
        if kind.startswith(PREFIX)
    }


def node_texts(info: Mapping[str, Any]) -> Json:
    tooltips = {name.replace(".", "_"): o.get("tooltip") for name, _, o, _ in inputs_of(info)}
    texts = {
        "display_name": info["display_name"],
        "description": info["description"],
        "inputs": {name: {"tooltip": text} for name, text in tooltips.items() if text},
        "outputs": {
            str(number): {"tooltip": text}
            for number, text in enumerate(info.get("output_tooltips") or ())
            if text
        },
    }
    return {key: value for key, value in texts.items() if value}


def strings(tree: Json) -> Iterator[str]:
    """Every text of a tree, in order."""
    for value in tree.values():
        if isinstance(value, str):
            yield value
        else:
            yield from strings(value)


def translated(tree: Json, texts: Mapping[str, str]) -> Json:
    """The tree in another language; what has no translation is left out: the page shows English."""
    made: Json = {}
    for key, value in tree.items():
        if not isinstance(value, str):
            made[key] = translated(value, texts)
        elif value in texts:
            made[key] = texts[value]
    return made


def languages() -> list[str]:
    """The languages beside English."""
    return sorted(path.parent.name for path in FOLDER.glob("*/texts.json"))


def texts_of(language: str) -> dict[str, str]:
    """English texts and their translations."""
    return json.loads((FOLDER / language / "texts.json").read_text("utf-8"))


def locales(object_info: Mapping[str, Any]) -> dict[str, Json]:
    """The content of every language's ``nodeDefs.json``."""
    tree = english(object_info)
    return {ENGLISH: tree} | {name: translated(tree, texts_of(name)) for name in languages()}


def write_locales(object_info: Mapping[str, Any]) -> list[Path]:
    """Writes them all; says which texts still want a translation."""
    paths = []
    wanted = list(dict.fromkeys(strings(english(object_info))))
    for language, tree in locales(object_info).items():
        path = FOLDER / language / "nodeDefs.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(tree, indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        paths.append(path)
        known = wanted if language == ENGLISH else texts_of(language)
        for missing in [text for text in wanted if text not in known]:
            print(f"  {language}/texts.json lacks: {missing}")
    return paths
