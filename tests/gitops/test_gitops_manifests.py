"""The files of examples/gitops parse and name what is there; health texts go beside what Argo CD has already."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from harness.control_plane.plane import ControlPlane
from psr_operator.api.manifest import load_manifests
from tests.gitops.statuses import GITOPS, ROOT

MANIFESTS = sorted(GITOPS.rglob("*.yaml"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(GITOPS)))
def test_every_object_is_an_object_with_a_name(path: Path) -> None:
    documents = list(YAML(typ="safe").load_all(path))
    assert documents
    for item in documents:
        assert {"apiVersion", "kind"} <= set(item)
        assert item["kind"] == "Kustomization" or item["metadata"]["name"]
    if documents[0]["apiVersion"].startswith("psr.dev/"):
        assert load_manifests([path])


def test_both_look_at_the_folder_of_runs_and_neither_replaces_or_prunes() -> None:
    application = YAML(typ="safe").load(GITOPS / "argocd" / "application.yaml")["spec"]
    _, kustomization = YAML(typ="safe").load_all(GITOPS / "flux" / "runs.yaml")
    flux = kustomization["spec"]
    assert application["source"]["path"] == flux["path"].removeprefix("./") == "runs"
    assert (GITOPS / "runs").is_dir()
    assert application["destination"]["namespace"] == flux["targetNamespace"]
    assert application["syncPolicy"]["automated"]["prune"] is flux["prune"] is False
    assert not {"Replace=true", "Force=true"} & set(application["syncPolicy"]["syncOptions"])
    assert not flux.get("force", False)


def test_the_health_texts_go_into_a_config_map_that_is_there_and_leave_the_rest(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    """The command that the file names, in a namespace of this test's."""
    said = "kubectl apply --server-side --field-manager psr-health -k examples/gitops/argocd"
    assert said in (GITOPS / "argocd" / "kustomization.yaml").read_text()
    plane.request(
        "POST",
        f"/api/v1/namespaces/{namespace}/configmaps",
        {"metadata": {"name": "argocd-cm"}, "data": {"url": "https://argocd.example.com"}},
    )
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": namespace,
        "resources": [os.path.relpath(GITOPS / "argocd", tmp_path.resolve())],
    }
    YAML(typ="safe").dump(overlay, tmp_path / "kustomization.yaml")
    options = said.split()[1:-2]
    for _ in range(2):
        plane.ctl(*options, "-k", str(tmp_path))
    config_map = plane.request("GET", f"/api/v1/namespaces/{namespace}/configmaps/argocd-cm")
    assert config_map["data"].pop("url") == "https://argocd.example.com"
    assert set(config_map["data"].values()) == {(GITOPS / "argocd" / "health.lua").read_text()}
    assert len(config_map["data"]) == 7
    assert config_map["metadata"]["labels"]["app.kubernetes.io/part-of"] == "argocd"


def test_the_page_s_links_lead_somewhere() -> None:
    for path in MANIFESTS:
        inside = path.read_text()
        for word in inside.split():
            if word.startswith("examples/"):
                assert (ROOT / word).exists(), f"{path}: {word}"
