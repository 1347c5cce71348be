"""A pytest plug-in: which tests stay together on a worker (pytest-xdist), and which begin first.

A file goes to one worker as a whole, so that what its fixtures have made is made once. Files that share a server stay
together as well. The longest begin first, so that no worker is left alone with one at the end. As long as the programs
of the control plane are being built, what needs them comes last, and waits for them before its own time runs.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler.loadscope import LoadScopeScheduling

from harness.control_plane.build import BuildFailed, is_built, program

TOGETHER = {
    "tests/serving/test_engine.py": "the server of tests/serving",
    "tests/search/test_search_engine.py": "the server of tests/search",
    "tests/search/test_search_killed.py": "the server of tests/search",
}
"""Files whose tests share a server: one worker runs them all."""
FIRST = (
    "tests/controller/test_disturbed.py",
    "tests/models/test_any_model.py",
    "tests/kill/test_sigkill.py",
    "tests/controller/test_replicas.py",
    "tests/serving/test_engine.py",
    "tests/controller/test_idle.py",
    "tests/search/test_search_engine.py",
    "tests/search/test_search_killed.py",
    "tests/controller/test_faulty_clusters.py",
    "tests/controller/test_namespaces.py",
    "tests/controller/test_life_on_cluster.py",
    "tests/serving/test_streamed_weights.py",
    "tests/controller/test_killed.py",
    "tests/local/test_psr_run.py",
    "tests/controller/test_retention_on_cluster.py",
    "tests/controller/test_run_to_ready.py",
    "tests/test_scale_rehearsal.py",
)
"""The files that take longest, the longest first; what computes stands between what waits."""
LAST = ("tests/controller/test_rules.py",)
"""What looks at all that others have done."""
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "helm")
"""What the marker `programs` is about."""
ENDED = "ended-tests"
BUILDING = "PSR_TEST_PROGRAMS_ARE_BUILDING"


class BySharing(LoadScopeScheduling):  # type: ignore[misc]
    """Gives workers a file at a time, or the files that share a server, in the order of collection."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return TOGETHER.get(file, file)


def shared_folder(config: pytest.Config) -> Path | None:
    """The folder above those of all workers of this session; None where there are no workers."""
    return Path(config.option.basetemp).parent if hasattr(config, "workerinput") else None


def ended_tests(folder: Path) -> set[str]:
    """Names of the tests that have ended on any worker."""
    return {line for file in folder.glob(f"{ENDED}-*") for line in file.read_text().splitlines()}


class Ended:
    """Writes down on a worker which tests have ended, for those that look at what others have done."""

    def __init__(self, config: pytest.Config) -> None:
        worker = Path(config.option.basetemp)
        self._file = worker.parent / f"{ENDED}-{worker.name}"

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        with open(self._file, "a") as file:
            file.write(nodeid + "\n")


def pytest_configure(config: pytest.Config) -> None:
    """The first process says for all workers whether programs are missing: they must agree on the order."""
    if hasattr(config, "workerinput"):
        config.pluginmanager.register(Ended(config), "ended-tests")
    else:
        os.environ[BUILDING] = "" if all(map(is_built, PROGRAMS)) else "1"
        if hasattr(config.option, "loadscopereorder"):
            config.option.loadscopereorder = False  # not by the number of tests: in our order


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return BySharing(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    late = {item.path for item in items if os.environ[BUILDING] and item.get_closest_marker("programs")}

    def rank(item: pytest.Item) -> tuple[bool, bool, int]:
        file = item.nodeid.split("::")[0]
        return file in LAST, item.path in late, FIRST.index(file) if file in FIRST else len(FIRST)

    items.sort(key=rank)


@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Wait for programs that are being built; the time limit of a test begins after this."""
    if os.environ[BUILDING] and item.get_closest_marker("programs"):
        try:
            for name in PROGRAMS:
                program(name)
        except BuildFailed as error:
            pytest.exit(str(error), returncode=1)
        os.environ[BUILDING] = ""
    return (yield)
