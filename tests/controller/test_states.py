"""One table of what becomes of a Workload, run on both executors: processes here, Jobs on a control plane."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.control_plane.plane import ControlPlane
from psr_operator.api import Resource
from psr_operator.api.stored import parse
from psr_operator.planner.types import ExitClass, Phase, Workload, WorkloadState
from psr_runtime.config import MergeStage
from psr_runtime.stages import shard_folder
from tests.controller.executors import Executor, here, on_cluster

STOPPED = {ExitClass.TEMPORARY, ExitClass.DISRUPTION}
"""How an attempt may end that the executor itself stopped: neither is a failure of the work."""


@dataclass(frozen=True)
class Case:
    """What happens to a Workload and how it ends.

    Attributes:
        ends: of each shard: an exit code, `held`, or `mute` for no result.
        then: `stop`, or `release`, once it runs.
        phase: at the end.
        classes: any of these exit classes.
        result: whether it has one.
        message: in the state's.
    """

    ends: tuple[str, ...]
    phase: Phase
    classes: frozenset[ExitClass] = frozenset()
    result: bool = False
    message: str = ""
    then: str = ""


CASES = {
    "succeeds": Case(("0",), Phase.SUCCEEDED, result=True),
    "succeeds, its result unreadable": Case(("mute",), Phase.SUCCEEDED),
    "runs, then succeeds": Case(("held",), Phase.SUCCEEDED, result=True, then="release"),
    "a wrong configuration": Case(("64",), Phase.FAILED, frozenset({ExitClass.CONFIGURATION}), message="it broke"),
    "wrong data": Case(("65",), Phase.FAILED, frozenset({ExitClass.DATA}), message="it broke"),
    "a missing input": Case(("66",), Phase.FAILED, frozenset({ExitClass.MISSING}), message="it broke"),
    "temporary": Case(("75",), Phase.FAILED, frozenset({ExitClass.TEMPORARY}), message="it broke"),
    "any other code": Case(("1",), Phase.FAILED, frozenset({ExitClass.FAILURE}), message="it broke"),
    "stopped while it runs": Case(("held",), Phase.FAILED, frozenset(STOPPED), then="stop"),
    "all shards succeed": Case(("0", "0", "0"), Phase.SUCCEEDED, result=True),
    "one shard's data is wrong, the others run": Case(("held", "65"), Phase.FAILED, frozenset({ExitClass.DATA})),
}


@pytest.fixture(params=["here", "on the cluster"])
def executor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Executor]:
    if request.param == "here":
        with here(tmp_path / "work") as either:
            yield either
        return
    plane: ControlPlane = request.getfixturevalue("crds")
    namespace: str = request.getfixturevalue("namespace")
    with on_cluster(plane, namespace, _owner(plane, namespace), tmp_path) as either:
        yield either


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_workload_ends_the_same_way_on_both(case: Case, executor: Executor) -> None:
    assert executor.state("it-a1") is None
    executor.run(_workload(case))
    seen = [_until(executor, lambda state: state is not None)]
    if case.then:
        seen.append(_until(executor, lambda state: state is not None and state.phase is Phase.RUNNING))
        assert not seen[-1].gone
        executor.release() if case.then == "release" else executor.stop("it-a1")
    end = _end(executor, seen)
    assert end.phase is case.phase
    assert end.attempt == 1
    assert (end.exit_class in case.classes) if case.classes else end.exit_class is None
    assert (end.result is not None) is case.result
    if case.result:
        assert str(end.result["output"]).endswith(shard_folder(0, len(case.ends))), "of the first shard"
    assert case.message in end.message
    order = [Phase.PENDING, Phase.RUNNING, case.phase]
    phases = [order.index(state.phase) for state in seen]
    assert phases == sorted(phases), "phases go one way"


def _end(executor: Executor, seen: list[WorkloadState]) -> WorkloadState:
    """The last state, once nothing of the Workload is left; one that was deleted may vanish altogether."""
    deadline = time.monotonic() + 60
    while True:
        state = executor.state("it-a1")
        if state is None and seen[-1].phase is Phase.FAILED:
            return seen[-1]
        if state is not None:
            seen.append(state)
            if state.phase in (Phase.SUCCEEDED, Phase.FAILED) and state.gone:
                return state
        assert time.monotonic() < deadline, seen[-1]
        time.sleep(0.02)


def _until(executor: Executor, happened: Callable[[WorkloadState | None], bool]) -> WorkloadState:
    deadline = time.monotonic() + 60
    while True:
        state = executor.state("it-a1")
        if happened(state):
            assert state is not None
            return state
        assert time.monotonic() < deadline, state
        time.sleep(0.02)


def _workload(case: Case) -> Workload:
    """A Workload of a stage that reads no server; `search` where there are shards."""
    from psr_runtime.config import Endpoint, ModelSource, Questions, SearchStage

    if len(case.ends) == 1:
        config = MergeStage(output=f"s3://bucket/{case.ends[0]}/{shard_folder(0, 1)}", parts=["s3://bucket/part"])
        return Workload("it-a1", "merge", (config,), 1)
    shards = [
        SearchStage(
            output=f"s3://bucket/{'_'.join(case.ends)}/{shard_folder(index, len(case.ends))}",
            model=ModelSource(uri="s3://bucket/model"),
            problems="s3://bucket/problems.jsonl",
            questions=Questions(count=1),
            shard=index,
            shards=len(case.ends),
            server=Endpoint(urls=["http://server:8000"]),
        )
        for index in range(len(case.ends))
    ]
    return Workload("it-a1", "search", tuple(shards), 1)


def _owner(plane: ControlPlane, namespace: str) -> Resource:
    """An object that the Jobs belong to; nobody reconciles it."""
    return parse(
        plane.request(
            "POST",
            f"/apis/psr.dev/v1alpha1/namespaces/{namespace}/stepdpojobs",
            {
                "apiVersion": "psr.dev/v1alpha1",
                "kind": "StepDPOJob",
                "metadata": {"name": "it"},
                "spec": {
                    "model": {"uri": "s3://bucket/model"},
                    "pairs": "s3://bucket/pairs",
                    "storage": {"uri": "s3://bucket/runs"},
                },
            },
        )
    )
