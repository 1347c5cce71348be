"""What a server does with orders, wrong weights and a vLLM that dies: with a stand-in for vLLM and real checkpoints."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from checkpoints import checkpoint, fingerprint, random_model, updated

from psr_runtime.artefacts.checkpoints import model_digest
from psr_runtime.artefacts.fingerprint import Fingerprint
from psr_runtime.config import ModelSource, ServeStage
from psr_runtime.serving import serve
from psr_runtime.serving.serve import GaveUp, Server
from psr_runtime.serving.vllm_process import VLLMFailed
from psr_runtime.storage import Storage, file_uri

M1 = random_model(seed=1)
M2 = updated(M1, by=0.01, seed=2)
OTHER = random_model(seed=3)
TIED = random_model(seed=4, tied=True)


class Engine:
    """Stands for vLLM. Its weights are one of the models above; `log` is what was done with it."""

    log: list[str]
    fail_starts = 0
    exchange: Callable[[Any], Any]

    def __init__(self, arguments: list[str], variables: dict[str, str], url: str, token: str) -> None:
        self.folder = Path(arguments[arguments.index("--model") + 1])
        type(self).log.append("start")
        self.alive = type(self).fail_starts <= 0
        type(self).fail_starts -= 1
        self.weights = weights_in(self.folder)
        self.gate: tuple[str | None, bool] = (None, False)
        self.pid = 1
        type(self).running = self

    running: Engine

    def healthy(self) -> bool:
        return self.alive

    def failure_words(self) -> str:
        return "RuntimeError: out of cake"

    def stop(self) -> None:
        self.alive = False

    def set_gate(self, digest: str | None, is_open: bool) -> int:
        self.gate = (digest, is_open)
        return 0

    def exchange_weights(self, folder: Path, digest: str, seconds: float) -> None:
        type(self).log.append("exchange")
        self.gate = (digest, False)
        self.weights = type(self).exchange(weights_in(folder))

    def log_probabilities(self, mark: Fingerprint) -> list[list[float]]:
        return [probe.new for probe in fingerprint(self.weights, None).probes]


def weights_in(folder: Path) -> Any:
    """The model whose weights lie in a folder."""
    from transformers import Qwen2ForCausalLM

    return Qwen2ForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """URIs of checkpoints by name."""
    place = tmp_path_factory.mktemp("models")
    return {
        "m1": checkpoint(place / "m1", M1, None),
        "m2": checkpoint(place / "m2", M2, M1),
        "small": checkpoint(place / "small", updated(M2, by=1e-7, seed=4), M2),
        "tied": checkpoint(place / "tied", updated(TIED, by=0.01, seed=5), TIED),
        "warm": checkpoint(place / "warm", updated(M2, by=0.01, seed=6), M2, repetition_penalty=1.5),
        "liar": checkpoint(place / "liar", M1, M1, marks=M2),
        "foreign": checkpoint(place / "foreign", OTHER, M1, marks=M2),
    }


class Run:
    """A server whose thread runs."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.error: BaseException | None = None

    def order(self, uri: str, digest: str | None = None) -> dict[str, Any]:
        """Order a model and wait for the end; the state then."""
        wanted = digest or model_digest(Storage(), uri)
        self.server.order(ModelSource(uri=uri), wanted)
        return self.wait(lambda state: state["digest"] == wanted and state["state"] in ("Ready", "Failed"))

    def wait(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Poll the state until it fits; it."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            state = self.server.describe()
            if condition(state) or self.error is not None:
                return state
            time.sleep(0.005)
        raise AssertionError(self.server.describe())


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Run]]:
    """Start servers on `Engine`; they end with the test."""

    class Mine(Engine):
        log: list[str] = []  # noqa: RUF012 - each test has a class of its own
        exchange = staticmethod(lambda weights: weights)

    monkeypatch.setattr(serve, "VLLMProcess", Mine)
    monkeypatch.setattr(serve, "BACK_OFF_SECONDS", 0.01)
    stop = threading.Event()
    threads = []

    def begin(uri: str, **engine: Any) -> Run:
        config = ServeStage(model=ModelSource(uri=uri), engine={"dtype": "float32"} | engine, scratch=str(tmp_path))
        run = Run(Server(config, "cpu", stop))

        def work() -> None:
            try:
                run.server.run()
            except BaseException as error:
                run.error = error

        threads.append(threading.Thread(target=work))
        threads[-1].start()
        run.wait(lambda state: state["state"] in ("Ready", "Failed"))
        return run

    begin.engine = Mine  # type: ignore[attr-defined]
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: [thread.join() for thread in threads])
        stack.callback(stop.set)
        yield begin


def test_weights_are_exchanged_in_place_from_m1_to_m2(start: Any, models: dict[str, str]) -> None:
    run = start(models["m1"])
    m1 = run.server.describe()["served"]
    assert run.server.ready(m1)
    state = run.order(models["m2"])
    assert (state["state"], state["change"]["kind"], state["check"]["verdict"]) == ("Ready", "Swap", "Agrees")
    assert start.engine.log == ["start", "exchange"]
    assert start.engine.running.gate == (state["served"], True)
    assert run.server.ready(state["served"])
    assert not run.server.ready(m1)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("small", "cannot tell the model from its parent"),
        ("warm", "generation_config.json differs in repetition_penalty"),
        ("tied", "config.json differs in tie_word_embeddings"),
    ],
)
def test_what_cannot_be_proved_in_place_is_a_restart(start: Any, models: dict[str, str], model: str, why: str) -> None:
    run = start(models["m1"])
    state = run.order(models[model])
    assert (state["state"], state["change"]["kind"]) == ("Ready", "Restart")
    assert why in state["change"]["why"]
    assert start.engine.log == ["start", "start"]


def test_swap_never_restarts(start: Any, models: dict[str, str]) -> None:
    run = start(models["m1"], swap="Never")
    assert run.order(models["m2"])["change"]["why"] == "engine.swap is Never"


def test_a_swap_that_left_the_old_weights_in_place_is_refused_and_repaired(start: Any, models: dict[str, str]) -> None:
    start.engine.exchange = staticmethod(lambda weights: M1)
    run = start(models["m1"])
    state = run.order(models["m2"])
    assert start.engine.log == ["start", "exchange", "start"]
    assert (state["state"], state["change"]["kind"], state["check"]["verdict"]) == ("Ready", "Restart", "Agrees")
    assert "did not bring the weights in" in state["change"]["why"]


def test_a_swap_that_fails_ends_in_a_restart(start: Any, models: dict[str, str]) -> None:
    def broken(weights: Any) -> Any:
        raise VLLMFailed("/collective_rpc: vLLM answers 500")

    start.engine.exchange = staticmethod(broken)
    run = start(models["m1"])
    state = run.order(models["m2"])
    assert (state["state"], state["change"]["kind"]) == ("Ready", "Restart")
    assert "answers 500" in state["change"]["why"]


@pytest.mark.parametrize("model", ["liar", "foreign"])
def test_other_weights_under_the_right_name_are_never_ready(start: Any, models: dict[str, str], model: str) -> None:
    run = start(models["m1"])
    state = run.order(models[model])
    assert (state["state"], state["served"]) == ("Failed", None)
    assert "are not those of the fingerprint" in state["message"]
    assert "nats a token from the model" in state["message"]
    assert not run.server.ready(state["digest"])
    assert not start.engine.running.alive
    assert run.order(models["m2"])["state"] == "Ready"  # a right model is served again


def test_wrong_first_weights_are_a_state_and_not_an_end(start: Any, models: dict[str, str]) -> None:
    run = start(models["liar"])
    assert run.server.describe()["state"] == "Failed"
    assert run.error is None


def test_what_cannot_be_fetched_leaves_the_old_model_under_its_own_name(
    start: Any, models: dict[str, str], tmp_path: Path
) -> None:
    run = start(models["m1"])
    m1 = run.server.describe()["served"]
    state = run.order(file_uri(tmp_path / "nowhere"), "sha256:gone")
    assert (state["state"], state["reason"]) == ("Failed", "InputMissing")
    assert "no config.json" in state["message"]
    assert run.server.ready(m1)
    assert not run.server.ready("sha256:gone")

    state = run.order(models["m2"], "sha256:another")
    assert (state["state"], state["reason"]) == ("Failed", "DataError")
    assert "where sha256:another was ordered" in state["message"]
    assert run.server.ready(m1)

    state = run.order(models["m1"])  # back to what is served all the time
    assert (state["state"], state["reason"]) == ("Ready", None)
    assert start.engine.log == ["start"]


def test_the_same_order_again_does_nothing(start: Any, models: dict[str, str]) -> None:
    run = start(models["m1"])
    run.order(models["m2"])
    before = run.server.describe()
    assert run.order(models["m2"]) == before
    assert start.engine.log == ["start", "exchange"]


def test_vllm_is_started_again_when_it_dies(start: Any, models: dict[str, str]) -> None:
    run = start(models["m1"])
    served = run.server.describe()["served"]
    start.engine.running.alive = False
    assert not run.server.ready(served)
    state = run.wait(lambda state: state["deaths"] == 1 and state["state"] == "Ready")
    assert run.server.ready(served)
    assert "out of cake" in state["change"]["why"]


def test_vllm_that_dies_again_and_again_ends_the_server(start: Any, models: dict[str, str]) -> None:
    run = start(models["m1"])
    for _ in range(5):
        start.engine.running.alive = False
        state = run.wait(lambda state: run.error is not None or start.engine.running.alive)
        if run.error is not None:
            break
        run.wait(lambda state: state["state"] == "Ready")
    assert isinstance(run.error, GaveUp), state
    assert "3 times in a row; last:" in str(run.error)


def test_a_model_on_which_vllm_does_not_start_is_not_started_more_than_three_times(
    start: Any, models: dict[str, str]
) -> None:
    run = start(models["m1"])
    start.engine.fail_starts = 99
    state = run.order(models["tied"])
    assert state["state"] == "Failed"
    assert "3 times in a row; last: vLLM ended while it started: RuntimeError: out of cake" in state["message"]
    assert start.engine.log == ["start"] * 4
