"""One round of the whole loop, small enough to be run some hundred times, each stage in a process of its own.

All URIs lie below `file:///loop`, which is mounted elsewhere for every attempt: so configurations, manifests and
digests are the same for each, and artefacts can be compared byte by byte. Processes are forked from this one, in
which everything is imported; nothing is computed here.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from psr_runtime import engine
from psr_runtime.search import stage as search_stage
from psr_runtime.stage import run_stage
from tests.kill.operations import Operations
from tests.search.language import PROMPTS, write_model, write_problems
from tests.search.standin import StandIn

ROOT = "file:///loop"
TRAINING = {"learningRate": 1e-3, "globalBatch": 4, "maxLength": 512, "precision": "float32", "saveSteps": 1}
SEARCH = {
    "model": {"uri": f"{ROOT}/m1"},
    "problems": f"{ROOT}/input/problems.jsonl",
    "questions": {"count": 6},
    "prompts": PROMPTS,
    "search": {"width": 3, "temperature": 1.0, "topP": 1.0, "maxStepTokens": 8, "acceptUnanimous": True},
    "judge": {"temperature": 1.0, "maxTokens": 4},
    "server": {"urls": ["http://127.0.0.1:9"]},
    "shards": 2,
}
STEPS = ["Step 1: 2 + 1 = 3.\n", "Step 2: 3 + 1 = 4;\n", "Step 3: So it is \\boxed{4}"]


@dataclass(frozen=True)
class Work:
    """One stage of the loop. Its output is `file:///loop/<output>`."""

    output: str
    stage: str
    fields: dict[str, Any]

    @property
    def document(self) -> str:
        return json.dumps({"output": f"{ROOT}/{self.output}", **self.fields})


LOOP = [
    Work(
        "m1",
        "sft",
        {
            "model": {"uri": f"{ROOT}/input/model"},
            "ift": f"{ROOT}/input/ift.jsonl",
            "eft": f"{ROOT}/input/eft.jsonl",
            "prompts": PROMPTS,
            "training": TRAINING | {"epochs": 1},
        },
    ),
    Work("shard-0", "search", SEARCH | {"shard": 0}),
    Work("shard-1", "search", SEARCH | {"shard": 1}),
    Work("pairs", "merge", {"parts": [f"{ROOT}/shard-0", f"{ROOT}/shard-1"]}),
    Work(
        "m2",
        "step-dpo",
        {
            "model": {"uri": f"{ROOT}/m1"},
            "pairs": f"{ROOT}/pairs",
            "training": TRAINING | {"checkpointDtype": "float32"},
        },
    ),
    Work(
        "fresh",
        "evaluate",
        {
            "model": {"uri": f"{ROOT}/m2"},
            "problems": f"{ROOT}/input/problems.jsonl",
            "prompts": PROMPTS,
            "evaluation": {"maxTokens": 32},
            "server": {"urls": ["http://127.0.0.1:9"]},
        },
    ),
    Work(
        "report",
        "report",
        {
            "title": "Loop",
            "models": [
                {"name": "M1", "checkpoint": f"{ROOT}/m1", "pairs": f"{ROOT}/pairs"},
                {
                    "name": "M2",
                    "checkpoint": f"{ROOT}/m2",
                    "evaluations": [{"name": "fresh", "uri": f"{ROOT}/fresh"}],
                },
            ],
        },
    ),
]


def write_inputs(folder: Path) -> None:
    """Model, records and problems of the loop."""
    write_model(folder / "model")
    write_problems(folder / "problems.jsonl", 6)
    problem = "How much is 2 + 1 + 1?"
    (folder / "ift.jsonl").write_text(json.dumps({"problem": problem, "steps": STEPS}) + "\n")
    judged = {
        "problem": problem,
        "a": "Step 1: 2 + 1 = 3.",
        "b": "Step 1: 2 + 1 = 4.",
        "judgement": "A is right. [[A]]",
    }
    (folder / "eft.jsonl").write_text((json.dumps(judged) + "\n") * 5)


def files(folder: Path) -> dict[str, bytes]:
    """Path -> bytes of all that lies below a folder, but for the seconds that it took."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "timings.json"
    }


# --- attempts in processes of their own


@dataclass(frozen=True)
class Point:
    """Where an attempt is killed: `before`, `within` or `after` durable operation `at`, or at a `time`, in seconds."""

    work: Work
    kind: str
    at: float


def start(work: Work, base: Path, place: Path, point: Point | None = None) -> int:
    """Fork a process that runs a stage with its output mounted at `place`, everything else at `base`; its pid.

    It exits with the stage's exit code; what it prints goes to `<place>.log`. Undisturbed it leaves the names of its
    durable operations in `<place>.operations` and the modules it needed in `<place>.modules`.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        log = os.open(f"{place}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        scratch = Path(f"{place}.scratch")
        scratch.mkdir(exist_ok=True)
        os.environ |= {"PSR_SCRATCH": str(scratch), "PSR_MOUNTS": f"/loop={base},/loop/{work.output}={place}"}
        os.environ.pop("PSR_TERMINATION_MESSAGE", None)
        for module in (engine, search_stage):  # each stage asks for it by the name that it knows
            setattr(module, "open_engine", lambda endpoint, digest: StandIn())  # noqa: B010
        torch.set_num_threads(1)  # two would wait for each other, and threads do not survive a fork
        operations = Operations(place, _victim(point))
        operations.install()
        code = run_stage(work.stage, work.document)
        Path(f"{place}.operations").write_text(json.dumps(operations.names))
        Path(f"{place}.modules").write_text(json.dumps(list(sys.modules)))
    except BaseException as error:
        print(f"the attempt itself failed: {error!r}", file=sys.stderr)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _victim(point: Point | None) -> Callable[[int, str], None]:
    """What is to happen at each durable operation."""
    if point is not None and point.kind == "time":
        timer = threading.Timer(point.at, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()
    elif point is not None:

        def victim(number: int, when: str) -> None:
            if (number, when) == (point.at, point.kind):
                os.kill(os.getpid(), signal.SIGKILL)

        return victim
    return lambda number, when: None


def wait(pid: int) -> int:
    """Exit code of a process, negative the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def undisturbed(base: Path) -> dict[str, list[str]]:
    """Run the loop below `base`; the durable operations of each output.

    What the stages imported is then imported here too, for the processes to come.
    """
    write_inputs(base / "input")
    operations = {}
    for work in LOOP:
        place = base / work.output
        code = wait(start(work, base, place))
        assert code == 0, f"{work.output}: {code}\n{Path(f'{place}.log').read_text()}"
        operations[work.output] = json.loads(Path(f"{place}.operations").read_text())
        for name in json.loads(Path(f"{place}.modules").read_text()):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    return operations


@dataclass(frozen=True)
class Ended:
    """How a point went: whether the first attempt was killed, and the exit code of the one after it."""

    point: Point
    killed: bool
    code: int
    place: Path


def run_points(points: list[Point], base: Path, scratch: Path, at_once: int) -> Iterator[Ended]:
    """For each point an attempt that is killed there and, in a new process, one that goes on to its end.

    Args:
        at_once: processes at a time.
    """
    gc.freeze()  # pages that the collector does not touch are not copied by the processes
    waiting: list[tuple[Point, Path, Point | None]] = [
        (point, scratch / str(number), point) for number, point in reversed(list(enumerate(points)))
    ]
    running: dict[int, tuple[int, Point, Path, bool]] = {}
    killed: set[Path] = set()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                point, place, kill = waiting.pop()
                pid = start(point.work, base, place, kill)
                running[os.pidfd_open(pid)] = (pid, point, place, kill is None)
            ready, _, _ = select.select(list(running), [], [])
            for handle in ready:
                pid, point, place, last = running.pop(handle)
                os.close(handle)
                code = wait(pid)
                if last:
                    yield Ended(point, place in killed, code, place)
                    shutil.rmtree(f"{place}.scratch")
                    continue
                assert code in (0, -signal.SIGKILL), Path(f"{place}.log").read_text()
                if code:
                    killed.add(place)
                waiting.append((point, place, None))
    finally:
        for handle, (pid, *_) in running.items():
            os.close(handle)
            os.kill(pid, signal.SIGKILL)
            wait(pid)
        gc.unfreeze()
