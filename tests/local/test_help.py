"""`psr --help`, `psr explain`, and what may not be imported: enough to use PSR without its README."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from psr_operator import commands
from psr_operator.api import KINDS
from psr_operator.cli import main


@pytest.mark.parametrize(
    "command",
    [[], ["run"], ["check"], ["wait"], ["report"], ["operator"], ["crds"], ["explain"], ["data"]],
    ids=lambda words: " ".join(words),
)
def test_every_help_has_examples_and_exit_codes(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"psr {' '.join(command)}".strip() in text.splitlines()[0]
    assert "examples:\n  psr run -f examples/demo/run.yaml" in text
    assert "exit codes:" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "psr: the following arguments are required: COMMAND"),
        (["run"], "psr run: the following arguments are required: -f/--file"),
        (
            ["wait", "a/b", "--workdir", ".", "--timeout", "soon"],
            "psr wait: argument --timeout: invalid float value: 'soon'",
        ),
    ],
)
def test_wrong_usage_is_a_wrong_configuration(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """64, and not argparse's 2, which `psr wait` keeps for a time that is over."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 64
    assert capsys.readouterr().err.endswith(f"{message}\n")


@pytest.mark.parametrize("kind", KINDS)
def test_explain_describes_every_field_of_a_kind(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", f"{kind}.spec"]) == 0
    lines = capsys.readouterr().out.splitlines()
    spec = KINDS[kind].model_fields["spec"].annotation
    assert spec is not None
    for name, field in spec.model_fields.items():
        at = next(number for number, line in enumerate(lines) if line.startswith(f"  {field.alias or name} <"))
        assert lines[at + 1].strip(), f"{name} has no description"


def test_explain_goes_down_to_one_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "SelfRewardRun.spec.search.width"]) == 0
    assert capsys.readouterr().out == ("  width <int> (default 6, fixed)\n      Candidates per step, w. Paper §4.\n")


@pytest.mark.parametrize("module", ["psr_operator.planner", "psr_operator.cli"])
def test_the_planner_and_the_command_line_need_no_framework(module: str) -> None:
    """Importing it, in a process of its own, pulls in neither torch nor kopf, nor any client."""
    code = f"import sys, {module}; print(*sorted(name.partition('.')[0] for name in sys.modules))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "psr_operator" in loaded
    assert not loaded & {"torch", "transformers", "kopf", "kubernetes", "boto3", "botocore", "httpx", "vllm", "pyarrow"}


def test_every_command_has_a_file_of_its_own() -> None:
    files = {place.stem for place in Path(commands.__file__).parent.glob("*.py")} - {"__init__", "mounts"}
    assert {command.NAME for command in commands.COMMANDS} == files
