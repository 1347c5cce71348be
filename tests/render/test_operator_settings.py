"""What the operator's owner decides about pods: defaults beneath manifests, servers whose image lacks psr_runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from psr_operator.api.common import Resources
from psr_operator.api.manifest import ManifestError, load_schema
from psr_operator.api.pod import PodOverrides
from psr_operator.backends.job import job
from psr_operator.planner.types import Placement
from psr_operator.render import PodDefaults, Settings, server, server_hash
from tests.render.samples import GPUS, SETTINGS, owner, policy_server, samples

H100 = {
    "nodeSelector": {"nvidia.com/gpu.product": "H100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "env": [{"name": "NCCL_DEBUG", "value": "WARN"}],
    "labels": {"team": "training"},
}
DEFAULTS = PodDefaults.model_validate({"gpu": H100, "cpu": {"nodeSelector": {"pool": "cpu"}}})


def pod_of(placement: Placement, settings: Settings) -> dict[str, Any]:
    wanted = replace(samples()["merge"].wanted, placement=placement)
    template: dict[str, Any] = job(wanted, owner("ModelEvaluation", "test"), settings)["spec"]["template"]
    return template


def server_pod(settings: Settings) -> dict[str, Any]:
    objects = server(policy_server(), owner("PolicyServer", "loop-server"), settings)
    pod: dict[str, Any] = next(item for item in objects if item["kind"] == "Deployment")["spec"]["template"]["spec"]
    return pod


def test_pods_with_and_without_gpus_get_their_defaults() -> None:
    settings = replace(SETTINGS, pod_defaults=DEFAULTS)
    with_gpus = pod_of(Placement(resources=GPUS), settings)
    assert with_gpus["spec"]["nodeSelector"] == H100["nodeSelector"]
    assert with_gpus["spec"]["tolerations"] == H100["tolerations"]
    assert {"name": "NCCL_DEBUG", "value": "WARN"} in with_gpus["spec"]["containers"][0]["env"]
    assert with_gpus["metadata"]["labels"]["team"] == "training"
    without = pod_of(Placement(resources=Resources()), settings)
    assert without["spec"]["nodeSelector"] == {"pool": "cpu"}
    assert "tolerations" not in without["spec"]


def test_the_manifest_wins() -> None:
    wishes = PodOverrides.model_validate(
        {"nodeSelector": {"nvidia.com/gpu.product": "H200"}, "env": [{"name": "NCCL_DEBUG", "value": "INFO"}]}
    )
    pod = pod_of(Placement(resources=GPUS, pod=wishes), replace(SETTINGS, pod_defaults=DEFAULTS))
    assert pod["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "H200"}
    assert pod["spec"]["tolerations"] == H100["tolerations"]
    said = [item for item in pod["spec"]["containers"][0]["env"] if item["name"] == "NCCL_DEBUG"]
    assert said == [{"name": "NCCL_DEBUG", "value": "INFO"}]


def test_other_defaults_make_no_other_server() -> None:
    """An operator whose defaults changed restarts no server: what is compared is the manifest's wish."""
    wanted = policy_server()
    assert server_hash(wanted) == server_hash(policy_server())
    assert server_pod(SETTINGS) != server_pod(replace(SETTINGS, pod_defaults=DEFAULTS))


def test_a_runtime_is_brought_into_a_plain_image() -> None:
    plain = server_pod(SETTINGS)
    assert "initContainers" not in plain
    pod = server_pod(replace(SETTINGS, bring_runtime=True))
    (bringer,) = pod["initContainers"]
    (container,) = pod["containers"]
    assert bringer["image"] == SETTINGS.runtime_image
    assert container["image"] == SETTINGS.inference_image
    assert bringer["securityContext"] == container["securityContext"]
    (mount,) = bringer["volumeMounts"]
    assert {"name": "PYTHONPATH", "value": mount["mountPath"]} in container["env"]
    assert {**mount, "readOnly": True} in container["volumeMounts"]
    assert bringer["command"][-1] == mount["mountPath"]
    assert not any("gpu" in key for key in bringer["resources"].get("limits", {}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpus: {}\n", "line 1: gpus: no such field"),
        ("cpu: {}\ngpu:\n  nodeSelector: 5\n", "line 3: gpu.nodeSelector"),
        ("- gpu\n", "expected one YAML document with gpu, cpu"),
        ("", "expected one YAML document"),
    ],
)
def test_faults_of_the_file_are_named(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "pods.yaml"
    file.write_text(text)
    with pytest.raises(ManifestError, match=r"pods\.yaml") as caught:
        load_schema(file, PodDefaults)
    assert said in str(caught.value)


def test_the_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "pods.yaml"
    file.write_text("gpu:\n  priorityClassName: psr-training\n")
    assert load_schema(file, PodDefaults).gpu.priority_class_name == "psr-training"
