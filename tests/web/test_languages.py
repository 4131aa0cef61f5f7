"""The page in another language says our nodes' words in it."""

import json

import pytest
from pack.demo.locales import FOLDER
from pages import wait_for

CHOSEN = "() => app.extensionManager.setting.get('Comfy.Locale')"
TITLE = "() => LiteGraph.registered_node_types.DreamBoothTrain?.title"
DATA = "() => LiteGraph.registered_node_types.DreamBoothTrain.nodeData"


@pytest.fixture
def speak(connect):
    """Sets the page's language; English again afterwards."""
    client = connect()
    yield lambda language: client.post("/settings", {"Comfy.Locale": language})
    client.post("/settings", {"Comfy.Locale": "en"})
    client.close()


@pytest.mark.parametrize("language", ["zh", "de"])  # de: the page's own words stay English
def test_the_nodes_speak_the_pages_language(open_page, speak, screenshots, language: str) -> None:
    speak(language)
    texts = json.loads((FOLDER / language / "nodeDefs.json").read_text("utf-8"))
    page = open_page()
    if page.evaluate(CHOSEN) != language:
        pytest.skip(f"this page does not offer {language!r}")
    wait_for(lambda: page.evaluate(TITLE) == texts["DreamBoothTrain"]["display_name"], 20)
    assert page.evaluate(f"{DATA}.description") == texts["DreamBoothTrain"]["description"]
    told = page.evaluate(f"{DATA}.inputs.name.tooltip")
    assert told == texts["DreamBoothTrain"]["inputs"]["name"]["tooltip"]
    page.screenshot(path=screenshots / f"language_{language}.png")
