"""Our side of `benchmarks/s3.py`, one call a process: publish a folder as an artefact, or fetch one.

python -m benchmarks.s3_ours upload|download FOLDER BUCKET ENDPOINT
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from psr_runtime.artefacts.fetching import fetch
from psr_runtime.artefacts.publishing import publish
from psr_runtime.config import StorageAccess
from psr_runtime.storage import Storage


def main() -> None:
    verb, folder, bucket, endpoint = sys.argv[1:]
    storage = Storage(StorageAccess(endpoint=endpoint))
    uri = f"s3://{bucket}/checkpoint"
    storage.list(f"{uri}/nothing")  # the client is made by the first call
    started = time.monotonic()
    if verb == "upload":
        publish(
            storage,
            uri,
            Path(folder),
            stage="sft",
            schema_version=1,
            digest="sha256:bench",
            inputs={},
            configuration={},
            versions={},
            metadata={},
            result={},
        )
    else:
        fetch(storage, uri, Path(folder))
    print(json.dumps({"seconds": time.monotonic() - started}), flush=True)


if __name__ == "__main__":
    main()
