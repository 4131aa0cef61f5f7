"""Who may import whom: __init__ → nodes → trainer, and one room that knows the host."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HOST = ("comfy", "comfy_extras", "comfy_execution", "folder_paths", "server", "nodes", "execution")
OURS = ("trainer", "demo", "tests", "benchmarks")
DOOR = ROOT / "nodes" / "host"
PACKAGE = [ROOT / "__init__.py"]
PACKAGE += sorted(p for room in ("nodes", "trainer") for p in (ROOT / room).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(level, module) of every import statement, also of those inside functions."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


def is_in(module: str, packages: tuple[str, ...]) -> bool:
    return module.split(".")[0] in packages


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_walk_sees_the_package() -> None:
    found = {name(path).replace("\\", "/") for path in PACKAGE}
    known = {"__init__.py", "nodes/host/card.py", "trainer/loop.py", "trainer/checkpoint/file.py"}
    assert known <= found
    assert (0, "folder_paths") in set(imports(DOOR / "folders.py"))


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_only_one_room_knows_the_host(path: Path) -> None:
    if path.is_relative_to(DOOR):
        return
    known = (*HOST, "comfy_api") if path.is_relative_to(ROOT / "trainer") else HOST
    assert [m for level, m in imports(path) if level == 0 and is_in(m, known)] == []


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_the_trainer_never_climbs_out(path: Path) -> None:
    trainer = ROOT / "trainer"
    if not path.is_relative_to(trainer):
        return
    allowed = len(path.relative_to(trainer).parts)
    assert [(level, m) for level, m in imports(path) if level > allowed] == []


@pytest.mark.parametrize("path", PACKAGE, ids=name)
def test_imports_inside_the_package_are_relative(path: Path) -> None:
    assert [m for level, m in imports(path) if level == 0 and is_in(m, OURS)] == []


def test_the_product_knows_neither_demo_nor_tests() -> None:
    words = {
        (name(path), m)
        for path in PACKAGE
        for level, m in imports(path)
        if level and is_in(m, ("demo", "tests", "benchmarks"))
    }
    assert words == set()
