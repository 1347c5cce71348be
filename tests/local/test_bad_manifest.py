"""Manifests that are wrong: `psr run` ends with 64 and names file, line and field before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from psr_operator.api.manifest import load_manifests
from psr_operator.cli import main

GOOD = """\
apiVersion: psr.dev/v1alpha1
kind: StepDPOJob
metadata:
  name: train
spec:
  storage: {uri: s3://bucket/runs}
  model: {uri: s3://bucket/model}
  pairs: s3://bucket/pairs.jsonl
  training:
    learningRate: 5e-7
    globalBatch: 32
"""


def changed(old: str, new: str) -> str:
    """`GOOD` with one change."""
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            changed("globalBatch: 32", "globalBatch: many"),
            "line 11: spec.training.globalBatch: Input should be a valid integer, unable to parse string as an "
            "integer, found 'many'",
            id="wrong type",
        ),
        pytest.param(
            changed("globalBatch: 32", "globalBatches: 32"),
            "line 11: spec.training.globalBatches: no such field; check the spelling (psr explain KIND lists them)",
            id="unknown field",
        ),
        pytest.param(
            changed("5e-7", "7"),
            "line 10: spec.training.learningRate: Input should be less than or equal to 1, found 7",
            id="out of range",
        ),
        pytest.param(
            changed("  pairs: s3://bucket/pairs.jsonl\n", ""),
            "line 5: spec.pairs: Field required",
            id="field missing",
        ),
        pytest.param(
            changed("s3://bucket/pairs.jsonl", "pairs.jsonl"), "line 8: spec.pairs: String should match", id="no URI"
        ),
        pytest.param(changed("name: train", "name: Train_1"), "line 4: metadata.name: String should match", id="name"),
        pytest.param(
            changed("name: train", f"name: {'t' * 41}"), "line 4: metadata.name: at most 40 characters", id="long name"
        ),
        pytest.param(
            changed("kind: StepDPOJob", "kind: StepDpoJob"),
            "line 2: kind: 'StepDpoJob' is none of ModelEvaluation, PolicyServer",
            id="unknown kind",
        ),
        pytest.param(
            changed("psr.dev/v1alpha1", "psr.dev/v1"),
            "line 1: apiVersion: 'psr.dev/v1' is not psr.dev/v1alpha1",
            id="unknown version",
        ),
        pytest.param(changed("  training:\n", "  training: [\n"), "line 11: ", id="YAML that does not parse"),
        pytest.param(
            changed("    globalBatch: 32\n", "    globalBatch: 32\n    globalBatch: 16\n"),
            "line 12: found duplicate key",
            id="key twice",
        ),
        pytest.param("- just\n- a list\n", "line 1: expected an object with apiVersion", id="no object"),
        pytest.param("# nothing\n", "holds no object", id="empty"),
        pytest.param(
            GOOD + "---\n" + GOOD,
            "StepDPOJob/train: StepDPOJob/train has this name already in ",
            id="two objects of one name",
        ),
        pytest.param(
            GOOD + "---\n" + changed("kind: StepDPOJob", "kind: SFTJob").replace("pairs:", "ift:"),
            "SFTJob/train: StepDPOJob/train has this name already in ",
            id="two kinds of one name",
        ),
        pytest.param(
            changed("kind: StepDPOJob", "kind: ModelEvaluation")
            .replace("pairs:", "problems:")
            .replace("  training:\n    learningRate: 5e-7\n    globalBatch: 32\n", "  server: {ref: big}\n"),
            "ModelEvaluation/train: spec.server.ref: these manifests hold no PolicyServer/big",
            id="server that is nowhere",
        ),
    ],
)
def test_the_place_is_named(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert main(["run", "-f", str(path), "--dry-run"]) == 64
    printed = capsys.readouterr()
    assert message in printed.err
    assert str(path) in printed.err or "spec.server.ref" in message
    assert printed.out == ""


RUN = """\
apiVersion: psr.dev/v1alpha1
kind: SelfRewardRun
metadata: {name: loop}
spec:
  storage: {uri: s3://bucket/runs, retention: Best}
  model: {uri: s3://bucket/model}
  problems: s3://bucket/problems.jsonl
  iterations: [{questions: 4}]
"""


def test_retention_of_the_best_needs_an_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    assert main(["run", "-f", str(path), "--dry-run"]) == 64
    assert f"{path}, line 4: spec: " in (message := capsys.readouterr().err)
    assert "storage.retention: Best needs an evaluation" in message


def test_training_on_more_than_one_gpu_ends_before_it_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(GOOD + "  resources: {nodes: 2, gpus: 8}\n")
    assert main(["run", "--no-check", "-f", str(path), "--workdir", str(tmp_path / "work")]) == 64
    assert "StepDPOJob/train is stalled: NotSupported: training on 2 nodes × 8 GPUs" in capsys.readouterr().err


def test_every_fault_of_an_object_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(changed("32", "0").replace("name: train", "name: Train"))
    assert main(["run", "-f", str(path)]) == 64
    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == [
        "metadata.name",
        "spec.training.globalBatch",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "-f", "nowhere.yaml"], "nowhere.yaml: cannot be read (No such file or directory)"),
        (["run", "-f", "GOOD", "--mount", "/psr"], "/psr"),
        (["wait", "train", "--workdir", "."], "train: write KIND/NAME with one of ModelEvaluation"),
        (["wait", "Job/train", "--workdir", "."], "Job/train: write KIND/NAME with one of ModelEvaluation"),
        (["report", "file:///r", "--to", ".", "--control", "coin"], "--control coin: write NAME=URI"),
        (["explain", "StepDPOJob.spec.beta"], "StepDPOJob.spec.beta: no such field; there are suspend"),
        (["explain", "Job"], "Job: no such kind; there are ModelEvaluation"),
    ],
)
def test_wrong_arguments(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = tmp_path / "good.yaml"
    good.write_text(GOOD)
    assert main([str(good) if item == "GOOD" else item for item in arguments]) == 64
    assert message in capsys.readouterr().err


def test_yaml_is_read_as_kubectl_reads_it(tmp_path: Path) -> None:
    """An exponent needs no point, `on` is a boolean where it is not quoted, and null is not set."""
    path = tmp_path / "run.yaml"
    path.write_text(
        changed("name: train", "name: 'on'\n  labels: {octal: '010', gone: null}\n").replace(
            "spec:", "spec:\n  suspend: on\n  seed: 010"
        )
    )
    (job,) = load_manifests([path])
    assert job.metadata.name == "on"
    assert job.metadata.labels == {"octal": "010"}
    assert (job.spec.suspend, job.spec.seed) == (True, 8)
    assert job.spec.training.learning_rate == 5e-7
