"""Files to and from S3: several parts at a time, in bounded memory, and continued where a break left them.

What belongs here: how the bytes of one file travel. Which objects there are, and what an error means for a stage,
stands in `s3.py`. Nothing is kept on the service beside the object itself, so what continues a transfer is looked up
where it is: an upload's finished parts are listed by the service and compared with the file by MD5 (`ETag`), a
download's stand in `<file>.psr-parts` beside the half-written `<file>.psr-partial` (`partial.py`).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from psr_runtime.protocol.errors import Interrupted
from psr_runtime.storage import hashes
from psr_runtime.storage.files import CHUNK
from psr_runtime.storage.hashes import PIECE, Composite, Hash, HashName
from psr_runtime.storage.partial import PartialFile, Slice, slices

T = TypeVar("T")

PART = 8 * CHUNK
"""Bytes of a part of an upload; one of more than 78 GiB takes larger ones. Those of a download are `hashes.PART`."""
MOST_PARTS = 10_000
"""Parts that S3 allows in one object."""
STREAMS = 8
"""Requests under way at a time, over all files of a store."""
BUFFERS = 10
"""Parts begun and not yet used in order, over all files of a store. Those of uploads are in memory, one in each of the
threads that send (64 MiB); those of downloads are only in the page cache, where a hash that needs them in order finds
them."""
TRIES = 3
"""How often a file is begun anew because somebody replaced the object, or ended the upload, meanwhile."""
READS = 5
"""How often one part is asked for whose answer breaks off."""
CONTENT = "psr-sha256"
"""Metadata of uploaded files: sha256 of the content, so that what is there already is not sent again."""

Address = dict[str, str]
"""`Bucket` and `Key`, as boto3 names them."""


class Transfer:
    """Moves files by one boto3 client. Thread-safe; memory is bounded over all files together.

    Args:
        client: a boto3 client of S3.
        checksums: whether the service is asked to check a CRC-32 of each part.
    """

    def __init__(self, client: Any, *, checksums: bool) -> None:
        self._client = client
        self._checksums = checksums
        self._pool = ThreadPoolExecutor(STREAMS, "s3")
        self._buffers = threading.Semaphore(BUFFERS)
        self._memory = threading.local()

    # --- up ------------------------------------------------------------------------------------------------

    def upload(self, path: Path, address: Address, sha256: str) -> None:
        """Put a file's content, in parts where it is large. Parts that an earlier call left are not sent again.

        Raises:
            Interrupted: somebody else ends these uploads again and again.
        """
        size = path.stat().st_size
        if size <= PART:

            def put() -> None:
                self._client.put_object(**address, Body=path.read_bytes(), Metadata={CONTENT: sha256})

            with contextlib.closing(self._in_order([put])) as done:
                next(done)
            return
        part = max(PART, -(-size // MOST_PARTS // CHUNK) * CHUNK)
        for _ in range(TRIES):
            if self._upload_in_parts(path, address, sha256, slices(size, part)):
                return
        raise Interrupted(
            f"s3://{address['Bucket']}/{address['Key']}: the upload was ended by somebody else {TRIES} times; see "
            "who else writes there"
        )

    def holds(self, address: Address, size: int, sha256: str) -> bool:
        """Whether the object is there with this content."""
        from botocore.exceptions import ClientError

        try:
            head = self.head(address)
        except ClientError as error:
            if status(error) == 404:
                return False
            raise
        return bool(head["ContentLength"] == size and head["Metadata"].get(CONTENT) == sha256)

    def head(self, address: Address) -> Any:
        """Size, entity tag and metadata of an object. An answer to HEAD has no body; the reason of a refusal is asked
        for by GET."""
        from botocore.exceptions import ClientError

        try:
            return self._client.head_object(**address)
        except ClientError as error:
            if status(error) in (400, 403):
                self._client.get_object(**address, Range="bytes=0-0")
            raise

    def abandoned(self, address: Address, seconds: float) -> int:
        """End the uploads below a key that began longer ago than this and were not finished; how many."""
        now = time.time()
        old = [item for item in self._uploads(address, below=True) if now - item["Initiated"].timestamp() > seconds]
        for item in old:
            self._abort({**address, "Key": item["Key"]}, item["UploadId"])
        return len(old)

    def _upload_in_parts(self, path: Path, address: Address, sha256: str, cut: list[Slice]) -> bool:
        """False: the upload was ended, or belongs to another content; it has to be begun anew."""
        from botocore.exceptions import ClientError

        earlier = [item["UploadId"] for item in self._uploads(address)]
        continued = self._continued(path, address, cut, earlier)
        upload, sent = continued or (self._begin(address, sha256), {})
        try:
            missing = [item for item in cut if item.number not in sent]
            send = functools.partial(self._send, path, address, upload)
            with contextlib.closing(self._in_order(functools.partial(send, item) for item in missing)) as done:
                sent |= {item.number: tags for item, tags in zip(missing, done, strict=True)}
            parts = [{"PartNumber": item.number, **sent[item.number]} for item in cut]
            self._client.complete_multipart_upload(**address, UploadId=upload, MultipartUpload={"Parts": parts})
        except ClientError as error:
            if code(error) != "NoSuchUpload":
                raise
            # Another writer of this content was first, or our own answer was lost.
            return self.holds(address, cut[-1].start + cut[-1].length, sha256)
        for other in earlier:
            if other != upload:
                self._abort(address, other)
        # What an upload that we did not begin says about its content cannot be seen before it is an object.
        return continued is None or self.holds(address, cut[-1].start + cut[-1].length, sha256)

    def _begin(self, address: Address, sha256: str) -> str:
        extra = {"ChecksumAlgorithm": "CRC32"} if self._checksums else {}
        answer = self._client.create_multipart_upload(**address, Metadata={CONTENT: sha256}, **extra)
        return str(answer["UploadId"])

    def _send(self, path: Path, address: Address, upload: str, item: Slice) -> dict[str, str]:
        data = self._part_of(path, item)
        extra = {"ChecksumAlgorithm": "CRC32"} if self._checksums else {}
        answer = self._client.upload_part(**address, UploadId=upload, PartNumber=item.number, Body=data, **extra)
        return _tags(answer)

    def _part_of(self, path: Path, item: Slice) -> bytearray:
        """A part of a file, in memory of this thread that the next part uses again: new memory for each part costs the
        system as much as its reading.

        Raises:
            Interrupted: the file is shorter now.
        """
        data: bytearray = getattr(self._memory, "part", bytearray())
        if len(data) != item.length:
            data = self._memory.part = bytearray(item.length)
        room, at = memoryview(data), item.start
        with open(path, "rb", buffering=0) as file:
            while room:
                length = os.preadv(file.fileno(), [room], at)
                if not length:
                    raise Interrupted(f"{path}: it was cut off while it was sent; run it again")
                room, at = room[length:], at + length
        return data

    def _uploads(self, address: Address, *, below: bool = False) -> list[Any]:
        """Unfinished uploads of a key (or below it), newest first; none where the service does not tell."""
        from botocore.exceptions import ClientError

        key = address["Key"].rstrip("/")
        try:
            pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=address["Bucket"], Prefix=key)
            uploads = [item for page in pages for item in page.get("Uploads", ())]
        except ClientError as error:
            if status(error) in (403, 405, 501):
                return []
            raise
        ours = [item for item in uploads if item["Key"] == key or (below and item["Key"].startswith(key + "/"))]
        return sorted(ours, key=lambda item: item["Initiated"], reverse=True)

    def _continued(
        self, path: Path, address: Address, cut: list[Slice], uploads: Iterable[str]
    ) -> tuple[str, dict[int, dict[str, str]]] | None:
        """The unfinished upload that holds most parts of this very file, and their tags; None where there is none."""
        best: tuple[str, dict[int, dict[str, str]]] | None = None
        for upload in uploads:
            sent = self._parts_of(path, address, cut, upload)
            if sent and (best is None or len(sent) > len(best[1])):
                best = upload, sent
        return best

    def _parts_of(self, path: Path, address: Address, cut: list[Slice], upload: str) -> dict[int, dict[str, str]]:
        """Finished parts of an upload; empty unless each is byte for byte a part of the file."""
        from botocore.exceptions import ClientError

        try:
            pages = self._client.get_paginator("list_parts").paginate(**address, UploadId=upload)
            listed = [item for page in pages for item in page.get("Parts", ())]
        except ClientError as error:
            if status(error) in (403, 404, 405, 501):
                return {}
            raise
        with open(path, "rb") as file:
            for item in listed:
                number = item["PartNumber"]
                if number > len(cut) or item["Size"] != cut[number - 1].length:
                    return {}
                data = os.pread(file.fileno(), cut[number - 1].length, cut[number - 1].start)
                if item["ETag"].strip('"') != hashlib.md5(data, usedforsecurity=False).hexdigest():
                    return {}
        return {item["PartNumber"]: _tags(item) for item in listed}

    def _abort(self, address: Address, upload: str) -> None:
        from botocore.exceptions import ClientError

        try:
            self._client.abort_multipart_upload(**address, UploadId=upload)
        except ClientError as error:
            if status(error) not in (403, 404):
                raise

    # --- down ----------------------------------------------------------------------------------------------

    def download(self, address: Address, path: Path, hash: HashName) -> str:
        """Fetch an object into a file, whole or not at all; its digest, computed on the way.

        Parts that an earlier call fetched, and whose object has not changed since, are not asked for again.

        Raises:
            Interrupted: the object is replaced again and again, or its transfer breaks off again and again.
        """
        from botocore.exceptions import ClientError

        for _ in range(TRIES):
            head = self.head(address)
            try:
                with PartialFile.opened(path, head["ETag"], head["ContentLength"]) as partial:
                    total = hashes.new_hash(hash)
                    get = functools.partial(self._get, address, head["ETag"], partial, isinstance(total, Composite))
                    cut = slices(head["ContentLength"], hashes.PART)
                    with contextlib.closing(self._in_order(functools.partial(get, item) for item in cut)) as fetched:
                        for item, part in zip(cut, fetched, strict=True):
                            if isinstance(total, Composite) and part is not None:
                                total.add(part)
                            else:
                                partial.feed(item, total)
                    partial.finish()
                return total.digest().hex()
            except ClientError as error:
                if status(error) != 412:
                    raise
        raise Interrupted(
            f"s3://{address['Bucket']}/{address['Key']}: it is replaced while it is read; try again later"
        )

    def _get(self, address: Address, tag: str, partial: PartialFile, composite: bool, item: Slice) -> Hash | None:
        """Fetch a part into its place; an answer that breaks off is continued where it broke.

        Returns:
            The hash of the part, if it is to be a composite one's.
        """
        from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

        part = Composite.part() if composite else None
        if item.number in partial.done:
            if part is not None:
                partial.feed(item, part)
            return part
        at, end = item.start, item.start + item.length
        for attempt in range(READS):
            try:
                answer = self._client.get_object(**address, Range=f"bytes={at}-{end - 1}", IfMatch=tag)
                with contextlib.closing(answer["Body"]) as body:
                    while data := body.read(PIECE):
                        if len(data) > end - at:
                            raise _ill_cut(address, item, "more")
                        partial.write(at, data)
                        if part is not None:
                            part.update(data)
                        at += len(data)
                break
            except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                if at == end:
                    break
                if attempt == READS - 1:
                    raise
                time.sleep(0.1 * 2**attempt)
        if at != end:
            raise _ill_cut(address, item, "fewer")
        partial.note(item)
        return part

    # --- both ----------------------------------------------------------------------------------------------

    def _in_order(self, tasks: Iterable[Callable[[], T]]) -> Generator[T, None, None]:
        """Results of tasks that run beside each other, in the tasks' order.

        Each counts as one buffer from its start until the result after it is asked for. A caller waits for a buffer
        only while it holds none, so callers never wait for each other in a circle.
        """
        pending: deque[Future[T]] = deque()
        try:
            for task in tasks:
                while not self._buffers.acquire(blocking=not pending):
                    yield pending[0].result()
                    pending.popleft()
                    self._buffers.release()
                pending.append(self._pool.submit(task))
            while pending:
                yield pending[0].result()
                pending.popleft()
                self._buffers.release()
        finally:
            for future in pending:
                future.cancel()
            wait(pending)
            for _ in pending:
                self._buffers.release()


def _ill_cut(address: Address, item: Slice, what: str) -> Interrupted:
    return Interrupted(
        f"s3://{address['Bucket']}/{address['Key']}: {what} bytes came than the {item.length} from {item.start} that "
        "were asked for; a proxy in between may not know ranges"
    )


def _tags(answer: Any) -> dict[str, str]:
    return {name: answer[name] for name in ("ETag", "ChecksumCRC32") if answer.get(name)}


def status(error: Any) -> int:
    """HTTP status of a boto3 `ClientError`; 0 where it has none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code(error: Any) -> str:
    """S3's code for what a boto3 `ClientError` is about."""
    return str(error.response.get("Error", {}).get("Code", ""))
