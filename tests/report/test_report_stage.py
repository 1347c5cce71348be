"""The report over a small run made by hand: its numbers are those one gets with a pencil."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from psr_runtime.artefacts.manifest import InputEntry, digest_of_input
from psr_runtime.artefacts.publishing import publish
from psr_runtime.data.records import Candidate, Level, Prediction, Tree, Verdict
from psr_runtime.stage import run_stage
from psr_runtime.storage import Storage, file_uri

STORAGE = Storage()

MERGED = {
    "problems": 2,
    "pairs": 2,
    "levels": 4,
    "candidates": 12,
    "malformed": 1,
    "truncated": 0,
    "verdicts": 10,
    "no_verdict": 1,
    "share_a": 0.4444,
    "agreement": 0.75,
    "unanimous": 1,
    "rollbacks": 1,
    "candidate_tokens": 500,
    "judge_tokens": 700,
    "outcomes": {"Solved": 1, "RollbackLimit": 1},
}


def candidate(text: str, *, final: bool = False, fault: Any = None) -> Candidate:
    return Candidate(ids=[1, 2], text=text, ended="stop", final=final, fault=fault)


def verdicts(*choices: tuple[int, int, Any]) -> list[Verdict]:
    return [Verdict(a=a, b=b, choice=choice, text=f"I prefer <b>{choice}</b>") for a, b, choice in choices]


def level(number: int, step: int, texts: list[str], decision: Any, **more: Any) -> Level:
    """A level whose candidates are `texts`; equal texts are one distinct candidate."""
    order: dict[str, int] = {}
    return Level(
        problem_id=more.pop("problem_id", "p1"),
        number=number,
        level=step,
        attempt=more.pop("attempt", 0),
        path_digest="0",
        candidates=[candidate(text) for text in texts],
        distinct=[order.setdefault(text, len(order)) for text in texts],
        verdicts=more.pop("verdicts", []),
        scores=more.pop("scores"),
        decision=decision,
        reason=more.pop("reason", decision),
        **more,
    )


# Problem 1: a right and a wrong step, a tie of two wrong ones that is rolled back, then right against wrong again.
RIGHT, WRONG, WORSE = "Step 1: 2 + 3 = 5", "Step 1: 2 + 3 = 6", "Step 1: 2 + 3 = 7"
FIRST = Tree(
    problem_id="p1",
    problem="2 + 3 and <i>more</i>?",
    kept=[1],
    outcome="Solved",
    levels=[
        level(0, 1, [WRONG, WORSE], "RollBack", verdicts=verdicts((0, 1, "B"), (1, 0, "B")), scores=[0, 0]),
        level(
            1,
            1,
            [RIGHT, WRONG, RIGHT],
            "Keep",
            attempt=1,
            verdicts=verdicts((0, 1, "A"), (1, 0, "A")),  # the second call is wrong
            scores=[1, 2, 1],
            best=1,
            worst=0,
        ),
    ],
)
# Problem 2: one text only, accepted; then a call without a verdict and a step that the oracle cannot tell.
SECOND = Tree(
    problem_id="p2",
    problem="Schema.",
    kept=[0, 1],
    outcome="RollbackLimit",
    levels=[
        level(0, 1, [RIGHT, RIGHT], "Accept", scores=[0, 0], best=0, problem_id="p2"),
        level(
            1,
            2,
            [RIGHT, "Step 2: hm", WRONG],
            "Keep",
            verdicts=verdicts((0, 1, "A"), (1, 0, "B"), (0, 2, None), (2, 0, "B"), (1, 2, "A"), (2, 1, "A")),
            scores=[1, 1, 0],
            best=0,
            worst=2,
            problem_id="p2",
        ),
    ],
)


def write_artefact(
    place: Path,
    stage: str,
    result: Mapping[str, Any],
    files: Mapping[str, str],
    inputs: Mapping[str, Path],
    seconds: float | None,
) -> str:
    """Publish files as the artefact of a stage; returns its URI."""
    scratch = place.parent / f"{place.name}-files"
    scratch.mkdir(parents=True)
    for name, text in files.items():
        (scratch / name).write_text(text)
    uri = file_uri(place)
    if seconds is not None:
        STORAGE.write(f"{uri}/timings.json", json.dumps({"seconds": seconds}).encode())
    entries = {
        path: InputEntry(uri=file_uri(source), digest=digest_of_input(STORAGE, file_uri(source)))
        for path, source in inputs.items()
    }
    publish(
        STORAGE,
        uri,
        scratch,
        stage=stage,
        schema_version=1,
        digest="sha256:" + "0" * 64,
        inputs=entries,
        configuration={"seed": 3, "note": "</pre><script>alert(1)</script>"},
        versions={"python": "3.11.0"},
        metadata={},
        result=result,
    )
    return uri


def write_evaluation(place: Path, model: Path, correct: list[bool], seconds: float | None) -> str:
    predictions = [
        Prediction(
            id=f"t{at}", problem="?", gold="1", response="", answer=None, correct=right, tokens=9, steps=3, ended="eos"
        )
        for at, right in enumerate(correct)
    ]
    result = {
        "accuracy": sum(correct) / len(correct),
        "correct": sum(correct),
        "problems": len(correct),
        "tokens": 9 * len(correct),
        "mean_steps": 3.0,
        "mean_step_tokens": 3.0,
        "truncated": 0,
    }
    lines = "".join(prediction.to_line() for prediction in predictions)
    return write_artefact(place, "evaluate", result, {"predictions.jsonl": lines}, {"model.uri": model}, seconds)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Configuration of a report over M1 and M2, with one round of two shards between them."""
    root = tmp_path_factory.mktemp("run")
    base = root / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    m1 = write_artefact(root / "m1", "sft", {"tokens": 1000, "loss_last": 0.25}, {"w": "1"}, {"model.uri": base}, 60.5)
    e1 = write_evaluation(root / "e1", root / "m1", [True, False, False, False], 4.0)
    parts = [
        write_artefact(root / name, "search", {}, {"trees.jsonl": ""}, {"model.uri": root / "m1"}, seconds)
        for name, seconds in (("part-0", 10.0), ("part-1", 20.0))
    ]
    pairs = write_artefact(
        root / "pairs",
        "merge",
        MERGED,
        {"trees.jsonl": FIRST.to_line() + SECOND.to_line(), "pairs.jsonl": ""},
        {f"parts[{at}]": root / f"part-{at}" for at in range(len(parts))},
        0.5,
    )
    m2 = write_artefact(
        root / "m2",
        "step-dpo",
        {"tokens": 80, "preference_accuracy": 0.75},
        {"w": "2"},
        {"model.uri": root / "m1", "pairs": root / "pairs"},
        7.0,
    )
    e2 = write_evaluation(root / "e2", root / "m2", [True, True, False, True], None)
    return {
        "output": file_uri(root / "report"),
        "title": "A run <made> by hand",
        "note": "Know that this is a test.",
        "models": [
            {"name": "M1", "checkpoint": m1, "pairs": pairs, "evaluations": [{"name": "fresh", "uri": e1}]},
            {"name": "M2", "checkpoint": m2, "evaluations": [{"name": "fresh", "uri": e2}]},
        ],
        "stepOracle": "Arithmetic",
        "seed": 3,
    }


@pytest.fixture(scope="module")
def report(run: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both files."""
    assert run_stage("report", json.dumps(run)) == 0
    place = STORAGE.local_path(run["output"])
    assert place is not None
    return place


@pytest.fixture(scope="module")
def models(report: Path) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = json.loads((report / "results.json").read_text())["models"]
    return models


def test_accuracy_error_and_paired_difference(models: list[dict[str, Any]]) -> None:
    first, second = models

    assert (first["model"], first["accuracy"], first["problems"], first["correct"]) == ("M1", 0.25, 4, 1)
    assert first["standard_error"] == pytest.approx(math.sqrt(0.25 * 0.75 / 4), abs=1e-6)
    assert first["difference_to_first"] is None
    assert (second["model"], second["accuracy"]) == ("M2", 0.75)
    # answers differ by 0, +1, 0, +1: mean 1/2, variance 1/3, over four problems
    assert second["difference_to_first"] == 0.5
    assert second["difference_standard_error"] == pytest.approx(math.sqrt(1 / 3 / 4), abs=1e-6)
    assert second["evaluations"]["fresh"]["mean_step_tokens"] == 3.0


def test_pairs_tokens_and_seconds(models: list[dict[str, Any]]) -> None:
    first, second = models

    assert (first["pairs"], second["pairs"]) == (2, None)
    assert first["tokens"] == {"training": 1000, "candidates": 500, "judge": 700, "evaluation": 36}
    assert second["tokens"] == {"training": 80, "evaluation": 36}
    # the merge and both of its parts; the second evaluation left no time
    assert first["seconds"] == {"sft": 60.5, "search": 30.5, "evaluate": 4.0}
    assert second["seconds"] == {"step-dpo": 7.0}


def test_the_judge_is_judged_on_calls_with_exactly_one_right_step(models: list[dict[str, Any]]) -> None:
    judge = models[0]["judge"]

    # problem 1: (right, wrong) -> A is right, (wrong, right) -> A is not; problem 2: no verdict is not, B is right
    assert judge["calls_with_one_right_step"] == 4
    assert judge["accuracy_on_own_candidates"] == 0.5
    # the oracle says: wrong, wrong | right, wrong, right | right, right | right, wrong
    assert judge["share_of_right_candidates"] == round(5 / 9, 6)
    assert (judge["verdicts"], judge["share_a"], judge["order_agreement"]) == (10, 0.4444, 0.75)
    assert judge["no_verdict_share"] == 0.1
    assert models[1]["judge"] is None


def test_search_counts_ties_apart_from_unanimous_levels(models: list[dict[str, Any]]) -> None:
    search = models[0]["search"]

    assert search["ties"] == 1
    assert (search["rollbacks"], search["unanimous"]) == (1, 1)
    assert search["outcomes"] == {"Solved": 1, "RollbackLimit": 1}


def test_results_say_where_and_with_what_they_were_made(report: Path) -> None:
    results = json.loads((report / "results.json").read_text())

    assert results["controls"] == {}
    assert results["seeds"] == {"run": 3}
    assert results["environment"]["cpus"] >= 1
    assert results["environment"]["versions"]["psr"]


class Tags(HTMLParser):
    """Checks that tags close in order, and collects attributes and text."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.text += " "
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(report: Path) -> Tags:
    tags = Tags()
    tags.feed((report / "report.html").read_text())
    tags.close()
    assert tags.open == []
    return tags


def test_the_page_is_one_file_that_needs_no_other(report: Path, page: Tags) -> None:
    html = (report / "report.html").read_text()

    assert not re.search(r"https?://", html)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.seen)
    assert not {"src", "href", "onclick", "srcset"} & {name for name, _ in page.attributes}
    assert "@import" not in html
    assert "url(" not in html


def test_what_comes_from_data_is_text_and_never_markup(page: Tags) -> None:
    assert "A run <made> by hand" in page.text
    assert "2 + 3 and <i>more</i>?" in page.text
    assert "</pre><script>alert(1)</script>" in page.text
    assert "I prefer <b>A</b>" in page.text


def test_the_page_shows_what_the_results_say(page: Tags) -> None:
    text = " ".join(page.text.split())

    for shown in (
        "Know that this is a test.",
        "25.0 % ± 21.7",
        "+50.0 ± 28.9",
        "right on the policy’s own candidates 50.0 %",
        "ended: RollbackLimit 1",
        "preference accuracy – 0.75",
        "step 1, attempt 2 · Keep",
        "not on the final path",
        "M0",
        "pairs of M1",
    ):
        assert shown in text, shown
    assert page.seen.count("svg") == 4
    assert page.seen.count("title") == 5  # of the page and of each figure
    assert ("class", "level gone") in page.attributes


def test_chosen_and_rejected_steps_are_marked_with_their_scores(page: Tags) -> None:
    text = " ".join(page.text.split())

    assert f"{RIGHT} × 2 score 1 ✓ right rejected" in text
    assert f"{WRONG} score 2 ✗ wrong chosen" in text
    assert f"{RIGHT} × 2 score 0 ✓ right kept" in text


def test_an_artefact_of_another_stage_is_refused(
    run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = run["models"]
    wrong = run | {"output": file_uri(tmp_path / "out"), "models": [first | {"checkpoint": first["pairs"]}, second]}

    assert run_stage("report", json.dumps(wrong)) == 65
    assert "made by stage merge, not by sft or step-dpo" in capsys.readouterr().err


def test_a_run_without_pairs_evaluations_and_oracle_has_a_report_too(run: dict[str, Any], tmp_path: Path) -> None:
    bare = run | {
        "output": file_uri(tmp_path / "out"),
        "models": [{"name": "M1", "checkpoint": run["models"][0]["checkpoint"]}],
        "stepOracle": "None",
    }

    assert run_stage("report", json.dumps(bare)) == 0
    (model,) = json.loads((tmp_path / "out/results.json").read_text())["models"]
    assert (model["accuracy"], model["pairs"], model["judge"], model["evaluations"]) == (None, None, None, {})


def test_the_first_model_may_be_one_made_elsewhere(run: dict[str, Any], tmp_path: Path) -> None:
    """A run without SFT starts from a plain folder: no checkpoint of ours, no training, no lineage before it."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    first, second = run["models"]
    config = {
        **run,
        "output": file_uri(tmp_path / "report"),
        "models": [{**first, "checkpoint": file_uri(base)}, second],
    }
    assert run_stage("report", json.dumps(config)) == 0
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert results["models"][0]["digest"] == digest_of_input(STORAGE, file_uri(base))
    assert results["models"][0]["training"] == {}
    assert results["models"][0]["accuracy"] == 0.25
    assert "sft" not in results["models"][0]["seconds"]
    assert "M0" not in (tmp_path / "report" / "report.html").read_text()


def test_a_later_model_must_be_a_checkpoint(
    run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    first, second = run["models"]
    config = {
        **run,
        "output": file_uri(tmp_path / "report"),
        "models": [first, {**second, "checkpoint": file_uri(base)}],
    }
    assert run_stage("report", json.dumps(config)) == 66
    assert f"{file_uri(base)}: no manifest.json" in capsys.readouterr().err


def test_changed_predictions_are_refused(
    run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluation = write_evaluation(tmp_path / "e", tmp_path, [True, False], None)
    (tmp_path / "e" / "predictions.jsonl").write_text("")
    first, second = run["models"]
    config = {
        **run,
        "output": file_uri(tmp_path / "report"),
        "models": [{**first, "evaluations": [{"name": "fresh", "uri": evaluation}]}, second],
    }
    assert run_stage("report", json.dumps(config)) == 65
    assert "predictions.jsonl: does not have the sha256" in capsys.readouterr().err
