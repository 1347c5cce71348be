"""What `benchmarks/s3.py` measures besides ours, one call a process: a folder up to a bucket, or a bucket down.

    python -P benchmarks/s3_peers.py NAME upload|download FOLDER BUCKET ENDPOINT

It runs in an environment of its own (`requirements/bench-s3.txt`), so nothing of psr is imported. Every peer has the
same 8 requests of 16 MiB under way where it lets one choose, and makes its client before the clock starts. awscli is a
program, and `benchmarks/s3.py` calls it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PART = 16 << 20
STREAMS = 8

Peer = Callable[[str, Path, str, str], Callable[[], None]]
"""Verb, folder, bucket and endpoint -> the transfer, ready to begin."""


def boto3_classic(verb: str, folder: Path, bucket: str, endpoint: str) -> Callable[[], None]:
    """boto3's own transfer: Python threads."""
    import boto3
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        config=Config(max_pool_connections=32, request_checksum_calculation="when_required"),
    )
    config = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=STREAMS)

    def transfer() -> None:
        if verb == "upload":
            work = [(client.upload_file, (str(path), bucket, path.name)) for path in sorted(folder.iterdir())]
        else:
            keys = [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]]
            work = [(client.download_file, (bucket, key, str(folder / key))) for key in keys]
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(call, *arguments, Config=config) for call, arguments in work]:
                done.result()

    return transfer


def boto3_crt(verb: str, folder: Path, bucket: str, endpoint: str) -> Callable[[], None]:
    """s3transfer on the AWS common runtime (C). boto3 itself takes it for AWS only, so it is put together here."""
    import boto3
    from awscrt.auth import AwsCredentialsProvider
    from botocore.session import Session
    from s3transfer.crt import BotocoreCRTRequestSerializer, CRTTransferManager, create_s3_crt_client

    region = os.environ["AWS_DEFAULT_REGION"]
    provider = AwsCredentialsProvider.new_static(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    client = create_s3_crt_client(region, crt_credentials_provider=provider, part_size=PART, use_ssl=False)
    serializer = BotocoreCRTRequestSerializer(Session(), {"region_name": region, "endpoint_url": endpoint})
    lister = boto3.client("s3", endpoint_url=endpoint)

    def transfer() -> None:
        with CRTTransferManager(client, serializer) as manager:
            if verb == "upload":
                work = [manager.upload(str(path), bucket, path.name) for path in sorted(folder.iterdir())]
            else:
                keys = [item["Key"] for item in lister.list_objects_v2(Bucket=bucket)["Contents"]]
                work = [manager.download(bucket, key, str(folder / key)) for key in keys]
            for done in work:
                done.result()

    return transfer


def obstore(verb: str, folder: Path, bucket: str, endpoint: str) -> Callable[[], None]:
    """object_store (Rust): its multipart upload, and ranges written where they belong."""
    import obstore as obs
    from obstore.store import S3Store

    store = S3Store(
        bucket,
        endpoint=endpoint,
        region=os.environ["AWS_DEFAULT_REGION"],
        virtual_hosted_style_request=False,
        client_options={"allow_http": True, "timeout": "120s"},
    )

    def upload() -> None:
        def put(path: Path) -> None:
            obs.put(store, path.name, path, use_multipart=True, chunk_size=PART, max_concurrency=STREAMS)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(put, sorted(folder.iterdir())))

    def download() -> None:
        files = {}
        ranges = []
        for item in (item for page in obs.list(store) for item in page):
            key, size = item["path"], item["size"]
            files[key] = os.open(folder / key, os.O_RDWR | os.O_CREAT)
            os.ftruncate(files[key], size)
            ranges += [(key, start, min(start + PART, size)) for start in range(0, size, PART)]

        def get(key: str, start: int, end: int) -> None:
            os.pwrite(files[key], obs.get_range(store, key, start=start, end=end), start)

        with ThreadPoolExecutor(STREAMS) as pool:
            for done in [pool.submit(get, *item) for item in ranges]:
                done.result()
        for handle in files.values():
            os.close(handle)

    return upload if verb == "upload" else download


PEERS: dict[str, Peer] = {"boto3": boto3_classic, "boto3-crt": boto3_crt, "obstore": obstore}


def main() -> None:
    name, verb, folder, bucket, endpoint = sys.argv[1:]
    transfer = PEERS[name](verb, Path(folder), bucket, endpoint)
    started = time.monotonic()
    transfer()
    print(json.dumps({"seconds": time.monotonic() - started}), flush=True)


if __name__ == "__main__":
    main()
