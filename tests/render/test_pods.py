"""What a manifest may change about a pod, what it may not, and what changes when something else is wanted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from psr_operator.api.common import Resources, StorageSpec
from psr_operator.api.pod import PodOverrides
from psr_operator.backends.job import job
from psr_operator.planner.types import Placement
from psr_operator.render import RenderError, Settings, key_secret, model_hash, server, server_hash
from psr_operator.render.labels import ANNOTATION_SERVE_HASH, LABEL_UID
from psr_runtime.config import EngineConfig, ModelSource
from tests.render.samples import (
    GPUS,
    ON_VOLUME,
    OVERRIDES,
    S3,
    SETTINGS,
    Sample,
    owner,
    policy_server,
    samples,
    search_configurations,
    workload,
)

SAMPLES = samples()
SERVER_OWNER = owner("PolicyServer", "loop-server")


def placed(placement: Placement) -> list[dict[str, Any]]:
    """Pod templates of a stage and of a server with this placement."""
    stage = replace(SAMPLES["merge"].wanted, placement=placement)
    objects = [*Sample(stage, owner("ModelEvaluation", "test")).render(), *server_objects(placement)]
    return [item["spec"]["template"] for item in objects if "template" in item.get("spec", {})]


def server_objects(placement: Placement) -> list[dict[str, Any]]:
    return Sample(policy_server(placement=placement), SERVER_OWNER).render()


def overrides(**fields: Any) -> PodOverrides:
    return PodOverrides.model_validate(fields)


@pytest.mark.parametrize("name", SAMPLES)
def test_labels_stand_on_every_object_and_its_pods(name: str) -> None:
    sample = SAMPLES[name]
    for item in sample.render():
        holders = [item["metadata"]]
        if "template" in item.get("spec", {}):
            holders.append(item["spec"]["template"]["metadata"])
        for holder in holders:
            assert holder["labels"]["app.kubernetes.io/managed-by"] == "psr"
            assert holder["labels"][LABEL_UID] == sample.owner.metadata.uid
        assert item["metadata"]["namespace"] == "team"
        assert [reference["uid"] for reference in item["metadata"]["ownerReferences"]] == [sample.owner.metadata.uid]


def test_labels_and_annotations_of_the_owner_are_passed_on_and_never_win() -> None:
    theirs = {"app.kubernetes.io/managed-by": "Helm", LABEL_UID: "other", "psr.dev/invented": "1", "team": "reasoning"}
    annotations = {"psr.dev/revision": "99", "psr.dev/server-hash": "other", "kueue.x-k8s.io/x": "1"}
    placement = Placement(labels=theirs, annotations=annotations)
    wanted = replace(SAMPLES["merge"].wanted, placement=placement)
    (deployment,) = (item for item in server_objects(placement) if item["kind"] == "Deployment")
    for item in (job(wanted, SERVER_OWNER, SETTINGS), deployment):
        for holder in (item["metadata"], item["spec"]["template"]["metadata"]):
            labels, annotations = holder["labels"], holder["annotations"]
            assert (labels["app.kubernetes.io/managed-by"], labels["team"]) == ("psr", "reasoning")
            assert labels[LABEL_UID] == SERVER_OWNER.metadata.uid
            assert "psr.dev/invented" not in labels
            assert annotations["kueue.x-k8s.io/x"] == "1"
            assert {annotations.get("psr.dev/revision"), annotations.get("psr.dev/server-hash")} & {
                "99",
                "other",
            } == set()


@pytest.mark.parametrize("placement", [Placement(), Placement(pod=OVERRIDES, storage=ON_VOLUME, resources=GPUS)])
def test_whatever_is_wished_for_the_pod_stays_restricted(placement: Placement) -> None:
    for template in placed(placement):
        spec, (container,) = template["spec"], template["spec"]["containers"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["automountServiceAccountToken"] is False
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert all("hostPath" not in volume for volume in spec["volumes"])


def test_variables_of_the_platform_win_and_others_are_free() -> None:
    for template in placed(Placement(pod=OVERRIDES)):
        env = template["spec"]["containers"][0]["env"]
        names = [item["name"] for item in env]
        values = {item["name"]: item.get("value") for item in env}
        assert len(names) == len(set(names))
        assert (values["PSR_SCRATCH"], values["HF_HOME"]) == ("/scratch", "/cache/shared/huggingface")
        assert "PSR_UNKNOWN" not in values


def test_every_folder_that_is_written_to_is_a_volume() -> None:
    for template in placed(Placement()):
        container = template["spec"]["containers"][0]
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        writable = [item["value"] for item in container["env"] if str(item.get("value", "")).startswith("/")]
        assert len(writable) >= 9
        assert [
            path
            for path in writable
            if path != "/dev/termination-log" and not any(f"{path}/".startswith(f"{mount}/") for mount in mounts)
        ] == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"volumes": [{"name": "scratch", "emptyDir": {}}]}, "VolumeReserved"),
        ({"volumeMounts": [{"name": "storage", "mountPath": "/mnt"}]}, "VolumeReserved"),
        *(
            ({"volumeMounts": [{"name": "mine", "mountPath": path}]}, "MountReserved")
            for path in (
                *("/", "/tmp", "/tmp/", "/tmp/below", "/scratch", "/dev", "/dev/shm", "/dev/termination-log", "/cache"),
                *("/mnt/../tmp", "/data", "/data/psr", "//scratch", "/cache/../scratch"),
            )
        ),
    ],
)
def test_the_pods_own_volumes_are_not_overridden(fields: dict[str, Any], reason: str) -> None:
    placement = Placement(storage=ON_VOLUME, pod=overrides(**fields))
    for render in (
        lambda: server_objects(placement),
        lambda: job(replace(SAMPLES["merge"].wanted, placement=placement), SERVER_OWNER, SETTINGS),
    ):
        with pytest.raises(RenderError) as caught:
            render()
        assert caught.value.reason == reason


def test_a_servers_configuration_is_not_hidden_and_a_stage_has_none() -> None:
    placement = Placement(pod=overrides(volumeMounts=[{"name": "mine", "mountPath": "/etc/psr"}]))
    with pytest.raises(RenderError, match="/etc/psr"):
        server_objects(placement)
    job(replace(SAMPLES["merge"].wanted, placement=placement), SERVER_OWNER, SETTINGS)


@pytest.mark.parametrize("path", ["/tmp", "/cache", "/dev/shm", "/scratch/data"])
def test_a_storage_volume_that_hides_the_pods_own_is_refused(path: str) -> None:
    document = {"uri": f"file://{path}/psr", "volume": {"claimName": "psr-data", "mountPath": path}}
    with pytest.raises(RenderError, match=r"storage\.volume\.mountPath") as caught:
        placed(Placement(storage=StorageSpec.model_validate(document)))
    assert caught.value.reason == "MountReserved"


def test_service_accounts_are_those_that_the_operator_allows() -> None:
    by_storage = StorageSpec(uri="s3://models/psr", service_account_name="psr-storage")
    by_pod = overrides(serviceAccountName="psr-team")
    table = [
        (Placement(), None),
        (Placement(storage=by_storage), "psr-storage"),
        (Placement(pod=by_pod), "psr-team"),
        (Placement(storage=by_storage, pod=by_pod), "psr-team"),
    ]
    for placement, expected in table:
        assert {template["spec"].get("serviceAccountName") for template in placed(placement)} == {expected}
    for name in ("default", "cluster-admin"):
        with pytest.raises(RenderError, match=f"{name} is not among .*psr-storage, psr-team") as caught:
            placed(Placement(pod=overrides(serviceAccountName=name)))
        assert caught.value.reason == "ServiceAccountNotAllowed"
    with pytest.raises(RenderError, match=r"allows \(none\)"):
        job(
            replace(SAMPLES["merge"].wanted, placement=Placement(storage=by_storage)),
            SERVER_OWNER,
            Settings("runtime", "inference"),
        )


def test_a_job_runs_once_and_a_search_repeats_its_shards() -> None:
    """The index of the matching rule is how the end of a Job is read, so their order is fixed."""
    rules = {
        name: [(rule["action"], *rule.get("onExitCodes", {}).get("values", ["Disruption"])) for rule in policy]
        for name, policy in (
            (name, SAMPLES[name].render()[0]["spec"]["podFailurePolicy"]["rules"])
            for name in ("sft", "step-dpo", "merge", "evaluate", "report", "search")
        )
    }
    search = rules.pop("search")
    final = ("FailJob", 64, 65, 66)
    assert search == [final, ("Ignore", "Disruption")]
    assert all(listed == [final, ("FailJob", "Disruption"), ("FailJob", 75)] for listed in rules.values())
    assert SAMPLES["search"].render()[0]["spec"]["maxFailedIndexes"] == 0
    assert "backoffLimit" not in SAMPLES["search"].render()[0]["spec"]
    assert SAMPLES["sft"].render()[0]["spec"]["backoffLimit"] == 0


def test_only_pods_of_several_shards_are_spread() -> None:
    def constraints(shards: int) -> Any:
        wanted = workload("search", *search_configurations(shards), placement=Placement(storage=S3))
        pod = job(wanted, SERVER_OWNER, SETTINGS)["spec"]["template"]["spec"]
        return pod.get("topologySpreadConstraints")

    assert constraints(1) is None
    assert constraints(2)[0]["whenUnsatisfiable"] == "ScheduleAnyway"


def test_only_work_that_asks_a_server_is_given_its_key() -> None:
    def holds_key(name: str) -> bool:
        env = SAMPLES[name].render()[0]["spec"]["template"]["spec"]["containers"][0]["env"]
        return any(item["name"] == "PSR_SERVER_KEY" for item in env)

    assert {name for name in ("sft", "step-dpo", "merge", "report", "search", "evaluate") if holds_key(name)} == {
        "search",
        "evaluate",
    }
    secret = key_secret("loop-server", SERVER_OWNER, "käy")
    assert (secret["metadata"]["name"], secret["data"]) == ("loop-server-key", {"key": "a8OkeQ=="})


# --- servers -----------------------------------------------------------------------------------------------


def deployment(**fields: Any) -> dict[str, Any]:
    return next(
        item for item in server(policy_server(**fields), SERVER_OWNER, SETTINGS) if item["kind"] == "Deployment"
    )


def test_another_model_rolls_no_pods() -> None:
    other = {"model": ModelSource(uri="s3://models/psr/team/loop/m2"), "digest": "sha256:bb"}
    before, after = policy_server(), policy_server(**other)
    assert deployment()["spec"] == deployment(**other)["spec"]
    assert server_hash(before) == server_hash(after)
    assert model_hash(before) != model_hash(after)
    files = [server(item, SERVER_OWNER, SETTINGS)[0]["data"]["serve.json"] for item in (before, after)]
    assert [text.count(item.model.uri) for text, item in zip(files, (before, after), strict=True)] == [1, 1]
    assert len({item.replace("m2", "m1") for item in files}) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"replicas": 3},
        {"port": 9000},
        {"engine": EngineConfig(max_model_len=4096)},
        {"storage": S3.access().model_copy(update={"region": "eu-2"})},
        {"placement": Placement(resources=GPUS, storage=S3)},
        {"placement": Placement(storage=S3, image="mine:3")},
        {"placement": Placement(storage=S3, pod=OVERRIDES)},
        {"placement": Placement(storage=S3, labels={"team": "other"})},
        {"placement": Placement(storage=S3, annotations={"kueue.x-k8s.io/x": "1"})},
    ],
)
def test_everything_else_changes_the_hash_and_the_deployment(fields: dict[str, Any]) -> None:
    assert server_hash(policy_server(**fields)) != server_hash(policy_server())
    assert model_hash(policy_server(**fields)) == model_hash(policy_server())
    assert deployment(**fields)["spec"] != deployment()["spec"]


def test_what_pods_read_from_the_config_map_rolls_them() -> None:
    def serve_hash(**fields: Any) -> str:
        annotation: str = deployment(**fields)["spec"]["template"]["metadata"]["annotations"][ANNOTATION_SERVE_HASH]
        return annotation

    assert serve_hash() == serve_hash(replicas=3) == serve_hash(port=8000)
    assert serve_hash() != serve_hash(engine=EngineConfig(enforce_eager=True))


def test_the_present_image_is_kept_when_the_operators_is_newer() -> None:
    def image(settings: Settings, **fields: Any) -> str:
        deployed = server(policy_server(), SERVER_OWNER, settings, **fields)[2]
        name: str = deployed["spec"]["template"]["spec"]["containers"][0]["image"]
        return name

    newer = replace(SETTINGS, inference_image="inference:newer")
    assert image(newer) == "inference:newer"
    assert image(newer, image="inference:older") == "inference:older"


# --- what a cluster's owner decides


def test_users_and_groups_are_left_to_a_platform_that_assigns_them() -> None:
    settings = replace(SETTINGS, platform_ids=True, bring_runtime=True)
    for sample in SAMPLES.values():
        for item in sample.render(settings):
            if "template" not in item.get("spec", {}):
                continue
            spec = item["spec"]["template"]["spec"]
            assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
            for container in (*spec["containers"], *spec.get("initContainers", ())):
                assert not {"runAsUser", "runAsGroup"} & set(container["securityContext"])


def test_a_quota_on_limits_is_met_by_a_field_or_by_the_operator_s_default() -> None:
    settings = replace(SETTINGS, cpu_limit="8", ephemeral_storage="50Gi", bring_runtime=True)
    own = Resources(cpu_limit="2", ephemeral_storage="5Gi")
    for resources, cpu, disk in ((Resources(), "8", "50Gi"), (own, "2", "5Gi")):
        wanted = policy_server(placement=Placement(resources=resources))
        (template,) = [
            item["spec"]["template"]
            for item in Sample(wanted, SERVER_OWNER).render(settings)
            if item["kind"] == "Deployment"
        ]
        for container in (*template["spec"]["containers"], *template["spec"]["initContainers"]):
            assert container["resources"]["limits"]["cpu"] == cpu
            assert container["resources"]["limits"]["ephemeral-storage"] == disk
            assert container["resources"]["requests"]["ephemeral-storage"] == disk
