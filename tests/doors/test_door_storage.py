"""A storage scheme of a test: objects in the memory of this process, under `mem://`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from psr_runtime.artefacts.publishing import publish
from psr_runtime.data.records import Tree
from psr_runtime.stage import run_stage
from psr_runtime.storage import SCHEMES, NotFound, Storage, StoredObject, join
from psr_runtime.storage.hashes import digest_of

OBJECTS: dict[str, bytes] = {}


class MemoryStore:
    encodes_names = False

    def __init__(self, access: Any, mounts: Any) -> None:
        self.local_path = self.sweep = lambda uri: None
        self.write, self.create = OBJECTS.__setitem__, lambda uri, data: OBJECTS.setdefault(uri, data) is data
        self.delete = lambda uri: OBJECTS.pop(uri, None)
        self.delete_folder = lambda uri: [self.delete(item.uri) for item in self.list(uri)]
        self.sha256 = lambda uri: hashlib.sha256(self.read(uri)).hexdigest()
        self.upload = lambda path, uri, sha256, move: self.write(uri, path.read_bytes())

    def read(self, uri: str) -> bytes:
        if uri not in OBJECTS:
            raise NotFound(f"{uri}: no such object")
        return OBJECTS[uri]

    def list(self, uri: str) -> Any:
        names = sorted(name for name in OBJECTS if name == uri or name.startswith(uri.rstrip("/") + "/"))
        return iter([StoredObject(name, len(OBJECTS[name])) for name in names])

    def download(self, uri: str, path: Path, hash: Any) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.read(uri))
        return digest_of(path, hash)


def test_a_stage_reads_and_publishes_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.dumps({"output": "mem://runs/pairs", "parts": ["mem://runs/shard"]})
    SCHEMES.register("mem")(MemoryStore)
    tree = Tree(problem_id="p1", problem="1 + 1", levels=[], kept=[], outcome="Solved")
    (tmp_path / "trees.jsonl").write_text(tree.to_line())
    (tmp_path / "pairs.jsonl").touch()
    about: dict[str, Any] = {"schema_version": 1, "digest": "sha256:0", "inputs": {}, "versions": {}, "result": {}}
    about["metadata"] = {"search": "s", "problems": ["p1"], "tokenizer_digest": "t", "template_digest": "t"}
    about["configuration"] = {"shard": 0, "shards": 1}
    publish(Storage(), "mem://runs/shard", tmp_path, stage="search", **about)
    assert (run_stage("merge", config), json.loads(capsys.readouterr().out)["problems"]) == (0, 1)
    assert OBJECTS[join("mem://runs/pairs", "trees.jsonl")].decode() == tree.to_line()
    SCHEMES.unregister("mem")
    assert (run_stage("merge", config), "there are file, hf, s3" in capsys.readouterr().err) == (64, True)
