"""One artefact by several ranks, each a process of its own: all parts, or no artefact."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from harness.s3_server import S3Server
from psr_runtime.artefacts.fetching import fetch
from psr_runtime.artefacts.manifest import MANIFEST, read_manifest
from psr_runtime.artefacts.parts import FOLDER, publish_part, publish_parts
from psr_runtime.artefacts.publishing import CLAIM, publish
from psr_runtime.protocol.errors import DataError, Interrupted
from psr_runtime.storage import Storage, join, name_below

RANKS = 3
ATTEMPT = "0123456789abcdef"
FACTS: dict[str, Any] = {
    "stage": "sft",
    "schema_version": 1,
    "inputs": {},
    "configuration": {},
    "versions": {},
    "metadata": {},
    "result": {"loss": 0.5},
}
RANK = """
import json, os, signal, sys
from pathlib import Path
from psr_runtime.artefacts import parts
from psr_runtime.config import StorageAccess
from psr_runtime.protocol.errors import StageError
from psr_runtime.storage import Storage

access, uri, folder, rank, ranks, digest, content, facts, how = json.loads(sys.argv[1])
storage = Storage(StorageAccess.model_validate(access), mounts={})
if how == "dying":
    storage.create = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # its files are there, its part is not
try:
    parts.publish_part(storage, uri, Path(folder), rank=rank, ranks=ranks, digest=digest, content=content)
    if rank == 0:
        seconds = 0.3 if how == "impatient" else 60
        manifest = parts.publish_parts(
            storage, uri, ranks=ranks, content=content, wait_seconds=seconds, digest=digest, **facts
        )
except StageError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def folder_of(folder: Path, rank: int, mark: bytes = b"x") -> Path:
    """The files of one rank: a shard, and for rank 0 what belongs to all."""
    (folder / "shards").mkdir(parents=True)
    (folder / f"shards/{rank}.bin").write_bytes(mark * (100_000 + rank))
    if rank == 0:
        (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, s3: S3Server, storage: Storage, prefix: str, tmp_path: Path) -> str:
    """URI of the artefact, once for each scheme."""
    return prefix if request.param == "s3" else (tmp_path / "stored").as_uri()


class Ranks:
    """Processes of one attempt."""

    def __init__(self, s3: S3Server, uri: str, tmp_path: Path) -> None:
        self._access, self._uri, self._tmp_path = {"endpoint": s3.endpoint}, uri, tmp_path
        self._stack = ExitStack()
        self.processes: dict[int, subprocess.Popen[str]] = {}

    def start(self, rank: int, how: str = "", *, digest: str = "sha256:1", content: str = ATTEMPT) -> None:
        folder = folder_of(self._tmp_path / f"{content}-{rank}", rank, content[:1].encode())
        arguments = [self._access, self._uri, str(folder), rank, RANKS, digest, content, FACTS, how]
        self.processes[rank] = self._stack.enter_context(
            subprocess.Popen([sys.executable, "-c", RANK, json.dumps(arguments)], stdout=subprocess.PIPE, text=True)
        )

    def end(self, rank: int) -> tuple[int, str]:
        """Exit code and what it said."""
        output, _ = self.processes[rank].communicate(timeout=120)
        return self.processes[rank].returncode, output

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
        self._stack.close()


@pytest.fixture
def ranks(s3: S3Server, place: str, tmp_path: Path) -> Iterator[Ranks]:
    running = Ranks(s3, place, tmp_path)
    yield running
    running.close()


def names(storage: Storage, uri: str) -> list[str]:
    return [name_below(uri, item.uri) for item in storage.list(uri)]


SHARDS = ["config.json", *(f"shards/{rank}.bin" for rank in range(RANKS))]


def test_rank_0_waits_for_the_slowest_and_publishes_what_all_have_written(
    ranks: Ranks, storage: Storage, place: str, tmp_path: Path
) -> None:
    ranks.start(0)
    ranks.start(1)
    end = time.monotonic() + 60
    while len(storage.list(join(place, FOLDER))) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert ranks.processes[0].poll() is None
    assert read_manifest(storage, place) is None
    ranks.start(2)
    assert [ranks.end(rank) for rank in range(RANKS)] == [(0, "")] * RANKS
    manifest = read_manifest(storage, place)
    assert manifest is not None
    assert ([entry.path for entry in manifest.files], manifest.result) == (SHARDS, {"loss": 0.5})
    folder = fetch(storage, place, tmp_path / "fetched")
    assert [(folder / f"shards/{rank}.bin").stat().st_size for rank in range(RANKS)] == [100_000, 100_001, 100_002]
    assert names(storage, place) == [SHARDS[0], MANIFEST, *SHARDS[1:]]


def test_without_a_rank_that_died_there_is_no_artefact_and_the_next_attempt_makes_one(
    ranks: Ranks, storage: Storage, place: str, tmp_path: Path
) -> None:
    """The attempts' bytes differ: nothing of the first one is left, or taken for the second's."""
    ranks.start(1)
    ranks.start(2, "dying")
    assert [ranks.end(rank)[0] for rank in (1, 2)] == [0, -signal.SIGKILL]
    ranks.start(0, "impatient")
    code, message = ranks.end(0)
    assert (code, f"{place}: no part of rank 2 of 3 after 0 s" in message) == (75, True)
    assert read_manifest(storage, place) is None
    for rank in range(RANKS):
        ranks.start(rank, content="fedcba9876543210")
    assert [ranks.end(rank) for rank in range(RANKS)] == [(0, "")] * RANKS
    folder = fetch(storage, place, tmp_path / "fetched")
    assert [(folder / f"shards/{rank}.bin").read_bytes()[:1] for rank in range(RANKS)] == [b"f"] * RANKS
    manifest = read_manifest(storage, place)
    assert manifest is not None
    left = set(names(storage, place))
    assert {CLAIM, FOLDER} & {name.partition("/")[0] for name in left} == set()
    assert left - {"shards/2.bin"} == {MANIFEST, *(f"{manifest.root}/{name}" for name in SHARDS)}


def test_an_attempt_goes_on_with_the_parts_that_are_there(
    storage: Storage, place: str, tmp_path: Path, ranks: Ranks
) -> None:
    """Rank 2 died and comes again, as all ranks agree on the same content."""
    ranks.start(1)
    ranks.start(2, "dying")
    assert [ranks.end(rank)[0] for rank in (1, 2)] == [0, -signal.SIGKILL]
    ranks.start(0, "impatient")
    assert ranks.end(0)[0] == 75
    for rank in range(RANKS):
        folder = folder_of(tmp_path / f"again-{rank}", rank, b"0")
        publish_part(storage, place, folder, rank=rank, ranks=RANKS, digest="sha256:1", content=ATTEMPT)
    manifest = publish_parts(storage, place, ranks=RANKS, content=ATTEMPT, wait_seconds=0, digest="sha256:1", **FACTS)
    assert ([entry.path for entry in manifest.files], manifest.root) == (SHARDS, "")


def test_a_rank_of_another_work_is_named_at_once(ranks: Ranks, storage: Storage, place: str) -> None:
    ranks.start(0)
    ranks.start(1, digest="sha256:2")
    code, message = ranks.end(0)
    assert code == 65
    assert "rank-00001.json: a part of sha256:2, this work is sha256:1" in message
    assert read_manifest(storage, place) is None


# --- the same without processes ----------------------------------------------------------------------------


def put_parts(storage: Storage, uri: str, tmp_path: Path, *numbers: int) -> None:
    for rank in numbers:
        folder = folder_of(tmp_path / f"rank-{rank}", rank)
        publish_part(storage, uri, folder, rank=rank, ranks=RANKS, digest="sha256:1", content=ATTEMPT)


def join_parts(storage: Storage, uri: str, **changed: Any) -> Any:
    arguments = {"ranks": RANKS, "content": ATTEMPT, "wait_seconds": 0, "digest": "sha256:1"} | changed
    return publish_parts(storage, uri, **arguments, **FACTS)


def test_what_a_part_lists_must_be_there(storage: Storage, place: str, tmp_path: Path) -> None:
    put_parts(storage, place, tmp_path, 0, 1, 2)
    storage.write(join(place, "shards/1.bin"), b"cut off")
    with pytest.raises(DataError, match=r"shards/1\.bin: 7 bytes where its rank wrote 100001"):
        join_parts(storage, place)
    assert read_manifest(storage, place) is None


def test_two_ranks_with_one_path_are_refused(storage: Storage, place: str, tmp_path: Path) -> None:
    put_parts(storage, place, tmp_path, 0, 1)
    publish_part(
        storage, place, folder_of(tmp_path / "same", 1), rank=2, ranks=RANKS, digest="sha256:1", content=ATTEMPT
    )
    with pytest.raises(DataError, match=r"ranks 1 and 2 both wrote shards/1\.bin"):
        join_parts(storage, place)


def test_a_rank_that_comes_again_with_other_files_is_refused(storage: Storage, place: str, tmp_path: Path) -> None:
    put_parts(storage, place, tmp_path, 0, 1, 2)
    other = folder_of(tmp_path / "other", 1, b"y")
    with pytest.raises(DataError, match="rank 1 has published other files there; give each attempt its own content"):
        publish_part(storage, place, other, rank=1, ranks=RANKS, digest="sha256:1", content=ATTEMPT)
    assert storage.read(join(place, "shards/1.bin"))[:1] == b"x"


def test_waiting_ends_when_asked(storage: Storage, place: str, tmp_path: Path) -> None:
    put_parts(storage, place, tmp_path, 0)
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted, match="asked to stop while waiting for 2 of 3 parts"):
        join_parts(storage, place, wait_seconds=600, stop=stop)
    assert time.monotonic() - started < 30


def test_late_ranks_of_a_published_artefact_write_nothing(storage: Storage, place: str, tmp_path: Path) -> None:
    put_parts(storage, place, tmp_path, 0, 1, 2)
    manifest = join_parts(storage, place)
    before = names(storage, place)
    late = folder_of(tmp_path / "late", 1, b"z")
    asked = {"rank": 1, "ranks": RANKS, "content": "fedcba9876543210"}
    assert publish_part(storage, place, late, digest="sha256:1", **asked) is None
    assert join_parts(storage, place, content="fedcba9876543210") == manifest
    with pytest.raises(DataError, match=r"sha256:1, this one is sha256:2"):
        publish_part(storage, place, late, digest="sha256:2", **asked)
    assert names(storage, place) == before


def test_an_artefact_of_one_writer_and_parts_do_not_mix(storage: Storage, place: str, tmp_path: Path) -> None:
    """Somebody publishes the same work alone before rank 0 does: that one stands, the parts' files go."""
    put_parts(storage, place, tmp_path, 0, 1, 2)
    alone = publish(storage, place, folder_of(tmp_path / "alone", 0, b"a"), digest="sha256:1", **FACTS)
    assert alone.root
    assert join_parts(storage, place) == alone
    folder = fetch(storage, place, tmp_path / "fetched")
    assert (folder / "shards/0.bin").read_bytes()[:1] == b"a"


@pytest.mark.parametrize("wrong", [{"rank": 3}, {"rank": -1}, {"content": "short"}, {"content": "../" * 8}])
def test_numbers_that_cannot_be_are_mistakes_of_the_caller(tmp_path: Path, wrong: dict[str, Any]) -> None:
    arguments = {"rank": 0, "ranks": RANKS, "digest": "sha256:1", "content": ATTEMPT} | wrong
    with pytest.raises(ValueError, match=r"ranks are 0 to 2|at least 16 letters or digits"):
        publish_part(Storage(mounts={}), (tmp_path / "stored").as_uri(), folder_of(tmp_path / "made", 0), **arguments)


@pytest.mark.parametrize("name", [MANIFEST, CLAIM, f"{FOLDER}/mine"])
def test_names_of_our_own_are_taken(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path / "made", 0)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"{}")
    with pytest.raises(ValueError, match="that name is taken"):
        publish_part(
            Storage(mounts={}),
            (tmp_path / "stored").as_uri(),
            folder,
            rank=0,
            ranks=RANKS,
            digest="sha256:1",
            content=ATTEMPT,
        )
