"""What is particular to `file://`: mounts, durability, what killed writers leave, links."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from psr_runtime.protocol.errors import ConfigurationError, InputMissing
from psr_runtime.storage import Storage, file_uri, join, mounts_from, name_below

STORAGE = Storage(mounts={})


def test_mounts_move_a_volume_to_a_folder(tmp_path: Path) -> None:
    storage = Storage(mounts=mounts_from(f"/mnt/psr={tmp_path}/outer,/mnt/psr/data={tmp_path}/inner"))
    storage.write("file:///mnt/psr/run/a", b"a")
    storage.write("file:///mnt/psr/data/b", b"b")
    assert (tmp_path / "outer/run/a").read_bytes() == b"a"
    assert (tmp_path / "inner/b").read_bytes() == b"b"
    assert [item.uri for item in storage.list("file:///mnt/psr/data")] == ["file:///mnt/psr/data/b"]
    assert storage.local_path("file:///mnt/psr2/a") == Path("/mnt/psr2/a")


@pytest.mark.parametrize("text", ["mnt=/folder", "/mnt", "/a=/b,/c"])
def test_a_malformed_mount_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match="write it as /mount/path=FOLDER"):
        mounts_from(text)


def test_every_name_that_a_file_can_have(tmp_path: Path) -> None:
    for name in (b"\xff\xfe", "ünï".encode(), b"a%20b", b"#?"):
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).write_bytes(name)
    for item in STORAGE.list(file_uri(tmp_path)):
        assert STORAGE.read(item.uri) == os.fsencode(name_below(file_uri(tmp_path), item.uri))


def test_files_that_are_links_count_as_files(tmp_path: Path) -> None:
    """A Hugging Face cache keeps a model's files as links into a folder of blobs."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/0123").write_bytes(b"weights")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot/model.safetensors").symlink_to("../blobs/0123")
    (tmp_path / "model").symlink_to("snapshot")
    (listed,) = STORAGE.list(file_uri(tmp_path / "model"))
    assert (listed.uri, listed.size) == (file_uri(tmp_path / "model/model.safetensors"), 7)
    (tmp_path / "blobs/0123").unlink()
    with pytest.raises(InputMissing, match=r"model\.safetensors"):
        STORAGE.list(file_uri(tmp_path / "model"))


def test_files_and_folders_are_not_mixed_up(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputMissing, match="a file and a folder are mixed up"):
        STORAGE.write(file_uri(tmp_path / "file/below"), b"x")
    with pytest.raises(InputMissing, match="a file and a folder are mixed up"):
        STORAGE.read(file_uri(tmp_path / "folder"))


def test_without_permission_the_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)  # the superuser is refused nothing
    with pytest.raises(InputMissing, match=rf"Permission denied \({tmp_path}/a\); check owner"):
        STORAGE.read(file_uri(tmp_path / "a"))


def test_a_file_system_without_hard_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(ConfigurationError, match="no hard links"):
        STORAGE.create(file_uri(tmp_path / "a"), b"x")
    assert os.listdir(tmp_path) == []


def test_a_link_whose_answer_was_lost_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def answer_lost(source: Path, target: Path) -> None:
        real(source, target)
        raise FileExistsError(17, "File exists")

    monkeypatch.setattr(os, "link", answer_lost)
    assert STORAGE.create(file_uri(tmp_path / "a"), b"x")
    monkeypatch.undo()
    assert not STORAGE.create(file_uri(tmp_path / "a"), b"y")


def test_the_same_content_is_left_untouched(tmp_path: Path) -> None:
    source, uri = tmp_path / "source", file_uri(tmp_path / "stored/file")
    source.write_bytes(b"content")
    STORAGE.upload(source, uri)
    before = (tmp_path / "stored/file").stat()
    STORAGE.upload(source, uri)
    after = (tmp_path / "stored/file").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    source.write_bytes(b"CONTENT")
    STORAGE.upload(source, uri)
    assert STORAGE.read(uri) == b"CONTENT"


def test_only_a_moved_file_with_no_other_name_is_linked(tmp_path: Path) -> None:
    for name, move, linked in (("copied", False, False), ("moved", True, True), ("shared", True, False)):
        source = tmp_path / name
        source.write_bytes(name.encode())
        if name == "shared":
            os.link(source, tmp_path / "another-name")
        STORAGE.upload(source, file_uri(tmp_path / "stored" / name), move=move)
        stored = tmp_path / "stored" / name
        assert stored.read_bytes() == name.encode()
        assert stored.stat().st_mode & 0o777 == 0o644
        assert (stored.stat().st_ino == source.stat().st_ino) == linked
    (tmp_path / "link").symlink_to(tmp_path / "copied")
    STORAGE.upload(tmp_path / "link", file_uri(tmp_path / "stored/link"), move=True)
    assert not (tmp_path / "stored/link").is_symlink()


def test_a_moved_file_replaces_another(tmp_path: Path) -> None:
    STORAGE.write(file_uri(tmp_path / "stored"), b"of an attempt that was stopped")
    (tmp_path / "source").write_bytes(b"new")
    STORAGE.upload(tmp_path / "source", file_uri(tmp_path / "stored"), move=True)
    assert (tmp_path / "stored").read_bytes() == b"new"


def test_deleting_the_last_file_removes_its_folder(tmp_path: Path) -> None:
    STORAGE.write(file_uri(tmp_path / "run/log/a"), b"x")
    STORAGE.delete(file_uri(tmp_path / "run/log/a"))
    assert not (tmp_path / "run/log").exists()


HALF_WRITING = """
import os, sys
from psr_runtime import storage
def stop(*_):
    print("half-written", flush=True)
    sys.stdin.read()
os.replace = stop
storage.Storage().write(sys.argv[1], b"x" * 1000)
"""


def test_what_a_killed_writer_left_is_invisible_and_swept(tmp_path: Path) -> None:
    uri = file_uri(tmp_path / "run")
    STORAGE.write(join(uri, "whole"), b"x")
    command = [sys.executable, "-c", HALF_WRITING, join(uri, "half")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert len(os.listdir(tmp_path / "run")) == 2
        assert [item.uri for item in STORAGE.list(uri)] == [join(uri, "whole")]
        STORAGE.sweep(uri)
        assert len(os.listdir(tmp_path / "run")) == 2, "its writer lives"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(os.listdir(tmp_path / "run")) == 2
    STORAGE.sweep(uri)
    assert os.listdir(tmp_path / "run") == ["whole"]
