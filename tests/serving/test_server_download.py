"""A server whose container starts again goes on with the download that the last one began."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from checkpoints import publish_checkpoint, random_model

from harness.s3_server import start_s3
from psr_runtime.config import ModelSource, ServeStage, StorageAccess
from psr_runtime.protocol.errors import Interrupted
from psr_runtime.serving.serve import Server
from psr_runtime.storage import Storage, hashes, s3_transfer
from psr_runtime.storage.s3_transfer import Transfer

PART = 5 << 20


def test_what_was_fetched_before_is_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (hashes, s3_transfer):
        monkeypatch.setattr(module, "PART", PART)
    asked: list[str] = []
    plain, lock = Transfer._get, threading.Lock()

    def get(self: Transfer, address: Any, tag: str, partial: Any, composite: bool, item: Any) -> Any:
        with lock:
            if item.number not in partial.done:
                asked.append(f"{address['Key'].rpartition('/')[2]} {item.number}")
            if breaks and asked[-1] == "ballast.bin 4":
                raise Interrupted("the node goes away")
        return plain(self, address, tag, partial, composite, item)

    monkeypatch.setattr(Transfer, "_get", get)
    with start_s3(tmp_path / "s3") as s3:
        for name, value in s3.environment().items():
            monkeypatch.setenv(name, value)
        access = StorageAccess(endpoint=s3.endpoint)
        uri = f"s3://{s3.bucket}/m1"
        work = tmp_path / "work"
        (work / "serving").mkdir(parents=True)
        (work / "serving/ballast.bin").write_bytes(os.urandom(6 * PART))
        publish_checkpoint(Storage(access), uri, work, random_model(seed=1), None)
        source = ModelSource(uri=uri)
        config = ServeStage(model=source, storage=access, scratch=str(tmp_path / "scratch"))

        breaks = True
        with pytest.raises(Interrupted):
            Server(config, "cpu", threading.Event())._fetch(source)
        first, breaks = set(asked), False
        asked.clear()
        model = Server(config, "cpu", threading.Event())._fetch(source)
        fetched = {name for name in first if name.startswith("ballast.bin")} - {"ballast.bin 4"}
        assert len(fetched) >= 3
        assert not fetched & set(asked)
        assert "ballast.bin 4" in asked
        assert (model.folder / "ballast.bin").read_bytes() == (work / "serving/ballast.bin").read_bytes()
        assert len(list((tmp_path / "scratch/models").iterdir())) == 1
