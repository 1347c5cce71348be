"""The routes of vLLM that a PolicyServer and its clients use, up at once and without weights.

Answers come from the chain of `tests/search/language.py`, whatever model is loaded; they depend on the request alone.
Probes are answered with what the fingerprint beside the model promises.
"""

from __future__ import annotations

import json
import random
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.search.language import CONTEXT, EOS, WORDS, after

FOLDER = [Path()]
"""Of the model that is loaded."""


class Handler(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer({"data": [{"id": "psr", "max_model_len": CONTEXT}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        if self.path.startswith("/collective_rpc"):
            FOLDER[0] = Path(body["kwargs"]["weights_path"])
        if not self.path.startswith("/v1/completions"):
            self.answer({"inside": 0, "success": True})
        elif "prompt_logprobs" in body:
            self.answer({"choices": [probe(index, ids) for index, ids in enumerate(body["prompt"])]})
        else:
            self.answer({"choices": [complete(body, index) for index in range(body["n"])], "usage": {}})

    def answer(self, document: Any) -> None:
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


def probe(index: int, ids: list[int]) -> dict[str, Any]:
    """The log-probabilities that the loaded model must give to a probe."""
    probes = json.loads((FOLDER[0].parent / "fingerprint.json").read_text())["probes"]
    values = next(item["new"] for item in probes if item["ids"][: len(ids)] == ids)
    values_of_tokens = [{str(token): {"logprob": value}} for token, value in zip(ids[1:], values, strict=False)]
    return {"index": index, "prompt_logprobs": [None, *values_of_tokens]}


def complete(body: dict[str, Any], index: int) -> dict[str, Any]:
    """One completion: a walk along the chain that the request's seed decides."""
    chance = random.Random(repr((body.get("seed"), index, body["prompt"])))
    ids: list[int] = []
    ended = "length"
    while len(ids) < body["max_tokens"] and ended == "length":
        ids.append(following((body["prompt"] + ids)[-1], body["temperature"], chance))
        text = "".join(WORDS[token] for token in ids)
        if ids[-1] in (EOS, *body["stop_token_ids"]) or any(stop in text for stop in body["stop"]):
            ended = "stop"
    return {"index": index, "token_ids": ids, "finish_reason": ended}


def following(last: int, temperature: float, chance: random.Random) -> int:
    """The token after another one."""
    shares = after(last)
    if temperature == 0:
        return max(shares, key=lambda token: shares[token])
    return chance.choices(list(shares), list(shares.values()))[0]


def argument(name: str) -> str:
    """The value of an argument of the command line."""
    return sys.argv[sys.argv.index(name) + 1]


if __name__ == "__main__":
    FOLDER[0] = Path(argument("--model"))
    ThreadingHTTPServer((argument("--host"), int(argument("--port"))), Handler).serve_forever()
