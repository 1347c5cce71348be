"""Files to and from S3 in parts: what a break leaves is gone on with, what changed meanwhile is not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from harness.s3_proxy import wire_to
from harness.s3_server import S3Server
from psr_runtime.config import StorageAccess
from psr_runtime.protocol.errors import Interrupted
from psr_runtime.storage import NotFound, Storage, hashes, s3_transfer, sha256_of
from psr_runtime.storage.hashes import HashName, digest_of
from psr_runtime.storage.partial import PARTIAL, PARTS, boot, slices
from psr_runtime.storage.s3 import S3Store

MIB = 1 << 20
PART = 5 * MIB
"""Size of a part in these tests: the smallest that S3 allows."""
SIZE = 6 * PART + 17
KILLED = """
import os, signal, sys
from pathlib import Path
from psr_runtime.storage import hashes, partial, s3_transfer
from psr_runtime.config import StorageAccess
from psr_runtime.storage import Storage

what, endpoint, uri, path, part, last = sys.argv[1:]
s3_transfer.PART, hashes.PART, s3_transfer.STREAMS = int(part), int(part), 1
owner, name = {"upload": (s3_transfer.Transfer, "_send"), "download": (partial.PartialFile, "note")}[what]
plain, count = getattr(owner, name), 0

def counted(*arguments):
    global count
    result = plain(*arguments)
    count += 1
    if count == int(last):
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, name, counted)
storage = Storage(StorageAccess(endpoint=endpoint))
if what == "upload":
    storage.upload(Path(path), uri)
else:
    storage.download(uri, Path(path))
"""


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_transfer, "PART", PART)
    monkeypatch.setattr(hashes, "PART", PART)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def store(s3: S3Server) -> S3Store:
    return S3Store(StorageAccess(endpoint=s3.endpoint))


@pytest.fixture
def asked(store: S3Store) -> Counter[str]:
    """How often `store` asks for what: names of operations, with numbers of parts and ranges."""
    counts: Counter[str] = Counter()

    def note(params: Any, model: Any, **_: Any) -> None:
        detail = params.get("query_string", {}).get("partNumber") or params.get("headers", {}).get("Range") or ""
        counts[f"{model.name} {detail}".strip()] += 1

    store._client.meta.events.register("before-call.s3", note)
    return counts


def kill_in_the_middle(what: str, s3: S3Server, uri: str, path: Path, last: int) -> None:
    """Let another process begin a transfer; it is killed by SIGKILL after so many parts."""
    arguments = [what, s3.endpoint, uri, str(path), str(PART), str(last)]
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr


def sent(asked: Counter[str]) -> list[int]:
    """Numbers of the parts that were sent."""
    return sorted(int(name.split()[1]) for name in asked.elements() if name.startswith("UploadPart "))


def unfinished(s3: S3Server, uri: str) -> list[str]:
    key = uri.removeprefix(f"s3://{s3.bucket}/")
    uploads = s3.client().list_multipart_uploads(Bucket=s3.bucket, Prefix=key).get("Uploads", [])
    return [item["UploadId"] for item in uploads]


def begin_upload(s3: S3Server, uri: str, parts: dict[int, bytes], sha256: str) -> str:
    """What another writer left: an upload with these parts; its id."""
    where = {"Bucket": s3.bucket, "Key": uri.removeprefix(f"s3://{s3.bucket}/")}
    client = s3.client()
    upload: str = client.create_multipart_upload(**where, Metadata={"psr-sha256": sha256})["UploadId"]
    for number, data in parts.items():
        client.upload_part(**where, UploadId=upload, PartNumber=number, Body=data)
    return upload


def metadata(s3: S3Server, uri: str) -> str:
    head = s3.client().head_object(Bucket=s3.bucket, Key=uri.removeprefix(f"s3://{s3.bucket}/"))
    sha256: str = head["Metadata"]["psr-sha256"]
    return sha256


@pytest.mark.parametrize("size", [0, 1, PART, PART + 1, 2 * PART])
def test_a_file_is_cut_without_gap_or_overlap(size: int) -> None:
    cut = slices(size, PART)
    assert [item.number for item in cut] == list(range(1, len(cut) + 1))
    assert sum(item.length for item in cut) == size
    assert all(after.start == item.start + item.length for item, after in pairwise(cut))


# --- up ----------------------------------------------------------------------------------------------------


def test_an_upload_that_was_killed_sends_only_what_is_missing(
    s3: S3Server, store: S3Store, asked: Counter[str], prefix: str, source: Path
) -> None:
    uri = f"{prefix}/weights"
    kill_in_the_middle("upload", s3, uri, source, 4)
    assert len(unfinished(s3, uri)) == 1
    store.upload(source, uri, sha256_of(source), False)
    assert sent(asked) == [5, 6, 7]
    assert store.sha256(uri) == metadata(s3, uri) == sha256_of(source)
    assert unfinished(s3, uri) == []
    store.upload(source, uri, sha256_of(source), False)
    assert sent(asked) == [5, 6, 7]


def test_a_file_that_changed_since_is_sent_anew_and_nothing_of_the_old_upload_stays(
    s3: S3Server, store: S3Store, asked: Counter[str], prefix: str, source: Path
) -> None:
    uri = f"{prefix}/weights"
    kill_in_the_middle("upload", s3, uri, source, 4)
    with source.open("r+b") as file:
        file.seek(2 * PART)
        file.write(b"other bytes")
    store.upload(source, uri, sha256_of(source), False)
    assert sent(asked) == [1, 2, 3, 4, 5, 6, 7]
    assert store.sha256(uri) == sha256_of(source)
    assert unfinished(s3, uri) == []


def test_an_upload_of_another_file_with_the_same_beginning_is_not_taken_for_ours(
    s3: S3Server, store: S3Store, prefix: str, source: Path
) -> None:
    """Its parts fit, but the object would say the other file's digest."""
    uri = f"{prefix}/weights"
    begin_upload(s3, uri, {1: source.read_bytes()[:PART]}, "another file's")
    store.upload(source, uri, sha256_of(source), False)
    assert store.sha256(uri) == metadata(s3, uri) == sha256_of(source)
    assert unfinished(s3, uri) == []


def test_of_several_unfinished_uploads_the_fullest_is_finished(
    s3: S3Server, store: S3Store, asked: Counter[str], prefix: str, source: Path
) -> None:
    uri, data = f"{prefix}/weights", source.read_bytes()
    for numbers in ([1], [1, 3, 7], []):
        begin_upload(s3, uri, {n: data[(n - 1) * PART : n * PART] for n in numbers}, sha256_of(source))
    store.upload(source, uri, sha256_of(source), False)
    assert sent(asked) == [2, 4, 5, 6]
    assert store.sha256(uri) == sha256_of(source)
    assert unfinished(s3, uri) == []


def end_uploads(s3: S3Server, uri: str) -> None:
    for upload in unfinished(s3, uri):
        s3.client().abort_multipart_upload(
            Bucket=s3.bucket, Key=uri.removeprefix(f"s3://{s3.bucket}/"), UploadId=upload
        )


def before_parts(store: S3Store, monkeypatch: pytest.MonkeyPatch, act: Callable[[int], None]) -> None:
    """Call `act` with a running number before each part is sent."""
    plain, lock, count = store._transfer._send, threading.Lock(), 0

    def send(*arguments: Any) -> dict[str, str]:
        nonlocal count
        with lock:
            count += 1
            act(count)
        return plain(*arguments)

    monkeypatch.setattr(store._transfer, "_send", send)


def test_an_upload_that_somebody_ends_is_begun_anew(
    s3: S3Server, store: S3Store, prefix: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{prefix}/weights"
    before_parts(store, monkeypatch, lambda count: end_uploads(s3, uri) if count == 3 else None)
    store.upload(source, uri, sha256_of(source), False)
    assert store.sha256(uri) == sha256_of(source)


def test_an_upload_that_is_ended_again_and_again_is_temporary(
    s3: S3Server, store: S3Store, prefix: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{prefix}/weights"
    before_parts(store, monkeypatch, lambda _: end_uploads(s3, uri))
    with pytest.raises(Interrupted, match=r"weights: the upload was ended by somebody else 3 times"):
        store.upload(source, uri, sha256_of(source), False)


def test_a_file_that_is_cut_off_while_it_is_sent_ends_the_upload(
    store: S3Store, prefix: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = sha256_of(source)
    before_parts(store, monkeypatch, lambda count: os.truncate(source, PART // 2) if count == 1 else None)
    with pytest.raises(Interrupted, match=r"was cut off while it was sent; run it again"):
        store.upload(source, f"{prefix}/weights", digest, False)
    with pytest.raises(NotFound):
        store.sha256(f"{prefix}/weights")


def test_writers_of_the_same_content_do_not_hinder_each_other(
    s3: S3Server, storage: Storage, prefix: str, source: Path
) -> None:
    uri = f"{prefix}/weights"
    errors: list[BaseException] = []

    def write() -> None:
        try:
            Storage(StorageAccess(endpoint=s3.endpoint)).upload(source, uri)
        except BaseException as error:
            errors.append(error)

    writers = [threading.Thread(target=write) for _ in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert errors == []
    assert storage.sha256(uri) == metadata(s3, uri) == sha256_of(source)
    assert unfinished(s3, uri) == []


def test_only_uploads_that_nobody_can_be_at_any_more_are_swept(
    s3: S3Server, store: S3Store, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_upload(s3, f"{prefix}/run/weights", {1: b"x"}, "")
    begin_upload(s3, f"{prefix}/run2/weights", {1: b"x"}, "")
    store.sweep(f"{prefix}/run")
    assert len(unfinished(s3, prefix)) == 2
    monkeypatch.setattr("psr_runtime.storage.s3.STALE_SECONDS", -60.0)
    store.sweep(f"{prefix}/run")
    assert len(unfinished(s3, f"{prefix}/run/")) == 0
    assert len(unfinished(s3, f"{prefix}/run2/")) == 1


def test_no_more_parts_are_in_memory_than_there_are_buffers(
    s3: S3Server, prefix: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three files at a time, and only two buffers."""
    monkeypatch.setattr(s3_transfer, "BUFFERS", 2)
    store = S3Store(StorageAccess(endpoint=s3.endpoint))
    plain, lock, now, most = store._transfer._send, threading.Lock(), 0, 0

    def send(*arguments: Any) -> dict[str, str]:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        try:
            return plain(*arguments)
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(store._transfer, "_send", send)
    digest = sha256_of(source)
    writers = [
        threading.Thread(target=store.upload, args=(source, f"{prefix}/{number}", digest, False)) for number in range(3)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert most == 2
    assert {store.sha256(f"{prefix}/{number}") for number in range(3)} == {digest}


def test_the_service_is_asked_to_check_parts_where_it_is_known_to_be_able_to(
    s3: S3Server, store: S3Store, prefix: str, source: Path
) -> None:
    """As on AWS: a CRC-32 goes with each part, and the finished object names one."""
    store._transfer._checksums = True
    store.upload(source, f"{prefix}/weights", sha256_of(source), False)
    assert store.sha256(f"{prefix}/weights") == sha256_of(source)


# --- down --------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(store: S3Store, prefix: str, source: Path) -> str:
    """URI of an object with the content of `source`."""
    store.upload(source, f"{prefix}/weights", sha256_of(source), False)
    return f"{prefix}/weights"


def ranges(asked: Counter[str]) -> list[int]:
    """Numbers of the parts that were asked for."""
    starts = [int(re.findall(r"bytes=(\d+)-", name)[0]) for name in asked.elements() if name.startswith("GetObject b")]
    return sorted(start // PART + 1 for start in starts)


@pytest.mark.parametrize("name", ["sha256", "composite_blake3"])
def test_a_download_that_was_killed_asks_only_for_what_is_missing(
    s3: S3Server, store: S3Store, asked: Counter[str], stored: str, source: Path, tmp_path: Path, name: HashName
) -> None:
    target = tmp_path / "here/weights"
    kill_in_the_middle("download", s3, stored, target, 4)
    assert not target.exists()
    assert store.download(stored, target, name) == digest_of(source, name)
    assert ranges(asked) == [5, 6, 7]
    assert sha256_of(target) == sha256_of(source)
    assert [path.name for path in target.parent.iterdir()] == ["weights"]


@pytest.mark.parametrize("what", ["another object", "another boot", "a part cut off", "notes cut off"])
def test_what_a_killed_download_left_counts_only_while_it_is_surely_right(
    s3: S3Server, store: S3Store, asked: Counter[str], stored: str, source: Path, tmp_path: Path, what: str
) -> None:
    target = tmp_path / "weights-here"
    kill_in_the_middle("download", s3, stored, target, 4)
    partial, notes = target.with_name(target.name + PARTIAL), target.with_name(target.name + PARTS)
    anew = [1, 2, 3, 4, 5, 6, 7]
    if what == "another object":
        with source.open("r+b") as file:
            file.write(b"other bytes")
        store.upload(source, stored, sha256_of(source), False)
    elif what == "another boot":
        notes.write_text(notes.read_text().replace(boot(), "an earlier one"))
    elif what == "a part cut off":
        os.truncate(partial, SIZE - 1)
    else:
        os.truncate(notes, notes.stat().st_size - 1)  # the number of part 4 without its end
        anew = [4, 5, 6, 7]
    asked.clear()
    assert store.download(stored, target, "sha256") == sha256_of(source)
    assert ranges(asked) == anew
    assert sha256_of(target) == sha256_of(source)


def test_an_object_that_is_replaced_while_it_is_read_is_read_anew(
    s3: S3Server, store: S3Store, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = os.urandom(3 * PART)
    plain, lock, count = store._transfer._get, threading.Lock(), 0

    def get(*arguments: Any) -> Any:
        nonlocal count
        with lock:
            count += 1
            if count == 3:
                key = stored.removeprefix(f"s3://{s3.bucket}/")
                s3.client().put_object(Bucket=s3.bucket, Key=key, Body=other)
        return plain(*arguments)

    monkeypatch.setattr(store._transfer, "_get", get)
    assert store.download(stored, tmp_path / "here", "composite_blake3")
    assert (tmp_path / "here").read_bytes() == other


@pytest.mark.parametrize("name", ["sha256", "composite_blake3"])
def test_a_part_whose_answer_breaks_off_is_gone_on_with(
    s3: S3Server, stored: str, source: Path, tmp_path: Path, name: HashName
) -> None:
    with wire_to(s3.endpoint) as wire:
        through = S3Store(StorageAccess(endpoint=wire.endpoint))
        wire.cut_after = PART // 2
        assert through.download(stored, tmp_path / "here", name) == digest_of(source, name)
        assert wire.cut_after is None
    assert sha256_of(tmp_path / "here") == sha256_of(source)


def test_two_downloads_to_one_place_at_a_time_do_not_mix(
    s3: S3Server, store: S3Store, stored: str, source: Path, tmp_path: Path
) -> None:
    digests: list[str] = []
    readers = [
        threading.Thread(target=lambda: digests.append(store.download(stored, tmp_path / "here", "sha256")))
        for _ in range(4)
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert digests == [sha256_of(source)] * 4
    assert sha256_of(tmp_path / "here") == sha256_of(source)
    assert [path.name for path in tmp_path.iterdir() if PARTIAL in path.name or PARTS in path.name] == []
