"""Search, judge and pair (paper §3.3): the stages `search` and `merge`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from psr_runtime.config.fields import MANY, PluginName, Schema, Uri, input_uri, method, operation, plugin
from psr_runtime.config.model import ModelSource, Prompts
from psr_runtime.config.serving import Endpoint
from psr_runtime.config.storage import StageConfig


class JudgeConfig(Schema):
    """Self-judging of candidate steps. Paper §3.3; orders, decoding and unusable verdicts are ours."""

    strategy: PluginName = plugin(
        "Pairwise",
        group="psr.judges",
        own="psr_runtime.search.judges",
        description="Who judges. Pairwise: the policy compares candidates in pairs, paper §3.3. Packages bring others.",
    )
    orders: Literal["Both", "Single"] = method(
        "Both",
        description="Both: O(i, j) is the call with i in slot A, all w(w-1) ordered pairs are asked. "
        "Single: one call for i < j and O(j, i) = 1 - O(i, j). Ours.",
    )
    temperature: float = method(0.0, ge=0, le=2, description="Sampling temperature of verdicts. Ours.")
    top_p: float = method(1.0, gt=0, le=1, description="Nucleus of verdict sampling. Ours.")
    max_tokens: int = method(1024, ge=1, le=32768, description="Tokens a judgement may take. Ours.")
    control: Literal["None", "Random", "Inverted"] = method(
        "None",
        description="Control experiments: Random replaces each verdict by a seeded coin, Inverted swaps A and B. "
        "None: the model's own verdicts count.",
    )


class SearchConfig(Schema):
    """Step search with self-judging: candidates, scores, roll-back. Paper §3.3."""

    strategy: PluginName = plugin(
        "StepSearch",
        group="psr.search",
        own="psr_runtime.search.strategies",
        description="How a problem is searched. StepSearch: step by step with roll-back, paper §3.3. Packages bring "
        "others.",
    )
    width: int = method(6, ge=2, le=64, description="Candidates per step, w. Paper §4.")
    max_iterations: int = method(
        20, ge=1, le=1000, description="Sampled levels per problem, rolled-back ones included (ours). Paper §4."
    )
    temperature: float = method(0.5, gt=0, le=2, description="Sampling temperature of candidates. Paper §4.")
    top_p: float = method(0.95, gt=0, le=1, description="Nucleus of candidate sampling. Paper §4.")
    max_step_tokens: int = method(512, ge=1, le=32768, description="Tokens one step may take. Ours.")
    max_rollbacks: int = method(
        3, ge=0, le=100, description="Ties a level may have within a problem before the problem ends. Ours."
    )
    accept_unanimous: bool = method(
        False,
        description="Keep a step without a pair when all candidates are the same text (the paper rolls back). "
        "A declared deviation from the paper (§3.3).",
    )
    seeded_requests: bool = method(
        True,
        description="Send a seed with every request. On CUDA this forces slow per-row sampling: set false there.",
    )
    concurrency: int = operation(64, ge=1, le=4096, description="Problems searched at the same time per shard.")


class Questions(Schema):
    """Which problems a round takes: a window of one seeded permutation of the problem file. Paper §4."""

    offset: int = method(0, ge=0, le=MANY, description="Problems that earlier rounds have taken.")
    count: int = method(ge=1, le=1_000_000, description="Problems for this round. Paper §4: 400, 800, 1,200.")
    allow_reuse: bool = method(False, description="Wrap around when the file has too few problems.")


class SearchMethod(Schema):
    """Search, judge, pair: M(i) -> preference pairs. Paper §3.3."""

    model: ModelSource = method(description="The policy M(i), which is its own judge.")
    problems: Uri = input_uri(
        description="Problems (id, problem), in any form of docs/data.md. Answers in them are not read."
    )
    questions: Questions = method(description="The window of problems of this round.")
    prompts: Prompts = method(Prompts(), description="Prompts of both skills.")
    search: SearchConfig = method(SearchConfig(), description="Step search.")
    judge: JudgeConfig = method(JudgeConfig(), description="Self-judging.")
    iteration: int = method(1, ge=1, le=MANY, description="Number of the round, part of every seed.")
    seed: int = method(0, ge=0, lt=2**31, description="Seed of the run.")


class SearchStage(SearchMethod, StageConfig):
    """`search`: one shard of preference generation. Output: a part of a pair set."""

    shard: int = method(0, ge=0, description="Index of this shard; problems go round-robin.")
    shards: int = method(1, ge=1, le=4096, description="Number of shards.")
    server: Endpoint = operation(description="Server of the policy.")


class MergeStage(StageConfig):
    """`merge`: verify the shards of a search and publish the pair set."""

    parts: Annotated[list[Uri], Field(min_length=1, max_length=4096)] = input_uri(
        description="The shards of the search, in order."
    )
    iteration: int = method(1, ge=1, le=MANY, description="Number of the round.")
