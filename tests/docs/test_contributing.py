"""docs/contributing.md: the picture of the house is that of the import contracts, hooks do what `make lint` does."""

from __future__ import annotations

import re
import shlex

import pytest
from ruamel.yaml import YAML

from harness import house_picture
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "contributing.md"


def test_the_picture_is_that_of_the_import_contracts() -> None:
    assert house_picture.drawn() == house_picture.PICTURE.read_text(), "make house-picture draws it anew"


@pytest.mark.parametrize("package", house_picture.SOURCES)
def test_every_room_stands_in_the_picture(package: str) -> None:
    drawn = {room.name.partition(".")[2] for floor in house_picture.floors()[package] for room in floor}
    places = house_picture.SOURCES[package].iterdir()
    rooms = {place.stem for place in places if place.suffix == ".py" or (place / "__init__.py").exists()}
    assert drawn == rooms - {"__init__"}


def test_a_commit_runs_what_make_lint_runs() -> None:
    (repo,) = YAML(typ="safe").load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {tuple(word for word in shlex.split(hook["entry"]) if word != "--force-exclude") for hook in repo["hooks"]}
    (recipe,) = re.findall(r"(?m)^lint: .*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text())
    lines = recipe.replace("$(DEV)", ".venv/dev").splitlines()
    assert hooks == {tuple(word for word in shlex.split(line) if word != ".") for line in lines}


def test_hooks_fetch_nothing() -> None:
    (repo,) = YAML(typ="safe").load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"
    assert {hook["language"] for hook in repo["hooks"]} == {"system"}


def test_every_door_stands_beside_its_change() -> None:
    doors = {f"tests/doors/{place.name}" for place in (ROOT / "tests" / "doors").glob("test_door_*.py")}
    changes = [line for line in PAGE.read_text().splitlines() if re.match(r"\| [a-j]\. ", line)]
    assert len(changes) == 10
    assert doors == {name for line in changes for name in re.findall(r"`(tests/doors/\w+\.py)`", line)}
