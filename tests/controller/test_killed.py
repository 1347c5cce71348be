"""The operator killed between any two of its writes, over a whole run: the end is that of a run undisturbed.

Each operator dies at its first write. One test lets that write reach the apiserver and withholds the answer; the other
kills before the write leaves, the first time it is tried. So between two writes that follow each other there is a death
in one of them, and every write is once unknown to whoever comes next.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.control_plane.plane import ControlPlane
from harness.operator_process import HOME, Account, grant
from tests.controller.fork_server import ForkServer, start_fork_server
from tests.controller.one_run import Place, differences, place_for, run
from tests.controller.proxy import Action, Proxy, Request, start_proxy

SECONDS = 300.0
LEAST_KILLS = 60
WATCHED = 10
"""Kinds that an operator watches."""
Policy = Callable[[int, Request], Action]


def after_each() -> Policy:
    """Every write takes effect, and whoever sent it never learns that."""
    return lambda _number, _request: "cut after"


def before_each() -> Policy:
    """No write leaves the first time it is tried; it does the next time."""
    denied: set[tuple[str, ...]] = set()

    def decide(_number: int, request: Request) -> Action:
        meta = json.loads(request.body)["metadata"] if request.verb != "DELETE" else {}
        write = (request.verb, request.path, request.name, meta.get("resourceVersion", ""))
        if write in denied:
            return "pass"
        denied.add(write)
        return "cut before"

    return decide


@pytest.mark.parametrize("policy", [after_each, before_each])
def test_killed_at_every_write(
    crds: ControlPlane, undisturbed: dict[str, Any], tmp_path: Path, policy: Callable[[], Policy]
) -> None:
    name = policy.__name__.replace("_", "-")
    with place_for(crds, f"killed-{name}") as place, start_proxy(crds) as proxy:
        account = grant(crds, [place.namespace])
        arguments = arguments_of(account, place, proxy, tmp_path)
        with start_fork_server(arguments, tmp_path) as operators:
            proxy.on_write, proxy.kill = policy(), operators.kill
            place.make(run())
            kills = live_through(place, proxy, operators, undisturbed)
            rest = len(proxy.counted)
            print(f"{name}: {kills} kills, {len(proxy.tried)} writes tried, {rest} written")
        place.judge()
        assert kills >= LEAST_KILLS
        assert max(proxy.created().values()) == 1, proxy.created()
        created = {f"Job/{item.rpartition('/')[2]}" for item in proxy.created() if item.startswith("jobs ")}
        assert created == {item for item in undisturbed if item.startswith("Job/")}


def arguments_of(account: Account, place: Place, proxy: Proxy, folder: Path) -> list[str]:
    """A command line of the operator, always the same: whoever comes next takes its own lease up."""
    kubeconfig = place.plane.kubeconfig_for(account.token, folder / "operator.kubeconfig", proxy.url)
    return [
        "operator",
        f"--kubeconfig={kubeconfig}",
        "--runtime-image=registry.test/psr-runtime:1",
        "--inference-image=registry.test/psr-inference:1",
        f"--lease={account.name}",
        f"--namespace={HOME}",
        "--identity=operator-0",
        "--lease-seconds=30",
        "--poll-seconds=1",
        "--port=0",
        f"--watch-namespace={place.namespace}",
    ]


def live_through(place: Place, proxy: Proxy, operators: ForkServer, expected: dict[str, Any]) -> int:
    """Start operators until the run stands as expected, and one more that finds nothing to do. How many were killed."""
    kills = 0
    deadline = time.monotonic() + SECONDS
    while True:
        proxy.revive()
        operators.start()
        code = None
        while code is None and not finished(place, expected):
            assert time.monotonic() < deadline, message(place, operators, expected)
            code = operators.wait(0.5)
        if code is None:
            break
        assert code == -signal.SIGKILL, operators.said()[-4000:]
        kills += 1
    place.until(lambda: proxy.watches >= WATCHED, "the last operator's watches")
    operators.kill(signal.SIGTERM)
    assert operators.wait() == 0, operators.said()[-4000:]
    return kills


def finished(place: Place, expected: dict[str, Any]) -> bool:
    ready = place.ready()
    return ready is not None and ready["status"] == "True" and place.state() == expected


def message(place: Place, operators: ForkServer, expected: dict[str, Any]) -> str:
    different = "\n".join(differences(expected, place.state())[:40])[:6000]
    return f"{different}\n{place.summary()}\n{operators.said()[-2000:]}"
