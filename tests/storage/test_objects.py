"""What every store does alike, on a folder of this machine and on a real S3 server."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from psr_runtime.protocol.errors import ConfigurationError
from psr_runtime.storage import NotFound, Storage, join, name_below, sha256_of

Place = tuple[Storage, str]
ODD_NAMES = ["plain.json", "with space", "100%", "%41", "a?b=c", "hash#tag", "schön/∑.txt", "+plus"]


def test_what_is_written_is_read(place: Place) -> None:
    storage, uri = place
    storage.write(join(uri, "a"), b"one")
    storage.write(join(uri, "a"), b"two")
    storage.write(join(uri, "empty"), b"")
    assert storage.read(join(uri, "a")) == b"two"
    assert storage.read(join(uri, "empty")) == b""
    assert [item.size for item in storage.list(uri)] == [3, 0]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_names_are_plain_text(place: Place, name: str, tmp_path: Path) -> None:
    storage, uri = place
    storage.write(join(uri, name), name.encode())
    assert [name_below(uri, item.uri) for item in storage.list(uri)] == [name]
    assert [item.uri for item in storage.list(uri)] == [join(uri, name)]
    assert storage.read(storage.list(uri)[0].uri) == name.encode()
    storage.download(join(uri, name), tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == name.encode()


def test_a_folder_is_not_its_neighbour_of_the_same_beginning(place: Place) -> None:
    storage, uri = place
    for name in ("run/a", "run2/a", "run-b", "run/sub/c"):
        storage.write(join(uri, name), b"x")
    assert [name_below(uri, item.uri) for item in storage.list(join(uri, "run"))] == ["run/a", "run/sub/c"]
    assert storage.list(join(uri, "run") + "/") == storage.list(join(uri, "run"))
    assert not storage.exists(join(uri, "run"))
    assert storage.exists(join(uri, "run-b"))
    storage.delete_folder(join(uri, "run"))
    assert [name_below(uri, item.uri) for item in storage.list(uri)] == ["run-b", "run2/a"]


def test_an_object_lists_as_itself(place: Place) -> None:
    storage, uri = place
    storage.write(join(uri, "a"), b"x")
    assert [(item.uri, item.size) for item in storage.list(join(uri, "a"))] == [(join(uri, "a"), 1)]
    assert name_below(join(uri, "a"), join(uri, "a")) == ""
    assert storage.list(join(uri, "b")) == []


def test_deleting_twice_is_no_error(place: Place) -> None:
    storage, uri = place
    storage.write(join(uri, "a"), b"x")
    for _ in range(2):
        storage.delete(join(uri, "a"))
        storage.delete_folder(uri)
    assert storage.list(uri) == []


@pytest.mark.parametrize(
    "ask",
    [
        lambda storage, uri, _: storage.read(uri),
        lambda storage, uri, _: storage.sha256(uri),
        lambda storage, uri, path: storage.download(uri, path / "x"),
    ],
    ids=["read", "sha256", "download"],
)
def test_a_missing_object_is_named(place: Place, tmp_path: Path, ask: Callable[[Storage, str, Path], object]) -> None:
    storage, uri = place
    with pytest.raises(NotFound, match=r"nothing-here: no such") as caught:
        ask(storage, join(uri, "nothing-here"), tmp_path)
    assert caught.value.exit_code == 66


def test_of_writers_who_race_to_create_exactly_one_wins(place: Place) -> None:
    storage, uri = place
    writers = 6
    for race in range(5):
        start = Barrier(writers)

        def create(writer: int, race: int = race, start: Barrier = start) -> bool:
            start.wait()
            return storage.create(join(uri, f"race-{race}"), b"%d" % writer)

        with ThreadPoolExecutor(writers) as pool:
            won = list(pool.map(create, range(writers)))
        assert won.count(True) == 1
        assert storage.read(join(uri, f"race-{race}")) == b"%d" % won.index(True)


@pytest.mark.parametrize("size", [0, 5, (33 << 20) + 7], ids=["empty", "small", "multipart"])
def test_files_travel_whole(place: Place, tmp_path: Path, size: int) -> None:
    storage, uri = place
    path = tmp_path / "source"
    path.write_bytes((bytes(range(251)) * (size // 251 + 1))[:size])
    storage.upload(path, join(uri, "sub/file"))
    assert storage.sha256(join(uri, "sub/file")) == sha256_of(path)
    storage.download(join(uri, "sub/file"), tmp_path / "new/folder/target")
    assert sha256_of(tmp_path / "new/folder/target") == sha256_of(path)
    assert [item.size for item in storage.list(uri)] == [size]


OTHER = {
    "http://host/x": "http://host/x: URI scheme: nobody brings 'http'; there are file, hf, s3",
    "file://host/x": "write file:/// and the path",
    "/a/path": "no URI; write it with its scheme",
}


def test_other_schemes_are_refused() -> None:
    for uri in OTHER:
        with pytest.raises(ConfigurationError, match=OTHER[uri]):
            Storage(mounts={}).read(uri)
