"""helm as the tests use it: the real program, with a home of its own, and no cluster but the one it is given."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML

from tests.chart.generated import CHART

NAMESPACE = "psr-system"
RELEASE = "psr"
KUBERNETES = "1.35.4"
"""What is rendered for where there is no cluster to ask."""


@dataclass(frozen=True)
class Helm:
    """The program.

    Attributes:
        home: its caches and settings.
        kubeconfig: of the cluster; None for what needs none.
    """

    program: Path
    home: Path
    kubeconfig: Path | None = None

    def on(self, kubeconfig: Path) -> Helm:
        """The same for a cluster."""
        return replace(self, kubeconfig=kubeconfig)

    def run(self, *arguments: str) -> str:
        """What it prints.

        Raises:
            AssertionError: it fails; the message holds what it said.
        """
        done = self._run(*arguments)
        assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def refusal(self, *arguments: str) -> str:
        """What it says when it fails, as it must here."""
        done = self._run(*arguments)
        assert done.returncode != 0, f"helm {' '.join(arguments)} went through"
        return done.stdout + done.stderr

    def template(self, values: Mapping[str, Any] | Path | None = None, *, crds: bool = False) -> str:
        """The chart's objects as YAML.

        Args:
            values: a file, or the values themselves.
            crds: the kinds too; they are large, and the same whatever the values are.
        """
        with _value_arguments(values) as chosen:
            return self.run(*self._template(), *chosen, *(() if crds else ("--set", "crds.install=false")))

    def objects(self, values: Mapping[str, Any] | Path | None = None, *, crds: bool = False) -> list[dict[str, Any]]:
        """The chart's objects."""
        return parsed(self.template(values, crds=crds))

    def refused(self, values: Mapping[str, Any]) -> str:
        """What is said of values that the chart does not take."""
        with _value_arguments(values) as chosen:
            return self.refusal(*self._template(), *chosen)

    def _template(self) -> tuple[str, ...]:
        return ("template", RELEASE, str(CHART), f"--namespace={NAMESPACE}", f"--kube-version={KUBERNETES}")

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HELM_", "KUBE"))}
        for name in ("CACHE", "CONFIG", "DATA"):
            environment[f"HELM_{name}_HOME"] = str(self.home / name.lower())
        environment["KUBECONFIG"] = str(self.kubeconfig or os.devnull)
        return subprocess.run(
            [str(self.program), *arguments],
            env=environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )


def parsed(text: str) -> list[dict[str, Any]]:
    """The objects of a YAML stream, empty documents left out."""
    return [item for item in YAML(typ="safe", pure=True).load_all(text) if item]


def one(objects: list[dict[str, Any]], kind: str, name: str | None = None) -> dict[str, Any]:
    """The only object of a kind (and name)."""
    (match,) = [item for item in objects if item["kind"] == kind and name in (None, item["metadata"]["name"])]
    return match


@contextmanager
def _value_arguments(values: Mapping[str, Any] | Path | None) -> Iterator[list[str]]:
    if values is None:
        yield []
    elif isinstance(values, Path):
        yield [f"--values={values}"]
    else:
        with TemporaryDirectory() as folder:
            place = Path(folder) / "values.yaml"
            place.write_text(json.dumps(values))
            yield [f"--values={place}"]
