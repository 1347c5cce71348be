"""An admission webhook, in this process, that puts a sidecar before the containers of every pod, as meshes do."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from harness.control_plane.plane import ControlPlane

CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1"
SIDECAR = {
    "name": "a-proxy",
    "image": "registry.test/proxy:1",
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
}


class Handler(BaseHTTPRequestHandler):
    """Answers a review with a JSON patch."""

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        patch = [{"op": "add", "path": "/spec/containers/0", "value": SIDECAR}]
        response = {
            "uid": review["request"]["uid"],
            "allowed": True,
            "patchType": "JSONPatch",
            "patch": base64.b64encode(json.dumps(patch).encode()).decode(),
        }
        body = json.dumps({**review, "request": None, "response": response}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Requests are not logged."""


@contextlib.contextmanager
def injected(plane: ControlPlane, namespace: str) -> Iterator[None]:
    """Put the sidecar into every pod of a namespace that is made while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(plane.folder / "server.crt", plane.folder / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    try:
        with webhook(plane, namespace, "mutating", server.server_address[1], "", "pods"):
            yield
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def webhook(plane: ControlPlane, namespace: str, kind: str, port: int, group: str, resource: str) -> Iterator[None]:
    """Have the apiserver ask a webhook at a port of this machine while the block runs.

    Args:
        kind: `mutating` or `validating`.
        group, resource: of which objects; when they are created.
    """
    name = f"{kind}.{namespace}.psr.test"
    hook = {
        "name": name,
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "timeoutSeconds": 5,
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "rules": [{"apiGroups": [group], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}],
        "clientConfig": {
            "url": f"https://127.0.0.1:{port}/",
            "caBundle": base64.b64encode(plane.ca.read_bytes()).decode(),
        },
    }
    path = f"{CONFIGURATIONS}/{kind}webhookconfigurations"
    plane.request("POST", path, {"metadata": {"name": name}, "webhooks": [hook]})
    try:
        yield
    finally:
        plane.request("DELETE", f"{path}/{name}")
