"""What is rendered in the tests: one Workload or Server of every kind, its owner, and the operator's settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from psr_operator.api import KINDS, Meta, Resource
from psr_operator.api.common import Resources, StorageSpec
from psr_operator.api.pod import PodOverrides
from psr_operator.backends.job import job
from psr_operator.planner.types import Placement, Server, Workload
from psr_operator.render import Settings, server
from psr_runtime.config import (
    EngineConfig,
    EvaluateStage,
    MergeStage,
    ModelSource,
    ReportStage,
    SearchStage,
    SFTStage,
    StageConfig,
    StepDPOStage,
    StorageAccess,
)

SETTINGS = Settings(
    runtime_image="registry.example/psr-runtime@sha256:1111",
    inference_image="registry.example/psr-inference@sha256:2222",
    service_accounts=frozenset({"psr-storage", "psr-team"}),
)
S3 = StorageSpec(
    uri="s3://models/psr", endpoint="https://s3.example:9000", region="eu-1", credentials_secret="s3-credentials"
)
ON_VOLUME = StorageSpec.model_validate(
    {"uri": "file:///data/psr", "volume": {"claimName": "psr-data", "mountPath": "/data"}}
)
GPUS = Resources(gpus=8, cpu="32", memory="512Gi", shared_memory="64Gi")
SMALL = Resources(cpu="500m", memory="2Gi")
ROOT = "s3://models/psr/team/loop"
M1 = ModelSource(uri=f"{ROOT}/m1")
QUEUE = {"kueue.x-k8s.io/queue-name": "gpus", "team": "reasoning"}
TOPOLOGY = {"kueue.x-k8s.io/podset-preferred-topology": "cloud.example/rack"}

OVERRIDES = PodOverrides.model_validate(
    {
        "labels": {"cost-centre": "42", "psr.dev/uid": "somebody-else"},
        "annotations": {"example.com/note": "kept", "psr.dev/revision": "99"},
        "nodeSelector": {"gpu": "h100"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "affinity": {
            "nodeAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 1,
                        "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]},
                    }
                ]
            }
        },
        "topologySpreadConstraints": [],
        "priorityClassName": "psr-batch",
        "schedulerName": "default-scheduler",
        "runtimeClassName": "nvidia",
        "serviceAccountName": "psr-team",
        "terminationGracePeriodSeconds": 600,
        "imagePullSecrets": [{"name": "registry"}],
        "env": [
            {"name": "NCCL_DEBUG", "value": "WARN"},
            {"name": "HF_HOME", "value": "/cache/shared/huggingface"},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "wandb"}}},
            {"name": "PSR_SCRATCH", "value": "/elsewhere"},
            {"name": "PSR_UNKNOWN", "value": "left out"},
        ],
        "volumes": [
            {"name": "shared-cache", "persistentVolumeClaim": {"claimName": "cache"}},
            {"name": "settings", "configMap": {"name": "nccl"}},
        ],
        "volumeMounts": [
            {"name": "shared-cache", "mountPath": "/cache/shared"},
            {"name": "shared-cache", "mountPath": "/mnt/read", "subPath": "read", "readOnly": True},
            {"name": "settings", "mountPath": "/etc/nccl"},
        ],
        "resourceClaims": [{"name": "nics", "resourceClaimTemplateName": "rdma"}],
    }
)


@dataclass(frozen=True)
class Sample:
    """A value and the object that it belongs to."""

    wanted: Workload | Server
    owner: Resource

    def render(self, settings: Settings = SETTINGS) -> list[dict[str, Any]]:
        """Its objects."""
        if isinstance(self.wanted, Server):
            return server(self.wanted, self.owner, settings)
        return [job(self.wanted, self.owner, settings)]


def owner(kind: str, name: str, namespace: str = "team") -> Resource:
    """An object that has nothing but its metadata."""
    meta = Meta(name=name, namespace=namespace, uid="0f8fad5b-d9cb-469f-a165-70867728950e")
    return KINDS[kind].model_construct(api_version="psr.dev/v1alpha1", kind=kind, metadata=meta)


def search_configurations(shards: int, **fields: Any) -> tuple[StageConfig, ...]:
    """A search in shards."""
    document = {
        "model": {"uri": M1.uri},
        "problems": "s3://data/problems.jsonl",
        "questions": {"offset": 0, "count": 400},
        "server": {"urls": ["http://loop-server.team.svc:8000"], "modelDigest": "sha256:aa"},
        "storage": {"endpoint": "https://s3.example:9000"},
        "shards": shards,
    } | fields
    return tuple(
        SearchStage.model_validate(
            document | {"shard": index, "output": f"{ROOT}/iteration-1/pairs/shards/{index}-of-{shards}"}
        )
        for index in range(shards)
    )


def workload(stage: str, *configurations: StageConfig, placement: Placement, **fields: Any) -> Workload:
    """A first attempt."""
    return Workload(f"loop-{stage}-a1", stage, configurations, 1, placement=placement, **fields)


def policy_server(**fields: Any) -> Server:
    """A server of M1."""
    server = Server(
        name="loop-server",
        model=M1,
        digest="sha256:aa",
        engine=EngineConfig(),
        storage=S3.access(),
        replicas=2,
        port=None,
        placement=Placement(resources=SMALL, storage=S3),
    )
    return replace(server, **fields)


def samples() -> dict[str, Sample]:
    """Every kind of thing that is rendered, by the name of its golden file."""
    access = StorageAccess(endpoint="https://s3.example:9000")
    sft = SFTStage(
        model=ModelSource(uri="s3://models/base"), ift="s3://data/ift.jsonl", output=f"{ROOT}/m1", storage=access
    )
    dpo = StepDPOStage(model=M1, pairs=f"{ROOT}/iteration-1/pairs", output=f"{ROOT}/m2", storage=access)
    parts = [f"{ROOT}/iteration-1/pairs/shards/{index}-of-3" for index in range(3)]
    merge = MergeStage(parts=parts, output=f"{ROOT}/iteration-1/pairs", storage=access)
    evaluate = EvaluateStage.model_validate(
        {
            "model": {"uri": "file:///data/psr/m1"},
            "problems": "file:///data/test.jsonl",
            "output": "file:///data/psr/team/test/evaluation",
            "server": {"urls": ["http://loop-server.team.svc:8000"]},
            "prompts": {"solve": "Costs $5, not $(HOME) or $$: {problem}"},
        }
    )
    report = ReportStage.model_validate({"title": "Loop", "models": [], "output": f"{ROOT}/report/m2"})
    queued = Placement(resources=GPUS, storage=S3, ttl_seconds=3600, labels=QUEUE, annotations=TOPOLOGY, image="mine:1")
    team = StorageSpec(uri="s3://models/psr", service_account_name="psr-storage", ca_secret="s3-ca", path_style=True)
    return {
        "sft": Sample(workload("sft", sft, placement=Placement(resources=GPUS, storage=S3)), owner("SFTJob", "loop")),
        "step-dpo": Sample(workload("step-dpo", dpo, placement=queued), owner("StepDPOJob", "loop")),
        "search": Sample(
            workload(
                "search",
                *search_configurations(3),
                placement=Placement(resources=SMALL, storage=S3),
                server="loop-server",
            ),
            owner("PreferenceGeneration", "loop"),
        ),
        "merge": Sample(
            workload("merge", merge, placement=Placement(storage=team)), owner("PreferenceGeneration", "loop")
        ),
        "evaluate": Sample(
            workload("evaluate", evaluate, placement=Placement(storage=ON_VOLUME), server="loop-server"),
            owner("ModelEvaluation", "test"),
        ),
        "report": Sample(workload("report", report, placement=Placement(storage=S3)), owner("SelfRewardRun", "loop")),
        "server": Sample(policy_server(), owner("PolicyServer", "loop-server")),
        "server-gpus": Sample(
            policy_server(
                engine=EngineConfig(tensor_parallel=8, max_model_len=8192),
                port=9000,
                replicas=4,
                placement=Placement(
                    resources=GPUS.model_copy(update={"gpu_resource": "amd.com/gpu"}),
                    storage=ON_VOLUME,
                    labels=QUEUE,
                    annotations=TOPOLOGY,
                ),
            ),
            owner("PolicyServer", "loop-server"),
        ),
        "sft-overrides": Sample(
            workload("sft", sft, placement=Placement(resources=GPUS, storage=team, pod=OVERRIDES)),
            owner("SFTJob", "loop"),
        ),
        "server-overrides": Sample(
            policy_server(placement=Placement(resources=SMALL, storage=S3, pod=OVERRIDES, image="mine:2")),
            owner("PolicyServer", "loop-server"),
        ),
    }
