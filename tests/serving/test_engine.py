"""The server with a real vLLM behind it. The tests run in order: each says which model it leaves behind."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from checkpoints import Checkpoints

from harness.engine_server import EngineServer, launch_server
from psr_runtime.artefacts.fingerprint import Check, Fingerprint, compare, noise_of
from psr_runtime.storage import Storage, join

pytestmark = pytest.mark.engine

PROMPT = [5, 17, 42, 8, 61, 23]


def complete(server: EngineServer, **fields: Any) -> httpx.Response:
    """A completion request that leaves every sampling field but the given ones to the server's defaults."""
    body = {"model": "psr", "prompt": PROMPT, "max_tokens": 24, "return_token_ids": True} | fields
    return httpx.post(f"{server.url}/v1/completions", json=body, headers=server.headers, timeout=60)


def greedy_ids(server: EngineServer) -> list[int]:
    answer = complete(server, temperature=0, ignore_eos=True)
    assert answer.status_code == 200, answer.text
    ids: list[int] = answer.json()["choices"][0]["token_ids"]
    return ids


def supervisor_headers(server: EngineServer) -> dict[str, str]:
    """The headers of the supervisor itself; its token stands in the environment of the vLLM process."""
    environment = Path(f"/proc/{server.state()['pid']}/environ").read_bytes().decode().split("\0")
    token = next(entry.partition("=")[2] for entry in environment if entry.startswith("PSR_GUARD_TOKEN="))
    return server.bearer | {"X-PSR-Token": token}


def reload_weights(server: EngineServer, uri: str) -> None:
    """Exchange weights behind the supervisor's back."""
    folder = Storage().local_path(join(uri, "master"))
    body = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
    answer = httpx.post(f"{server.url}/collective_rpc", json=body, headers=supervisor_headers(server), timeout=60)
    assert answer.status_code == 200, answer.text


def check_against(server: EngineServer, uri: str) -> Check:
    """What the fingerprint of the checkpoint at `uri` says about the weights that are loaded now."""
    mark = Fingerprint.model_validate_json(Storage().read(join(uri, "fingerprint.json")))
    prompts = [probe.ids for probe in mark.probes]
    answer = complete(server, prompt=prompts, max_tokens=1, prompt_logprobs=0)
    rows = [choice["prompt_logprobs"] for choice in answer.json()["choices"]]
    measured = [
        [at[str(token)]["logprob"] for token, at in zip(ids[1:], row[1:], strict=True)]
        for ids, row in zip(prompts, rows, strict=True)
    ]
    return compare(mark, measured, noise_of("float32"))


def test_sigkill_of_the_supervisor_leaves_no_vllm(published: Checkpoints, tmp_path: Path) -> None:
    """Killed as soon as vLLM has a second process: that one would go on without the leash."""
    server = launch_server(published.m1, tmp_path)
    end = time.monotonic() + 300
    while not any("EngineCore" in name for name in below(server.process.pid).values()):
        assert time.monotonic() < end, server.tail()
        assert server.process.poll() is None, server.tail()
        time.sleep(0.1)
    family = below(server.process.pid)
    assert len(family) >= 3
    server.process.kill()
    server.process.wait()
    while any(Path(f"/proc/{pid}").exists() and state_of(pid) != "Z" for pid in family):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_who_is_let_in(server: EngineServer) -> None:
    """Leaves M1."""
    ask: dict[str, Any] = {"model": "psr", "prompt": PROMPT, "max_tokens": 1}
    digest = {"X-PSR-Model-Digest": server.digest}
    table = [
        ("GET", "/health", {}, 200),
        ("POST", "/v1/completions", server.headers, 200),
        ("POST", "/v1/completions", digest, 401),
        ("POST", "/v1/completions", digest | {"Authorization": "Bearer wrong"}, 401),
        ("POST", "/v1/completions", server.bearer, 409),
        ("POST", "/v1/completions", server.bearer | {"X-PSR-Model-Digest": "sha256:other"}, 409),
        ("GET", "/metrics", server.bearer, 200),
        ("GET", "/metrics", {}, 401),
        ("POST", "/collective_rpc", server.headers, 403),
        ("POST", "/pause", server.headers | {"X-PSR-Token": "guess"}, 403),
        ("POST", "/reset_prefix_cache", server.headers, 403),
        ("GET", "/docs", server.headers, 403),
    ]
    for verb, path, headers, status in table:
        answer = httpx.request(verb, server.url + path, headers=headers, json=ask if verb == "POST" else None)
        assert answer.status_code == status, f"{verb} {path} {headers}: {answer.status_code} {answer.text}"
    refused = httpx.post(f"{server.url}/v1/completions", headers=server.bearer | {"X-PSR-Model-Digest": "x"}, json=ask)
    assert refused.json() | {"error": ""} == {"error": "", "served": server.digest, "asked": "x"}
    assert httpx.get(f"{server.control_url}/psr/state").status_code == 401


def test_seeded_requests_of_many_prompts_at_once_are_answered(server: EngineServer) -> None:
    """More prompt tokens than one batch holds: cut into chunks they would end vLLM on CPU. Leaves M1."""
    prompts = [[3 + (row * 7 + at) % 90 for at in range(200)] for row in range(40)]
    answer = complete(server, prompt=prompts, max_tokens=2, seed=7, temperature=1.0)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["choices"]) == 40


def test_weights_are_exchanged_in_place(server: EngineServer, published: Checkpoints) -> None:
    """M1 to M2. Leaves M2."""
    m1, before = server.digest, greedy_ids(server)
    state = server.state()
    assert (state["change"]["kind"], state["check"]["verdict"]) == ("Start", "Inconclusive")  # M1 has no parent
    server.put_model(published.m2)
    state = server.wait_ready()
    assert (state["change"]["kind"], state["check"]["verdict"]) == ("Swap", "Agrees")
    assert state["check"]["to_new"] < noise_of("float32") < 0.1 * state["check"]["to_parent"]
    assert greedy_ids(server) != before
    assert not server.ready(m1)
    answer = httpx.post(
        f"{server.url}/v1/completions",
        json={"model": "psr", "prompt": PROMPT},
        headers=server.bearer | {"X-PSR-Model-Digest": m1},
    )
    assert answer.status_code == 409


def test_the_fingerprint_refuses_a_swap_that_left_the_parent_in_place(
    server: EngineServer, published: Checkpoints
) -> None:
    """Leaves M2."""
    assert check_against(server, published.m2).verdict == "Agrees"
    reload_weights(server, published.m1)
    assert check_against(server, published.m2).verdict == "Refuses"
    reload_weights(server, published.m2)
    assert check_against(server, published.m2).verdict == "Agrees"
    assert check_against(server, published.small).verdict == "Inconclusive"


def test_sampling_defaults_of_the_folder_change_nothing(server: EngineServer, published: Checkpoints) -> None:
    """The weights of M2 with a repetition penalty beside them. Another generation_config is a restart. Leaves warm."""
    before = greedy_ids(server)
    assert len(set(before)) < len(before)  # a penalty would change this answer
    assert greedy_ids(server) == before
    penalised = complete(server, temperature=0, ignore_eos=True, repetition_penalty=1.5).json()
    assert penalised["choices"][0]["token_ids"] != before
    server.put_model(published.warm)
    state = server.wait_ready()
    assert state["change"]["kind"] == "Restart"
    assert "generation_config.json differs in" in state["change"]["why"]
    assert greedy_ids(server) == before
    sampled = complete(server, max_tokens=60, ignore_eos=True, seed=1).json()["choices"][0]["token_ids"]
    coldest = complete(server, max_tokens=60, ignore_eos=True, seed=1, top_k=1).json()["choices"][0]["token_ids"]
    assert sampled != coldest  # top_k 1 of the folder is not in force


def test_other_weights_under_the_right_name_are_refused(server: EngineServer, published: Checkpoints) -> None:
    """Manifest, sizes and sha256 are consistent; only the answers tell. Leaves nothing served."""
    server.put_model(published.liar)
    state = server.wait_settled()
    assert (state["state"], state["served"], state["check"]["verdict"]) == ("Failed", None, "Refuses")
    assert "nats a token from the model" in state["message"]
    assert not server.ready()


def test_tied_embeddings_are_never_exchanged_in_place_and_would_be_noticed(
    server: EngineServer, published: Checkpoints
) -> None:
    """Leaves a server that is starting."""
    server.put_model(published.tied)
    server.wait_ready()
    reload_weights(server, published.tied_update)
    check = check_against(server, published.tied_update)
    assert check.verdict == "Refuses"
    assert check.to_parent is not None
    assert check.to_new < check.to_parent  # near enough to be taken for it if only the parent were compared
    server.put_model(published.tied_update)
    end = time.monotonic() + 60
    while (state := server.state())["state"] == "Fetching":
        assert time.monotonic() < end, state
        time.sleep(0.01)
    assert state["state"] == "Starting"  # a restart, and no exchange before it
    assert "the embeddings are tied" in state["message"]


def below(pid: int) -> dict[int, str]:
    """Processes below a process: command line by pid."""
    processes = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rsplit(")", 1)[1].split()[1])
            name = (place / "cmdline").read_text().replace("\0", " ")
        except (OSError, ValueError):
            continue
        if parent == pid:
            processes |= {int(place.name): name} | below(int(place.name))
    return processes


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return "Z"
