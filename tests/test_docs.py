"""The help pages and the README against the code: no host needed, the node sources are parsed."""

import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from pack.trainer import class_images, config
from pack.trainer.config import lora
from pack.trainer.provenance import VERSION

PAGES = ROOT / "web" / "docs"
README = (ROOT / "README.md").read_text(encoding="utf-8")
UNKNOWN = object()
SHOWN = {True: "on", False: "off", "": "(empty)"}


@dataclasses.dataclass
class Input:
    name: str
    default: Any = UNKNOWN  # a wire, or a choice that the machine decides
    optional: bool = False


@dataclasses.dataclass
class Node:
    id: str
    inputs: list[Input]
    outputs: list[str]


def constant(call: ast.Call, keyword: str, otherwise: Any = None) -> Any:
    """A keyword's value if it is a literal."""
    for given in call.keywords:
        if given.arg == keyword and isinstance(given.value, ast.Constant):
            return given.value.value
    return otherwise


def options_of(tree: ast.Module, name: str) -> dict[str, Any]:
    """Option -> default of a config class, whether it stands in this module or in the trainer."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            found = {}
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.value, ast.Call):
                    found[line.target.id] = ast.literal_eval(line.value.args[0])
            return found
    fields = dataclasses.fields(getattr(config, name, None) or getattr(class_images, name))
    return {field.name: field.default for field in fields if field.metadata}


def own_default(value: ast.expr) -> Any:
    """Of an option that begins as something else in a node."""
    return getattr(lora, value.id) if isinstance(value, ast.Name) else ast.literal_eval(value)


def inputs_in(call: ast.Call, tree: ast.Module, names: dict[str, str]) -> list[Input]:
    """The inputs that one call of a schema makes."""
    if isinstance(call.func, ast.Attribute) and call.func.attr == "Input":
        default, optional = constant(call, "default", UNKNOWN), constant(call, "optional", False)
        return [Input(call.args[0].value, default, optional)]
    if isinstance(call.func, ast.Name) and call.func.id in ("widget", "widgets"):
        options = options_of(tree, names.get(call.args[0].id, call.args[0].id))
        if call.func.id == "widgets":
            # a default of the node's own is a name of a constant, or the value itself
            options |= {k.arg: own_default(k.value) for k in call.keywords}
            return [Input(name, default) for name, default in options.items()]
        name = call.args[1].value
        return [Input(name, options[name], constant(call, "optional", False))]
    return []


def read_nodes() -> dict[str, Node]:
    """Every node of the pack with what its schema declares."""
    nodes = {}
    for path in sorted((ROOT / "nodes").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef) or function.name != "define_schema":
                continue
            names = {
                line.targets[0].id: line.value.id
                for line in function.body
                if isinstance(line, ast.Assign) and isinstance(line.value, ast.Name)
            }
            calls = [call for call in ast.walk(function) if isinstance(call, ast.Call)]
            node = Node("", [], [])
            for call in calls:
                node.id = constant(call, "node_id", node.id)
                node.inputs += inputs_in(call, tree, names)
                if isinstance(call.func, ast.Attribute) and call.func.attr == "Output":
                    node.outputs.append(constant(call, "display_name", call.args[0].value))
            nodes[node.id] = node
    return nodes


NODES = read_nodes()


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """The cells of the tables whose header begins with ``heading``, by the name in the first."""
    found: dict[str, list[str]] = {}
    inside = False
    for line in page.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        inside = bool(cells) and (inside or cells[0] == heading)
        if inside and cells[0].startswith("`"):
            assert cells[0] not in found, f"{cells[0]} stands twice"
            found[cells[0].strip("`")] = cells[1:]
    return found


def page(node: str) -> str:
    return (PAGES / f"{node}.md").read_text(encoding="utf-8")


def test_the_parser_sees_the_nodes() -> None:
    """The tests below would pass on an empty list."""
    assert len(NODES) >= 6
    settings = {f.name for f in dataclasses.fields(config.TrainConfig) if f.metadata}
    assert {entry.name for entry in NODES["DreamBoothSettings"].inputs} == settings
    assert [entry.name for entry in NODES["DreamBoothConcept"].inputs][:2] == [
        "instance_images",
        "identifier",
    ]
    assert NODES["DreamBoothTrain"].outputs[:3] == ["MODEL", "CLIP", "VAE"]


def test_every_node_has_its_page_and_no_page_is_left_over() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == NODES.keys()


@pytest.mark.parametrize("node", NODES.values(), ids=list(NODES))
def test_a_page_names_every_input_with_its_default(node: Node) -> None:
    documented = rows(page(node.id), "Input")
    assert documented.keys() == {entry.name for entry in node.inputs}
    for entry in node.inputs:
        said, meaning = documented[entry.name][0], documented[entry.name][-1]
        assert meaning, f"{entry.name} is not explained"
        if entry.default is UNKNOWN:
            assert ("optional" in said) == entry.optional, f"{entry.name}: {said}"
        elif isinstance(entry.default, (bool, str)) and entry.default in SHOWN:
            assert said == SHOWN[entry.default], entry.name
        elif isinstance(entry.default, str):
            assert said == f"`{entry.default}`", entry.name
        else:
            assert float(said.strip("`")) == entry.default, entry.name


@pytest.mark.parametrize("node", NODES.values(), ids=list(NODES))
def test_a_page_names_every_output(node: Node) -> None:
    assert list(rows(page(node.id), "Output")) == node.outputs


SETTINGS = {f.name: f for f in dataclasses.fields(config.TrainConfig) if f.metadata}


@pytest.mark.parametrize("name", SETTINGS)
def test_every_choice_of_a_setting_is_named(name: str) -> None:
    text = " ".join(rows(page("DreamBoothSettings"), "Input")[name])
    for choice in SETTINGS[name].metadata["choices"] or ():
        assert choice in text, f"{name} = {choice}"


def test_the_readme_has_every_node() -> None:
    for node in NODES:
        assert f"(web/docs/{node}.md)" in README, node


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_readmes_commands_are_there() -> None:
    scripts = set(re.findall(r"python ((?:\w+/)*\w+\.py)", README))
    assert {"demo/run.py", "tests/run.py"} <= scripts
    assert [script for script in scripts if not (ROOT / script).is_file()] == []
    modules = set(re.findall(r"python -m (\w+)", README)) - {"pip"}
    assert [name for name in modules if not (ROOT / name / "__main__.py").is_file()] == []


def links(text: str) -> list[str]:
    """Targets of links and pictures that lie in this repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def headings(text: str) -> set[str]:
    """Anchors as the usual renderers make them."""
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def missing(path: Path) -> list[str]:
    """Links of a page that lead nowhere."""
    wrong = []
    text = path.read_text(encoding="utf-8")
    for target in links(text):
        file, _, anchor = target.partition("#")
        aim = path.parent / file if file else path
        known = headings(aim.read_text(encoding="utf-8")) if anchor and aim.is_file() else {""}
        if not aim.exists() or anchor not in known:
            wrong.append(target)
    return wrong


@pytest.mark.parametrize(
    "name", ["README.md", "CHANGELOG.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
)
def test_links_resolve(name: str) -> None:
    assert missing(ROOT / name) == []


def test_the_readmes_templates_are_there() -> None:
    names = set(re.findall(r"`(dreambooth_\w+)`", README))
    assert names <= {path.stem for path in (ROOT / "example_workflows").glob("*.json")}
    assert names


def test_the_changelog_has_this_version() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(version[1])}\b", changelog, re.MULTILINE)


def test_checkpoints_name_this_version() -> None:
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version[1] == VERSION


def test_the_architecture_names_every_module() -> None:
    """And names none that is gone."""
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    there = {
        path.relative_to(ROOT).as_posix()
        for room in ("nodes", "trainer")
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py"
    }
    named = set(re.findall(r"`((?:nodes|trainer)/[\w/]+\.py)`", text))
    assert named == there
