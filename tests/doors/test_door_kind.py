"""Another kind with a planner and a stage of its own: from a manifest to Ready, through the real executor and stage."""

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from psr_operator import api, planner
from psr_operator.api.common import Work, WorkStatus
from psr_operator.api.stored import parse
from psr_operator.local.executor import Executor
from psr_operator.local.rehearsal import Rehearsal
from psr_operator.planner.lifecycle import Task
from psr_operator.planner.work import plan_work, stage_fields
from psr_operator.reasons import Reason
from psr_runtime import config, protocol, stage, stages


def test_another_kind_is_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SumStage(config.StageConfig):
        numbers: list[int] = config.method(description="What is added up.")

    class SumResult(config.results.StageResult):
        total: int = 0

    class SumSpec(Work):
        numbers: list[int] = config.method(description="What is added up.")

    class Sum(api.Resource):
        stages: ClassVar = ("add",)
        kind: Literal["Sum"] = "Sum"
        spec: SumSpec
        status: WorkStatus = WorkStatus()

    def plan_sum(it: Sum, *observed_and_now: Any) -> Any:
        task = Task("add", "add", lambda _: (SumStage(**stage_fields(it), numbers=it.spec.numbers),), Reason.PENDING)
        return plan_work(it, [task], lambda done: f"{done['add']['total']} in all", *observed_and_now)

    def add(wanted: SumStage, context: stage.StageContext) -> stage.Outcome:
        return stage.Outcome(context.scratch, result=SumResult(total=sum(wanted.numbers)))

    class InProcess(Rehearsal):
        def run(self, workload: Any) -> None:
            super().run(workload)
            assert stage.run_stage(workload.stage, workload.configurations[0].model_dump_json(by_alias=True)) == 0
            left = protocol.TerminationMessage.read((tmp_path / "message").read_text())
            self._workloads[workload.name] = replace(self._workloads[workload.name], result=left.result)

    monkeypatch.setitem(api.KINDS, "Sum", Sum)
    monkeypatch.setitem(planner.PLANNERS, "Sum", plan_sum)
    monkeypatch.setitem(stages.STAGES, "add", stages.Stage("add", "", SumStage, SumResult, stages.Makes.REPORT, add))
    monkeypatch.setenv(protocol.TERMINATION_VARIABLE, str(tmp_path / "message"))
    spec = {"numbers": [1, 41], "storage": {"uri": f"file://{tmp_path}/out"}}
    executor = Executor(tmp_path / "work", InProcess(lambda _: None), lambda _: None)
    executor.apply([parse({"kind": "Sum", "metadata": {"name": "it"}, "spec": spec})])
    executor.settle()
    status = executor.roots[0].status
    assert (status.condition("Ready").message, status.done["add"]["total"]) == ("42 in all", 42)
    assert status.output == f"file://{tmp_path}/out/default/it/report"
