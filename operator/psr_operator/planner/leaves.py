"""SFTJob, StepDPOJob, ModelEvaluation, PreferenceGeneration: what their steps are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from psr_operator.api import ModelEvaluation, PolicyServer, PreferenceGeneration, Resource, SFTJob, StepDPOJob
from psr_operator.api.common import TrainingResources, Upkeep, Work
from psr_operator.conditions import State, Summary
from psr_operator.planner.lifecycle import Life, Step, plan_life
from psr_operator.planner.placement import placement, storage_of
from psr_operator.planner.server import misses_pruned, own_server
from psr_operator.planner.types import Observed, Placement, Plan
from psr_runtime.config import (
    Endpoint,
    EvaluateMethod,
    EvaluateStage,
    MergeStage,
    ModelSource,
    Owner,
    Schema,
    SearchMethod,
    SearchStage,
    SFTMethod,
    SFTStage,
    StageConfig,
    StepDPOMethod,
    StepDPOStage,
)

Results = dict[str, dict[str, Any]]


def plan_sft(job: SFTJob, observed: Observed, now: datetime) -> Plan:
    """One training Workload, M0 → M1."""
    return _plan_training(job, "sft", SFTStage(**_placing(job), **_method(job, SFTMethod)), observed, now)


def plan_step_dpo(job: StepDPOJob, observed: Observed, now: datetime) -> Plan:
    """One training Workload, M(i) → M(i+1)."""
    return _plan_training(job, "step-dpo", StepDPOStage(**_placing(job), **_method(job, StepDPOMethod)), observed, now)


def _plan_training(
    job: SFTJob | StepDPOJob, stage: str, configuration: StageConfig, observed: Observed, now: datetime
) -> Plan:
    waits = _too_large(job.spec.resources) or _until_released(observed, job.spec.after_release, job.spec.resources.gpus)
    step = Step("train", stage, lambda _: (configuration,), "Training", placement_of(job), waits)
    return plan_life(
        _life(job, [step], lambda done: f"checkpoint after {done['train'].get('updates')} updates"), observed, now
    )


def plan_evaluation(evaluation: ModelEvaluation, observed: Observed, now: datetime) -> Plan:
    """One Workload that asks a server and grades."""
    spec = evaluation.spec
    endpoint, waits = _server_of(evaluation, spec.model, observed)

    def configurations(_: Results) -> tuple[StageConfig, ...]:
        return (EvaluateStage(**_placing(evaluation), **_method(evaluation, EvaluateMethod), server=endpoint),)

    def summary(done: Results) -> str:
        result = done["evaluate"]
        return f"accuracy {result['accuracy']:.1%} on {result['problems']} problems"

    step = Step(
        "evaluate", "evaluate", configurations, "Evaluating", placement_of(evaluation), waits, server_name(evaluation)
    )
    return _with_server(evaluation, plan_life(_life(evaluation, [step], summary), observed, now))


def plan_generation(generation: PreferenceGeneration, observed: Observed, now: datetime) -> Plan:
    """Search in shards, then merge them."""
    spec = generation.spec
    endpoint, waits = _server_of(generation, spec.model, observed)
    placing = _placing(generation)
    parts = [f"{placing['output']}/shards/{index}-of-{spec.shards}" for index in range(spec.shards)]

    def search(_: Results) -> tuple[StageConfig, ...]:
        return tuple(
            SearchStage(
                **{**placing, "output": part},
                **_method(generation, SearchMethod),
                shard=index,
                shards=len(parts),
                server=endpoint,
            )
            for index, part in enumerate(parts)
        )

    def merge(_: Results) -> tuple[StageConfig, ...]:
        return (MergeStage(**placing, parts=parts, iteration=spec.iteration),)

    def summary(done: Results) -> str:
        result = done["merge"]
        return f"{result['pairs']} pairs from {result['problems']} problems"

    steps = [
        Step("search", "search", search, "Searching", placement_of(generation), waits, server_name(generation)),
        Step("merge", "merge", merge, "Merging", placement_of(generation, gpus=False)),
    ]
    return _with_server(generation, plan_life(_life(generation, steps, summary), observed, now))


def output_of(resource: Resource) -> str:
    """Where an object's artefact goes: as its spec says, else below the storage prefix; `rerun` adds a folder."""
    spec: Work = resource.spec
    base = spec.output or f"{prefix_of(resource)}/{_FOLDERS[resource.kind]}"
    return f"{base}/rerun-{spec.rerun}" if spec.rerun else base


def prefix_of(resource: Resource) -> str:
    """The storage prefix of an object: `<uri>/<namespace>/<name>`."""
    meta = resource.metadata
    return f"{resource.spec.storage.uri.rstrip('/')}/{meta.namespace}/{meta.name}"


def owner_of(resource: Resource) -> Owner:
    """The claim under which an object writes: its parent's, or its own."""
    meta = resource.metadata
    owner: Owner | None = getattr(resource.spec, "owner", None)
    return owner or Owner(uri=prefix_of(resource), uid=meta.uid, name=f"{meta.namespace}/{meta.name}")


def handed_down(parent: Resource) -> dict[str, Any]:
    """What a working child takes from its parent as it is: the claim, the storage, and how work is carried out."""
    spec = parent.spec
    upkeep = {name: getattr(spec, name) for name in Upkeep.model_fields}
    return {"owner": owner_of(parent), "storage": storage_of(parent), **upkeep}


def placement_of(resource: Resource, *, gpus: bool = True) -> Placement:
    """Where the pods of an object run. `gpus=False` for a step that needs none of its accelerators."""
    spec: Work = resource.spec
    resources = spec.resources if gpus else spec.resources.model_copy(update={"gpus": 0})
    return placement(resource, resources, spec.pod)


_FOLDERS = {
    "SFTJob": "checkpoint",
    "StepDPOJob": "checkpoint",
    "ModelEvaluation": "evaluation",
    "PreferenceGeneration": "pairs",
}


def _placing(resource: Resource) -> dict[str, Any]:
    return {
        "output": output_of(resource),
        "storage": resource.spec.storage.access(),
        "owner": owner_of(resource),
    }


def _method(resource: Resource, kind: type[Schema]) -> dict[str, Any]:
    """The fields that a spec shares with its stage's configuration."""
    return {name: getattr(resource.spec, name) for name in kind.model_fields}


def _life(resource: Resource, steps: list[Step], summary: Callable[[Results], str]) -> Life:
    spec: Work = resource.spec
    return Life(
        resource,
        steps,
        spec.suspend,
        spec.retries,
        spec.active_deadline_seconds,
        spec.rerun,
        summary,
        spec.scheduling_deadline_seconds,
    )


def _too_large(resources: TrainingResources) -> Summary | None:
    """Training uses one device of one node; what asks for more would hold GPUs that stay idle."""
    if resources.nodes == 1 and resources.gpus <= 1:
        return None
    message = (
        f"training on {resources.nodes} nodes × {resources.gpus} GPUs is not built yet; set nodes to 1 and gpus to 1, "
        "or train elsewhere and give the checkpoint as model"
    )
    return Summary(State.FAILED, "NotSupported", message)


def _until_released(observed: Observed, server: str | None, gpus: int) -> Summary | None:
    """Training with GPUs waits until the run's server holds none."""
    if server is None or gpus == 0:
        return None
    peer = observed.peers.get(server)
    if not isinstance(peer, PolicyServer) or peer.spec.resources.gpus == 0:
        return None
    known = peer.status.observed_generation == peer.metadata.generation  # else its status tells of an earlier spec
    if peer.spec.active or peer.status.holds_gpus or not known:
        return Summary(State.WORKING, "WaitingForGPUs", f"PolicyServer/{server} still holds its GPUs")
    return None


def server_name(resource: PreferenceGeneration | ModelEvaluation) -> str:
    """Name of the PolicyServer that an object asks: the one it refers to, or its own."""
    return resource.spec.server.ref or own_server(resource).metadata.name


def _server_of(
    resource: PreferenceGeneration | ModelEvaluation, model: ModelSource, observed: Observed
) -> tuple[Endpoint, Summary | None]:
    """The endpoint to ask, and why it cannot be asked yet (None when it can)."""
    name = server_name(resource)
    peer = observed.peers.get(name) or observed.child("PolicyServer", name)
    nobody = Endpoint(urls=["http://127.0.0.1:1"], ready_seconds=1)
    if not isinstance(peer, PolicyServer):
        return nobody, Summary(State.WORKING, "WaitingForServer", f"there is no PolicyServer/{name} yet")
    if resource.spec.owner is not None and misses_pruned(peer, model.uri, resource.spec.owner.uri):
        return nobody, None
    if peer.status.holds("Stalled"):
        stalled = next(item for item in peer.status.conditions if item.type == "Stalled")
        if resource.spec.server.inline is not None:
            return nobody, Summary(State.FAILED, stalled.reason, f"{peer.ref}: {stalled.message}")
        return nobody, Summary(State.WORKING, "WaitingForServer", f"{peer.ref} is stalled: {stalled.message}")
    if not peer.status.endpoints or peer.status.model != model.uri:
        return nobody, Summary(State.WORKING, "WaitingForServer", f"{peer.ref} does not serve {model.uri} yet")
    return Endpoint(urls=peer.status.endpoints, model_digest=peer.status.digest), None


def _with_server(resource: PreferenceGeneration | ModelEvaluation, plan: Plan) -> Plan:
    """Add the object's own server, wanted until the work is done."""
    if resource.spec.server.inline is None:
        return plan
    over = plan.status.holds("Ready") or plan.status.failure is not None or plan.status.holds("Suspended")
    server = own_server(resource)
    server = server.model_copy(update={"spec": server.spec.model_copy(update={"active": not over})})
    return replace(plan, children=(*plan.children, server))
