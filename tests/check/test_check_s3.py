"""The check on a real S3 server: a key that is refused, a bucket that is not there, and no trace left behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.s3_server import S3Server, start_s3
from tests.check.conftest import Planted


@pytest.fixture(scope="module")
def server(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server with the demo's inputs under `input/`."""
    with start_s3(tmp_path_factory.mktemp("s3")) as server:
        client = server.client()
        for path in demo.rglob("*.json*"):
            client.upload_file(str(path), server.bucket, f"input/{path.relative_to(demo)}")
        yield server


@pytest.fixture
def remote(planted: Planted, server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Planted:
    """The demo with everything in the bucket."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    text = json.dumps(planted.document).replace("file:///psr/", f"s3://{server.bucket}/")
    planted.document = json.loads(text)
    planted.spec["storage"] = {"uri": f"s3://{server.bucket}/runs", "endpoint": server.endpoint}
    return planted


def keys(server: S3Server) -> list[str]:
    """Every object of the bucket."""
    return [item["Key"] for item in server.client().list_objects_v2(Bucket=server.bucket)["Contents"]]


def errors(text: str) -> list[dict[str, Any]]:
    return [item for item in json.loads(text)["SelfRewardRun/demo"]["findings"] if item["severity"] == "error"]


def test_a_run_in_a_bucket_is_checked_and_nothing_stays(
    remote: Planted, server: S3Server, capsys: pytest.CaptureFixture[str]
) -> None:
    before = keys(server)
    assert remote.check() == 0
    assert f"s3://{server.bucket}/runs/default/demo: an object can be created" in capsys.readouterr().out
    assert keys(server) == before


def test_a_key_that_is_refused(
    remote: Planted, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert remote.check("--json") == 66
    told = {item["field"]: item for item in errors(capsys.readouterr().out)}
    assert {"spec.storage.uri", "spec.problems", "spec.model.uri"} <= set(told)
    assert {item["reason"] for item in told.values()} == {"InputMissing"}


def test_a_bucket_that_is_not_there(remote: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    remote.spec["storage"]["uri"] = "s3://nowhere/runs"
    assert remote.check("--json") == 66
    (told,) = errors(capsys.readouterr().out)
    assert told["field"] == "spec.storage.uri"
    assert "nowhere" in told["message"]


def test_a_server_that_does_not_answer_is_temporary(remote: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    remote.spec["storage"]["endpoint"] = "http://127.0.0.1:9"
    assert remote.check("--json") == 75
    assert {item["reason"] for item in errors(capsys.readouterr().out)} == {"Temporary"}
