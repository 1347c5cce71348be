"""Writers of one artefact at once, with different bytes: the manifest that wins describes the bytes that are there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.s3_server import S3Server
from psr_runtime.artefacts.checkpoints import fetch_model, fetch_tokenizer
from psr_runtime.artefacts.fetching import fetch, read_file
from psr_runtime.artefacts.manifest import MANIFEST, read_manifest
from psr_runtime.artefacts.publishing import CLAIM, claim, clear_claim, content_of, entries_of, publish, send
from psr_runtime.config import ModelSource
from psr_runtime.storage import Storage, join, name_below

Place = tuple[Storage, str]
NAMES = [f"part-{number}" for number in range(6)]
FACTS = {
    "stage": "sft",
    "schema_version": 1,
    "digest": "sha256:1",
    "inputs": {},
    "configuration": {},
    "versions": {},
    "metadata": {"layout": {"training": "master", "serving": "master"}},
}
WRITER = """
import json, sys
from pathlib import Path
from psr_runtime.artefacts.publishing import publish
from psr_runtime.config import StorageAccess
from psr_runtime.storage import Storage

access, uri, folder, who, facts = json.loads(sys.argv[1])
storage = Storage(StorageAccess.model_validate(access), mounts={})
print("ready", flush=True)
sys.stdin.readline()
manifest = publish(storage, uri, Path(folder), result={"by": who}, **facts)
print(json.dumps(manifest.result), flush=True)
"""


def folder_of(folder: Path, mark: bytes) -> Path:
    """A folder of files whose every byte says who wrote it; large enough that writing them takes a while."""
    folder.mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(mark * (1 + number * 100_000))
    return folder


def names(storage: Storage, uri: str) -> list[str]:
    return [name_below(uri, item.uri) for item in storage.list(uri)]


@pytest.mark.parametrize("scheme", ["file", "s3"])
def test_processes_that_write_different_bytes_at_once_do_not_mix(
    scheme: str, s3: S3Server, storage: Storage, prefix: str, tmp_path: Path
) -> None:
    access = {"endpoint": s3.endpoint}
    folders = [folder_of(tmp_path / f"made-{who}", b"%d" % who) for who in range(3)]
    for round_ in range(3):
        uri = f"{prefix}/{round_}" if scheme == "s3" else (tmp_path / f"stored-{round_}").as_uri()
        for folder in folders:  # on file:// the files are linked away
            for number, name in enumerate(NAMES):
                (folder / name).unlink()
                (folder / name).write_bytes(folder.name[-1].encode() * (1 + number * 100_000))
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, json.dumps([access, uri, str(folder), who, FACTS])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for who, folder in enumerate(folders)
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        answers = []
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        for writer in writers:
            output, _ = writer.communicate(timeout=120)
            assert writer.returncode == 0
            answers.append(json.loads(output))
        manifest = read_manifest(storage, uri)
        assert manifest is not None
        assert answers == [manifest.result] * 3
        mark = b"%d" % manifest.result["by"]
        folder = fetch(storage, uri, tmp_path / f"fetched-{round_}")
        for number, name in enumerate(NAMES):
            assert (folder / name).read_bytes() == mark * (1 + number * 100_000)
        assert set(names(storage, uri)) == {MANIFEST, *filter(None, (join_root(manifest.root, n) for n in NAMES))}


def join_root(root: str, name: str) -> str:
    return f"{root}/{name}" if root else name


def test_a_writer_who_finds_another_ones_claim_goes_elsewhere_and_readers_find_it(place: Place, tmp_path: Path) -> None:
    """A dead attempt has left its claim, and half of its files under the plain names."""
    storage, uri = place
    dead = folder_of(tmp_path / "dead", b"d")
    entries = entries_of(dead)
    assert claim(storage, uri, content_of(entries), entries) == ""
    send(storage, uri, "", dead, entries[:3])
    manifest = publish(storage, uri, folder_of(tmp_path / "alive", b"a"), result={}, **FACTS)
    assert manifest.root.startswith("files-")
    assert read_manifest(storage, uri) == manifest
    folder = fetch(storage, uri, tmp_path / "fetched")
    assert {(folder / name).read_bytes()[:1] for name in NAMES} == {b"a"}
    assert read_file(storage, uri, NAMES[0]) == b"a"
    assert set(names(storage, uri)) == {MANIFEST, *(f"{manifest.root}/{name}" for name in NAMES)}


def test_an_attempt_with_the_same_bytes_takes_up_the_claim(place: Place, tmp_path: Path) -> None:
    storage, uri = place
    entries = entries_of(folder_of(tmp_path / "dead", b"x"))
    assert claim(storage, uri, content_of(entries), entries) == ""
    assert publish(storage, uri, folder_of(tmp_path / "alive", b"x"), result={}, **FACTS).root == ""
    assert set(names(storage, uri)) == {MANIFEST, *NAMES}


@pytest.mark.parametrize("content", [b"", b"[]", b'{"content": 1}', b'{"content": "x", "files": ["../../outside"]}'])
def test_a_claim_that_cannot_be_read_is_somebody_elses(place: Place, tmp_path: Path, content: bytes) -> None:
    storage, uri = place
    storage.write(join(uri, CLAIM), content)
    storage.write(join(uri, "../outside") if uri.startswith("file") else uri + "-outside", b"stays")
    manifest = publish(storage, uri, folder_of(tmp_path / "made", b"x"), result={}, **FACTS)
    assert manifest.root
    fetch(storage, uri, tmp_path / "fetched")
    assert CLAIM not in names(storage, uri)


def test_a_slow_writer_sends_nothing_once_a_manifest_stands(place: Place, tmp_path: Path) -> None:
    """It took its claim after the winner's was removed: the plain names are free to claim and not free to write."""
    storage, uri = place
    publish(storage, uri, folder_of(tmp_path / "quick", b"q"), result={}, **FACTS)
    slow = folder_of(tmp_path / "slow", b"s")
    entries = entries_of(slow)
    root = claim(storage, uri, content_of(entries), entries)
    send(storage, uri, root, slow, entries)
    folder = fetch(storage, uri, tmp_path / "fetched")
    assert {(folder / name).read_bytes()[:1] for name in NAMES} == {b"q"}
    published = read_manifest(storage, uri)
    assert published is not None
    clear_claim(storage, uri, published)
    assert set(names(storage, uri)) == {MANIFEST, *NAMES}


def test_a_manifest_with_plain_names_is_written_as_before_there_were_others(tmp_path: Path) -> None:
    storage, uri = Storage(mounts={}), (tmp_path / "stored").as_uri()
    manifest = publish(storage, uri, folder_of(tmp_path / "made", b"x"), result={}, **FACTS)
    assert "root" not in json.loads(storage.read(join(uri, MANIFEST)))
    elsewhere = manifest.model_copy(update={"root": "files-0123456789abcdef"})
    assert json.loads(elsewhere.to_bytes())["root"] == "files-0123456789abcdef"
    assert elsewhere.identity != manifest.identity


def test_a_checkpoint_that_lies_elsewhere_is_brought_like_any_other(
    place: Place, tmp_path: Path, checkpoint_folder: Path
) -> None:
    storage, uri = place
    storage.write(join(uri, CLAIM), b'{"content": "a dead attempt", "files": []}')
    manifest = publish(storage, uri, checkpoint_folder, result={}, **FACTS)
    assert manifest.root
    source = ModelSource(uri=uri)
    model = fetch_model(storage, source, tmp_path / "model", "serving")
    assert (model.folder / "config.json").is_file()
    assert (model.digest, model.fingerprint) == (manifest.identity, {"probes": []})
    assert fetch_tokenizer(storage, source, tmp_path / "tokenizer") is not None


@pytest.fixture
def checkpoint_folder(tmp_path: Path) -> Path:
    """Files of a checkpoint: weights that nobody loads, and a tokenizer of three words."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path / "checkpoint"
    inner = Tokenizer(models.WordLevel({"<eos>": 0, "<unk>": 1, "one": 2}, unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<eos>", unk_token="<unk>", chat_template="{{ messages }}"
    ).save_pretrained(folder / "master")
    (folder / "master/config.json").write_text("{}")
    (folder / "master/model.safetensors").write_bytes(b"weights")
    (folder / "fingerprint.json").write_text('{"probes": []}')
    return folder
