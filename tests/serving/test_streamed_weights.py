"""Weights that vLLM reads from the storage itself: what is checked before, how it is called, a real one on S3."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from checkpoints import publish_checkpoint, random_model, updated, write_folder

from harness.engine_server import QUICK, EngineServer
from harness.ports import free_ports
from harness.s3_server import S3Server, start_s3
from psr_runtime.artefacts.checkpoints import RemoteWeights, fetch_all_but_weights
from psr_runtime.config import ModelSource, ServeStage, StorageAccess
from psr_runtime.protocol.errors import ConfigurationError, DataError, InputMissing
from psr_runtime.serving import serve, vllm_process
from psr_runtime.serving.vllm_process import command, environment, require_streamer
from psr_runtime.storage import Storage, file_uri, join

REMOTE = RemoteWeights("s3://models/m1/serving", 70 << 20)


# --- what is fetched and checked ---------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path) -> str:
    """URI of a checkpoint on `file://`."""
    uri = file_uri(tmp_path / "stored")
    publish_checkpoint(Storage(mounts={}), uri, tmp_path / "work", random_model(seed=1), None)
    return uri


def fetch(uri: str, to: Path) -> Any:
    return fetch_all_but_weights(Storage(mounts={}), ModelSource(uri=uri), to, "serving")


def test_everything_but_the_weights_is_verified_and_the_weights_are_named(stored: str, tmp_path: Path) -> None:
    model = fetch(stored, tmp_path / "to")
    assert model.weights is not None
    assert model.weights.uri == join(stored, "serving")
    assert model.weights.size == (tmp_path / "stored/serving/model.safetensors").stat().st_size
    assert model.fingerprint is not None
    (tmp_path / "stored/serving/config.json").write_text("{}")
    with pytest.raises(DataError, match=r"config\.json: .* the file is truncated or foreign"):
        fetch(stored, tmp_path / "to")


@pytest.mark.parametrize(
    ("spoil", "kind", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), InputMissing, "model.safetensors listed by the manif"),
        (lambda folder: os.truncate(folder / "model.safetensors", 9), DataError, "model.safetensors: 9 bytes where"),
        (lambda folder: (folder / "more.safetensors").write_bytes(b"x"), DataError, "more.safetensors not listed by"),
    ],
    ids=["gone", "cut off", "foreign"],
)
def test_weights_whose_names_or_sizes_do_not_fit_are_named(
    stored: str, tmp_path: Path, spoil: Any, kind: type[Exception], message: str
) -> None:
    """A loader would take every file that it finds."""
    spoil(tmp_path / "stored/serving")
    with pytest.raises(kind, match=message):
        fetch(stored, tmp_path / "to")


def test_a_model_without_fingerprint_is_not_streamed(tmp_path: Path) -> None:
    write_folder(random_model(seed=1), tmp_path / "model")
    with pytest.raises(ConfigurationError, match=r"without fingerprint is not streamed.*engine\.weights to Download"):
        fetch(file_uri(tmp_path / "model"), tmp_path / "to")


@pytest.mark.parametrize(
    ("uri", "missing"),
    [("file:///m", "runai_model_streamer,"), ("s3://b/m", "runai_model_streamer and runai_model_streamer_s3")],
)
def test_a_missing_package_is_said_before_vllm_is_started(
    monkeypatch: pytest.MonkeyPatch, uri: str, missing: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=rf"engine\.weights: Stream needs {missing}"):
        require_streamer(uri)


# --- what is asked of vLLM ---------------------------------------------------------------------------------


def serving(**storage: Any) -> ServeStage:
    return ServeStage.model_validate({"model": {"uri": "s3://models/m1"}, "scratch": "/s", "storage": storage})


def test_only_the_weights_come_from_the_storage(tmp_path: Path) -> None:
    line = " ".join(command(serving(), tmp_path, None, "cuda", REMOTE))
    assert f"--model {REMOTE.uri} --tokenizer {tmp_path} --hf-config-path {tmp_path}" in line
    assert "--load-format runai_streamer" in line
    line = " ".join(command(serving(), tmp_path, None, "cuda", RemoteWeights(file_uri(tmp_path), 1, tmp_path)))
    assert f"--model {tmp_path} --load-format runai_streamer" in line
    assert "runai" not in " ".join(command(serving(), tmp_path, None, "cuda"))


def test_the_streamer_gets_credentials_endpoint_and_style_and_nobody_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    secrets = {"AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "token", "AWS_CA_BUNDLE": "/etc/psr-ca/ca.crt"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    variables = environment(serving(endpoint="https://s3.example"), tmp_path, "token", "cuda", REMOTE)
    assert {name: variables[name] for name in secrets} == secrets
    assert (variables["AWS_ENDPOINT_URL"], variables["AWS_REGION"]) == ("https://s3.example", "us-east-1")
    assert variables["RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING"] == "0"
    variables = environment(
        serving(region="eu-1", endpoint="https://s3.example", pathStyle=False), tmp_path, "t", "cuda", REMOTE
    )
    assert (variables["AWS_REGION"], variables["RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING"]) == ("eu-1", "1")
    variables = environment(serving(), tmp_path, "token", "cuda", REMOTE)
    assert variables["RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING"] == "1"
    assert "AWS_ENDPOINT_URL" not in variables
    for weights in (None, RemoteWeights(file_uri(tmp_path), 1, tmp_path)):
        assert not secrets.keys() & environment(serving(), tmp_path, "token", "cuda", weights).keys()


def test_the_number_of_threads_goes_by_the_weights_that_are_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert "OMP_NUM_THREADS" not in environment(serving(), tmp_path, "token", "cpu", REMOTE)
    small = RemoteWeights(REMOTE.uri, 1 << 20)
    assert environment(serving(), tmp_path, "token", "cpu", small)["OMP_NUM_THREADS"] == "1"


def test_without_the_package_the_server_ends_with_64(
    stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_engine(*_: Any) -> None:
        raise AssertionError("vLLM was started")

    monkeypatch.setattr(serve, "VLLMProcess", no_engine)
    monkeypatch.setattr(vllm_process.importlib.util, "find_spec", lambda name: None)
    config = {"model": {"uri": stored}, "engine": {"weights": "Stream"}, "port": free_ports(2)[0]}
    assert serve.run_server(json.dumps(config | {"scratch": str(tmp_path / "scratch")}), source="serve.json") == 64
    assert "engine.weights: Stream needs runai_model_streamer" in capsys.readouterr().err


# --- for real ----------------------------------------------------------------------------------------------


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with start_s3(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.mark.engine
@pytest.mark.skipif(
    importlib.util.find_spec("runai_model_streamer_s3") is None,
    reason="runai-model-streamer[s3] is not installed, so vLLM cannot stream weights here",
)
def test_a_server_streams_its_weights_from_s3_and_the_fingerprint_tells_which_came(
    s3: S3Server, tmp_path: Path
) -> None:
    """M1; then M2 whose weights somebody replaced by M1's, of the same size; then the real M2."""
    access = StorageAccess(endpoint=s3.endpoint)
    storage, bucket = Storage(access), f"s3://{s3.bucket}"
    m1 = random_model(seed=1)
    m2 = updated(m1, by=0.01, seed=2)
    digests = {
        "m1": publish_checkpoint(storage, f"{bucket}/m1", tmp_path / "m1", m1, None),
        "m2": publish_checkpoint(storage, f"{bucket}/m2", tmp_path / "m2", m2, m1),
    }
    right = storage.read(f"{bucket}/m2/serving/model.safetensors")
    with ExitStack() as stack:
        server = start(stack, access, f"{bucket}/m1", digests["m1"], tmp_path / "scratch")
        assert server.wait_ready()["change"]["kind"] == "Start"
        assert list((tmp_path / "scratch").rglob("*.safetensors")) == []

        storage.write(f"{bucket}/m2/serving/model.safetensors", storage.read(f"{bucket}/m1/serving/model.safetensors"))
        server.put_model(f"{bucket}/m2", digest=digests["m2"])
        state = server.wait_settled()
        assert (state["state"], state["served"], state["check"]["verdict"]) == ("Failed", None, "Refuses")

        storage.write(f"{bucket}/m2/serving/model.safetensors", right)
        server.put_model(f"{bucket}/m2", digest=digests["m2"])
        state = server.wait_ready()
        assert (state["change"]["kind"], state["check"]["verdict"]) == ("Restart", "Agrees")


def start(stack: ExitStack, access: StorageAccess, uri: str, digest: str, scratch: Path) -> EngineServer:
    """A server that streams the model at `uri`; it ends with the stack."""
    scratch.mkdir()
    port = free_ports(2)[0]
    engine = QUICK | {"weights": "Stream"}
    config = {
        "model": {"uri": uri},
        "engine": engine,
        "storage": access.to_json(),
        "port": port,
        "scratch": str(scratch),
    }
    log = scratch / "server.log"
    output = stack.enter_context(log.open("wb"))
    process = subprocess.Popen(
        [sys.executable, "-m", "psr_runtime", "serve"],
        env=os.environ | {"PSR_STAGE_CONFIG": json.dumps(config)},
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    stack.callback(end, process)
    return EngineServer(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port + 1}", digest, process, log)


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
