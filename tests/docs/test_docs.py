"""What the pages say is so: commands parse, manifests load, names of values and fields exist, links lead somewhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from images.build import parser, tags_of
from psr_operator import cli
from psr_operator.api import KINDS
from psr_operator.api.explain import explain
from psr_operator.api.fields import model_of
from psr_operator.api.manifest import load_manifests
from psr_operator.render import labels
from psr_runtime.config import MARK
from tests.docs.pages import PAGES, PROGRAMS, ROOT, Block, Command, anchors, blocks, commands, commands_of, links

CHART = ROOT / "charts" / "psr"
KIND_OF = {kind.short_name: name for name, kind in KINDS.items()}
KUBERNETES = {"events", "namespace", "nodes", "secret", "api-resources", "node", "pod", "crds"}
ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]
ALL_COMMANDS = [command for page in PAGES for command in commands(page)]


def those(program: str) -> list[Any]:
    """The commands of one program, for parametrizing."""
    unique = {command.text: command for command in ALL_COMMANDS if command.words[0] == program}
    return [pytest.param(command, id=command.text[:70]) for command in unique.values()]


def test_a_block_that_begins_with_a_command_holds_nothing_else() -> None:
    assert len(ALL_COMMANDS) > 60
    for block in ALL_BLOCKS:
        for command in commands_of(block):
            assert command.words[0] in PROGRAMS, f"{block.place}: {command.text}"


# --- psr ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", those("psr"))
def test_psr_understands_it(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    words = command.words
    if "|" in words:
        words = words[: words.index("|")]
    if words[1].startswith("-"):  # of `psr` itself
        with pytest.raises(SystemExit) as ended:
            cli.main(words[1:])
        assert ended.value.code == 0
        return
    with pytest.raises(SystemExit):
        cli.main([*words[1 : 3 if words[1] in ("data",) else 2], "--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert {word for word in words if word.startswith("--")} <= known, "an option is written out"
    if command.whole:
        cli.command_line().parse_args(words[1:])
    if words[1] == "explain" and not words[2].startswith("KIND"):
        assert explain(words[2])


MANIFESTS = [block for block in ALL_BLOCKS if re.search(r"(?m)^apiVersion: psr.dev/", block.text)]


@pytest.mark.parametrize("block", MANIFESTS, ids=lambda block: block.place)
def test_a_manifest_loads(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "manifest.yaml"
    file.write_text(block.text)
    assert load_manifests([file])


# --- kubectl -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", those("kubectl"))
def test_kubectl_is_given_files_and_kinds_that_exist(command: Command) -> None:
    words = command.words
    for flag, value in pairwise(words):
        if flag in ("-f", "-k") and value not in ("-", "run.yaml"):
            assert (ROOT / value).exists(), f"{command.place}: {value}"
        if flag in ("-l", "--selector"):
            known = {value for name, value in vars(labels).items() if name.startswith("LABEL_")}
            assert value.split("=")[0] in known, f"{command.place}: {value}"
    for kind in kinds_of(words):
        assert kind in KUBERNETES or kind in KIND_OF or kind == "psr", f"{command.place}: kind {kind}"


def kinds_of(words: list[str]) -> Iterator[str]:
    """The kinds that a command of kubectl names after its verb."""
    rest = _without_options(words[1:])
    if rest and rest[0] in ("get", "patch", "delete", "describe", "wait", "label"):
        yield from (word.partition("/")[0] for word in rest[1:2])


def _without_options(words: list[str]) -> list[str]:
    """Words that are neither an option nor the value of one that is written apart."""
    apart = {
        "-n",
        "--namespace",
        "-o",
        "-p",
        "-f",
        "-k",
        "-l",
        "-L",
        "--type",
        "--field-selector",
        "--api-group",
        "--tail",
    }
    kept, skip = [], False
    for word in words:
        if not skip and not word.startswith("-"):
            kept.append(word)
        skip = word in apart
    return kept


@pytest.mark.parametrize("command", [item for item in those("kubectl") if "patch" in item.values[0].words])
def test_a_patch_changes_fields_that_exist_and_may_be_changed(command: Command) -> None:
    words = command.words
    kind = KINDS[KIND_OF[next(kinds_of(words))]]
    patch = json.loads(words[words.index("-p") + 1])
    if words[words.index("--type") + 1] == "json":
        assert [step["op"] for step in patch] == ["add"]
        assert patch[0]["path"] == "/spec/iterations/-", "the one list that grows"
        patch = {"spec": {"iterations": [patch[0]["value"]]}}
    assert set(patch) == {"spec"}
    check_fields(kind.model_fields["spec"].annotation, patch["spec"], command.place)


def check_fields(model: Any, values: Mapping[str, Any], place: str) -> None:
    """Every leaf of a patch is a field that may be changed; `iterations` is the one that may grow."""
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    for name, value in values.items():
        assert name in fields, f"{place}: no field {name} in {model.__name__}"
        extra = fields[name].json_schema_extra
        mark = extra[MARK] if isinstance(extra, Mapping) else None
        if isinstance(value, Mapping):
            check_fields(model_of(fields[name].annotation), value, place)
        else:
            assert mark == "operation" or name == "iterations", f"{place}: {name} is fixed"


# --- helm and images ---------------------------------------------------------------------------------------


def schema() -> dict[str, Any]:
    """The schema of the chart's values."""
    document: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return document


@pytest.mark.parametrize("command", those("helm"))
def test_helm_is_given_the_chart_and_values_that_it_has(command: Command) -> None:
    words = command.words
    assert words[1] in ("install", "upgrade", "uninstall")
    if words[1] != "uninstall":
        assert (ROOT / words[3] / "Chart.yaml").exists(), command.text
    for flag, value in pairwise(words):
        if flag == "--set":
            assert_value_exists(value.partition("=")[0], command.place)


VALUES = ROOT / "docs" / "install.md"


def test_the_values_of_the_page_pass_the_chart_s_schema() -> None:
    files = [block for block in blocks(VALUES) if block.language == "yaml"]
    assert files
    for block in files:
        values = YAML(typ="safe").load(block.text)
        jsonschema.validate(values, schema(), cls=jsonschema.Draft202012Validator)


def test_every_value_that_the_page_names_is_one_of_the_chart() -> None:
    top = set(schema()["properties"])
    named = [
        span
        for span in re.findall(r"`([a-zA-Z.]+?)(?:: [a-z]+)?`", VALUES.read_text())
        if span.split(".")[0] in top and not span.endswith((".yaml", ".md"))
    ]
    assert len(named) > 10
    for name in named:
        assert_value_exists(name, "docs/install.md")


def assert_value_exists(name: str, place: str) -> None:
    """A dotted name is one of the chart's values."""
    node: Any = YAML(typ="safe").load((CHART / "values.yaml").read_text())
    for part in name.split("."):
        assert isinstance(node, Mapping), f"{place}: no value {name}"
        assert part in node, f"{place}: no value {name}"
        node = node[part]


def pushed() -> set[str]:
    """The images that the page of the installation says to push."""
    return {command.words[2] for command in commands(VALUES) if command.words[:2] == ["docker", "push"]}


def test_the_images_that_are_pushed_are_those_that_the_build_makes() -> None:
    (build,) = (command.words for command in commands(VALUES) if "images/build.py" in command.words)
    options = parser().parse_args(build[build.index("images/build.py") + 1 :])
    assert pushed() < set(tags_of(options.registry, options.version).values())


def test_the_images_that_are_pushed_are_those_that_the_values_name() -> None:
    (block,) = (block for block in blocks(VALUES) if block.language == "yaml")
    named = YAML(typ="safe").load(block.text)["images"]
    assert pushed() == {f"{image['repository']}:{image['tag']}" for image in named.values()}


# --- make --------------------------------------------------------------------------------------------------

TARGETS = {name for page in PAGES for name in re.findall(r"`make ([a-z0-9-]+)", page.read_text())} | {
    command.words[1] for command in ALL_COMMANDS if command.words[0] == "make"
}


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_make_has_the_target(target: str) -> None:
    assert re.search(rf"(?m)^{target}: .*## ", (ROOT / "Makefile").read_text()), f"make {target}"


@pytest.mark.parametrize("command", those(".venv/dev/bin/python"))
def test_pytest_is_given_tests_that_exist(command: Command) -> None:
    assert command.words[1:3] == ["-m", "pytest"]
    assert all((ROOT / word).exists() for word in command.words[3:] if not word.startswith("-")), command.place


# --- links -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_of_this_repository_that_are_named_exist(page: Path) -> None:
    """A span like `psr_runtime/stages.py` names a file or folder from the root; made-up parts stand in <angles>."""
    folders = "|".join(
        ("benchmarks", "charts", "crds", "docs", "examples", "harness", "images", "operator", "psr_runtime", "tests")
    )
    named = re.findall(rf"`((?:{folders})/[\w./-]*)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}; there are {sorted(anchors(file))}"


def test_every_page_is_reached_from_the_readme() -> None:
    """By links, whatever the number of steps."""
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        todo += [(page.parent / target.partition("#")[0]).resolve() for target in links(page) if target[0] != "#"]
    assert set(PAGES) <= reached
