"""The stage contract: idempotent by digest, manifest last, one result, an exit code for each end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from echo_stage import Ended, contents

from psr_runtime import stage
from psr_runtime.artefacts.differences import BEGUN, OtherConfiguration
from psr_runtime.artefacts.fetching import fetch
from psr_runtime.artefacts.manifest import MANIFEST, read_manifest
from psr_runtime.config import StageConfig
from psr_runtime.config.results import StageResult
from psr_runtime.protocol import RESULT_BYTES
from psr_runtime.protocol.errors import DataError
from psr_runtime.stage import Outcome, StageContext
from psr_runtime.storage import Storage, file_uri

Run = Callable[..., Ended]
Config = dict[str, Any]


def test_a_stage_makes_one_artefact_and_leaves_one_result(run: Run, config: Config, tmp_path: Path) -> None:
    ended = run(config)
    assert ended.result == ended.message
    manifest = read_manifest(Storage(), config["output"])
    assert manifest is not None
    assert ended.result == {"output": config["output"], "digest": manifest.identity, "lines": 3}
    assert manifest.inputs["source"].uri == config["source"]
    assert manifest.metadata == {"text": "hello"}
    assert manifest.configuration["count"] == 3
    assert manifest.versions["python"]
    assert sorted(contents(tmp_path / "out")) == ["empty", MANIFEST, "parts/lines.jsonl", "timings.json"]


def test_asked_again_it_gives_the_same_result_and_does_nothing(
    run: Run, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(config)
    before = contents(tmp_path / "out")
    monkeypatch.setattr("echo_stage.run", None)
    again = run(config, slow=True, storage={"region": "elsewhere"})
    assert (again.code, again.out, again.message) == (0, first.out, first.message)
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"text": "goodbye"}, "text is goodbye, was hello"),
        ({"count": 4, "text": "x" * 90}, f"text is {'x' * 80}…, was hello, count is 4, was 3"),
        ({"source": "other.txt"}, "source is {other}, was {source}"),
    ],
)
def test_another_digest_at_the_output_is_refused(
    run: Run, config: Config, tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    run(config)
    before = contents(tmp_path / "out")
    published = json.loads((tmp_path / "out" / MANIFEST).read_bytes())["digest"]
    if "source" in changed:
        (tmp_path / "other.txt").write_text("moon")
        changed = {"source": file_uri(tmp_path / "other.txt")}
    named = named.format(other=file_uri(tmp_path / "other.txt"), source=config["source"])
    ended = run(config, **changed)
    assert ended.code == 65
    assert f"holds the result of another configuration: {named}; give the object another name" in ended.err
    assert published not in ended.err, "names, not digests"
    assert ended.message["error"] in ended.err
    assert contents(tmp_path / "out") == before
    assert run(config | changed, output=file_uri(tmp_path / "elsewhere")).code == 0
    assert json.loads((tmp_path / "elsewhere" / MANIFEST).read_bytes())["digest"] != published


def test_an_input_whose_content_has_changed_is_named(run: Run, config: Config, tmp_path: Path) -> None:
    run(config)
    (tmp_path / "source.txt").write_text("sun")
    ended = run(config)
    assert ended.code == 65
    assert f"another configuration: the content of source ({config['source']}) has changed; give" in ended.err


def test_a_result_of_another_version_of_the_stage_says_so(run: Run, config: Config, tmp_path: Path) -> None:
    """And one of which no configuration is known is told by its digest."""
    run(config)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_bytes()) | {"digest": "sha256:foreign"}
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(manifest | {"schema_version": 0}))
    assert "a version of PSR that computes it otherwise made it (schema 1, was 0)" in run(config).err
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(manifest | {"configuration": {}}))
    assert "another configuration (sha256:foreign, this one is sha256:" in run(config).err


def test_half_done_work_says_what_it_was_begun_with(run: Run, config: Config, tmp_path: Path) -> None:
    """A stage that cannot go on from another configuration's log raises; what differs is named from `begun.json`."""
    note = tmp_path / "out" / BEGUN

    def refuse(_: StageConfig, context: StageContext) -> Outcome:
        (tmp_path / "out" / "log").mkdir(exist_ok=True)
        (tmp_path / "out" / "log" / "half-done").touch()
        first = "sha256:" + "0" * 64 if note.read_text() == "{" else json.loads(note.read_text())["digest"]
        raise OtherConfiguration(f"{config['output']}/log", first, context.digest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("echo_stage.run", refuse)
        assert "sha256:" in run(config).err, "its own configuration"
        ended = run(config, text="goodbye", count=4, storage={"region": "elsewhere"})
        assert ended.code == 65
        assert (
            "/log: holds the result of another configuration: text is goodbye, was hello, count is 4, was 3; "
            in ended.err
        )
        assert json.loads(note.read_text())["configuration"]["text"] == "hello", "the first one's note stands"
        note.write_text("{")
        assert "log: holds the result of another configuration (sha256:" in run(config, text="goodbye").err
    assert run(config).code == 0
    assert not note.exists()


def test_a_manifest_of_another_stage_is_refused(run: Run, config: Config, tmp_path: Path) -> None:
    run(config)
    manifest = json.loads((tmp_path / "out" / MANIFEST).read_bytes())
    (tmp_path / "out" / MANIFEST).write_text(json.dumps(manifest | {"stage": "sft", "digest": "sha256:foreign"}))
    ended = run(config)
    assert (ended.code, "sha256:foreign" in ended.err) == (65, True)


@pytest.mark.parametrize("content", [b"", b'{"stage":', b'{"stage": "echo"}', b"\xff"])
def test_a_broken_manifest_at_the_output_is_named(run: Run, config: Config, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / MANIFEST).write_bytes(content)
    ended = run(config)
    assert (ended.code, f"{config['output']}/{MANIFEST}: " in ended.err) == (65, True)
    assert (tmp_path / "out" / MANIFEST).read_bytes() == content


def test_a_missing_input_is_named(run: Run, config: Config, tmp_path: Path) -> None:
    ended = run(config, source=file_uri(tmp_path / "gone.txt"))
    assert ended.code == 66
    assert f"{file_uri(tmp_path / 'gone.txt')}: nothing is there" in ended.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("change", "fault"), [(b"x", "truncated"), (None, "changed")], ids=["truncated", "changed"])
def test_a_damaged_artefact_is_named(
    run: Run, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: bytes | None, fault: str
) -> None:
    """The next stage fetches what this one made."""
    run(config)
    damaged = tmp_path / "out/parts/lines.jsonl"
    damaged.write_bytes(change or damaged.read_bytes().replace(b"world", b"WORLD"))

    def next_stage(config: Any, context: stage.StageContext) -> Outcome:
        return Outcome(fetch(context.storage, config.source, context.scratch))

    monkeypatch.setattr("echo_stage.run", next_stage)
    ended = run(config, source=config["output"], output=file_uri(tmp_path / "next"))
    assert ended.code == 65
    assert file_uri(damaged) in ended.err
    assert fault in ended.err
    assert not (tmp_path / "next").exists()


# --- configuration -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"count": "three"}, ["count: Input should be a valid integer"]),
        ({"count": 0}, ["count: Input should be greater than or equal to 1"]),
        ({"cuont": 3}, ["cuont: Extra inputs are not permitted"]),
        ({"output": "file://host/x"}, ["output: String should match pattern"]),
        ({"storage": {"endpoint": "host:9000"}}, ["storage.endpoint: String should match"]),
        ({"owner": {"uid": "1"}}, ["owner.uri: Field required", "owner.name: Field required"]),
        ({"count": -1, "text": 5, "more": None}, ["count: ", "text: ", "more: "]),
    ],
)
def test_every_wrong_field_is_named(run: Run, config: Config, changed: dict[str, Any], names: list[str]) -> None:
    ended = run(config, **changed)
    assert ended.code == 64
    assert all(name in ended.err for name in names), ended.err
    assert ended.err.startswith("echo: PSR_STAGE_CONFIG: ")


def test_a_scheme_that_nobody_brings_is_refused_with_the_names_that_are_there(run: Run, config: Config) -> None:
    for changed in ({"output": "gs://bucket/x"}, {"source": "gs://bucket/x"}):
        ended = run(config, **changed)
        assert (ended.code, ended.message["reason"]) == (64, "ConfigurationError")
        assert "gs://bucket/x: URI scheme: nobody brings 'gs'; there are file, hf, s3" in ended.err
    assert "; did you mean file?" in run(config, output="fil:///x").err


def test_what_is_no_json_is_refused(run: Run) -> None:
    ended = run("{'output': 1}")
    assert (ended.code, "the document: Invalid JSON" in ended.err) == (64, True)


@pytest.mark.parametrize("name", ["sft", "search", "merge", "step-dpo", "evaluate", "report", "prune"])
def test_every_stage_checks_its_configuration_first(run: Run, name: str) -> None:
    ended = run({"output": "file:///nowhere/out", "training": {"epochs": 0}}, name=name)
    assert ended.code == 64
    assert "training" in ended.err
    assert "Field required" in ended.err


# --- ownership of a prefix ---------------------------------------------------------------------------------


def test_the_first_owner_of_a_prefix_keeps_it(run: Run, config: Config, tmp_path: Path) -> None:
    owner = {"uri": file_uri(tmp_path), "uid": "uid-1", "name": "lab/first"}
    assert run(config, owner=owner).code == 0
    assert run(config, owner=owner | {"name": "renamed"}).code == 0
    before = contents(tmp_path / "out")
    ended = run(config, owner=owner | {"uid": "uid-2", "name": "lab/second"})
    assert ended.code == 65
    assert ended.message["reason"] == "StorageInUse"
    assert "lab/first (uid uid-1)" in ended.err
    assert contents(tmp_path / "out") == before
    assert json.loads((tmp_path / "owner.json").read_text()) == {"uid": "uid-1", "name": "lab/first"}


def test_an_output_in_somebody_elses_prefix_is_refused(run: Run, config: Config, tmp_path: Path) -> None:
    """A claim of one's own elsewhere does not help: `output` may be named by hand."""
    theirs = {"uri": file_uri(tmp_path / "theirs"), "uid": "uid-1", "name": "lab/first"}
    mine = {"uri": file_uri(tmp_path / "mine"), "uid": "uid-2", "name": "other/second"}
    place = file_uri(tmp_path / "theirs" / "m1" / "deeper")
    assert run(config, owner=theirs, output=place).code == 0
    before = contents(tmp_path / "theirs")
    for output in (place, file_uri(tmp_path / "theirs" / "m2"), file_uri(tmp_path / "theirs")):
        ended = run(config, owner=mine, output=output)
        assert ended.code == 65
        assert ended.message["reason"] == "StorageInUse"
        assert "lab/first (uid uid-1)" in ended.err
    assert contents(tmp_path / "theirs") == before
    assert run(config, owner=mine, output=file_uri(tmp_path / "nobodys")).code == 0


@pytest.mark.parametrize("content", ["", "[]", '{"uid": "uid-1"}', "null"])
def test_a_broken_claim_is_named(run: Run, config: Config, tmp_path: Path, content: str) -> None:
    (tmp_path / "owner.json").write_text(content)
    ended = run(config, owner={"uri": file_uri(tmp_path), "uid": "uid-1", "name": "lab/first"})
    assert (ended.code, "owner.json: not a JSON object with uid and name" in ended.err) == (65, True)


# --- the result --------------------------------------------------------------------------------------------


class Numbers(StageResult):
    numbers: list[float]


def test_a_result_that_is_too_large_is_not_published(
    run: Run, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_it(_: Any, context: stage.StageContext) -> Outcome:
        (context.scratch / "folder").mkdir()
        return Outcome(context.scratch / "folder", result=Numbers(numbers=[0.5] * 1000))

    monkeypatch.setattr("echo_stage.run", run_it)
    ended = run(config)
    assert (ended.code, "stage echo: the result is over 2048 bytes" in ended.err) == (1, True)
    assert not (tmp_path / "out" / MANIFEST).exists()


@pytest.mark.parametrize("letter", ["x", "é", "\N{GRINNING FACE}", '"'])
def test_a_long_error_fits_the_termination_message(
    run: Run, config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, letter: str
) -> None:
    def fail(*_: Any) -> Outcome:
        raise DataError(letter * 5000)

    monkeypatch.setattr("echo_stage.run", fail)
    ended = run(config)
    assert ended.code == 65
    assert ended.message["error"].startswith(letter * 50)
    assert RESULT_BYTES // 2 < (tmp_path / "termination").stat().st_size <= RESULT_BYTES


def test_only_rank_0_leaves_a_message(
    run: Run, config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(FileNotFoundError, match="termination"):
        run(config)


def test_a_message_that_cannot_be_written_changes_no_exit_code(
    run: Run, config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PSR_TERMINATION_MESSAGE", str(tmp_path / "no/such/folder"))
    assert stage.run_stage("echo", json.dumps(config)) == 0
    assert "cannot write" in capsys.readouterr().err


def test_an_unexpected_error_is_an_infrastructure_failure(
    run: Run, config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any) -> Outcome:
        raise RuntimeError("a surprise")

    monkeypatch.setattr("echo_stage.run", fail)
    ended = run(config)
    assert ended.code == 1
    assert ended.message == {"error": "RuntimeError: a surprise"}
    assert "Traceback" in ended.err
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_scratch_folder_that_is_not_there_is_named(
    run: Run, config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PSR_SCRATCH", str(tmp_path / "missing"))
    ended = run(config)
    assert (ended.code, f"PSR_SCRATCH {tmp_path}/missing: No such file" in ended.err) == (64, True)
