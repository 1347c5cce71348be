"""What a stage's digest holds: method fields and the content of inputs; never addresses or operation fields."""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from psr_runtime.artefacts.manifest import digest_of_input
from psr_runtime.config import (
    MARK,
    JudgeConfig,
    Schema,
    StageConfig,
    input_uris,
    method,
    method_fields,
    plugin,
    stage_digest,
)
from psr_runtime.config.digest import plugin_packages
from psr_runtime.config.packages import own_implementations
from psr_runtime.stages import STAGES
from psr_runtime.storage import Storage, file_uri

MODEL = {"uri": "file:///m", "weights": "Pretrained", "chatTemplate": "{{ messages }}"}
PROMPTS = {"solve": "{problem}", "judge": "{Step A}{Step B}", "systemMessage": "be brief"}
SERVER = {"urls": ["http://127.0.0.1:8000"], "modelDigest": "sha256:0", "readySeconds": 5}
COMMON: dict[str, Any] = {
    "output": "file:///out",
    "storage": {"endpoint": "http://127.0.0.1:9000", "region": "here"},
    "owner": {"uri": "file:///runs", "uid": "1", "name": "a/b"},
}
STAGE_DOCUMENTS: dict[str, dict[str, Any]] = {
    "sft": {"model": MODEL, "ift": "file:///i", "eft": "file:///e", "prompts": PROMPTS},
    "search": {
        "model": MODEL,
        "problems": "file:///p",
        "questions": {"count": 3},
        "prompts": PROMPTS,
        "server": SERVER,
    },
    "merge": {"parts": ["file:///a", "file:///b"]},
    "step-dpo": {"model": MODEL, "reference": MODEL, "pairs": "file:///p"},
    "evaluate": {"model": MODEL, "problems": "file:///p", "prompts": PROMPTS, "server": SERVER},
    "report": {
        "title": "t",
        "note": "n",
        "models": [
            {
                "name": "M1",
                "checkpoint": "file:///m",
                "pairs": "file:///p",
                "evaluations": [{"name": "test", "uri": "file:///v"}],
            }
        ],
    },
    "prune": {
        "owner": COMMON["owner"] | {"uri": "file:///other/runs"},
        "models": [{"uri": "file:///other/runs/m1", "digest": "sha256:0"}],
        "retention": "Last",
    },
}
"""One configuration a stage with every optional field set."""


def parse(stage: str, document: dict[str, Any]) -> StageConfig:
    config = STAGES[stage].config.model_validate_json(json.dumps(document))
    assert isinstance(config, StageConfig)
    return config


BASE = {stage: parse(stage, COMMON | document) for stage, document in STAGE_DOCUMENTS.items()}

Path_ = tuple[str | int, ...]


def fields(value: Any, at: Path_ = (), inherited: str = "") -> Iterator[tuple[Path_, str]]:
    """Every innermost field with its mark. Whatever lies below an operation field is operation."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            assert isinstance(field.json_schema_extra, dict), f"{type(value).__name__}.{name} has no mark"
            mark = str(field.json_schema_extra[MARK])
            path = (*at, field.alias or name)
            yield from fields(getattr(value, name), path, "operation" if inherited == "operation" else mark)
    elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
        yield from fields(value[0], (*at, 0), inherited)
    else:
        yield at, inherited


FIELDS = [(stage, path, mark) for stage, config in BASE.items() for path, mark in fields(config)]


def words_of(schema: Any) -> Iterator[Any]:
    """Every word that a schema's enumerations allow."""
    if isinstance(schema, dict):
        yield from schema.get("enum", ())
        for item in schema.values():
            yield from words_of(item)
    elif isinstance(schema, list):
        for item in schema:
            yield from words_of(item)


def values_for(stage: str) -> list[Any]:
    """Values of which at least one fits any field, and differs from what stands in `BASE`."""
    enumerated = sorted(set(words_of(STAGES[stage].config.model_json_schema())))
    plain = [True, False, 0, 1, 2, 7, 17, 0.25, 0.75, 1e-4, "x", "other", "M7", "file:///other", "http://other:1"]
    below = "file:///other/runs/m2"  # what `file:///other` owns
    return [*enumerated, *plain, below, ["file:///x", "file:///y"], ["http://other:1"], None]


@cache
def variants(stage: str, path: Path_) -> list[tuple[Any, StageConfig]]:
    """Other values that fit a field of `BASE`, each with the configuration it gives.

    Leaving an input out is another computation, whatever its address is; such values are not among these.
    """
    fitting = []
    for value in values_for(stage):
        document = whole(BASE[stage])
        put(document, path, value)
        with contextlib.suppress(ValidationError):
            config = parse(stage, document)
            if config != BASE[stage] and input_uris(config).keys() == input_uris(BASE[stage]).keys():
                fitting.append((value, config))
    return fitting


def whole(config: Schema) -> dict[str, Any]:
    """A configuration with every field, those that are left out at their default as well."""
    document = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        document[field.alias or name] = whole(value) if isinstance(value, Schema) else value
    return json.loads(json.dumps(document, default=lambda item: item.model_dump(mode="json", by_alias=True)))


def put(document: Any, path: Path_, value: Any) -> None:
    for part in path[:-1]:
        document = document[part]
    document[path[-1]] = value


def digest(stage: str, config: StageConfig, **inputs: str) -> str:
    """The digest, with inputs whose content does not depend on where they lie."""
    return stage_digest(stage, 1, config, {path: inputs.get(path, "sha256:0") for path in input_uris(config)})


@pytest.mark.parametrize(("stage", "path", "mark"), FIELDS, ids=lambda item: str(item) if item else "")
def test_exactly_the_method_fields_decide(stage: str, path: Path_, mark: str) -> None:
    assert variants(stage, path), f"no other value fits {path}; add one to values_for"
    for _, config in variants(stage, path):
        assert (digest(stage, config) != digest(stage, BASE[stage])) == (mark == "method"), config


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_mixture_of_changes(data: st.DataObject) -> None:
    """Two configurations have one digest exactly when they differ in operation fields and addresses only."""
    stage = data.draw(st.sampled_from(sorted(BASE)))
    places = [(path, mark) for name, path, mark in FIELDS if name == stage]
    document = whole(BASE[stage])
    changes = data.draw(st.lists(st.sampled_from(places), min_size=1, max_size=6, unique=True))
    for path, _ in changes:
        put(document, path, data.draw(st.sampled_from(variants(stage, path)))[0])
    method_changed = any(mark == "method" for _, mark in changes)
    assert (digest(stage, parse(stage, document)) != digest(stage, BASE[stage])) == method_changed


@pytest.mark.parametrize("stage", BASE)
def test_the_content_of_each_input_counts(stage: str) -> None:
    config = BASE[stage]
    one_other = {digest(stage, config, **{path: "sha256:1"}) for path in input_uris(config)}
    assert len(one_other) == len(input_uris(config)) > 0
    assert digest(stage, config) not in one_other


def test_every_part_of_the_identity_counts() -> None:
    config = BASE["sft"]
    digests = {stage_digest(name, schema, config, {}) for name in ("sft", "other") for schema in (1, 2)}
    assert len(digests) == 4


def test_a_digest_does_not_change_between_releases() -> None:
    """Artefacts of earlier releases stay valid as long as schema versions stay. Change this only with a version."""
    config = parse("merge", {"output": "file:///out", "parts": ["file:///a"]})
    assert stage_digest("merge", 1, config, {"parts[0]": "sha256:0"}) == EXPECTED


EXPECTED = "sha256:0c756a78a16d3b05556f5a92393e01e6a95b4da2aee5d844b315f9ea12d437bf"


# --- fields that came later, and names of plug-ins ---------------------------------------------------------


class BeforeConfig(StageConfig):
    width: int = method(1)


class JudgeChoice(Schema):
    strategy: str = plugin("Ours", group="psr.test", own="ours_in_a_folder", description="How verdicts are had.")


class AfterConfig(BeforeConfig):
    depth: int = method(2, later=True)
    judge: JudgeChoice = method(JudgeChoice(), later=True)


@pytest.fixture(autouse=True)
def ours(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Our own package with a file for each of two implementations, and a third one with a helper in it."""
    folder = tmp_path_factory.mktemp("path")
    package = folder / "ours_in_a_folder"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('nothing of it is imported')\n")
    (package / "ours.py").write_text("class Ours: ...\n")
    (package / "other.py").write_text("class Helper: ...\nclass Other: ...\n")
    (package / "base_of_both.py").write_text("class Base: ...\n")
    monkeypatch.syspath_prepend(folder)
    own_implementations.cache_clear()
    yield
    own_implementations.cache_clear()


def test_ours_are_the_classes_that_are_called_as_their_files_are() -> None:
    assert own_implementations("ours_in_a_folder") == {
        "Ours": "ours_in_a_folder.ours:Ours",
        "Other": "ours_in_a_folder.other:Other",
    }


def after(**values: Any) -> str:
    return stage_digest("toy", 1, AfterConfig.model_validate({"output": "file:///out"} | values), {})


def install(folder: Path, version: str) -> None:
    """A package on the path that brings the plug-in `Toy`."""
    (folder / "toys.dist-info").mkdir(exist_ok=True)
    (folder / "toys.dist-info/METADATA").write_text(f"Metadata-Version: 2.1\nName: toys\nVersion: {version}\n")
    (folder / "toys.dist-info/entry_points.txt").write_text("[psr.test]\nToy = toys:Toy\nOurs = toys:Ours\n")
    importlib.invalidate_caches()


def test_a_later_field_counts_only_where_it_differs_from_its_default() -> None:
    before = stage_digest("toy", 1, BeforeConfig(output="file:///out"), {})
    assert after() == after(depth=2, judge={"strategy": "Ours"}) == before
    digests = {after(depth=3), after(judge={"strategy": "Other"}), after(depth=3, judge={"strategy": "Other"})}
    assert len(digests | {before}) == 4


def test_the_version_of_a_package_that_brings_a_plug_in_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own, in_process = after(), after(judge={"strategy": "Toy"})
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "1.0")
    first = after(judge={"strategy": "Toy"})
    install(tmp_path, "1.1")
    assert len({own, in_process, first, after(judge={"strategy": "Toy"})}) == 4
    assert after() == own, "a name of ours is ours, whatever else has it"
    assert plugin_packages(AfterConfig(output="file:///out", judge=JudgeChoice(strategy="Toy"))) == {
        "judge.strategy": "toys 1.1"
    }


def test_moved_inputs_have_the_same_digest_and_changed_ones_another(tmp_path: Path) -> None:
    storage = Storage(mounts={})
    for name, content in (("here", "1 + 1"), ("there", "1 + 1"), ("changed", "1 + 2")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "problems.jsonl").write_text(json.dumps({"problem": content}))
    here, there, other = (
        digest(
            "evaluate",
            parse("evaluate", COMMON | STAGE_DOCUMENTS["evaluate"] | {"problems": uri}),
            problems=digest_of_input(storage, uri),
        )
        for uri in (file_uri(tmp_path / name) for name in ("here", "there", "changed"))
    )
    assert here == there != other


def test_a_field_that_came_later_is_written_only_where_it_says_something() -> None:
    """Images from before it read the rest; an apiserver stores it all the same."""
    plain, other = JudgeConfig(), JudgeConfig(strategy="Another")
    assert "strategy" not in {**plain.to_json(), **plain.model_dump(), **method_fields(plain)}
    assert JudgeConfig.model_validate(plain.to_json()) == plain
    assert plain.to_whole_json() == {**plain.to_json(), "strategy": "Pairwise"}
    assert other.to_json() == other.to_whole_json() == {**plain.to_json(), "strategy": "Another"}
