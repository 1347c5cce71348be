"""vLLM's command line and environment, and that nothing of it outlives the supervisor. vLLM itself is not started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from psr_runtime.config import ModelSource, ServeStage
from psr_runtime.serving.vllm_process import VLLMProcess, command, environment

FAMILY = """
import json, os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_DFL if len(sys.argv) > 2 else signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open(sys.argv[1] + ".new", "w") as file:
    json.dump([os.getpid(), child.pid], file)
os.rename(sys.argv[1] + ".new", sys.argv[1])
print("RuntimeError: it was all for nothing", flush=True)
time.sleep(600)
"""
SUPERVISOR = """
import os, sys, time
from psr_runtime.serving.vllm_process import VLLMProcess
VLLMProcess([sys.executable, "-c", sys.argv[1], sys.argv[2]], dict(os.environ), "http://127.0.0.1:1", "token")
time.sleep(600)
"""


def serving(**fields: object) -> ServeStage:
    return ServeStage.model_validate({"model": {"uri": "file:///m"}, "scratch": "/s"} | fields)


def test_the_command_line_says_everything_that_decides_an_answer(tmp_path: Path) -> None:
    line = " ".join(command(serving(port=8100), tmp_path, tmp_path / "t.jinja", "cpu"))
    for part in (
        f"--model {tmp_path} --served-model-name psr",
        "--port 8100",
        "--middleware psr_runtime.serving.guard.Guard",
        "--generation-config vllm --dtype bfloat16",
        f"--chat-template {tmp_path}/t.jinja",
        "--block-size 32",
        "--no-enable-chunked-prefill",
        "--enable-prompt-tokens-details",
    ):
        assert part in line
    assert "--enforce-eager" not in line


def test_fields_of_the_engine_reach_the_command_line_and_extra_arguments_come_last(tmp_path: Path) -> None:
    engine = {
        "dtype": "float16",
        "maxModelLen": 512,
        "tensorParallel": 2,
        "blockSize": 16,
        "enforceEager": True,
        "gpuMemoryUtilization": 0.5,
        "extraArgs": ["--dtype", "float32"],
    }
    line = command(serving(engine=engine), tmp_path, None, "cuda")
    assert line[-2:] == ["--dtype", "float32"]
    text = " ".join(line)
    for part in (
        "--max-model-len 512",
        "--tensor-parallel-size 2",
        "--block-size 16",
        "--enforce-eager",
        "--gpu-memory-utilization 0.5",
    ):
        assert part in text
    assert "--no-enable-chunked-prefill" not in text
    assert "--block-size" not in command(serving(), tmp_path, None, "cuda")


def test_vllm_gets_no_storage_credentials_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("VLLM_API_KEY", "other")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0-1")
    variables = environment(serving(engine={"cpuCacheGib": 3}), tmp_path, "token", "cpu")
    assert "AWS_SECRET_ACCESS_KEY" not in variables
    assert "VLLM_API_KEY" not in variables
    assert (variables["HF_HUB_OFFLINE"], variables["DO_NOT_TRACK"], variables["PSR_GUARD_TOKEN"]) == ("1", "1", "token")
    assert (variables["VLLM_CPU_KVCACHE_SPACE"], variables["VLLM_CPU_OMP_THREADS_BIND"]) == ("3", "0-1")
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment(serving(), tmp_path, "token", "cuda")


def test_a_small_model_gets_one_thread_unless_the_environment_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(63 * 2**20)
        assert environment(serving(), tmp_path, "token", "cpu")["OMP_NUM_THREADS"] == "1"
        file.truncate(65 * 2**20)
        assert "OMP_NUM_THREADS" not in environment(serving(), tmp_path, "token", "cpu")
        file.truncate(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert environment(serving(), tmp_path, "token", "cpu")["OMP_NUM_THREADS"] == "3"


def test_sigkill_of_the_supervisor_leaves_no_process(tmp_path: Path) -> None:
    place = tmp_path / "pids"
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR, FAMILY, str(place)])
    family = wait_for_family(place)
    assert all(map(runs, family))
    supervisor.kill()
    supervisor.wait()
    wait(lambda: not any(map(runs, family)))


@pytest.mark.parametrize("manners", [["polite"], []])
def test_stop_ends_the_whole_family_even_one_that_does_not_listen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manners: list[str]
) -> None:
    monkeypatch.setattr("psr_runtime.serving.vllm_process.STOP_SECONDS", 0.5)
    place = tmp_path / "pids"
    process = VLLMProcess(
        [sys.executable, "-c", FAMILY, str(place), *manners], dict(os.environ), "http://127.0.0.1:1", "token"
    )
    family = wait_for_family(place)
    assert process.alive
    assert not process.healthy()
    process._answered = True  # so that it is asked before it is killed
    wait(lambda: "all for nothing" in process.failure_words())
    process.stop()
    assert not process.alive
    wait(lambda: not any(map(runs, family)))


def test_a_family_whose_head_was_killed_is_not_alive_and_is_cleared_away(tmp_path: Path) -> None:
    place = tmp_path / "pids"
    process = VLLMProcess([sys.executable, "-c", FAMILY, str(place)], dict(os.environ), "http://127.0.0.1:1", "token")
    head, child = wait_for_family(place)
    os.kill(head, signal.SIGKILL)
    wait(lambda: not process.alive)
    assert runs(child)
    process.stop()
    wait(lambda: not runs(child))


def wait_for_family(place: Path) -> list[int]:
    wait(place.exists)
    pids: list[int] = json.loads(place.read_text())
    return pids


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_model_source_needs_no_template_of_its_own(tmp_path: Path) -> None:
    assert "--chat-template" not in command(serving(model=ModelSource(uri="file:///m")), tmp_path, None, "cpu")
