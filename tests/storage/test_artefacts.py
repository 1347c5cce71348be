"""Artefacts: published once, manifest last, verified when fetched."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from psr_runtime.artefacts.fetching import fetch
from psr_runtime.artefacts.manifest import MANIFEST, InputEntry, Manifest, digest_of_input, read_manifest
from psr_runtime.artefacts.publishing import publish
from psr_runtime.protocol.errors import DataError, InputMissing
from psr_runtime.storage import NotFound, Storage, file_uri, join, name_below

Place = tuple[Storage, str]

FILES = {"weights/part 1.bin": b"\0\1" * 5000, "weights/empty": b"", "config.json": b"{}"}


def make(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def publish_it(storage: Storage, uri: str, folder: Path, **changed: Any) -> Manifest:
    facts = {
        "stage": "sft",
        "schema_version": 1,
        "digest": "sha256:1",
        "inputs": {"model": InputEntry(uri="file:///model", digest="sha256:0")},
        "configuration": {"seed": 0},
        "versions": {"psr": "1"},
        "metadata": {"layout": {"serving": "weights"}},
        "result": {"loss": 0.25},
    }
    return publish(storage, uri, folder, **(facts | changed))


def test_what_is_published_is_fetched(place: Place, tmp_path: Path) -> None:
    storage, uri = place
    manifest = publish_it(storage, uri, make(tmp_path / "made"))
    assert manifest == read_manifest(storage, uri)
    assert [entry.path for entry in manifest.files] == sorted(FILES)
    folder = fetch(storage, uri, tmp_path / "fetched")
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    weights = fetch(storage, uri, tmp_path / "part", below="weights")
    assert sorted(os.listdir(weights)) == ["empty", "part 1.bin"]


def test_publishing_again_writes_nothing(place: Place, tmp_path: Path) -> None:
    storage, uri = place
    publish_it(storage, uri, make(tmp_path / "made"))
    before = {item.uri: storage.read(item.uri) for item in storage.list(uri)}
    other = make(tmp_path / "other", {"config.json": b"other bytes", "more": b"x"})
    assert publish_it(storage, uri, other).result == {"loss": 0.25}
    with pytest.raises(DataError, match=r"sha256:1, this one is sha256:2"):
        publish_it(storage, uri, other, digest="sha256:2")
    assert {item.uri: storage.read(item.uri) for item in storage.list(uri)} == before


def test_a_stopped_attempt_is_continued(place: Place, tmp_path: Path) -> None:
    storage, uri = place
    storage.write(join(uri, "config.json"), FILES["config.json"])
    storage.write(join(uri, "weights/part 1.bin"), b"cut off")
    half_written = tmp_path / "stored/weights/.psr-partial-0"
    if storage.local_path(uri):
        half_written.write_bytes(b"of a killed writer")
    publish_it(storage, uri, make(tmp_path / "made"))
    assert fetch(storage, uri, tmp_path / "fetched").is_dir()
    assert not half_written.exists()


@pytest.mark.parametrize("digests", [["sha256:1"] * 3, ["sha256:1", "sha256:2", "sha256:3"]], ids=["same", "other"])
def test_of_publishers_who_race_the_first_one_stands(place: Place, tmp_path: Path, digests: list[str]) -> None:
    storage, uri = place
    start = Barrier(len(digests))
    folders = [make(tmp_path / f"made-{number}") for number in range(len(digests))]

    def publisher(number: int) -> Manifest | DataError:
        start.wait()
        try:
            return publish_it(storage, uri, folders[number], digest=digests[number], result={"by": number})
        except DataError as error:
            return error

    with ThreadPoolExecutor(len(digests)) as pool:
        outcomes = list(pool.map(publisher, range(len(digests))))
    published = read_manifest(storage, uri)
    assert published is not None
    winner = published.result["by"]
    for number, outcome in enumerate(outcomes):
        if number == winner or digests[number] == digests[winner]:
            assert outcome == published
        else:
            assert isinstance(outcome, DataError)
            assert digests[number] in str(outcome)
            assert digests[winner] in str(outcome)
    fetch(storage, uri, tmp_path / "fetched")


def test_the_same_work_makes_the_same_bytes(tmp_path: Path) -> None:
    storage = Storage(mounts={})
    for name, files in (("a", FILES), ("b", dict(reversed(FILES.items())))):
        publish_it(storage, file_uri(tmp_path / name), make(tmp_path / f"made-{name}", files))
    assert (tmp_path / "a" / MANIFEST).read_bytes() == (tmp_path / "b" / MANIFEST).read_bytes()


def test_a_writer_gets_what_a_reader_finds(tmp_path: Path) -> None:
    """Tuples, integer keys and NaN do not survive JSON; the first result must be that of every later call."""
    storage, uri = Storage(mounts={}), file_uri(tmp_path / "stored")
    result = {"pair": (1, 2), "by_level": {1: 0.1}, "loss": float("nan")}
    written = publish_it(storage, uri, make(tmp_path / "made"), result=result)
    read = read_manifest(storage, uri)
    assert read is not None
    assert json.dumps(written.result) == json.dumps(read.result)
    assert read.result == {"pair": [1, 2], "by_level": {"1": 0.1}, "loss": None}
    assert written.identity == read.identity == digest_of_input(storage, uri)


def test_a_stage_may_not_bring_a_manifest_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stage sft has a file manifest\.json; that name is taken"):
        publish_it(Storage(mounts={}), file_uri(tmp_path / "stored"), make(tmp_path / "made", {MANIFEST: b"{}"}))
    assert not (tmp_path / "stored").exists()


# --- what is wrong with an artefact ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"manifest\.json: the document: Invalid JSON"),
        (b'{"stage": "sft"', r"manifest\.json: the document: Invalid JSON"),
        (b"[]", r"manifest\.json: the document: "),
        (b'{"stage": "sft"}', r"manifest\.json: schema_version: Field required"),
    ],
    ids=["empty", "cut off", "a list", "fields missing"],
)
def test_a_broken_manifest_is_named(place: Place, content: bytes, message: str) -> None:
    storage, uri = place
    storage.write(join(uri, MANIFEST), content)
    with pytest.raises(DataError, match=message):
        read_manifest(storage, uri)


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a/../../b", "", "a//b", "./a", "a\0b"])
def test_paths_that_leave_the_folder_are_refused(place: Place, tmp_path: Path, path: str) -> None:
    storage, uri = place
    document = publish_it(storage, uri, make(tmp_path / "made")).model_dump(mode="json")
    document["files"][0]["path"] = path
    storage.write(join(uri, MANIFEST), json.dumps(document).encode())
    with pytest.raises(DataError, match=r"files\.0\.path: .* does not stay below"):
        fetch(storage, uri, tmp_path / "fetched")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\0\1" * 4999, "truncated or foreign"), (b"\0\2" * 5000, "the file was changed")],
    ids=["truncated", "changed"],
)
def test_a_file_that_does_not_fit_is_named(place: Place, tmp_path: Path, content: bytes, message: str) -> None:
    storage, uri = place
    publish_it(storage, uri, make(tmp_path / "made"))
    storage.write(join(uri, "weights/part 1.bin"), content)
    with pytest.raises(DataError, match=message) as caught:
        fetch(storage, uri, tmp_path / "fetched")
    assert join(uri, "weights/part 1.bin") in str(caught.value)


def test_a_file_that_is_gone_is_named(place: Place, tmp_path: Path) -> None:
    storage, uri = place
    publish_it(storage, uri, make(tmp_path / "made"))
    storage.delete(join(uri, "config.json"))
    with pytest.raises(InputMissing, match=r"config\.json"):
        fetch(storage, uri, tmp_path / "fetched")


def test_a_broken_copy_on_this_machine_is_brought_again(storage: Storage, prefix: str, tmp_path: Path) -> None:
    publish_it(storage, prefix, make(tmp_path / "made"))
    folder = fetch(storage, prefix, tmp_path / "fetched")
    (folder / "config.json").write_bytes(b"{")
    assert (fetch(storage, prefix, tmp_path / "fetched") / "config.json").read_bytes() == b"{}"


def test_what_was_not_finished_is_missing(place: Place, tmp_path: Path) -> None:
    storage, uri = place
    storage.write(join(uri, "config.json"), b"{}")
    with pytest.raises(InputMissing, match=r"no manifest\.json; the artefact is missing or was not finished"):
        fetch(storage, uri, tmp_path)
    publish_it(storage, uri, make(tmp_path / "made"))
    with pytest.raises(InputMissing, match="no files under other"):
        fetch(storage, uri, tmp_path, below="other")


# --- digests of inputs -------------------------------------------------------------------------------------


def test_a_folder_without_manifest_is_known_by_its_content_on_every_store(
    storage: Storage, prefix: str, tmp_path: Path
) -> None:
    make(tmp_path / "model")
    for path in (tmp_path / "model").rglob("*"):
        if path.is_file():
            storage.upload(path, join(prefix, path.relative_to(tmp_path / "model").as_posix()))
    here = file_uri(tmp_path / "model")
    digest = digest_of_input(storage, here)
    assert digest == digest_of_input(storage, prefix) == digest_of_input(storage, here + "/")
    storage.write(join(here, ".git/index"), b"hidden files are no content")
    assert digest_of_input(storage, here) == digest
    storage.write(join(here, "weights/empty"), b"no more")
    assert digest_of_input(storage, here) != digest


def test_names_are_part_of_the_content(tmp_path: Path) -> None:
    storage = Storage(mounts={})
    digests = {
        digest_of_input(storage, file_uri(make(tmp_path / str(number), files)))
        for number, files in enumerate([{"a": b"1", "b": b"2"}, {"a": b"2", "b": b"1"}, {"a": b"1"}, {"c": b"1"}])
    }
    assert len(digests) == 4


def test_a_file_is_an_input_too_and_nothing_is_none(place: Place) -> None:
    storage, uri = place
    storage.write(join(uri, "problems.jsonl"), b'{"problem": "1 + 1"}\n')
    storage.write(join(uri, "copy.jsonl"), b'{"problem": "1 + 1"}\n')
    assert digest_of_input(storage, join(uri, "problems.jsonl")) == digest_of_input(storage, join(uri, "copy.jsonl"))
    assert name_below(uri, join(uri, "copy.jsonl")) == "copy.jsonl"
    with pytest.raises(InputMissing, match="nothing is there; check the URI"):
        digest_of_input(storage, join(uri, "problems"))
    with pytest.raises(NotFound):
        storage.read(join(uri, "problems"))
