"""Manifests that are wrong: `psr run` ends with 64 and names file, line and field before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from psr_operator.api.manifest import load_manifests
from psr_operator.cli import main
from psr_runtime.storage import file_uri

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
            "line 11: spec.training.globalBatches: no such field; did you mean globalBatch? (psr explain "
            "StepDPOJob.spec.training lists them)",
            id="unknown field",
        ),
        pytest.param(
            changed("globalBatch: 32", "colour: red"),
            "line 11: spec.training.colour: no such field; check the spelling (psr explain StepDPOJob.spec.training ",
            id="field that is like none",
        ),
        pytest.param(
            changed("learningRate", "learning_rate"),
            "line 10: spec.training.learning_rate: no such field; did you mean learningRate?",
            id="field as the code has it",
        ),
        pytest.param(
            changed("  training:\n    learningRate: 5e-7\n", "  learningRate: 5e-7\n  training:\n"),
            "line 9: spec.learningRate: no such field here; it stands in spec.training.learningRate",
            id="field in another place",
        ),
        pytest.param(
            changed("  name: train", "  name: train\n  lables: {team: math}"),
            "line 5: metadata.lables: no such field; did you mean labels?",
            id="field of metadata",
        ),
        pytest.param(
            changed("globalBatch: 32", "precision: BFloat16"),
            "line 11: spec.training.precision: Input should be 'bfloat16' or 'float32', found 'BFloat16'; did you mean "
            "bfloat16?",
            id="word in another case",
        ),
        pytest.param(
            changed("globalBatch: 32", "layout: pairs"),
            "spec.training.layout: String should match pattern '^[A-Z][A-Za-z0-9]*$', found 'pairs'; did you mean "
            "Pairs?",
            id="plug-in in another case",
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
            changed("s3://bucket/pairs.jsonl", "pairs.jsonl"),
            "line 8: spec.pairs: 'pairs.jsonl' is no URI, and there is no file or folder ",
            id="no URI",
        ),
        pytest.param(
            changed("s3://bucket/pairs.jsonl", "s3:bucket/pairs.jsonl"),
            "line 8: spec.pairs: 's3:bucket/pairs.jsonl' is no URI; write file:///folder/…, s3://bucket/… or hf://org/name",
            id="half a URI",
        ),
        pytest.param(
            changed("s3://bucket/model", "Qwen/Qwen2.5-Math-1.5B"),
            "line 7: spec.model.uri: 'Qwen/Qwen2.5-Math-1.5B' is no URI, and nothing of this name is beside the "
            "manifest; for the Hugging Face hub write hf://Qwen/Qwen2.5-Math-1.5B, for a folder of "
            "this machine its path",
            id="name of the hub",
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
            changed("kind: StepDPOJob", "kind: StepDPO"),
            "SelfRewardRun, StepDPOJob; did you mean StepDPOJob?",
            id="kind",
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


def test_a_field_under_another_spelling_is_one_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not one for what is there and one for what is missing."""
    path = tmp_path / "run.yaml"
    path.write_text(changed("  pairs:", "  pair:"))
    assert main(["run", "-f", str(path), "--dry-run"]) == 64
    assert capsys.readouterr().err == (
        f"{path}, line 8: spec.pair: no such field; did you mean pairs? (psr explain StepDPOJob.spec lists them)\n"
    )


def test_a_path_that_leads_nowhere_names_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pairs.jsonl").touch()
    path = tmp_path / "run.yaml"
    path.write_text(changed("s3://bucket/pairs.jsonl", "pears.jsonl"))
    assert main(["run", "-f", str(path), "--dry-run"]) == 64
    assert f"no file or folder {tmp_path / 'pears.jsonl'}; did you mean pairs.jsonl?" in capsys.readouterr().err
    assert main(["run", "-f", str(tmp_path / "runs.yaml"), "--dry-run"]) == 64
    assert capsys.readouterr().err == (
        f"{tmp_path / 'runs.yaml'}: cannot be read (No such file or directory); did you mean run.yaml?\n"
    )


def test_a_path_is_taken_from_the_manifest_s_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where psr is called from does not matter; what a run makes need not be there, nor what `./` names."""
    folder, elsewhere = tmp_path / "a folder", tmp_path / "elsewhere"
    for made in (folder / "data", folder / "Qwen" / "Math", elsewhere):
        made.mkdir(parents=True)
    (folder / "data" / "pairs.jsonl").touch()
    (folder / "run.yaml").write_text(
        GOOD.replace("s3://bucket/runs", "runs")
        .replace("s3://bucket/model", "Qwen/Math")
        .replace("s3://bucket/pairs.jsonl", "../a folder/data/pairs.jsonl")
        + "  reference: {uri: ./later}\n"
    )
    monkeypatch.chdir(elsewhere)
    (job,) = load_manifests([Path("../a folder/run.yaml")])
    assert job.spec.storage.uri == file_uri(folder / "runs")
    assert job.spec.model.uri == file_uri(folder / "Qwen" / "Math")
    assert job.spec.pairs == file_uri(folder / "data" / "pairs.jsonl")
    assert job.spec.reference.uri == file_uri(folder / "later")


def test_what_kubectl_prints_of_an_object_is_read(tmp_path: Path) -> None:
    """An apiserver adds to metadata, and kubectl writes down what it applied."""
    path = tmp_path / "run.yaml"
    added = (
        "  name: train\n  uid: 6d1c\n  generation: 3\n  resourceVersion: '71'\n"
        "  creationTimestamp: '2026-01-01T00:00:00Z'\n"
        f"  annotations: {{kubectl.kubernetes.io/last-applied-configuration: '{'x' * 2000}', team: math}}\n"
    )
    path.write_text(changed("  name: train\n", added) + "status: {reason: Training}\n")
    (job,) = load_manifests([path])
    assert job.metadata.annotations == {"team": "math"}
    assert (job.metadata.uid, job.metadata.generation) == ("", 1)


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
        (["wait", "selfrewardrun/it", "--workdir", "."], "; did you mean SelfRewardRun/it?"),
        (["wait", "srr/it", "--workdir", "."], "; did you mean SelfRewardRun/it?"),
        (["report", "file:///r", "--to", ".", "--control", "coin"], "--control coin: write NAME=URI"),
        (["explain", "StepDPOJob.spec.beta"], "StepDPOJob.spec.beta: no such field; there are suspend"),
        (["explain", "Job"], "Job: no such kind; there are ModelEvaluation"),
        (["explain", "selfRewardRun"], "SelfRewardRun, StepDPOJob; did you mean SelfRewardRun?"),
        (["explain", "StepDPOJob.spec.learning"], "StepDPOJob.spec.learning: no such field; there are suspend"),
        (["explain", "StepDPOJob.spec.modle"], "; did you mean model?"),
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
