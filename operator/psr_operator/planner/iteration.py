"""SelfRewardIteration: pairs by M(i), then training to M(i+1)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psr_operator.api import PolicyServer, PreferenceGeneration, Resource, SelfRewardIteration, StepDPOJob
from psr_operator.api.common import Condition
from psr_operator.api.generation import PreferenceGenerationSpec
from psr_operator.api.server import ServerChoice
from psr_operator.api.training import StepDPOJobSpec
from psr_operator.conditions import State, Summary, status_fields, transition
from psr_operator.planner.leaves import handed_down, prefix_of
from psr_operator.planner.names import child_name
from psr_operator.planner.server import Reader, child_meta, child_server, intent
from psr_operator.planner.types import Observed, Plan


def plan_iteration(iteration: SelfRewardIteration, observed: Observed, now: datetime) -> Plan:
    """Two children one after the other, and a server where the round stands alone."""
    pairs = observed.child("PreferenceGeneration", _pairs_name(iteration))
    job = observed.child("StepDPOJob", _training_name(iteration))
    assert pairs is None or isinstance(pairs, PreferenceGeneration)
    assert job is None or isinstance(job, StepDPOJob)

    children: list[Resource] = [_generation(iteration)]
    if pairs is not None and pairs.status.holds("Ready"):
        children.append(_training(iteration, pairs))
    children += _server(iteration, observed, pairs, job)

    own = observed.child("PolicyServer", _server_name(iteration))
    summary = _summary(iteration, pairs, job, own)
    status = iteration.status.model_copy(
        update={
            **status_fields(summary, iteration, now),
            "step": summary.reason,
            "progress": _progress(pairs, job),
            **_made(iteration, pairs),
            "output": job.status.output if job is not None and job.status.holds("Ready") else None,
            "digest": job.status.digest if job is not None and job.status.holds("Ready") else None,
        }
    )
    return Plan(
        status=status,
        children=tuple(children),
        transition=transition(iteration, summary),
    )


def _summary(
    iteration: SelfRewardIteration,
    pairs: PreferenceGeneration | None,
    job: StepDPOJob | None,
    server: Resource | None,
) -> Summary:
    if job is not None and job.status.holds("Ready"):
        return Summary(State.DONE, "Succeeded", f"M{iteration.spec.iteration + 1} is at {job.status.output}")
    if server is not None and server.status.holds("Stalled"):
        return child_summary(server, "Generating", iteration.spec.suspend)
    current = job if pairs is not None and pairs.status.holds("Ready") else pairs
    return child_summary(current, "Generating" if current is pairs else "Training", iteration.spec.suspend)


AT_WORK = "its children are at work"
SUSPENDED = Summary(State.SUSPENDED, "Suspended", "suspended; set suspend: false to go on")


def _tells(child: Resource, ready: Condition) -> bool:
    """Whether a parent repeats its child's message: why nothing happens. Everything else would change it too often."""
    if child.kind == "SelfRewardIteration":
        return ready.message != AT_WORK
    return ready.reason in ("Retrying", "WaitingForGPUs") or (ready.reason == "Pending" and ": " in ready.message)


def child_summary(child: Resource | None, doing: str, suspend: bool) -> Summary:
    """How a parent stands whose present child is `child` (None: not made yet)."""
    if child is None:
        if suspend:
            return SUSPENDED
        return Summary(State.WORKING, doing, AT_WORK)
    ready = child.status.condition("Ready")
    message = AT_WORK
    if ready is not None and (child.status.holds("Stalled") or _tells(child, ready)):
        message = f"{child.ref}: {ready.message}"
    if child.status.holds("Stalled") and ready is not None:
        return Summary(State.FAILED, ready.reason, message)
    if suspend:
        return SUSPENDED
    return Summary(State.WORKING, doing, message)


def _made(iteration: SelfRewardIteration, pairs: PreferenceGeneration | None) -> dict[str, Any]:
    """Where the pairs are. A generation that nobody has looked at since its status was lost says nothing: then what is
    known stays, or the run would bring its server back beside the training."""
    if pairs is not None and pairs.status.observed_generation < 0:
        return {}
    return {
        "pairs": pairs.status.output if pairs is not None else None,
        "pair_count": pairs.status.done.get("merge", {}).get("pairs") if pairs is not None else None,
    }


def _progress(pairs: PreferenceGeneration | None, job: StepDPOJob | None) -> str:
    if job is not None:
        return job.status.progress
    if pairs is None or pairs.status.holds("Ready"):  # then training is about to begin
        return ""
    return pairs.status.progress


def _generation(iteration: SelfRewardIteration) -> PreferenceGeneration:
    spec = iteration.spec
    return PreferenceGeneration(
        metadata=child_meta(iteration, _pairs_name(iteration)),
        spec=PreferenceGenerationSpec(
            model=spec.model,
            problems=spec.problems,
            questions=spec.questions,
            prompts=spec.prompts,
            search=spec.search,
            judge=spec.judge,
            iteration=spec.iteration,
            seed=spec.seed,
            shards=spec.search_shards,
            server=ServerChoice(ref=_server_name(iteration)),
            output=spec.pairs_output or f"{prefix_of(iteration)}/pairs",
            **handed_down(iteration),
            resources=spec.search_resources,
            pod=spec.search_pod,
        ),
    )


def _training(iteration: SelfRewardIteration, pairs: PreferenceGeneration) -> StepDPOJob:
    spec = iteration.spec
    assert pairs.status.output is not None
    return StepDPOJob(
        metadata=child_meta(iteration, _training_name(iteration)),
        spec=StepDPOJobSpec(
            model=spec.model,
            pairs=pairs.status.output,
            training=spec.training,
            seed=spec.seed,
            after_release=_server_name(iteration),
            output=spec.output or f"{prefix_of(iteration)}/checkpoint",
            **handed_down(iteration),
            resources=spec.training_resources,
            pod=spec.training_pod,
        ),
    )


def _server(
    iteration: SelfRewardIteration,
    observed: Observed,
    pairs: PreferenceGeneration | None,
    job: StepDPOJob | None,
) -> list[Resource]:
    """The round's own server, where it stands alone. Under a run the run applies the server."""
    spec = iteration.spec
    if spec.server.inline is None:
        return []
    reading = pairs is None or not (pairs.status.holds("Ready") or pairs.status.holds("Stalled"))
    training = (
        pairs is not None
        and pairs.status.holds("Ready")
        and not (job is not None and (job.status.holds("Ready") or job.status.holds("Stalled")))
    )
    name = _server_name(iteration)
    existing = observed.child("PolicyServer", name)
    assert existing is None or isinstance(existing, PolicyServer)
    wanted = intent(
        existing,
        spec.server.inline.model_copy(update={"idle": "Release"}),
        [Reader(spec.model, None)] if reading else [],
        training=training,
        training_gpus=spec.training_resources.gpus,
        suspended=spec.suspend,
    )
    return [child_server(iteration, name, spec.server.inline, spec.storage, wanted)] if wanted else []


def _pairs_name(iteration: SelfRewardIteration) -> str:
    return child_name(iteration.metadata.name, "pairs")


def _training_name(iteration: SelfRewardIteration) -> str:
    return child_name(iteration.metadata.name, "dpo")


def _server_name(iteration: SelfRewardIteration) -> str:
    return iteration.spec.server.ref or child_name(iteration.metadata.name, "server")
