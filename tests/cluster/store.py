"""An S3 server in the cluster, as a team would have one: a Deployment, a Service, credentials in a Secret."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.control_plane.plane import ControlPlane
from harness.node.images import S3
from psr_runtime.config import StorageAccess
from psr_runtime.storage import Storage

NAMESPACE = "psr-storage"
BUCKET = "psr"
PORT = 8333
SECRET = "s3-credentials"
SHARED = "PSR_TEST_STORE"
"""Variable that holds the store of `make test-cluster`, whose workers share it and the release of PSR."""


@dataclass(frozen=True)
class Store:
    """Where the server is.

    Attributes:
        endpoint: from inside the cluster.
        outside: from this machine.
    """

    endpoint: str
    outside: str
    access_key: str
    secret_key: str

    @property
    def variables(self) -> dict[str, str]:
        """What the Secret of a team holds."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def manifest(self, prefix: str = "runs") -> dict[str, Any]:
        """`spec.storage` of a manifest."""
        return {
            "uri": f"s3://{BUCKET}/{prefix}",
            "endpoint": self.endpoint,
            "region": "us-east-1",
            "credentialsSecret": SECRET,
        }

    def storage(self) -> Storage:
        """From this machine; the credentials must stand in the environment."""
        return Storage(StorageAccess(endpoint=self.outside, region="us-east-1"))

    def give_to(self, cluster: ControlPlane, namespace: str) -> None:
        """Make the Secret in a team's namespace."""
        cluster.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/secrets",
            {"metadata": {"name": SECRET}, "stringData": self.variables},
        )


@contextlib.contextmanager
def start_store(cluster: ControlPlane) -> Iterator[Store]:
    """Run the server until the block ends. Its data goes with it."""
    access, secret = secrets.token_hex(8), secrets.token_urlsafe(24)
    identities = {
        "identities": [
            {
                "name": "psr",
                "credentials": [{"accessKey": access, "secretKey": secret}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }
        ]
    }
    labels = {"app": "s3"}
    confined = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    arguments = [
        *("server", "-dir=/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"),
        *("-master.electionTimeout=1s", "-master.volumeSizeLimitMB=256", "-volume.max=200", "-volume.preStopSeconds=0"),
        *("-filer", "-filer.localSocket=/tmp/filer.sock", "-s3", "-s3.ip.bind=0.0.0.0", f"-s3.port={PORT}"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.localSocket=/tmp/s3.sock"),
        *("-s3.config=/etc/s3/s3.json", "-s3.autoCreateBucket=false"),
    ]
    container = {
        "name": "s3",
        "image": S3,
        "imagePullPolicy": "IfNotPresent",
        "args": arguments,
        "workingDir": "/tmp",
        "env": [{"name": "HOME", "value": "/tmp"}, {"name": "WEED_MASTER_VOLUME_GROWTH_COPY_1", "value": "1"}],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
        "securityContext": confined,
        "volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "config", "mountPath": "/etc/s3", "readOnly": True},
        ],
    }
    pod = {
        "metadata": {"labels": labels},
        "spec": {
            "containers": [container],
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "fsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [
                {"name": "data", "emptyDir": {}},
                {"name": "tmp", "emptyDir": {}},
                {"name": "config", "secret": {"secretName": "s3-config"}},
            ],
        },
    }
    cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    try:
        for path, body in (
            ("api/v1", {"kind": "Secret", "stringData": {"s3.json": json.dumps(identities)}, "name": "s3-config"}),
            ("api/v1", {"kind": "Service", "spec": {"selector": labels, "ports": [{"port": PORT}]}, "name": "s3"}),
            (
                "apis/apps/v1",
                {"kind": "Deployment", "name": "s3", "spec": {"selector": {"matchLabels": labels}, "template": pod}},
            ),
        ):
            name, kind = body.pop("name"), str(body["kind"])
            collection = f"/{path}/namespaces/{NAMESPACE}/{kind.lower()}s"
            cluster.request("POST", collection, {"metadata": {"name": name}, **body})
        cluster.ctl("rollout", "status", "deployment/s3", "-n", NAMESPACE, "--timeout=300s")
        with _forwarded(cluster) as outside:
            store = Store(f"http://s3.{NAMESPACE}.svc:{PORT}", outside, access, secret)
            _make_bucket(store)
            yield store
    finally:
        cluster.ctl("delete", "namespace", NAMESPACE, "--timeout=120s", check=False)


@contextlib.contextmanager
def _forwarded(cluster: ControlPlane) -> Iterator[str]:
    """The server's address on this machine, through the apiserver as for any cluster."""
    command = ["port-forward", "-n", NAMESPACE, "service/s3", f":{PORT}", "--address=127.0.0.1"]
    process = subprocess.Popen(
        [str(cluster.kubectl), f"--kubeconfig={cluster.kubeconfig}", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.search(r"127\.0\.0\.1:(\d+)", line)
        assert match is not None, f"kubectl port-forward: {line}{process.stdout.read()}"
        drained = threading.Thread(target=process.stdout.read)  # it tells of every connection
        drained.start()
        yield f"http://127.0.0.1:{match[1]}"
        process.terminate()
        drained.join()
    finally:
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _make_bucket(store: Store) -> None:
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=store.outside,
        region_name="us-east-1",
        aws_access_key_id=store.access_key,
        aws_secret_access_key=store.secret_key,
        config=Config(retries={"mode": "standard", "total_max_attempts": 10}),
    )
    client.create_bucket(Bucket=BUCKET)


def upload_folder(storage: Storage, folder: Path, uri: str) -> None:
    """Bring every file of a folder to below a URI."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            storage.upload(path, f"{uri}/{path.relative_to(folder)}")
