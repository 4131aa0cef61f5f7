"""What the page is given in its languages is what the nodes' schemas say."""

import json

from pack.demo.locales import FOLDER, english, languages, locales


def test_the_files_are_what_the_schemas_give(client) -> None:
    for language, tree in locales(client.object_info()).items():
        stored = json.loads((FOLDER / language / "nodeDefs.json").read_text("utf-8"))
        assert stored == tree, f"{language}: run python demo/run.py --write-example"


def test_the_host_hands_every_language_to_the_page(client) -> None:
    served, wanted = client.get("/i18n"), english(client.object_info())
    for language in ["en", *languages()]:
        nodes = served[language]["nodeDefs"]
        assert nodes.keys() >= wanted.keys()
        for kind, texts in wanted.items():
            assert nodes[kind].keys() == texts.keys()
            assert nodes[kind]["inputs"].keys() == texts["inputs"].keys()
    assert served["en"]["nodeDefs"]["DreamBoothTrain"] == wanted["DreamBoothTrain"]
