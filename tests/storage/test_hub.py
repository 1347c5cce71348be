"""`hf://` against a stand-in hub: what is read, what a branch that moves does, and who is told what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from pydantic import TypeAdapter, ValidationError

from harness.hub_server import Hub, start_hub
from psr_runtime.artefacts.checkpoints import fetch_model, fetch_tokenizer
from psr_runtime.artefacts.manifest import digest_of_input, read_manifest
from psr_runtime.artefacts.pins import pinned, pinned_model
from psr_runtime.config import ModelSource, StageConfig, Uri, input_uri, method
from psr_runtime.config.results import StageResult
from psr_runtime.data.reading import read_records
from psr_runtime.data.records import SearchProblem
from psr_runtime.protocol.errors import ConfigurationError, DataError, InputMissing, Interrupted
from psr_runtime.stage import Outcome, StageContext, run_stage
from psr_runtime.stages import STAGES, Makes, Stage, register
from psr_runtime.storage import NotFound, Storage, file_uri

LINE = b'{"problem": "How much is %d + 1?"}\n'
LARGE = b"weights " * 40_000


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with start_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # as stages and servers run
        running.commit("datasets/org/sums", {"README.md": b"# Sums", "data/train.jsonl": LINE % 1, "x/y.txt": LARGE})
        yield running
        assert constants.HF_HUB_OFFLINE is True, "no library looks for models by itself"


def fetched(hub: Hub) -> list[str]:
    return [path for verb, path, _ in hub.requests if verb == "GET" and "/resolve/" in path]


# --- what is read ----------------------------------------------------------------------------------------------


def test_a_repository_is_a_folder(hub: Hub, tmp_path: Path) -> None:
    storage = Storage()
    for uri in ("hf://datasets/org/sums", "hf://datasets/org/sums@main", storage.resolve("hf://datasets/org/sums")):
        assert [item.uri for item in storage.list(uri)] == [
            f"{uri}/{name}" for name in ("README.md", "data/train.jsonl", "x/y.txt")
        ]
    assert storage.read("hf://datasets/org/sums/README.md") == b"# Sums"
    assert storage.exists("hf://datasets/org/sums/x/y.txt")
    assert not storage.exists("hf://datasets/org/sums/x")
    assert storage.sha256("hf://datasets/org/sums/x/y.txt") == hashlib.sha256(LARGE).hexdigest()
    assert fetched(hub) == [f"/datasets/org/sums/resolve/{hub.branches['datasets/org/sums']['main']}/README.md"]
    assert (
        storage.download("hf://datasets/org/sums/x/y.txt", tmp_path / "to" / "y") == hashlib.sha256(LARGE).hexdigest()
    )
    assert (tmp_path / "to" / "y").read_bytes() == LARGE
    assert [item.problem for item in read_records(storage, "hf://datasets/org/sums", SearchProblem)] == [
        "How much is 1 + 1?"
    ]


def test_a_download_that_broke_off_goes_on_where_it_ended(hub: Hub, tmp_path: Path) -> None:
    """The file that another process had begun, and one whose connection ends in the middle."""
    uri = Storage().resolve("hf://datasets/org/sums/x/y.txt")
    commit = hub.branches["datasets/org/sums"]["main"]
    (tmp_path / f"y.{commit[:12]}.psr-partial").write_bytes(LARGE[:100_000])
    Storage().download(uri, tmp_path / "y")
    assert (tmp_path / "y").read_bytes() == LARGE
    assert ("GET", f"/large/datasets/org/sums/{commit}/x/y.txt", "bytes=100000-") in hub.requests
    hub.breaks["x/y.txt"] = 100_000
    Storage().download(uri, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == LARGE
    assert {path.name for path in tmp_path.iterdir()} == {"y", "again"}


def test_what_was_begun_by_somebody_else_s_bytes_is_not_taken(hub: Hub, tmp_path: Path) -> None:
    commit = hub.branches["datasets/org/sums"]["main"]
    (tmp_path / f"y.{commit[:12]}.psr-partial").write_bytes(b"x" * 10)
    with pytest.raises(DataError, match="has not the sha256 that the hub names"):
        Storage().download("hf://datasets/org/sums/x/y.txt", tmp_path / "y")
    assert list(tmp_path.iterdir()) == []
    Storage().download("hf://datasets/org/sums/x/y.txt", tmp_path / "y")


def test_a_model_is_fetched_without_what_it_does_not_need(hub: Hub, tmp_path: Path) -> None:
    from tests.records.test_preferences_as_text import tokenizer

    tokenizer(tmp_path / "made", [])
    files = {path.name: path.read_bytes() for path in (tmp_path / "made").iterdir()}
    files |= {
        "config.json": b"{}",
        "pytorch_model.bin": LARGE,
        "original/consolidated.pth": LARGE,
        ".gitattributes": b"",
    }
    commit = hub.commit("models/org/base", files)
    source = ModelSource(uri="hf://org/base", weights="Random")
    model = fetch_model(Storage(), source, tmp_path / "to", "training")
    assert {path.name for path in model.folder.iterdir()} == {*files} - {
        "pytorch_model.bin",
        "original/consolidated.pth",
        ".gitattributes",
    }
    assert model.digest == digest_of_input(Storage(), f"hf://org/base@{commit}"), "client and server name one model"
    assert fetch_tokenizer(Storage(), source, tmp_path / "scratch").inner.chat_template


# --- a branch that moves ---------------------------------------------------------------------------------------


def test_the_digest_is_that_of_the_commit_and_costs_no_bytes(hub: Hub) -> None:
    uri = "hf://datasets/org/sums@main"
    first = digest_of_input(Storage(), uri)
    assert first == digest_of_input(Storage(), Storage().resolve(uri))
    assert first != digest_of_input(Storage(), f"{uri}/data")
    assert fetched(hub) == []
    hub.commit("datasets/org/sums", {"data/train.jsonl": LINE % 2})
    assert digest_of_input(Storage(), uri) != first


def test_a_commit_needs_no_hub_to_be_named(hub: Hub) -> None:
    uri = Storage().resolve("hf://datasets/org/sums")
    hub.status = 503
    assert Storage().resolve(uri) == uri
    assert digest_of_input(Storage(), uri).startswith("sha256:")


def test_the_first_one_who_asks_says_which_commit_it_is(hub: Hub, tmp_path: Path) -> None:
    """For all below one storage prefix; another piece of work takes the present one."""
    storage, prefix, uri = Storage(), file_uri(tmp_path / "run"), "hf://datasets/org/sums@main"
    first = pinned(storage, uri, prefix)
    hub.commit("datasets/org/sums", {"data/train.jsonl": LINE % 2})
    assert pinned(Storage(), uri, prefix) == first
    assert pinned(Storage(), uri, file_uri(tmp_path / "other")) == Storage().resolve(uri) != first
    assert pinned(storage, file_uri(tmp_path), prefix) == file_uri(tmp_path)
    model = ModelSource(uri=uri, chat_template="t")
    assert pinned_model(storage, model, prefix) == ModelSource(uri=first, chat_template="t")
    assert pinned_model(storage, model, None) == model, "nobody says where to record it"
    (record,) = (tmp_path / "run" / "versions").iterdir()
    record.write_text("{}")
    with pytest.raises(DataError, match="no record of a version"):
        pinned(storage, uri, prefix)


class CopyStage(StageConfig):
    problems: Uri = input_uri(description="Problems.")
    model: ModelSource = method(description="Model.")


def copy_problems(config: CopyStage, context: StageContext) -> Outcome:
    (context.scratch / "out").mkdir()
    lines = [item.problem for item in read_records(context.storage, config.problems, SearchProblem)]
    (context.scratch / "out" / "lines").write_text("\n".join(lines))
    return Outcome(context.scratch / "out")


@pytest.fixture
def copy_stage() -> Iterator[None]:
    register(Stage("copy", "copy", CopyStage, StageResult, Makes.EVALUATION, copy_problems))
    yield
    STAGES.pop("copy")


@pytest.mark.usefixtures("copy_stage")
def test_a_run_that_has_begun_goes_on_with_its_commit(hub: Hub, tmp_path: Path) -> None:
    """A later stage of the run, and the first one again, see what the first one saw; another run does not."""
    model = {"uri": "hf://datasets/org/sums/README.md"}

    def run(name: str, output: str) -> tuple[int, str]:
        prefix = tmp_path / name
        owner = {"uri": file_uri(prefix), "uid": name, "name": f"default/{name}"}
        about = {"problems": "hf://datasets/org/sums@main", "model": model, "owner": owner}
        code = run_stage("copy", json.dumps({"output": file_uri(prefix / output), **about}))
        return code, (prefix / output / "lines").read_text()

    assert run("first", "a") == (0, "How much is 1 + 1?")
    manifest = read_manifest(Storage(), file_uri(tmp_path / "first" / "a"))
    assert manifest is not None
    commit = hub.branches["datasets/org/sums"]["main"]
    assert manifest.inputs["problems"].uri == f"hf://datasets/org/sums@{commit}"
    assert manifest.inputs["model.uri"].uri == f"hf://datasets/org/sums@{commit}/README.md"
    hub.commit("datasets/org/sums", {"README.md": b"", "data/train.jsonl": LINE % 2})
    assert run("first", "b") == (0, "How much is 1 + 1?")
    assert run("first", "a") == (0, "How much is 1 + 1?"), "its digest is the same"
    assert run("second", "a") == (0, "How much is 2 + 1?")
    hub.status = 503
    assert run("first", "a") == (0, "How much is 1 + 1?"), "nothing is asked of the hub for what is there"


@pytest.mark.usefixtures("copy_stage")
def test_without_a_hub_in_the_manifest_nothing_reaches_one(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "problems.jsonl").write_bytes(LINE % 5)
    place = file_uri(tmp_path / "problems.jsonl")
    config = {"output": file_uri(tmp_path / "out"), "problems": place, "model": {"uri": place}}
    assert run_stage("copy", json.dumps(config)) == 0
    assert hub.requests == []
    assert not (tmp_path / "out" / "versions").exists()


# --- who is told what ------------------------------------------------------------------------------------------


def test_the_token_is_that_of_the_environment_and_is_never_told(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.token = "hf_a-secret-of-mine"
    monkeypatch.setenv("HF_TOKEN", "hf_a-wrong-secret")
    with pytest.raises(InputMissing, match="hf://datasets/org/sums@main: the hub wants") as refused:
        Storage().list("hf://datasets/org/sums")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert Storage().read("hf://datasets/org/sums/README.md") == b"# Sums"
    assert Storage().read("hf://datasets/org/sums/x/y.txt") == LARGE
    assert [header for path, header in hub.shown if path.startswith("/large/")] == [None], "another host"
    told = str(refused.value) + caplog.text + "".join(capfd.readouterr())
    assert "secret" not in told


@pytest.mark.parametrize(
    ("uri", "kind", "message"),
    [
        ("hf://datasets/org/none", InputMissing, "no such repository, or one that HF_TOKEN may not see"),
        ("hf://org/sums", InputMissing, "no such repository"),
        ("hf://datasets/org/sums@gone", InputMissing, "no such revision; check what follows @"),
        ("hf://datasets/org/sums/none.txt", NotFound, "no such file at commit"),
        ("hf://sums", ConfigurationError, "write hf://org/name@revision"),
    ],
)
def test_what_is_not_there_is_named(hub: Hub, uri: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Storage().read(uri)


def test_a_hub_that_is_away_is_temporary(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.status = 500
    with pytest.raises(Interrupted, match="the hub answers 500; try again later"):
        Storage().resolve("hf://datasets/org/sums")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Interrupted, match="the hub cannot be reached"):
        Storage().resolve("hf://datasets/org/sums")


def test_nothing_is_written_to_a_hub(hub: Hub) -> None:
    storage = Storage()
    for write in (
        lambda: storage.write("hf://org/base/x", b""),
        lambda: storage.create("hf://org/base/x", b""),
        lambda: storage.delete("hf://org/base/x"),
    ):
        with pytest.raises(ConfigurationError, match="a hub is only read from"):
            write()


@pytest.mark.parametrize(
    ("uri", "right"),
    [
        ("hf://Qwen/Qwen2.5-Math-1.5B", True),
        ("hf://Qwen/Qwen2.5-Math-1.5B@main", True),
        ("hf://datasets/openai/gsm8k@refs%2Fconvert%2Fparquet/main", True),
        ("hf://Qwen", False),
        ("hf://Qwen/", False),
        ("hf://a/b@", False),
    ],
)
def test_which_uris_a_manifest_may_have(uri: str, right: bool) -> None:
    try:
        TypeAdapter(Uri).validate_python(uri)
    except ValidationError:
        assert not right
    else:
        assert right
