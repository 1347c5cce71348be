"""By which hash content is named and verified, and what a manifest says of it."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import pytest

from psr_runtime.artefacts.fetching import fetch
from psr_runtime.artefacts.manifest import FileEntry, InputEntry, Manifest
from psr_runtime.artefacts.parts import publish_part
from psr_runtime.artefacts.publishing import content_of, entries_of, publish
from psr_runtime.protocol.errors import DataError
from psr_runtime.storage import Storage, file_uri, hashes, join
from psr_runtime.storage.hashes import digest_of, digests_of

Place = tuple[Storage, str]

OLD = b"""{
 "configuration": {},
 "digest": "sha256:1",
 "files": [
  {
   "path": "weights",
   "sha256": "%s",
   "size": 12
  }
 ],
 "inputs": {},
 "metadata": {},
 "result": {},
 "schema_version": 1,
 "stage": "sft",
 "versions": {}
}
""" % hashlib.sha256(b"some weights").hexdigest().encode()
"""A manifest as it was written before there was a second digest."""


@pytest.fixture
def without_blake3(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which the package is not installed."""
    monkeypatch.setitem(sys.modules, "blake3", None)
    monkeypatch.setattr(hashes, "has_blake3", hashes.has_blake3.__wrapped__)
    monkeypatch.setattr("psr_runtime.artefacts.manifest.has_blake3", hashes.has_blake3)


def publish_it(storage: Storage, uri: str, folder: Path) -> Manifest:
    folder.mkdir()
    (folder / "weights").write_bytes(b"some weights")
    return publish(
        storage,
        uri,
        folder,
        stage="sft",
        schema_version=1,
        digest="sha256:1",
        inputs={"model": InputEntry(uri="file:///model", digest="sha256:0")},
        configuration={},
        versions={},
        metadata={},
        result={},
    )


def damage(storage: Storage, uri: str) -> None:
    storage.write(join(uri, "weights"), b"some weighty")


@pytest.mark.parametrize("size", [0, 1, hashes.PIECE + 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_composite_digest_is_that_of_the_digests_of_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    from blake3 import blake3

    monkeypatch.setattr(hashes, "PART", 1 << 20)
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    parts = [content[start : start + (1 << 20)] for start in range(0, size, 1 << 20)]
    expected = blake3(b"".join(blake3(part).digest() for part in parts)).hexdigest()
    assert digest_of(tmp_path / "file", "composite_blake3") == expected
    assert digests_of(tmp_path / "file") == {
        "sha256": hashlib.sha256(content).hexdigest(),
        "composite_blake3": expected,
    }


def test_the_size_of_parts_is_that_of_manifests_that_were_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes((16 << 20) + 1))
    assert digest_of(tmp_path / "file", "composite_blake3") == (
        "f9c047e375b6200b686af762515636b5df1b8e22efe5173b602509e643e5db20"
    )


def test_an_older_manifest_keeps_its_bytes_and_its_identity(place: Place, tmp_path: Path) -> None:
    storage, uri = place
    manifest = Manifest.model_validate_json(OLD)
    assert manifest.to_bytes() == OLD
    assert manifest.identity == "sha256:" + hashlib.sha256(OLD).hexdigest()
    assert manifest.files[0].expected == ("sha256", manifest.files[0].sha256)
    storage.write(join(uri, "weights"), b"some weights")
    storage.write(join(uri, "manifest.json"), OLD)
    assert (fetch(storage, uri, tmp_path / "fetched") / "weights").read_bytes() == b"some weights"
    damage(storage, uri)
    with pytest.raises(DataError, match=r"weights: sha256 .*the file was changed"):
        fetch(storage, uri, tmp_path / "again")


def test_blake3_sees_a_changed_byte(place: Place, tmp_path: Path) -> None:
    storage, uri = place
    manifest = publish_it(storage, uri, tmp_path / "made")
    assert manifest.files[0].expected == ("composite_blake3", manifest.files[0].composite_blake3)
    folder = fetch(storage, uri, tmp_path / "fetched")
    if storage.local_path(uri) is None:
        (folder / "weights").write_bytes(b"some weighty")
        assert (fetch(storage, uri, folder) / "weights").read_bytes() == b"some weights", "it was fetched again"
    damage(storage, uri)
    with pytest.raises(DataError, match=r"weights: composite_blake3 .*the file was changed"):
        fetch(storage, uri, tmp_path / "again")


@pytest.mark.usefixtures("without_blake3")
def test_without_the_package_sha256_verifies(place: Place, tmp_path: Path) -> None:
    storage, uri = place
    document = json.loads(OLD)
    document["files"][0]["composite_blake3"] = "0" * 64
    storage.write(join(uri, "weights"), b"some weights")
    storage.write(join(uri, "manifest.json"), json.dumps(document).encode())
    assert (fetch(storage, uri, tmp_path / "fetched") / "weights").read_bytes() == b"some weights"
    damage(storage, uri)
    with pytest.raises(DataError, match=r"weights: sha256 .*the file was changed"):
        fetch(storage, uri, tmp_path / "again")


@pytest.mark.usefixtures("without_blake3")
def test_without_the_package_a_manifest_is_written_as_before(tmp_path: Path) -> None:
    manifest = publish_it(Storage(mounts={}), file_uri(tmp_path / "stored"), tmp_path / "made")
    assert manifest.files == json_files(OLD)
    assert b"blake3" not in (tmp_path / "stored/manifest.json").read_bytes()


def json_files(manifest: bytes) -> list[FileEntry]:
    return Manifest.model_validate_json(manifest).files


def test_content_is_named_by_sha256_alone(tmp_path: Path) -> None:
    """So a rank goes on with what an attempt on a machine without the package left."""
    storage, uri, folder = Storage(mounts={}), file_uri(tmp_path / "stored"), tmp_path / "made"
    folder.mkdir()
    (folder / "weights").write_bytes(b"some weights")
    assert content_of(entries_of(folder)) == content_of(json_files(OLD))

    def publish_rank() -> None:
        publish_part(storage, uri, folder, rank=0, ranks=2, digest="sha256:1", content="a" * 16)

    publish_rank()
    place = join(uri, "parts", "a" * 16, "rank-00000.json")
    part = json.loads(storage.read(place))
    del part["files"][0]["composite_blake3"]
    storage.write(place, json.dumps(part).encode())
    publish_rank()
