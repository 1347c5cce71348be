"""The estimate: arithmetic on what is measured, and within a quarter of what the demo and two variants really used.

`recorded.json` holds the counts of `psr run` on the demo with seed 0, and from its M1 with `width: 3` and with half the
problems. The estimator reads nothing but the manifest and its data; no constant of it is fitted to these counts.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from psr_operator.cli import main
from psr_runtime.check.estimate import DEVICES, Estimator, Measured, levels_of
from psr_runtime.check.sizes import shape_of
from psr_runtime.check.variety import Variety, variety
from psr_runtime.config import CheckStage, JudgeConfig, Questions, SearchConfig, SFTConfig
from psr_runtime.data.records import IFTRecord
from tests.check.conftest import DEMO, Planted

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("recorded.json").read_text())
QUARTER = 0.25
QWEN_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def whole_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's inputs for seed 0, all of them."""
    from make_data import make_data

    folder = tmp_path_factory.mktemp("whole") / "input"
    make_data(folder, 0)
    return folder


def variants(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    """The demo's spec, or that of a variant."""
    if name == "width-3":
        spec["search"]["width"] = 3
    if name == "half":
        for item in spec["iterations"]:
            item["questions"] //= 2
    return spec


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_tokens_are_within_a_quarter_of_what_was_used(
    name: str, planted: Planted, whole_demo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    variants(name, planted.spec)
    arguments = ["check", "-f", str(planted.manifest), "--mount", f"/psr={whole_demo.parent}", "--json"]
    assert main(arguments) == 0
    stages = {item["stage"]: item for item in json.loads(capsys.readouterr().out)["SelfRewardRun/demo"]["estimate"]}
    used = RECORDED[name]
    for stage, tokens in used["trained"].items():
        assert math.isclose(stages[stage]["trained"], tokens, rel_tol=0.02 if stage == "SFT" else 2 * QUARTER), stage
    searches = [item for stage, item in stages.items() if stage.startswith("search")]
    rounds = used["searches"]
    assert len(searches) == len(rounds) == 3
    for what, estimated, counted in (
        ("searches", sum(item["sampled"] for item in searches), sum(item["sampled"] for item in rounds)),
        ("judgements", sum(item["judged"] for item in searches), sum(item["judged"] for item in rounds)),
        ("first search", searches[0]["sampled"], rounds[0]["sampled"]),
        ("evaluations", stages["fresh M1"]["sampled"] * 4, sum(used["evaluations"])),
    ):
        assert math.isclose(estimated, counted, rel_tol=QUARTER), f"{what}: {estimated} instead of {counted}"


def test_the_arithmetic_by_hand() -> None:
    """Two problems of two steps: 4 levels of 6 candidates and 30 judgements; nothing ties."""
    config = CheckStage(
        output="file:///out",
        rounds=[Questions(count=2)],
        search=SearchConfig(),
        judge=JudgeConfig(),
        sft=SFTConfig(epochs=3),
    )
    measured = Measured(
        sft=(10, 50.0), prompt=20.0, steps=[2, 2], step=9.0, judgement=5.0, header=2.0, variety=Variety(30.0, 0.0)
    )
    sft, search = Estimator(config, measured, None, DEVICES["H100"]).stages()
    assert sft.trained == 3 * 10 * 50
    assert search.judged == 2 * 2 * 30 * 5
    assert search.sampled == 2 * 2 * (6 * (9 + 1) + 30 * 5), "every second candidate runs into the next step's header"
    assert (
        "2 problems × 2.00 levels × (6 candidates × 10.0 tokens + 30.00 judgements × 5.0 tokens)" in search.arithmetic
    )


@pytest.mark.parametrize(
    ("tied", "levels"),
    [
        (0.0, 3.0),  # one a step
        (1.0, 4.0),  # the first level ties until its roll-backs are used up
    ],
)
def test_levels_of_a_search(tied: float, levels: float) -> None:
    assert levels_of([3], tied, SearchConfig(max_rollbacks=3)) == levels


def test_roll_backs_cost_levels_up_to_the_limit() -> None:
    some = levels_of([3], 0.3, SearchConfig())
    assert 3.5 < some < levels_of([3], 0.5, SearchConfig()) <= 20
    assert levels_of([50], 0.0, SearchConfig(max_iterations=20)) == 20


def test_candidates_that_can_be_nothing_else_are_unanimous_and_text_is_not() -> None:
    sums = [
        IFTRecord(problem=f"What is {a} + {b}?", steps=[f"Step 1: {a} + {b} = {a + b}"])
        for a in range(2, 9)
        for b in range(2, 9)
        for _ in range(4)
    ]
    search, judge = SearchConfig(temperature=1.0), JudgeConfig()
    assert variety(sums, search, judge) == Variety(0.0, 1.0)
    words = ["we", "you", "they", "see", "count", "take", "leave", "find", "keep", "write"]
    text = [
        IFTRecord(problem="Why?", steps=[f"Step 1: {' '.join(random.Random(n).choices(words, k=9))}"])
        for n in range(200)
    ]
    differing = variety(text, search, judge)
    assert differing.unanimous < 0.2
    assert differing.calls > 20
    single = variety(text, search, JudgeConfig(orders="Single"))
    assert single.calls == differing.calls / 2
    assert variety(text, search, JudgeConfig(control="Random")).calls == 0


def test_a_cooler_search_has_fewer_different_candidates() -> None:
    records = [
        IFTRecord(problem="Which?", steps=[f"Step 1: it is {'right' if n % 4 else 'wrong'}"]) for n in range(100)
    ]
    warm, cool = (variety(records, SearchConfig(temperature=t), JudgeConfig()) for t in (1.0, 0.3))
    assert cool.unanimous > warm.unanimous > 0


def test_sizes_of_a_known_model() -> None:
    """Qwen2.5-Math-7B has 7.62 billion weights; 1,024 tokens take 58.7 MB of cache in bfloat16."""
    shape = shape_of(QWEN_7B)
    assert shape is not None
    assert math.isclose(shape.weights, 7.616e9, rel_tol=0.001)
    assert shape.cache_bytes(1024, "bfloat16") == 2 * 28 * 4 * 128 * 1024 * 2
    assert math.isclose(shape.checkpoint_bytes("bfloat16"), 45.7e9, rel_tol=0.01)
    assert shape_of({"model_type": "mamba"}) is None


def test_the_timeline_of_the_paper_s_run(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    """Every stage in order, each with its bottleneck; what no measurement backs is marked; a price gives money."""
    arguments = ["--cluster", "--timeline", "--price", "2.5", "--nodes", "2"]
    planted.edit("config.json", **QWEN_7B, max_position_embeddings=512)
    planted.spec["trainingResources"] = {"gpus": 8}
    planted.spec["server"]["resources"] = {"gpus": 1}
    planted.spec["server"]["replicas"] = 8
    planted.check(*arguments)
    shown = capsys.readouterr().out
    rows = shown[shown.index("stage  ") :].splitlines()
    assert rows[0].split("  ")[0] == "stage"
    assert rows[0].count("(assumed)") == 2
    names = [row.split("  ")[0] for row in rows[1 : rows.index("")]]
    rounds = [f"{what} {n}" for n in (1, 2, 3) for what in ("fresh", "search", "DPO", "handover")]
    named = [name.replace("fresh ", "fresh M") if name.startswith("fresh") else name for name in rounds]
    assert names == ["SFT", "server start", *named, "fresh M4"]
    assert "to 16 replicas" in shown
    estimate = next(line for line in shown.splitlines() if line.startswith("estimate: "))
    assert " GPU hours on H100, " in estimate
    assert estimate.endswith(" at 2.5 an hour (assumed)")


def test_the_demo_s_manifest_is_the_one_that_was_recorded() -> None:
    """Whoever changes it has to record anew."""
    assert RECORDED["demo"]["iterations"] == (DEMO / "run.yaml").read_text().count("- questions: 200")
