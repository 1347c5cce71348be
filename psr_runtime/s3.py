"""`s3://bucket/key` by boto3, with its parallel multipart transfer and conditional puts.

Credentials come from the environment or the pod's identity. Keys are taken literally: no percent-decoding, no `?` or
`#`. How often a request is tried is `AWS_MAX_ATTEMPTS` (5); a service that does not answer ends in `Interrupted`
after a minute or two.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from psr_runtime.config import StorageAccess
from psr_runtime.errors import ConfigurationError, DataError, InputMissing, Interrupted
from psr_runtime.files import CHUNK, NotFound, StoredObject, file_errors

ATTEMPTS = 5
CONTENT = "psr-sha256"
"""Metadata of uploaded files: sha256 of the content, so that what is there already is not sent again."""


class S3Store:
    """The `Store` of `s3://`. Thread-safe.

    Raises:
        ConfigurationError: endpoint or region are malformed.
    """

    def __init__(self, access: StorageAccess) -> None:
        import boto3
        from boto3.s3.transfer import TransferConfig
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        attempts = int(os.environ.get("AWS_MAX_ATTEMPTS", ATTEMPTS))
        # Stores other than AWS often refuse checksums that the request does not need.
        checksum = "when_supported" if access.endpoint is None else "when_required"
        try:
            self._client: Any = boto3.session.Session().client(
                "s3",
                endpoint_url=access.endpoint,
                region_name=access.region,
                config=Config(
                    retries={"mode": "standard", "total_max_attempts": attempts},
                    connect_timeout=10,
                    read_timeout=60,
                    max_pool_connections=32,
                    request_checksum_calculation=checksum,
                    response_checksum_validation=checksum,
                ),
            )
        except (ValueError, BotoCoreError) as error:
            raise ConfigurationError(
                f"storage.endpoint {access.endpoint!r}, storage.region {access.region!r}: {error}"
            ) from error
        self._transfer = TransferConfig(
            multipart_threshold=32 * CHUNK, multipart_chunksize=16 * CHUNK, max_concurrency=8
        )

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
                    if _status(error) == 412:
                        return False
                    if _status(error) != 409 or attempt == ATTEMPTS - 1:
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
                    found = f"s3://{address['Bucket']}/{name}"
                    if name != key and {"", ".", ".."} & set(name[len(key) + 1 :].split("/")):
                        raise DataError(f"{found}: a name with an empty, . or .. part is refused; remove the object")
                    yield StoredObject(found, item["Size"])

    def delete(self, uri: str) -> None:
        with s3_errors(uri):
            self._client.delete_object(**_address(uri))

    def delete_folder(self, uri: str) -> None:
        for item in list(self.list(uri)):
            self.delete(item.uri)

    def sweep(self, uri: str) -> None:
        """Nothing: an unfinished upload cannot be told from one under way; the bucket's lifecycle rule ends it."""

    def sha256(self, uri: str) -> str:
        total = hashlib.sha256()
        with s3_errors(uri):
            for chunk in self._client.get_object(**_address(uri))["Body"].iter_chunks(CHUNK):
                total.update(chunk)
        return total.hexdigest()

    def upload(self, path: Path, uri: str, sha256: str, move: bool) -> None:
        with s3_errors(uri):
            if self._holds(uri, path.stat().st_size, sha256):
                return
            self._client.upload_file(
                str(path), **_address(uri), Config=self._transfer, ExtraArgs={"Metadata": {CONTENT: sha256}}
            )

    def _holds(self, uri: str, size: int, sha256: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            head = self._client.head_object(**_address(uri))
        except ClientError as error:
            if _status(error) == 404:
                return False
            raise
        return bool(head["ContentLength"] == size and head["Metadata"].get(CONTENT) == sha256)

    def download(self, uri: str, path: Path) -> None:
        address = _address(uri)
        with file_errors(str(path)):
            path.parent.mkdir(parents=True, exist_ok=True)
            with s3_errors(uri):
                self._client.download_file(address["Bucket"], address["Key"], str(path), Config=self._transfer)


def _address(uri: str) -> dict[str, str]:
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}


def _status(error: Any) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextlib.contextmanager
def s3_errors(uri: str) -> Iterator[None]:
    """Translate boto3's errors about `uri` into the stage contract's.

    What the caller got wrong (credentials, bucket, region) is 66; what may pass (5xx, throttling, no answer) is 75.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise InputMissing(
            f"{uri}: no S3 credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or use an identity"
        ) from error
    except (ClientError, Boto3Error) as error:
        cause = error if isinstance(error, ClientError) else error.__context__
        if not isinstance(cause, ClientError):
            raise Interrupted(f"{uri}: S3 transfer failed ({error})") from error
        raise _explained(uri, _status(cause), cause.response.get("Error", {}).get("Code", "")) from error
    except BotoCoreError as error:
        raise Interrupted(f"{uri}: S3 cannot be reached ({error})") from error


def _explained(uri: str, status: int, code: str) -> InputMissing | Interrupted:
    answer = f"{code or status}"
    if status in (401, 403):
        return InputMissing(f"{uri}: S3 refused the credentials ({answer}); check key, secret and bucket policy")
    if code == "NoSuchBucket":
        return InputMissing(f"{uri}: no such bucket ({answer}); create it, or check endpoint and name")
    if status == 404:
        return NotFound(f"{uri}: no such object ({answer})")
    if status in (408, 409, 429) or status >= 500 or code in ("ExpiredToken", "RequestTimeout", "SlowDown"):
        return Interrupted(f"{uri}: S3 answered {answer}; it is tried again later")
    return InputMissing(f"{uri}: S3 answered {answer}; check endpoint, region and bucket")
