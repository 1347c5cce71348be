"""A server that speaks vLLM's completions protocol, and a model that says what a test wrote for it.

Everything goes over the wire as it does with vLLM: ids in, ids out, stop strings looked for in the text of the ids that
were sampled so far, `finish_reason` of its own. What is sampled is a text, special tokens in it spelled out.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from psr_runtime.prompts.tokens import Tokenizer

Says = Callable[[str, int], str]
"""Text of a prompt (special tokens left out) and the number of the completion -> what the model writes."""


@dataclass
class Wire:
    """A running server.

    Attributes:
        url: for `server.urls`.
        bodies: every completion request, in order.
    """

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)


@contextlib.contextmanager
def serve(tokenizer: Tokenizer, says: Says, context: int = 4096) -> Iterator[Wire]:
    """Answer as vLLM does until the block ends."""
    wire = Wire()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer({"data": [{"id": "psr", "max_model_len": context}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                wire.bodies.append(body)
                prompt = tokenizer.decode(body["prompt"])
                choices = [
                    {"index": index, **_sample(tokenizer, says(prompt, index), body)} for index in range(body["n"])
                ]
            self._answer({"choices": choices, "usage": {"prompt_tokens": len(body["prompt"])}})

        def _answer(self, document: Any) -> None:
            data = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """`bodies` is the log."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    wire.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield wire
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _sample(tokenizer: Tokenizer, text: str, body: dict[str, Any]) -> dict[str, Any]:
    """Ids of a text, and then the end of the turn, up to where a request's limits end them."""
    ids = [*tokenizer.texts_ids([text])[0], body["stop_token_ids"][0]]
    sampled: list[int] = []
    for token in ids:
        sampled.append(token)
        stopped = any(stop in tokenizer.decode(sampled) for stop in body["stop"])
        if token in body["stop_token_ids"] or stopped:
            return {"token_ids": sampled, "finish_reason": "stop"}
        if len(sampled) == body["max_tokens"]:
            break
    return {"token_ids": sampled, "finish_reason": "length"}
