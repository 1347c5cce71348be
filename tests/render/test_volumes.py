"""The claim of `storage.volume` in every pod, and URIs that lie on no volume."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from psr_operator.api.common import StorageSpec
from psr_operator.api.pod import PodOverrides
from psr_operator.backends.job import job
from psr_operator.planner.types import Placement, Workload
from psr_operator.render import RenderError, server
from psr_runtime.config import ModelSource
from tests.render.samples import ON_VOLUME, S3, SETTINGS, owner, policy_server, samples

OWN = PodOverrides.model_validate(
    {
        "volumes": [
            {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
            {"name": "room", "emptyDir": {}},
        ],
        "volumeMounts": [{"name": "models", "mountPath": "/models"}, {"name": "room", "mountPath": "/room"}],
    }
)


def stage(placement: Placement, **fields: Any) -> dict[str, Any]:
    """The pod of an evaluation; its problems and its output lie below /data."""
    wanted = samples()["evaluate"].wanted
    assert isinstance(wanted, Workload)
    (config,) = wanted.configurations
    changed = type(config).model_validate(config.to_json() | fields)
    rendered = job(
        replace(wanted, configurations=(changed,), placement=placement), owner("ModelEvaluation", "test"), SETTINGS
    )
    pod: dict[str, Any] = rendered["spec"]["template"]["spec"]
    return pod


def serving(placement: Placement, uri: str) -> dict[str, Any]:
    objects = server(
        policy_server(model=ModelSource(uri=uri), placement=placement), owner("PolicyServer", "s"), SETTINGS
    )
    pod: dict[str, Any] = next(item for item in objects if item["kind"] == "Deployment")["spec"]["template"]["spec"]
    return pod


def claim_in(pod: dict[str, Any]) -> dict[str, Any]:
    """The mount of the storage's claim."""
    (volume,) = (item for item in pod["volumes"] if item["name"] == "storage")
    assert volume["persistentVolumeClaim"] == {"claimName": "psr-data"}
    (mount,) = (item for item in pod["containers"][0]["volumeMounts"] if item["name"] == "storage")
    return dict(mount)


def test_stages_write_to_the_claim_and_servers_only_read_it() -> None:
    placement = Placement(storage=ON_VOLUME)
    assert claim_in(stage(placement)) == {"name": "storage", "mountPath": "/data"}
    assert claim_in(serving(placement, "file:///data/psr/m1")) == {
        "name": "storage",
        "mountPath": "/data",
        "readOnly": True,
    }


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"output": "file:///results/x"}, "output: file:///results/x"),
        ({"problems": "file:///data2/test.jsonl"}, "problems: file:///data2/test.jsonl"),
        ({"problems": "file:///data/../etc/passwd"}, "problems: "),
        ({"problems": "file:///data/%2e%2e/etc/passwd"}, "problems: "),
        ({"model": {"uri": "file:///models/base"}}, "model.uri: file:///models/base"),
        ({"owner": {"uri": "file:///runs/x", "uid": "1", "name": "team/x"}}, "owner.uri: file:///runs/x"),
    ],
)
def test_a_uri_that_lies_on_no_volume_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(RenderError) as caught:
        stage(Placement(storage=ON_VOLUME), **fields)
    assert caught.value.reason == "VolumeMissing"
    assert str(caught.value).startswith(named)
    assert "storage.volume" in str(caught.value)


def test_without_a_claim_no_file_uri_is_taken() -> None:
    for storage in (None, StorageSpec(uri="file:///data/psr"), S3):
        for render in (
            lambda place: stage(place),
            lambda place: serving(place, "file:///data/psr/m1"),
        ):
            with pytest.raises(RenderError) as caught:
                render(Placement(storage=storage))
            assert caught.value.reason == "VolumeMissing"
        assert serving(Placement(storage=storage), "s3://models/m1")


def test_volumes_of_the_manifest_count_unless_they_pass_with_the_pod() -> None:
    stage(Placement(storage=ON_VOLUME, pod=OWN), model={"uri": "file:///models/base"})
    serving(Placement(storage=S3, pod=OWN), "file:///models/base")
    with pytest.raises(RenderError, match="output: file:///room/x"):
        stage(Placement(storage=ON_VOLUME, pod=OWN), output="file:///room/x")
