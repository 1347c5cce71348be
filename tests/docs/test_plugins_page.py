"""docs/plugins.md: its judge works, its entry point names it, and every group of entry points is there."""

from __future__ import annotations

import asyncio
import re
import tomllib
from typing import Any

from ruamel.yaml import YAML

from psr_runtime.config import JudgeConfig
from psr_runtime.search.judges import CandidateSet, JudgeSetup
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "plugins.md"
BLOCKS = {block.language: block.text for block in blocks(PAGE)}


def test_every_group_stands_on_the_page() -> None:
    sources = [*(ROOT / "operator").rglob("*.py"), *(ROOT / "psr_runtime").rglob("*.py")]
    groups = {
        group for place in sources for group in re.findall(r'(?:Registry\(\s*|group=)"(psr\.\w+)"', place.read_text())
    }
    assert len(groups) > 3
    assert sorted(re.findall(r"(?m)^\| `(psr\.\w+)` \|", PAGE.read_text())) == sorted(groups)


def test_the_judge_of_the_page_scores_candidates_and_again_the_same() -> None:
    module: dict[str, Any] = {}
    exec(BLOCKS["python"], module)
    (point,) = tomllib.loads(BLOCKS["toml"])["project"]["entry-points"]["psr.judges"].items()
    named = JudgeConfig.model_validate(YAML(typ="safe").load(BLOCKS["yaml"])["judge"])
    assert point == (named.strategy, f"my_judges:{named.strategy}")
    setup = JudgeSetup(None, None, None, named, context=0, seeded=True, seed=(0, 1))  # type: ignore[arg-type]
    candidates = CandidateSet("p", "1 + 1 = ?", [], ["2", "3", "4"], [1, 1, 1], level=0, attempt=0)
    first, second = (asyncio.run(module[named.strategy](setup).assess(candidates)) for _ in range(2))
    assert first == second
    assert len(set(first.scores)) == 3
