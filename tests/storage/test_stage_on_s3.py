"""A whole small stage whose input, log, claim and artefact lie on S3."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.s3_server import S3Server
from psr_runtime import stage
from psr_runtime.artefacts.journal import Journal
from psr_runtime.config import StageConfig, Uri, input_uri, method
from psr_runtime.config.results import StageResult
from psr_runtime.protocol.errors import Interrupted
from psr_runtime.stage import Outcome, StageContext
from psr_runtime.stages import STAGES, Makes, Stage
from psr_runtime.storage import Storage, join, name_below


class CountStage(StageConfig):
    source: Uri = input_uri()
    count: int = method(4)


class CountResult(StageResult):
    records: int = 0


INTERRUPT_AT: list[int] = []


def run(config: CountStage, context: StageContext) -> Outcome:
    """Log a record a number; be interrupted once before each number in `INTERRUPT_AT`."""
    text = context.storage.read(config.source).decode()

    async def work() -> list[dict[str, Any]]:
        with Journal(context.storage, join(config.output, "log")) as journal:
            records = journal.replay()
            for number in range(len(records), config.count):
                if number in INTERRUPT_AT:
                    INTERRUPT_AT.remove(number)
                    raise Interrupted("stopped in the middle")
                await journal.append({"n": number, "text": text})
            return journal.replay()

    records = context.run_async(work())
    folder = context.scratch / "folder"
    folder.mkdir()
    (folder / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return Outcome(folder, result=CountResult(records=len(records)))


@pytest.fixture
def config(storage: Storage, s3: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    count = Stage("count", "count", CountStage, CountResult, Makes.REPORT, run, working=("log",))
    monkeypatch.setitem(STAGES, count.name, count)
    storage.write(join(prefix, "source.txt"), b"one")
    return {
        "output": join(prefix, "out"),
        "source": join(prefix, "source.txt"),
        "storage": {"endpoint": s3.endpoint},
        "owner": {"uri": prefix, "uid": "uid-1", "name": "lab/run"},
    }


def everything(s3: S3Server, prefix: str) -> dict[str, str]:
    """Names and entity tags below a prefix, seen by a plain client."""
    listed = s3.client().list_objects_v2(Bucket=s3.bucket, Prefix=prefix.removeprefix(f"s3://{s3.bucket}/"))
    return {name_below(prefix, f"s3://{s3.bucket}/{item['Key']}"): item["ETag"] for item in listed["Contents"]}


def test_a_stage_that_is_interrupted_twice(
    s3: S3Server, storage: Storage, prefix: str, config: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    INTERRUPT_AT[:] = [1, 3]
    codes = [stage.run_stage("count", json.dumps(config)) for _ in range(3)]
    assert codes == [75, 75, 0]
    first = capsys.readouterr().out
    before = everything(s3, prefix)
    assert sorted(before) == [
        "out/manifest.json",
        "out/records.jsonl",
        "out/timings.json",
        "owner.json",
        "source.txt",
    ]
    lines = storage.read(join(prefix, "out/records.jsonl")).decode().splitlines()
    assert [json.loads(line)["n"] for line in lines] == [0, 1, 2, 3]

    assert stage.run_stage("count", json.dumps(config)) == 0
    assert capsys.readouterr().out == first
    assert stage.run_stage("count", json.dumps(config | {"count": 5})) == 65
    assert stage.run_stage("count", json.dumps(config | {"owner": config["owner"] | {"uid": "uid-2"}})) == 65
    assert everything(s3, prefix) == before


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"output": "s3://no-such-bucket/out"}, "s3://no-such-bucket/out/manifest.json: no such bucket"),
        ({"source": "s3://psr/no-such-input"}, "s3://psr/no-such-input: nothing is there"),
    ],
)
def test_what_is_missing_is_said_before_any_work(
    config: dict[str, Any], capsys: pytest.CaptureFixture[str], changed: dict[str, str], message: str
) -> None:
    INTERRUPT_AT[:] = [0]
    assert stage.run_stage("count", json.dumps(config | changed)) == 66
    assert message in capsys.readouterr().err
    assert INTERRUPT_AT == [0]


def test_wrong_credentials_are_said_before_any_work(
    s3: S3Server, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-hidden")
    assert stage.run_stage("count", json.dumps(config)) == 66
    error = capsys.readouterr().err
    assert "owner.json: S3 refused the credentials (SignatureDoesNotMatch)" in error
    assert "wrong-and-hidden" not in error
