"""What ends a server before vLLM is started: exit code and message."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoints import checkpoint, random_model, write_folder

from harness.ports import free_ports
from psr_runtime.config import ModelSource
from psr_runtime.protocol import TerminationMessage
from psr_runtime.serving import serve
from psr_runtime.serving.serve import run_server
from psr_runtime.serving.swap import obstacle
from psr_runtime.storage import file_uri


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder made elsewhere."""
    return write_folder(random_model(seed=1), tmp_path / "model")


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a server that must not come as far as vLLM; its exit code."""

    def no_engine(*_: Any) -> None:
        raise AssertionError("vLLM was started")

    monkeypatch.setattr(serve, "VLLMProcess", no_engine)

    def run(**fields: Any) -> int:
        config = {"port": free_ports(2)[0], "scratch": str(tmp_path / "scratch")} | fields
        return run_server(json.dumps(config), source="serve.json")

    return run


def test_a_port_in_use_is_named(start: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for taken in (0, 1):
        port = free_ports(2)[0]
        with socket.create_server(("127.0.0.1", port + taken)):
            assert start(model={"uri": file_uri(folder)}, port=port) == 64
        assert f"port {port + taken} on 127.0.0.1 cannot be bound" in capsys.readouterr().err


def drop_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def cut_weights(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def drop_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


@pytest.mark.parametrize(
    ("spoil", "code", "message"),
    [
        (drop_weights, 66, "no *.safetensors"),
        (cut_weights, 65, "model.safetensors: the weights cannot be read"),
        (drop_template, 65, "has no chat template; set model.chatTemplate"),
    ],
)
def test_a_broken_folder_ends_it(
    start: Any, folder: Path, capsys: pytest.CaptureFixture[str], spoil: Any, code: int, message: str
) -> None:
    spoil(folder)
    assert start(model={"uri": file_uri(folder)}) == code
    assert message in capsys.readouterr().err


def test_a_missing_model_and_wrong_fields_end_it(
    start: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PSR_TERMINATION_MESSAGE", str(tmp_path / "message"))
    assert start(model={"uri": file_uri(tmp_path / "none")}) == 66
    assert "no config.json" in capsys.readouterr().err
    message = TerminationMessage.read((tmp_path / "message").read_text())
    assert ("no config.json" in message.error, message.reason) == (True, "InputMissing")
    assert start(model={"uri": "file:///m"}, engine={"dtype": "int3"}) == 64
    assert "serve.json: engine.dtype" in capsys.readouterr().err
    assert start(model={"uri": "file:///m", "weights": "Random"}) == 64
    assert "nothing to serve" in capsys.readouterr().err


def test_a_changed_checkpoint_and_a_broken_fingerprint_end_it(
    start: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = checkpoint(tmp_path / "m1", random_model(seed=1), None)
    (tmp_path / "m1/fingerprint.json").write_text('{"dtype": "float32", "probes": []}')
    assert start(model={"uri": uri}) == 65
    assert "fingerprint.json: does not have the sha256 that the manifest says" in capsys.readouterr().err
    weights = tmp_path / "m1/master/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    assert start(model={"uri": uri}) == 65
    assert "the file was changed" in capsys.readouterr().err


def edit(name: str, **fields: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        place = folder / name
        place.write_text(json.dumps(json.loads(place.read_text()) | fields))

    return apply


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda folder: None, None),
        (edit("config.json", transformers_version="4.0", dtype="bfloat16", sliding_window=None), None),
        (edit("config.json", rms_norm_eps=1e-5), "config.json differs in rms_norm_eps"),
        (edit("generation_config.json", top_k=5, eos_token_id=[1, 2]), "differs in eos_token_id, top_k"),
        (edit("tokenizer_config.json", eos_token="<pad>"), "tokenizer_config.json differs"),
        (lambda folder: (folder / "chat_template.jinja").write_text("other"), "the chat template differs"),
        (lambda folder: (folder / "added_tokens.json").write_text("{}"), "added_tokens.json differs"),
    ],
)
def test_what_stands_in_the_way_of_a_swap(folder: Path, tmp_path: Path, change: Any, why: str | None) -> None:
    other = write_folder(random_model(seed=2), tmp_path / "other")
    change(other)
    source = ModelSource(uri="file:///m")
    reason = obstacle(folder, source, other, source)
    assert reason is None if why is None else why in (reason or "")


def test_tied_embeddings_and_another_template_stand_in_the_way(folder: Path, tmp_path: Path) -> None:
    tied = write_folder(random_model(seed=2, tied=True), tmp_path / "tied")
    source = ModelSource(uri="file:///m")
    assert "tied" in (obstacle(tied, source, tied, source) or "")
    other = ModelSource(uri="file:///m", chat_template="other")
    assert obstacle(folder, source, folder, other) == "the chat template differs"
