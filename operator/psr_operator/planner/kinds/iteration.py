"""SelfRewardIteration: pairs by M(i), then training to M(i+1)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from psr_operator.api import PolicyServer, PreferenceGeneration, Resource, SelfRewardIteration, StepDPOJob
from psr_operator.api.generation import PreferenceGenerationSpec
from psr_operator.api.server import ServerChoice
from psr_operator.api.training import StepDPOJobSpec
from psr_operator.conditions import State, Summary, status_fields, transition
from psr_operator.planner import gpus
from psr_operator.planner.inheritance import child_meta, child_server, handed_down, prefix_of
from psr_operator.planner.names import base_name, child_name
from psr_operator.planner.parents import child_summary, has_ended
from psr_operator.planner.results import pair_set_result
from psr_operator.planner.types import Observed, Plan
from psr_operator.reasons import Reason
from psr_runtime.stages import Makes


def plan_iteration(iteration: SelfRewardIteration, observed: Observed, now: datetime) -> Plan:
    """The plan of a round: two children one after the other, and a server where it belongs to no run."""
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
            "step": str(summary.reason),
            "progress": _progress(pairs, job),
            **_pair_fields(pairs),
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
        return Summary(State.DONE, Reason.SUCCEEDED, f"M{iteration.spec.iteration + 1} is at {job.status.output}")
    if server is not None and server.status.holds("Stalled"):
        return child_summary(server, Reason.GENERATING, iteration.spec.suspend)
    current = job if pairs is not None and pairs.status.holds("Ready") else pairs
    return child_summary(current, Reason.GENERATING if current is pairs else Reason.TRAINING, iteration.spec.suspend)


def _pair_fields(pairs: PreferenceGeneration | None) -> dict[str, Any]:
    """Where the pairs are. A generation that nobody has looked at since its status was lost says nothing: then what is
    known stays, or the run would bring its server back beside the training."""
    if pairs is not None and pairs.status.observed_generation < 0:
        return {}
    result = pair_set_result(pairs.status.done) if pairs is not None else None
    return {
        "pairs": pairs.status.output if pairs is not None else None,
        "pair_count": result.pairs if result is not None else None,
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
            output=spec.pairs_output or f"{prefix_of(iteration)}/{Makes.PAIRS}",
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
            output=spec.output or f"{prefix_of(iteration)}/{Makes.CHECKPOINT}",
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
    """The round's own server, where it belongs to no run. Under a run the run applies the server."""
    spec = iteration.spec
    if spec.server.inline is None:
        return []
    reading = pairs is None or not has_ended(pairs)
    training = pairs is not None and pairs.status.holds("Ready") and not (job is not None and has_ended(job))
    name = _server_name(iteration)
    existing = observed.child("PolicyServer", name)
    assert existing is None or isinstance(existing, PolicyServer)
    wanted = gpus.intent(
        existing,
        spec.server.inline.model_copy(update={"idle": "Release"}),
        [gpus.Reader(spec.model, None)] if reading else [],
        training=training,
        training_gpus=spec.training_resources.gpus,
        suspended=spec.suspend,
    )
    if wanted is None:
        return []
    return [child_server(iteration, name, spec.server.inline, wanted.model, digest=wanted.digest, active=wanted.active)]


def _pairs_name(iteration: SelfRewardIteration) -> str:
    return child_name(base_name(iteration), "pairs")


def _training_name(iteration: SelfRewardIteration) -> str:
    return child_name(base_name(iteration), "dpo")


def _server_name(iteration: SelfRewardIteration) -> str:
    return iteration.spec.server.ref or child_name(base_name(iteration), "server")
