"""What a server pod runs: fetch a checkpoint, start vLLM, check its fingerprint, let clients in; again for the next.

Two ports: the OpenAI API of vLLM behind `guard.py`, and next to it this supervisor's own:

- `GET /psr/ready?digest=D`: 200 only while model D is served, was checked after its last load and may be used; else
  503 with what is going on. Nothing is generated for it.
- `GET /psr/ready`: 200 while that is so of the model that is wanted, else 503. A kubelet's probe: it needs no key.
- `PUT /psr/model {"model": …, "digest": D}`: 202; the change happens in the background.
- `GET /psr/state`: everything that is known.

One thread (`Server.run`) does all that takes time; requests only read what it left and leave what is wanted. The
vLLM process itself is known in `vllm_process.py`, whether weights may be exchanged in place in `swap.py`.
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from psr_runtime.artefacts.checkpoints import FINGERPRINT, LocalModel, fetch_all_but_weights, fetch_model
from psr_runtime.artefacts.fingerprint import Check, Fingerprint, compare, noise_of
from psr_runtime.artefacts.manifest import read_manifest
from psr_runtime.artefacts.pins import pinned_model
from psr_runtime.config import ModelSource, ServeStage
from psr_runtime.protocol import ExitCode, FailureReason, ServerPhase, TerminationMessage, control_port
from psr_runtime.protocol.addresses import listening
from psr_runtime.protocol.errors import ConfigurationError, DataError, StageError
from psr_runtime.serving.control import Change, ControlServer, State, port_error
from psr_runtime.serving.swap import obstacle, require_chat_template
from psr_runtime.serving.vllm_process import (
    VLLMFailed,
    VLLMProcess,
    command,
    device,
    environment,
    require_streamer,
)
from psr_runtime.stage import leave, parse_config, stop_event
from psr_runtime.storage import Storage

START_SECONDS = 1800.0
"""A start may take this long: large weights, cold caches."""
SWAP_SECONDS = 600.0
"""Running requests may delay an exchange of weights this long; then vLLM is restarted."""
MAX_STARTS = 3
"""vLLM is started this often for one model; one that served for `STEADY_SECONDS` starts the count anew."""
STEADY_SECONDS = 600.0
BACK_OFF_SECONDS = 2.0
"""Pause before a second start; doubled before each further one."""
ABOUT_THE_ORDER = frozenset({"state", "digest", "message", "reason"})
"""Fields of the state that speak of the model that is wanted, not of the one that is served."""


@dataclass(frozen=True)
class Loaded:
    """A model on this machine, ready to be loaded."""

    source: ModelSource
    model: LocalModel
    fingerprint: Fingerprint | None


class GaveUp(Exception):
    """vLLM ended too often."""


class WrongWeights(Exception):
    """A freshly started vLLM answers otherwise than the fingerprint says."""


def run_server(document: str, *, source: str) -> int:
    """Serve until SIGTERM; return the exit code.

    Args:
        document: a `ServeStage` as JSON.
        source: what to call the configuration in messages.

    Returns:
        0 after SIGTERM; 64, 65, 66 when the configuration or the first model is wrong, 75 when its storage cannot be
        reached; 1 when vLLM ends again and again.
    """
    with stop_event() as stop:
        try:
            config = parse_config(ServeStage, document, source)
            assert isinstance(config, ServeStage)
            on = device()
            _require_free(config.host, config.port)
            server = Server(config, on, stop)
            with ControlServer(config.host, control_port(config.port), server):
                server.run()
        except StageError as error:
            return _end(str(error), error.exit_code, error.reason)
        except GaveUp as error:
            return _end(str(error), 1)
    return ExitCode.DONE


def _end(message: str, code: int, reason: FailureReason | None = None) -> int:
    leave(TerminationMessage(error=message, reason=reason))
    print(f"serve: {message}", file=sys.stderr, flush=True)
    return code


class Server:
    """One model at a time, behind one vLLM process.

    Args:
        config: what to serve and how.
        on: `cpu` or `cuda`.
        stop: ends `run`.
    """

    def __init__(self, config: ServeStage, on: str, stop: threading.Event) -> None:
        self._config = config
        self._on = on
        self._stop = stop
        self._storage = Storage(config.storage)
        self._scratch = Path(config.scratch)
        self._lock = threading.Lock()
        self._state = State()
        self._order: tuple[ModelSource, str | None] | None = (config.model, None)
        self._token = secrets.token_urlsafe(32)
        self._process: VLLMProcess | None = None
        self._loaded: Loaded | None = None
        self._opened = 0.0
        self._starts = 0

    # --- what the control port asks ------------------------------------------------------------------------

    def ready(self, digest: str) -> bool:
        """Whether `digest` is served: loaded, checked since, the gate open and vLLM alive."""
        process = self._process
        with self._lock:
            return self._state.served == digest and process is not None and process.alive

    def describe(self) -> dict[str, Any]:
        """The state as JSON values."""
        with self._lock:
            return self._state.to_json()

    def order(self, model: ModelSource, digest: str) -> None:
        """Ask for another model. The one that is on its way or served already is no order."""
        with self._lock:
            if self._state.digest == digest and self._state.state is not ServerPhase.FAILED:
                return
            self._order = (model, digest)
            message = f"ordered from {model.uri}"
            self._state = replace(self._state, state=ServerPhase.FETCHING, digest=digest, message=message, reason=None)

    # --- the thread that does the work ---------------------------------------------------------------------

    def run(self) -> None:
        """Carry out orders and keep vLLM alive until asked to stop.

        Raises:
            StageError: the first model cannot be had.
            GaveUp: vLLM ended too often.
        """
        try:
            while not self._stop.is_set():
                with self._lock:
                    order, self._order = self._order, None
                if order is not None:
                    self._carry_out(*order)
                elif self._loaded is not None and self._process is not None and not self._process.alive:
                    self._revive(self._loaded, self._process)
                else:
                    self._stop.wait(0.1)
        finally:
            if self._process is not None:
                self._process.stop()

    def _carry_out(self, source: ModelSource, digest: str | None) -> None:
        """Bring a model in. A model that cannot be had ends the server if it is the first one; later it is a state."""
        started = time.monotonic()
        if digest is not None and self.ready(digest):
            self._set_state(state=ServerPhase.READY, digest=digest, message="")
            return
        try:
            wanted = self._prepare(source, digest)
        except (StageError, OSError) as error:
            if digest is None:
                raise
            self._fail(error)
            return
        old, process = self._loaded, self._process
        why = "vLLM was not running"
        if old is not None and process is not None and process.alive:
            why = self._swap(process, old, wanted, started) or ""
        if not why:
            return
        self._starts = 0
        try:
            self._start(wanted, "Restart" if digest else "Start", why, started)
        except GaveUp as error:
            if digest is None:
                raise
            self._fail(error)

    def _revive(self, loaded: Loaded, process: VLLMProcess) -> None:
        """Start vLLM again after it ended by itself."""
        started = time.monotonic()
        why = f"vLLM ended: {process.failure_words()}"
        if started - self._opened >= STEADY_SECONDS:
            self._starts = 0
        self._set_state(state=ServerPhase.STARTING, served=None, check=None, deaths=self._state.deaths + 1, message=why)
        self._start(loaded, "Restart", why, started)

    def _prepare(self, source: ModelSource, digest: str | None) -> Loaded:
        """Fetch a model and check that it can be served."""
        self._set_state(state=ServerPhase.FETCHING, message=f"fetching {source.uri}")
        if source.weights == "Random":
            raise ConfigurationError(f"{source.uri}: weights: Random has nothing to serve; train it first")
        source = pinned_model(self._storage, source, self._config.pins)
        model = self._fetch(source)
        if digest is not None and model.digest != digest:
            raise DataError(
                f"{source.uri}: holds {model.digest} where {digest} was ordered; the URI or the digest is old"
            )
        self._set_state(digest=model.digest)
        require_chat_template(model.folder, source.chat_template)
        fingerprint = None
        if model.fingerprint is not None:
            try:
                fingerprint = Fingerprint.model_validate(model.fingerprint)
            except ValidationError as error:
                raise DataError(f"{source.uri}/{FINGERPRINT}: {error.errors()[0]['msg']}") from error
        return Loaded(source, model, fingerprint)

    def _fetch(self, source: ModelSource) -> LocalModel:
        """The model on this machine. A container that starts again goes on where the last one's download ended."""
        manifest = read_manifest(self._storage, source.uri)
        version = manifest.identity if manifest is not None else self._storage.version(source.uri)
        known = f"{source.uri} {version}" if version is not None else secrets.token_hex(16)
        place = self._scratch / "models" / hashlib.sha256(known.encode()).hexdigest()[:16]
        if self._config.engine.weights == "Stream":
            require_streamer(source.uri)
            return fetch_all_but_weights(self._storage, source, place, "serving")
        return fetch_model(self._storage, source, place, "serving")

    def _swap(self, process: VLLMProcess, old: Loaded, new: Loaded, started: float) -> str | None:
        """Exchange weights in place; None when the new model is served, else why it must be a restart."""
        if self._config.engine.swap == "Never":
            return "engine.swap is Never"
        if self._config.engine.weights == "Stream":
            return "engine.weights is Stream"
        if new.fingerprint is None or not new.fingerprint.can_tell(noise_of(self._config.engine.dtype)):
            return "the fingerprint cannot tell the model from its parent"
        try:
            why = obstacle(old.model.folder, old.source, new.model.folder, new.source)
            if why is not None:
                return why
            self._set_state(state=ServerPhase.SWAPPING, served=None, check=None, message="exchanging weights in place")
            process.exchange_weights(new.model.folder, new.model.digest, SWAP_SECONDS)
            check = self._check(process, new)
        except (VLLMFailed, DataError) as error:
            return f"the exchange failed: {error}"
        if check is None or check.verdict != "Agrees":
            return f"the exchange did not bring the weights in: {check}"
        self._open(process, new, Change("Swap", _since(started), ""))
        return None

    def _start(self, new: Loaded, kind: Literal["Start", "Restart"], why: str, started: float) -> None:
        """Load a model by a new vLLM process; again, with growing pauses, where vLLM itself fails.

        Raises:
            GaveUp: vLLM ended too often.
        """
        self._loaded = None
        first = why
        while self._starts < MAX_STARTS:
            if self._starts > 0 and self._stop.wait(BACK_OFF_SECONDS * 2 ** (self._starts - 1)):
                return
            self._starts += 1
            try:
                process = self._start_once(new, why)
            except (WrongWeights, DataError) as error:
                self._fail(error)
                return
            except VLLMFailed as error:
                why = str(error)
                print(f"serve: {why}", file=sys.stderr, flush=True)
                continue
            if process is not None:
                self._open(process, new, Change(kind, _since(started), first if kind == "Restart" else ""))
            return
        raise GaveUp(f"vLLM ended {self._starts} times in a row; last: {why}")

    def _start_once(self, new: Loaded, why: str) -> VLLMProcess | None:
        """Start vLLM on a model and check what it loaded; None when asked to stop.

        Raises:
            VLLMFailed: it does not start.
            WrongWeights: it answers otherwise than the fingerprint says. It is stopped then.
        """
        self._set_state(state=ServerPhase.STARTING, served=None, check=None, message=f"starting vLLM: {why}")
        if self._process is not None:
            self._process.stop()
        template = None
        if new.source.chat_template is not None:
            template = self._scratch / "chat_template.jinja"
            template.write_text(new.source.chat_template)
        self._process = process = VLLMProcess(
            command(self._config, new.model.folder, template, self._on, new.model.weights),
            environment(self._config, new.model.folder, self._token, self._on, new.model.weights),
            f"http://{_reachable(self._config.host)}:{self._config.port}",
            self._token,
        )
        self._set_state(pid=process.pid)
        deadline = time.monotonic() + START_SECONDS
        try:
            while not process.healthy():
                if self._stop.wait(0.1):
                    return None
                if not process.alive:
                    raise VLLMFailed(f"vLLM ended while it started: {process.failure_words()}")
                if time.monotonic() > deadline:
                    raise VLLMFailed(f"vLLM did not start in {START_SECONDS:.0f} s: {process.failure_words()}")
            check = self._check(process, new)
            if check is not None and not check.accepts_cold_start:
                raise WrongWeights(f"{new.source.uri}: the weights are not those of the fingerprint: {check}")
        except (VLLMFailed, WrongWeights, DataError):
            process.stop()
            raise
        return process

    def _check(self, process: VLLMProcess, new: Loaded) -> Check | None:
        """Compare what the loaded weights answer with the fingerprint; None for a model without one."""
        if new.fingerprint is None:
            return None
        self._set_state(state=ServerPhase.CHECKING, message="asking the probes")
        check = compare(
            new.fingerprint, process.log_probabilities(new.fingerprint), noise_of(self._config.engine.dtype)
        )
        print(f"serve: {new.model.digest}: {check.verdict}: {check}", file=sys.stderr, flush=True)
        self._set_state(check=check)
        return check

    def _open(self, process: VLLMProcess, new: Loaded, change: Change) -> None:
        process.set_gate(new.model.digest, True)
        self._loaded, self._opened = new, time.monotonic()
        self._set_state(state=ServerPhase.READY, served=new.model.digest, message="", change=change)
        self._forget_others(new.model.folder)
        print(f"serve: ready for {new.model.digest}: {change.kind}, {change.seconds} s", file=sys.stderr, flush=True)

    def _fail(self, error: Exception) -> None:
        print(f"serve: {error}", file=sys.stderr, flush=True)
        reason = error.reason if isinstance(error, StageError) else None
        self._set_state(state=ServerPhase.FAILED, message=str(error), reason=reason)

    def _set_state(self, **values: Any) -> None:
        """Change the state. While another order waits, what is said about the wanted model stays that order's."""
        if "state" in values:
            values.setdefault("reason", None)
        with self._lock:
            if self._order is not None:
                values = {key: value for key, value in values.items() if key not in ABOUT_THE_ORDER}
            self._state = replace(self._state, **values)

    def _forget_others(self, folder: Path) -> None:
        """Remove fetched models that are not served any more."""
        for place in (self._scratch / "models").glob("*"):
            if not folder.is_relative_to(place):
                shutil.rmtree(place, ignore_errors=True)


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)


def _reachable(host: str) -> str:
    """The address by which this machine reaches a server that is bound to `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)


def _require_free(host: str, port: int) -> None:
    """Fail at once where vLLM could not bind its port: it would only say so after half a minute.

    Raises:
        ConfigurationError: the port is in use, or the address is not this machine's.
    """
    try:
        listening(host, port).close()
    except OSError as error:
        raise port_error(host, port, error) from error
