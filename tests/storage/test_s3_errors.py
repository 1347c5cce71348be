"""What S3 can answer, and what a stage then says. Real answers where the server gives them, stubbed ones elsewhere."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import ANY, Stubber

from harness.ports import free_ports
from harness.s3_server import S3Server
from psr_runtime.artefacts.manifest import read_manifest
from psr_runtime.config import StorageAccess
from psr_runtime.protocol.errors import ConfigurationError, DataError, InputMissing, Interrupted, StageError
from psr_runtime.storage import NotFound, Storage
from psr_runtime.storage.s3 import S3Store

Ask = Callable[[Storage, str, Path], object]


def upload(storage: Storage, uri: str, folder: Path) -> None:
    (folder / "file").write_bytes(b"x")
    storage.upload(folder / "file", uri)


EVERY_CALL = {
    "read": lambda storage, uri, _: storage.read(uri),
    "write": lambda storage, uri, _: storage.write(uri, b"x"),
    "create": lambda storage, uri, _: storage.create(uri, b"x"),
    "list": lambda storage, uri, _: storage.list(uri),
    "delete": lambda storage, uri, _: storage.delete(uri),
    "sha256": lambda storage, uri, _: storage.sha256(uri),
    "upload": upload,
    "download": lambda storage, uri, folder: storage.download(uri, folder / "x"),
}
every_call = pytest.mark.parametrize("ask", EVERY_CALL.values(), ids=EVERY_CALL)


@every_call
@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_credentials_are_named_without_the_secret(
    s3: S3Server, access: StorageAccess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wrong: str, ask: Ask
) -> None:
    monkeypatch.setenv(wrong, "wrong-and-hidden")
    uri = f"s3://{s3.bucket}/some/object"
    with pytest.raises(InputMissing, match="S3 refused the credentials") as caught:
        ask(Storage(access), uri, tmp_path)
    assert caught.value.exit_code == 66
    assert not isinstance(caught.value, NotFound)
    assert str(caught.value).startswith(uri)
    assert "wrong-and-hidden" not in str(caught.value)
    assert s3.secret_key not in str(caught.value)


def test_no_credentials_at_all(s3: S3Server, access: StorageAccess, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in s3.environment():
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(InputMissing, match=r"s3://psr/a: no S3 credentials; set AWS_ACCESS_KEY_ID"):
        Storage(access).read("s3://psr/a")


def test_refused_is_not_taken_for_absent(s3: S3Server, access: StorageAccess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(InputMissing, match="refused"):
        read_manifest(Storage(access), f"s3://{s3.bucket}/run")


@every_call
def test_a_missing_bucket_is_named(storage: Storage, tmp_path: Path, ask: Ask) -> None:
    with pytest.raises(InputMissing, match=r"s3://no-such-bucket/run/object: (no such bucket|no such object \(404\))"):
        ask(storage, "s3://no-such-bucket/run/object", tmp_path)


def test_a_missing_bucket_is_not_an_absent_artefact(storage: Storage) -> None:
    with pytest.raises(InputMissing, match="no such bucket"):
        read_manifest(storage, "s3://no-such-bucket/run")


@every_call
def test_an_unreachable_service_is_temporary(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ask: Ask
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    nobody = Storage(StorageAccess(endpoint=f"http://127.0.0.1:{free_ports(1)[0]}"))
    with pytest.raises(Interrupted, match=r"^s3://psr/a: S3 ") as caught:
        ask(nobody, "s3://psr/a", tmp_path)
    assert caught.value.exit_code == 75


def test_an_unreachable_service_is_not_asked_for_ever(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)
    started = time.monotonic()
    with pytest.raises(Interrupted):
        Storage(StorageAccess(endpoint=f"http://127.0.0.1:{free_ports(1)[0]}")).read("s3://psr/a")
    assert time.monotonic() - started < 60


def test_a_malformed_endpoint_names_its_field() -> None:
    with pytest.raises(ConfigurationError, match=r"storage\.endpoint 'http://'"):
        Storage(StorageAccess(endpoint="http://")).read("s3://psr/a")


def test_uploaded_content_is_not_sent_again(s3: S3Server, storage: Storage, prefix: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    storage.upload(tmp_path / "file", f"{prefix}/file")
    key = f"{prefix}/file".removeprefix(f"s3://{s3.bucket}/")
    # Other bytes under the same description show whether the second upload happens.
    s3.client().put_object(
        Bucket=s3.bucket, Key=key, Body=b"changed", Metadata={"psr-sha256": hashlib.sha256(b"content").hexdigest()}
    )
    storage.upload(tmp_path / "file", f"{prefix}/file")
    assert storage.read(f"{prefix}/file") == b"changed"
    (tmp_path / "file").write_bytes(b"updated")
    storage.upload(tmp_path / "file", f"{prefix}/file")
    assert storage.read(f"{prefix}/file") == b"updated"


# --- answers that the test server does not give ------------------------------------------------------------


@pytest.fixture
def stubbed(s3: S3Server) -> tuple[S3Store, Stubber]:
    store = S3Store(StorageAccess(endpoint=s3.endpoint))
    return store, Stubber(store._client)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (500, "InternalError", Interrupted),
        (503, "SlowDown", Interrupted),
        (409, "ConditionalRequestConflict", Interrupted),
        (400, "ExpiredToken", Interrupted),
        (403, "AccessDenied", InputMissing),
        (301, "PermanentRedirect", InputMissing),
        (400, "AuthorizationHeaderMalformed", InputMissing),
        (404, "NoSuchKey", NotFound),
    ],
)
def test_each_answer_has_its_exit_code(
    stubbed: tuple[S3Store, Stubber], status: int, code: str, kind: type[StageError]
) -> None:
    store, stub = stubbed
    stub.add_client_error("get_object", service_error_code=code, http_status_code=status)
    with stub, pytest.raises(kind, match=rf"s3://psr/a: .*{code}"):
        store.read("s3://psr/a")


def conflict(stub: Stubber) -> None:
    stub.add_client_error(
        "put_object", "ConditionalRequestConflict", http_status_code=409, expected_params={"Bucket": "psr", **ANY_REST}
    )


ANY_REST: dict[str, Any] = {"Key": ANY, "Body": ANY, "IfNoneMatch": "*"}


def test_a_conflict_of_creators_is_asked_again_until_one_has_won(stubbed: tuple[S3Store, Stubber]) -> None:
    store, stub = stubbed
    conflict(stub)
    stub.add_client_error("put_object", "PreconditionFailed", http_status_code=412)
    conflict(stub)
    stub.add_response("put_object", {})
    with stub:
        assert store.create("s3://psr/a", b"x") is False
        assert store.create("s3://psr/a", b"x") is True
        stub.assert_no_pending_responses()


def test_a_conflict_without_end_is_temporary(stubbed: tuple[S3Store, Stubber]) -> None:
    store, stub = stubbed
    for _ in range(5):
        conflict(stub)
    with stub, pytest.raises(Interrupted, match="ConditionalRequestConflict"):
        store.create("s3://psr/a", b"x")


@pytest.mark.parametrize("key", ["run/../../etc/passwd", "run/./a", "run//a"])
def test_names_that_leave_the_folder_are_refused(stubbed: tuple[S3Store, Stubber], key: str) -> None:
    store, stub = stubbed
    stub.add_response("list_objects_v2", {"Contents": [{"Key": key, "Size": 1}]})
    with stub, pytest.raises(DataError, match=r"an empty, \. or \.\. part is refused"):
        list(store.list("s3://psr/run"))


def test_marks_of_empty_folders_are_no_objects(stubbed: tuple[S3Store, Stubber]) -> None:
    store, stub = stubbed
    keys = ["run/", "run/a", "run/sub/"]
    stub.add_response("list_objects_v2", {"Contents": [{"Key": key, "Size": 0} for key in keys]})
    with stub:
        assert [item.uri for item in store.list("s3://psr/run")] == ["s3://psr/run/a"]
