"""The charts themselves: linted, complete in a checkout, and of one mind with the operator that they install."""

from __future__ import annotations

import re
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from psr_operator import api, cli
from psr_operator.api.crd import rendered
from psr_operator.controller import rbac
from psr_operator.render import PodDefaults
from tests.chart.generated import CHART, ROOT
from tests.chart.helm import NAMESPACE, RELEASE, Helm, one, parsed
from tests.chart.test_chart_golden import VALUES

KINDS = CHART.parent / "psr-crds"
KEEP = "helm.sh/resource-policy"


@pytest.mark.parametrize("chart", [CHART, KINDS], ids=lambda chart: chart.name)
def test_lint(helm: Helm, chart: Path) -> None:
    helm.run("lint", "--strict", str(chart))


@pytest.mark.parametrize("name", VALUES)
def test_lint_with_values(helm: Helm, name: str) -> None:
    helm.run("lint", "--strict", str(CHART), *([f"--values={VALUES[name]}"] if VALUES[name] else []))


def test_a_checkout_needs_no_step_before(helm: Helm) -> None:
    said = helm.run("dependency", "list", str(CHART))
    assert re.search(r"^psr-crds\s+\S+\s+unpacked", said, re.MULTILINE), said


def test_a_package_holds_the_kinds_and_no_examples(helm: Helm, tmp_path: Path) -> None:
    helm.run("package", str(CHART), f"--destination={tmp_path}")
    (package,) = tmp_path.iterdir()
    with tarfile.open(package) as archive:
        names = {name.removeprefix("psr/") for name in archive.getnames()}
    assert {f"charts/psr-crds/files/{place.name}" for place in (KINDS / "files").iterdir()} <= names
    assert {"values.schema.json", "files/rules.yaml", "files/lease-rules.yaml", "files/dashboard.json"} <= names
    assert not [name for name in names if name.startswith("examples/")]


# --- the kinds


def test_the_chart_ships_the_kinds_as_they_are_generated() -> None:
    shipped = {place.name: place.read_text() for place in (KINDS / "files").iterdir()}
    generated = rendered()
    assert set(shipped) == set(generated)
    assert [name for name, text in generated.items() if shipped[name] != text] == [], "make crds writes them anew"


@pytest.mark.parametrize("keep", [True, False])
def test_the_kinds_are_rendered_unchanged_but_for_what_keeps_them(helm: Helm, keep: bool) -> None:
    rendered_kinds = kinds_in(helm.template({"crds": {"keep": keep}}, crds=True))
    mark = f"  annotations:\n    {KEEP}: keep\n" if keep else ""
    files = (place.read_text() for place in (KINDS / "files").iterdir())
    assert rendered_kinds == {text.replace("\nmetadata:\n", f"\nmetadata:\n{mark}").strip() for text in files}


def test_the_kinds_alone_are_the_same_as_with_the_operator(helm: Helm) -> None:
    assert kinds_in(helm.run("template", "kinds", str(KINDS))) == kinds_in(helm.template(crds=True))


def test_the_kinds_can_be_left_out(helm: Helm) -> None:
    assert kinds_in(helm.template({"crds": {"install": False}}, crds=True)) == set()


def kinds_in(text: str) -> set[str]:
    """The CustomResourceDefinitions of a stream, as text: half a megabyte of YAML takes its time to be read."""
    documents = re.split(r"^---\n(?:# Source: .*\n)?", text, flags=re.MULTILINE)
    return {item.strip() for item in documents if "\nkind: CustomResourceDefinition\n" in f"\n{item}"}


# --- the operator


@pytest.mark.parametrize("name", VALUES)
def test_the_operator_knows_every_flag_that_it_is_given(helm: Helm, name: str) -> None:
    container = operator_of(helm.objects(VALUES[name]))["containers"][0]
    program, *arguments = [*container["command"], *container["args"]]
    assert program == "psr"
    options = cli.command_line().parse_args(arguments)
    values = YAML(typ="safe").load(VALUES[name].read_text()) if VALUES[name] else {}
    assert options.watch_namespace == values.get("watchNamespaces", [])
    assert options.port == container["ports"][0]["containerPort"]
    assert options.bring_runtime == values.get("images", {}).get("inference", {}).get("bringRuntime", True)
    assert (options.pod_defaults is not None) == ("podDefaults" in values)


def test_images_by_digest_and_by_tag(helm: Helm) -> None:
    digest = f"sha256:{'ab' * 32}"
    images = {
        "operator": {"repository": "r.example:5000/o", "tag": "t"},
        "runtime": {"digest": digest, "tag": "t"},
    }
    container = operator_of(helm.objects({"images": images}))["containers"][0]
    assert container["image"] == "r.example:5000/o:t"
    assert f"--runtime-image=psr-runtime@{digest}" in container["args"]


def test_the_operators_pod_meets_the_restricted_level_and_other_defaults_roll_it(helm: Helm) -> None:
    spec = operator_of(helm.objects())
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    first, second = (
        one(helm.objects({"podDefaults": {"gpu": {"nodeSelector": {"pool": pool}}}}), "Deployment")["spec"]["template"]
        for pool in ("a", "b")
    )
    assert first["metadata"]["annotations"] != second["metadata"]["annotations"]


@pytest.mark.parametrize("name", ["everything", "h100"])
def test_pod_defaults_are_what_the_operator_reads(helm: Helm, name: str) -> None:
    objects = helm.objects(VALUES[name])
    (text,) = next(item["data"].values() for item in objects if item["metadata"]["name"].endswith("-pod-defaults"))
    wanted = YAML(typ="safe").load((VALUES[name] or CHART).read_text())["podDefaults"]
    assert PodDefaults.model_validate(YAML(typ="safe").load(text)) == PodDefaults.model_validate(wanted)
    pod = operator_of(objects)
    (argument,) = [item for item in pod["containers"][0]["args"] if item.startswith("--pod-defaults=")]
    (mount,) = [item for item in pod["containers"][0]["volumeMounts"] if item["name"] == "pod-defaults"]
    assert argument == f"--pod-defaults={mount['mountPath']}/pod-defaults.yaml"


# --- its rights


def rules(name: str) -> list[Any]:
    listed: list[Any] = YAML(typ="safe").load((CHART / "files" / name).read_text())
    return listed


def test_the_rights_name_every_kind() -> None:
    """Every kind is read, and has a status that is written."""
    plurals = {kind.plural for kind in api.KINDS.values()}
    ours = {
        tuple(rule["verbs"]): set(rule["resources"]) for rule in rules("rules.yaml") if rule["apiGroups"] == [api.GROUP]
    }
    assert ours["get", "list", "watch"] == plurals
    assert ours["patch",] == {f"{plural}/status" for plural in plurals}


def test_the_rights_are_those_that_are_generated() -> None:
    assert (CHART / "files" / "rules.yaml").read_text() == rbac.rendered(), "make crds writes them anew"


def test_the_rights_are_those_that_the_operators_tests_run_under(helm: Helm) -> None:
    objects = helm.objects()
    assert one(objects, "ClusterRole")["rules"] == rules("rules.yaml")
    assert one(objects, "Role")["rules"] == rules("lease-rules.yaml")
    assert bindings(objects) == {
        ("ClusterRoleBinding", None, "ClusterRole", "psr-operator-psr-system"),
        ("RoleBinding", NAMESPACE, "Role", "psr-operator-lease"),
    }


def test_with_namespaces_there_are_roles_in_each_and_nothing_for_the_whole_cluster(helm: Helm) -> None:
    objects = helm.objects({"watchNamespaces": ["a", "b"]})
    assert not [item for item in objects if item["kind"].startswith("Cluster")]
    served = {item["metadata"]["namespace"]: item["rules"] for item in objects if item["kind"] == "Role"}
    assert served == {"a": rules("rules.yaml"), "b": rules("rules.yaml"), NAMESPACE: rules("lease-rules.yaml")}
    assert bindings(objects) == {
        ("RoleBinding", "a", "Role", "psr-operator-psr-system"),
        ("RoleBinding", "b", "Role", "psr-operator-psr-system"),
        ("RoleBinding", NAMESPACE, "Role", "psr-operator-lease"),
    }


def bindings(objects: list[dict[str, Any]]) -> set[tuple[str, str | None, str, str]]:
    """Every binding: its kind, its namespace, what it binds. All bind the operator's service account."""
    account = operator_of(objects)["serviceAccountName"]
    bound = set()
    for item in objects:
        if item["kind"].endswith("Binding"):
            assert item["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": NAMESPACE}]
            place = item["metadata"].get("namespace")
            bound.add((item["kind"], place, item["roleRef"]["kind"], item["roleRef"]["name"]))
    return bound


def operator_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The operator's pod."""
    pod: dict[str, Any] = one(objects, "Deployment")["spec"]["template"]["spec"]
    return pod


# --- versions and names


def test_versions_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    charts = [YAML(typ="safe").load((place / "Chart.yaml").read_text()) for place in (CHART, KINDS)]
    assert {chart["appVersion"] for chart in charts} == {project["version"]}
    assert charts[0]["dependencies"][0]["version"] == charts[1]["version"]
    (pinned,) = re.findall(r"vllm==(\S+)", " ".join(project["optional-dependencies"]["gpu"]))
    values = YAML(typ="safe").load((CHART / "values.yaml").read_text())
    assert values["images"]["inference"]["tag"] == f"v{pinned}"


def test_older_clusters_are_refused(helm: Helm) -> None:
    said = helm.refusal("template", RELEASE, str(CHART), "--kube-version=1.32.9")
    assert "requires kubeVersion: >=1.33.0-0" in said
    helm.run("template", RELEASE, str(CHART), "--kube-version=v1.33.1-eks-1234567")  # as providers spell it


@pytest.mark.parametrize(
    ("release", "operator"),
    [(RELEASE, "psr-operator"), ("my-psr", "my-psr-operator"), ("loop", "loop-psr-operator")],
)
def test_names_follow_the_release(helm: Helm, release: str, operator: str) -> None:
    objects = parsed(helm.run("template", release, str(CHART), "--set", "crds.install=false"))
    assert one(objects, "Deployment")["metadata"]["name"] == operator
    assert f"--lease={operator}" in operator_of(objects)["containers"][0]["args"]
