"""The house keeps its measures: short files and functions, no import circle, few rooms on few floors, plain names.

`make lint` holds the layers (import contracts in pyproject.toml), docs/contributing.md draws them. Here stands what an
import contract cannot say.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"psr_operator": ROOT / "operator" / "psr_operator", "psr_runtime": ROOT / "psr_runtime"}
FILES = [place for folder in PACKAGES.values() for place in sorted(folder.rglob("*.py"))]

LINES_OF_A_FILE = 400
LINES_OF_A_FUNCTION = 60
LINES_OF_A_DOOR = 60
"""Of a test that puts something from outside behind an extension point: a door that needs more is not one."""
ROOMS = 20
"""Files and folders at the root of psr_runtime."""
FLOORS = 7
"""Rooms of psr_runtime in the longest chain of imports."""

REJECTED = frozenset(
    {"asker", "due", "found", "given", "heard", "life", "made", "moment", "noted", "over", "pace", "shelf", "standing"}
    | {"standings", "told", "untold"}
)
"""Words that say too little, or to us alone: no name of ours has one of them (`not_found` is the field's own word)."""
REJECTED_IN_CLASSES = REJECTED | {"words"}
"""`Words` for a schema; words of a text are words."""


@functools.cache
def tree(place: Path) -> ast.Module:
    """A file as Python reads it."""
    return ast.parse(place.read_text(), place.name)


def where(place: Path, node: ast.AST | None = None) -> str:
    """A place for messages: file, and line where there is one."""
    line = f":{node.lineno}" if node is not None and hasattr(node, "lineno") else ""
    return f"{place.relative_to(ROOT)}{line}"


# --- measures ------------------------------------------------------------------------------------------------


def test_no_file_is_long() -> None:
    lengths = {place: len(place.read_text().splitlines()) for place in FILES}
    long = {where(place): lines for place, lines in lengths.items() if lines > LINES_OF_A_FILE}
    assert long == {}


def test_no_function_is_long() -> None:
    long = {
        f"{where(place, node)} {node.name}": lines
        for place in FILES
        for node in ast.walk(tree(place))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > LINES_OF_A_FUNCTION
    }
    assert long == {}


def test_every_door_is_opened_by_a_short_test() -> None:
    doors = {
        where(place): len(place.read_text().splitlines()) for place in (ROOT / "tests" / "doors").glob("test_door_*.py")
    }
    assert {name: lines for name, lines in doors.items() if lines > LINES_OF_A_DOOR} == {}


# --- imports -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    """What imports what, in functions, too."""
    return grimp.build_graph(*PACKAGES)


def test_no_module_imports_itself_by_way_of_others(imports: grimp.ImportGraph) -> None:
    longest_chain({module: imports.find_modules_directly_imported_by(module) for module in imports.modules})


def rooms_of_the_runtime(imports: grimp.ImportGraph) -> dict[str, set[str]]:
    """What each room of psr_runtime imports of the others. A room is a file or a folder at its root."""

    def room(module: str) -> str:
        return module.split(".")[1]

    inner = {module for module in imports.modules if module.startswith("psr_runtime.")}
    rooms: dict[str, set[str]] = {room(module): set() for module in inner}
    for module in inner:
        for other in imports.find_modules_directly_imported_by(module) & inner:
            rooms[room(module)] |= {room(other)} - {room(module)}
    return rooms


def longest_chain(imports: Mapping[str, set[str]]) -> list[str]:
    """The longest chain of imports, from above; `graphlib` raises where it would be endless, and names the circle."""
    chains: dict[str, list[str]] = {}
    for name in TopologicalSorter(imports).static_order():
        below = max((chains[other] for other in sorted(imports.get(name, ()))), key=len, default=[])
        chains[name] = [name, *below]
    return max(chains.values(), key=len)


def test_the_runtime_has_few_rooms_on_few_floors(imports: grimp.ImportGraph) -> None:
    rooms = [place.name for place in PACKAGES["psr_runtime"].iterdir() if place.name != "__pycache__"]
    assert len(rooms) <= ROOMS, sorted(rooms)
    chain = longest_chain(rooms_of_the_runtime(imports))
    assert len(chain) <= FLOORS, " → ".join(chain)


def test_one_module_imports_kopf() -> None:
    importers = {
        place.name
        for place in FILES
        for node in ast.walk(tree(place))
        if (isinstance(node, ast.Import) and any(item.name.split(".")[0] == "kopf" for item in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kopf")
    }
    assert importers == {"kopf_adapter.py"}


def test_one_module_knows_the_paths_of_the_apiserver() -> None:
    """Everybody else names kinds."""
    knowing = {
        where(place, node)
        for place in FILES
        if place.name != "paths.py"
        for node in ast.walk(tree(place))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.match(r"/apis?/", node.value)
    }
    assert knowing == set()


# --- names ---------------------------------------------------------------------------------------------------


def defined_names(module: ast.Module) -> Iterator[tuple[str, ast.AST, bool]]:
    """Every name that a file gives to something, with its place, and whether it is a class's."""
    for node in ast.walk(module):
        match node:
            case ast.ClassDef(name=name):
                yield name, node, True
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.arg(arg=name)
                | ast.alias(asname=str(name))
                | ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
                | ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(attr=name, ctx=ast.Store())
            ):
                yield name, node, False


def parts_of(name: str) -> list[str]:
    """The words of a name: `let_go`, `letGo` and `LetGo` are the same two."""
    return [part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]


def is_rejected(name: str, *, of_class: bool) -> bool:
    """Whether a name has a rejected word."""
    text = " ".join(parts_of(name)).replace("not found", "")
    return "let go" in text or bool((REJECTED_IN_CLASSES if of_class else REJECTED) & set(text.split()))


def test_names_are_the_field_s() -> None:
    rejected = {
        f"{where(place, node)} {name}"
        for place in FILES
        for name, node, of_class in defined_names(tree(place))
        if is_rejected(name, of_class=of_class)
    }
    rejected |= {where(place) for place in FILES if is_rejected(place.stem, of_class=False)}
    assert rejected == set()


@pytest.mark.parametrize(
    ("name", "of_class", "rejected"),
    [
        ("found", False, True),
        ("files_found", False, True),
        ("NotFound", True, False),
        ("let_go", False, True),
        ("Words", True, True),
        ("words", False, False),
        ("lifecycle", False, False),
        ("Life", True, True),
        ("overlong", False, False),
    ],
)
def test_what_is_rejected(name: str, of_class: bool, rejected: bool) -> None:
    assert is_rejected(name, of_class=of_class) is rejected
