from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.s3_server import S3Server, start_s3
from psr_runtime.config import StorageAccess
from psr_runtime.storage import Storage


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with start_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with this process's environment holding its credentials."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def access(s3: S3Server) -> StorageAccess:
    return StorageAccess(endpoint=s3.endpoint)


@pytest.fixture
def storage(access: StorageAccess) -> Storage:
    return Storage(access)


@pytest.fixture
def prefix(s3: S3Server, request: pytest.FixtureRequest) -> str:
    """A URI below which nobody else writes."""
    return f"s3://{s3.bucket}/{request.node.originalname}-{abs(hash(request.node.name)) % 10**8}"


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Storage, str]:
    """A storage and an empty folder in it, once for each scheme."""
    if request.param == "file":
        return Storage(mounts={}), (tmp_path / "stored").as_uri()
    return request.getfixturevalue("storage"), request.getfixturevalue("prefix")
