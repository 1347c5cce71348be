"""`s3://bucket/key` by boto3: objects, conditional puts, and what the service's answers mean for a stage.

Credentials come from the environment or the pod's identity; `AWS_CA_BUNDLE` names the certificates that are trusted
instead of the system's. Keys are taken literally: no percent-decoding, no `?` or `#`. How often a request is tried is
`AWS_MAX_ATTEMPTS` (5); a service that does not answer ends in `Interrupted` after a minute or two. How the bytes of
files travel stands in `s3_transfer.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from psr_runtime.config import StorageAccess
from psr_runtime.protocol.errors import ConfigurationError, DataError, InputMissing, Interrupted
from psr_runtime.storage.files import CHUNK, file_errors
from psr_runtime.storage.hashes import HashName
from psr_runtime.storage.s3_transfer import STREAMS, Transfer, code, status
from psr_runtime.storage.store import NotFound, StoredObject

ATTEMPTS = 5
STALE_SECONDS = 24 * 3600.0
"""An upload that began longer ago and is not finished has no writer any more."""


class S3Store:
    """The `Store` of `s3://`.

    Args:
        access: endpoint, region and style of address.
        mounts: of no meaning here.

    Raises:
        ConfigurationError: endpoint or region are malformed, or AWS_CA_BUNDLE names no certificates.
    """

    encodes_names: ClassVar[bool] = False

    def __init__(self, access: StorageAccess, mounts: Mapping[str, Path] | None = None) -> None:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", ATTEMPTS))
        # Stores other than AWS often refuse checksums that the request does not need.
        checksum = "when_supported" if access.endpoint is None else "when_required"
        options: dict[str, Any] = {
            "addressing_style": {None: "auto", True: "path", False: "virtual"}[access.path_style]
        }
        if (access.endpoint or "").startswith("https://"):
            # TLS guards the body; without it a second sha256, of each part, goes with the request.
            options["payload_signing_enabled"] = False
        _check_certificates()
        try:
            self._client: Any = boto3.session.Session().client(
                "s3",
                endpoint_url=access.endpoint,
                region_name=access.region,
                config=Config(
                    retries={"mode": "standard", "total_max_attempts": attempts},
                    connect_timeout=10,
                    read_timeout=60,
                    max_pool_connections=2 * STREAMS,
                    s3=options,
                    request_checksum_calculation=checksum,
                    response_checksum_validation=checksum,
                ),
            )
        except (ValueError, BotoCoreError) as error:
            raise ConfigurationError(
                f"storage.endpoint {access.endpoint!r}, storage.region {access.region!r}: {error}"
            ) from error
        self._transfer = Transfer(self._client, checksums=checksum == "when_supported")

    def local_path(self, uri: str) -> None:
        return None

    def read(self, uri: str) -> bytes:
        with s3_errors(uri):
            data: bytes = self._client.get_object(**_address(uri))["Body"].read()
            return data

    def write(self, uri: str, data: bytes) -> None:
        with s3_errors(uri):
            self._client.put_object(**_address(uri), Body=data)

    def create(self, uri: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        with s3_errors(uri):
            for attempt in range(ATTEMPTS):
                try:
                    self._client.put_object(**_address(uri), Body=data, IfNoneMatch="*")
                    return True
                except ClientError as error:
                    if status(error) == 412:
                        return False
                    if status(error) != 409 or attempt == ATTEMPTS - 1:
                        raise
                # 409: another conditional request on this key is under way, and who won is not known yet.
                time.sleep(random.uniform(0, 0.1 * 2**attempt))
        raise AssertionError("unreachable")

    def list(self, uri: str) -> Iterator[StoredObject]:
        address = _address(uri)
        key = address["Key"].rstrip("/")
        with s3_errors(uri):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=address["Bucket"], Prefix=key)
            for page in pages:
                for item in page.get("Contents", ()):
                    name = item["Key"]
                    if name != key and not name.startswith(key + "/"):
                        continue
                    if name.endswith("/"):
                        continue  # how some clients mark an empty folder
                    listed = f"s3://{address['Bucket']}/{name}"
                    if name != key and {"", ".", ".."} & set(name[len(key) + 1 :].split("/")):
                        raise DataError(f"{listed}: a name with an empty, . or .. part is refused; remove the object")
                    yield StoredObject(listed, item["Size"])

    def delete(self, uri: str) -> None:
        with s3_errors(uri):
            self._client.delete_object(**_address(uri))

    def delete_folder(self, uri: str) -> None:
        for item in list(self.list(uri)):
            self.delete(item.uri)

    def sweep(self, uri: str) -> None:
        with s3_errors(uri):
            self._transfer.abandoned(_address(uri), STALE_SECONDS)

    def sha256(self, uri: str) -> str:
        total = hashlib.sha256()
        with s3_errors(uri):
            for chunk in self._client.get_object(**_address(uri))["Body"].iter_chunks(CHUNK):
                total.update(chunk)
        return total.hexdigest()

    def upload(self, path: Path, uri: str, sha256: str, move: bool) -> None:
        address = _address(uri)
        with s3_errors(uri):
            if not self._transfer.holds(address, path.stat().st_size, sha256):
                self._transfer.upload(path, address, sha256)

    def download(self, uri: str, path: Path, hash: HashName) -> str:
        with file_errors(str(path)), s3_errors(uri):
            return self._transfer.download(_address(uri), path, hash)


def _address(uri: str) -> dict[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}


def _check_certificates() -> None:
    """Fail at once where AWS_CA_BUNDLE is set and no certificates are there; boto3 would do so at the first request."""
    place = os.environ.get("AWS_CA_BUNDLE")
    if not place:
        return
    try:
        ssl.create_default_context(cafile=place)
    except OSError as error:
        raise ConfigurationError(
            f"AWS_CA_BUNDLE {place}: no PEM certificates can be read there ({error.strerror or error}); "
            "see storage.caSecret or the variable"
        ) from error


PASSING = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestTimeout", "SlowDown"})
"""Codes of refusals that pass, whatever their status: a session's token is renewed by whoever gave it."""


@contextlib.contextmanager
def s3_errors(uri: str) -> Iterator[None]:
    """Translate boto3's errors about `uri` into the stage contract's.

    What the caller got wrong (credentials, bucket, region) is 66; what may pass (5xx, throttling, no answer) is 75.
    """
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError, SSLError

    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise InputMissing(
            f"{uri}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use an identity"
        ) from error
    except ClientError as error:
        raise _explained(uri, status(error), code(error)) from error
    except SSLError as error:
        if "CERTIFICATE_VERIFY_FAILED" not in str(error):
            raise Interrupted(f"{uri}: S3 cannot be reached ({error})") from error
        raise InputMissing(
            f"{uri}: the S3 service shows a certificate that is not trusted ({error}); name a file with the "
            "certificate of its authority in AWS_CA_BUNDLE, or in pods a Secret in storage.caSecret"
        ) from error
    except BotoCoreError as error:
        raise Interrupted(f"{uri}: S3 cannot be reached ({error})") from error


def _explained(uri: str, status: int, code: str) -> InputMissing | Interrupted:
    answer = f"{code or status}"
    if code in PASSING:
        return Interrupted(f"{uri}: S3 answered {answer}; it is tried again later")
    if status in (401, 403):
        return InputMissing(f"{uri}: S3 refused the credentials ({answer}); check key, secret and bucket policy")
    if code == "NoSuchBucket":
        return InputMissing(f"{uri}: no such bucket ({answer}); create it, or check endpoint and name")
    if status == 404:
        return NotFound(f"{uri}: no such object ({answer})")
    if status in (408, 409, 429) or status >= 500:
        return Interrupted(f"{uri}: S3 answered {answer}; it is tried again later")
    return InputMissing(f"{uri}: S3 answered {answer}; check endpoint, region and bucket")
