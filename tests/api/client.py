"""Requests to an apiserver over one connection that stays open: thousands of them take seconds."""

from __future__ import annotations

import http.client
import json
import ssl
from typing import Any
from urllib.parse import urlsplit

from harness.control_plane.plane import ControlPlane

YAML = "application/yaml"
JSON = "application/json"


class Connection:
    """A connection as the administrator."""

    def __init__(self, plane: ControlPlane) -> None:
        place = urlsplit(plane.url)
        self._token = plane.token
        context = ssl.create_default_context(cafile=str(plane.ca))
        assert place.hostname is not None
        self._connection = http.client.HTTPSConnection(place.hostname, place.port, context=context, timeout=60)

    def send(self, verb: str, path: str, body: Any = None, content: str = JSON) -> tuple[int, Any]:
        """One request. Returns the HTTP status and the answer's JSON (its text as `message` where it is none).

        Args:
            body: JSON values, or the text itself.
        """
        data = body if isinstance(body, str) or body is None else json.dumps(body)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content, "Accept": JSON}
        self._connection.request(verb, path, None if data is None else data.encode(), headers)
        answer = self._connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text.startswith(b"{") else {"message": text.decode()}

    def close(self) -> None:
        self._connection.close()
