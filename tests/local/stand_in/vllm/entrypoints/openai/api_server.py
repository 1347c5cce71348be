"""The routes of vLLM that a PolicyServer and its clients use. Every answer is the end of the turn, nothing else.

The folder in `PSR_STAND_IN` steers it: each prompt that is answered becomes a line of `asked`; while there is a file
`hold`, only as many prompts as it says are answered and the others wait. A file `fail` is printed, and nothing served.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["PSR_STAND_IN"])
LOCK = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        length = argument("--max-model-len") or "2048"
        self.answer({"data": [{"id": "psr", "max_model_len": int(length)}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        if not self.path.startswith("/v1/completions"):
            self.answer({"inside": 0})
            return
        while not take(body["prompt"]):
            time.sleep(0.02)
        end = body["stop_token_ids"][:1]
        choices = [{"index": index, "token_ids": end, "finish_reason": "stop"} for index in range(body["n"])]
        self.answer({"choices": choices, "usage": {}})

    def answer(self, document: Any) -> None:
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """`asked` is the log."""


def take(prompt: list[int]) -> bool:
    """Whether a prompt may be answered now; it is written down then."""
    with LOCK:
        asked, hold = FOLDER / "asked", FOLDER / "hold"
        lines = asked.read_text().splitlines() if asked.exists() else []
        if hold.exists() and len(lines) >= int(hold.read_text()):
            return False
        with open(asked, "a") as file:
            file.write(json.dumps(prompt) + "\n")
        return True


def argument(name: str) -> str | None:
    """The value of an argument of the command line."""
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else None


if __name__ == "__main__":
    if (FOLDER / "fail").exists():
        sys.exit((FOLDER / "fail").read_text())
    host, port = argument("--host"), argument("--port")
    assert host is not None
    assert port is not None
    ThreadingHTTPServer((host, int(port)), Handler).serve_forever()
