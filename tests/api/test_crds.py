"""The generated definitions: current, bounded, described; and what users see of them on a real apiserver."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest

from harness.control_plane.plane import APIError, ControlPlane
from psr_operator.api import KINDS
from psr_operator.api.stored import parse
from psr_operator.cli import main
from tests.api.definitions import definition, example, files, manifest, rules_of, schema_of, url, walk

ROOT = Path(__file__).parents[2]
LIMIT = 200 * 1024
FORBIDDEN = {"nullable", "anyOf", "oneOf", "allOf", "not", "$ref", "x-psr-field", "x-psr-key"}


# --- the files ----------------------------------------------------------------------------------------------


def test_the_files_are_current() -> None:
    """`make crds` writes them; nothing else lies there."""
    assert {path.name: path.read_text() for path in (ROOT / "crds").iterdir()} == files()


def test_psr_crds_prints_or_writes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crds", "--to", str(tmp_path / "new" / "folder")]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("psr.dev_selfrewardruns.yaml")
    assert {path.name: path.read_text() for path in (tmp_path / "new" / "folder").iterdir()} == files()
    assert main(["crds"]) == 0
    printed = capsys.readouterr().out.split("---\n")
    assert printed == list(files().values())
    assert [re.findall(r"(?m)^    kind: (\w+)$", text) for text in printed] == [[kind] for kind in KINDS]


@pytest.mark.parametrize("kind", KINDS)
def test_only_items_that_have_a_key_get_defaults(kind: str) -> None:
    """What the apiserver fills into a list without keys is a conflict for the second manager of a file."""
    nodes = [node for _, node in walk(schema_of(definition(kind)))]
    whole = [node["items"] for node in nodes if node.get("x-kubernetes-list-type") == "atomic"]
    assert whole
    assert [inner for items in whole for _, inner in walk(items) if "default" in inner] == []


@pytest.mark.parametrize("name", files())
def test_each_fits_an_apiserver_and_its_clients(name: str) -> None:
    text = files()[name]
    assert len(text.encode()) < LIMIT
    assert text.startswith("# Generated from the models")
    assert "format: duration" not in text


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_described_and_bounded(kind: str) -> None:
    for path, node in walk(schema_of(definition(kind))):
        where = f"{kind} {'.'.join(path)}"
        assert not FORBIDDEN & set(node), where
        if path and path[-1] not in ("[]", "*", "metadata"):
            assert len(node["description"]) > 4, where
        if path[:1] not in (("spec",), ("status",)):
            continue
        match node["type"]:
            case "string":
                assert "maxLength" in node or "enum" in node, where
            case "array":
                assert "maxItems" in node, where
                assert "x-kubernetes-list-type" in node, where
            case "object":
                assert "properties" in node or "maxProperties" in node, where
            case "integer" | "number" if path[0] == "spec":
                assert {"minimum", "maximum"} <= set(node), where


# --- on an apiserver ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_is_established(kind: str, crds: ControlPlane) -> None:
    stored = crds.request("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind.lower()}s.psr.dev")
    conditions = {item["type"]: item["status"] for item in stored["status"]["conditions"]}
    assert (conditions["Established"], conditions["NamesAccepted"]) == ("True", "True")
    assert "NonStructuralSchema" not in conditions
    assert stored["status"]["storedVersions"] == ["v1alpha1"]
    assert sorted(rules_of(schema_of(stored))) == sorted(rules_of(schema_of(definition(kind))))


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_object_has_every_default_and_a_status_that_is_not_current(
    kind: str, crds: ControlPlane, namespace: str
) -> None:
    created = crds.request("POST", url(kind, namespace=namespace), manifest(kind))
    stored = crds.request("GET", f"{url(kind, namespace=namespace)}/one")
    assert created["status"] == stored["status"] == {"observedGeneration": -1}
    assert filled(kind, stored["spec"]) == parse(stored).spec.to_whole_json()
    assert filled(kind, stored["spec"]) == KINDS[kind].model_validate(manifest(kind)).spec.to_whole_json()


def filled(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """A stored spec with the defaults of rounds, which have no key: the apiserver leaves them to the models."""
    if kind != "SelfRewardRun":
        return spec
    return {**spec, "iterations": [{"allowReuse": False, **item} for item in spec["iterations"]]}


def test_a_status_of_everything_is_kept(crds: ControlPlane, namespace: str) -> None:
    """What the models write is what is stored: nothing is pruned, and nothing filled in."""
    for kind in KINDS:
        schema = schema_of(definition(kind))
        status: dict[str, Any] = {}
        for path, _ in walk(schema["properties"]["status"]):
            status = _merged(status, example(schema["properties"]["status"], path))
        status["observedGeneration"] = 1
        crds.request("POST", url(kind, namespace=namespace), manifest(kind))
        place = f"{url(kind, namespace=namespace)}/one/status"
        body = {"apiVersion": "psr.dev/v1alpha1", "kind": kind, "metadata": {"name": "one"}, "status": status}
        query = "fieldManager=psr&force=true&fieldValidation=Strict"
        stored = crds.request("PATCH", f"{place}?{query}", body, content="application/apply-patch+yaml")
        assert stored["status"] == status
        assert parse(stored).status == type(parse(stored).status).model_validate(status)


def _merged(one: Any, other: Any) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _merged(one.get(key, value), other.get(key, value)) for key, value in {**one, **other}.items()}
    if isinstance(one, list) and isinstance(other, list) and one and other:
        return [_merged(one[0], other[0])]
    return other


@pytest.mark.parametrize("kind", KINDS)
def test_kubectl_knows_the_kind(kind: str, crds: ControlPlane, namespace: str) -> None:
    """Short name, category, explain; columns that fit a terminal; fields to select by."""
    short = KINDS[kind].short_name
    name = "a" * 40
    crds.request("POST", url(kind, namespace=namespace), manifest(kind, name=name))
    message = "attempt 3 of 4: 120 of 400 problems; 12 min left"
    status = {
        "observedGeneration": 1,
        "conditions": [{"type": "Ready", "status": "False", "reason": "Running", "message": message}],
        "reason": "SchedulingDeadline",
        "step": "preference-generation",
        "progress": "120/400",
    }
    body = {"status": status}
    place = f"{url(kind, namespace=namespace)}/{name}/status"
    crds.request("PATCH", place, body, content="application/merge-patch+json")
    head, line = crds.ctl("get", short, "-n", namespace).splitlines()
    assert head.split() == ["NAME", "READY", "REASON", "STEP", "PROGRESS", "AGE"]
    assert line.split()[:-1] == [name, "False", "SchedulingDeadline", "preference-generation", "120/400"]
    assert len(line) <= 120
    assert message in crds.ctl("get", short, "-n", namespace, "-o", "wide")
    assert name in crds.ctl("get", "psr", "-n", namespace)
    for selector, there in (
        ("status.reason=SchedulingDeadline", True),
        ("status.reason=Done", False),
        ("status.step=preference-generation", True),
        ("spec.model.uri=s3://bucket/a", True),
        ("spec.model.uri=s3://bucket/b", False),
    ):
        assert (name in crds.ctl("get", short, "-n", namespace, "--field-selector", selector)) == there
    explained = _explain(crds, f"{short}.spec.model")
    assert re.search(r"uri\s+<string> -required-\n\s+Folder of the model", explained), explained


def _explain(plane: ControlPlane, path: str) -> str:
    """kubectl explain; the apiserver publishes a kind's schema a moment after it serves the kind."""
    deadline = time.monotonic() + 30
    while True:
        text = plane.ctl("explain", path, check=False)
        if text or time.monotonic() > deadline:
            return text
        time.sleep(0.2)


def test_a_message_of_the_apiserver_says_what_to_do(crds: ControlPlane, namespace: str) -> None:
    crds.request("POST", url("StepDPOJob", namespace=namespace), manifest("StepDPOJob"))
    patch = {"spec": {"training": {"learningRate": 1e-3, "microBatch": 1}}}
    place = f"{url('StepDPOJob', namespace=namespace)}/one"
    with pytest.raises(APIError, match="learningRate is fixed once the object exists; make a new object under another"):
        crds.request("PATCH", place, patch, content="application/merge-patch+json")
    del patch["spec"]["training"]["learningRate"]
    stored = crds.request("PATCH", place, patch, content="application/merge-patch+json")
    assert (stored["spec"]["training"]["microBatch"], stored["metadata"]["generation"]) == (1, 2)
