"""Whatever happens, in whatever order: one live attempt, one writer a URI, GPUs in one hand, and an end."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from world import TRAINING, World, run_of

from psr_operator.planner.types import ExitClass, Phase, ServerState

RETRIES = {"backoffLimit": 2, "maxDisruptions": 3, "backoffSeconds": 1}


class AnyOrder(RuleBasedStateMachine):
    """A run on a cluster where everything can go well, badly or away at any time."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="psr-test-")
        self.world: World

    @initialize(
        rounds=st.integers(1, 2),
        gpus=st.integers(0, 1),
        sft=st.booleans(),
        idle=st.sampled_from(["Release", "Keep"]),
        retention=st.sampled_from(["All", "Last", "Best"]),
    )
    def begin(self, rounds: int, gpus: int, sft: bool, idle: str, retention: str) -> None:
        manifest = run_of(rounds, gpus=gpus, sft=sft, idle=idle, retention=retention, retries=RETRIES, searchShards=2)
        self.world = World(Path(self._folder.name), manifest)

    def _pick(self, data: st.DataObject, phases: tuple[Phase, ...]) -> str | None:
        names = [name for name, state in self.world.node.workloads.items() if state.phase in phases and not state.gone]
        return data.draw(st.sampled_from(names)) if names else None

    @rule(data=st.data())
    def a_workload_starts(self, data: st.DataObject) -> None:
        name = self._pick(data, (Phase.PENDING,))
        if name:
            self.world.node.start(name)
            self.world.settle()

    @rule(data=st.data())
    def a_workload_succeeds(self, data: st.DataObject) -> None:
        name = self._pick(data, (Phase.RUNNING,))
        if name:
            self.world.node.succeed(name)
            self.world.settle()

    @rule(data=st.data(), how=st.sampled_from(list(ExitClass)), gone=st.booleans())
    def a_workload_fails(self, data: st.DataObject, how: ExitClass, gone: bool) -> None:
        name = self._pick(data, (Phase.PENDING, Phase.RUNNING))
        if name:
            self.world.node.fail(name, how, gone=gone)
            self.world.settle()

    @rule(data=st.data())
    def a_workload_is_gone(self, data: st.DataObject) -> None:
        name = self._pick(data, (Phase.FAILED,))
        if name:
            self.world.node.end(name)
            self.world.settle()

    @rule(data=st.data())
    def a_workload_is_deleted(self, data: st.DataObject) -> None:
        name = self._pick(data, tuple(Phase))
        if name:
            self.world.node.vanish(name)
            self.world.settle()

    @precondition(lambda self: "run-server" in self.world.node.server_specs)
    @rule()
    def the_server_is_ready(self) -> None:
        self.world.node.ready("run-server")
        self.world.settle()

    @precondition(lambda self: "run-server" in self.world.node.server_specs)
    @rule(failed=st.booleans())
    def the_server_breaks(self, failed: bool) -> None:
        self.world.node.servers["run-server"] = ServerState("run-server", message="broke", failed=failed)
        self.world.settle()

    @precondition(lambda self: "run-server" in self.world.node.servers)
    @rule()
    def a_released_server_is_gone(self) -> None:
        if "run-server" not in self.world.node.server_specs:
            self.world.node.gone("run-server")
            self.world.settle()

    @rule(suspend=st.booleans())
    def it_is_suspended_or_resumed(self, suspend: bool) -> None:
        if self.world.objects[0].spec.suspend != suspend:
            self.world.change(suspend=suspend)

    @rule(seconds=st.integers(1, 1000))
    def time_passes(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    @invariant()
    def no_uri_has_two_writers(self) -> None:
        if not hasattr(self, "world"):
            return
        writers = Counter(output for workload in self.world.node.live for output in workload.outputs)
        assert all(count == 1 for count in writers.values()), writers

    @invariant()
    def an_object_has_one_live_attempt(self) -> None:
        if not hasattr(self, "world"):
            return
        owners = Counter(workload.name.rsplit("-a", 1)[0] for workload in self.world.node.live)
        assert all(count == 1 for count in owners.values()), owners

    @invariant()
    def server_and_training_never_hold_gpus_together(self) -> None:
        if not hasattr(self, "world"):
            return
        training = [item.name for item in self.world.node.live if item.stage in TRAINING and item.gpus]
        server = self.world.node.servers.get("run-server")
        serving = server is not None and not server.gone and self.world.root.spec.server.resources.gpus > 0
        assert not (training and serving), training

    @invariant()
    def nobody_reads_weights_that_may_be_gone(self) -> None:
        if not hasattr(self, "world"):
            return
        removed = {model.uri for model in self.world.root.status.models if model.weights != "Kept"}
        for workload in self.world.node.live:
            if workload.stage in ("search", "evaluate", "step-dpo"):
                assert workload.configurations[0].model.uri not in removed, workload.name  # type: ignore[attr-defined]
        for server in self.world.node.server_specs.values():
            assert server.model.uri not in removed

    @rule(retention=st.sampled_from(["All", "Last", "Best"]))
    def other_weights_are_to_stay(self, retention: str) -> None:
        storage = self.world.objects[0].spec.storage.model_copy(update={"retention": retention})
        self.world.change(storage=storage)

    @invariant()
    def conditions_are_a_row_of_the_table(self) -> None:
        if not hasattr(self, "world"):
            return
        for item in self.world.executor.store:
            true = sorted(condition.type for condition in item.status.conditions if condition.status == "True")
            assert len(true) <= 1, (item.ref, true)
            assert item.status.observed_generation == item.metadata.generation, item.ref

    def teardown(self) -> None:
        """From wherever it is: if everything goes well from now on, it ends."""
        if hasattr(self, "world"):
            if self.world.objects[0].spec.suspend:
                self.world.change(suspend=False)
            server = self.world.node.servers.get("run-server")
            if server is not None and server.failed:
                self.world.node.servers["run-server"] = ServerState("run-server", message="loading")
                self.world.settle()
            self.world.finish()
            assert self.world.condition()[0] in ("Ready", "Stalled")
            assert self.world.node.live == []
        self._folder.cleanup()


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
