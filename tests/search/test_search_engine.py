"""The search against a real vLLM that serves the tests' language, and what the stand-in promises, checked on it."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import httpx
import pytest

from harness.engine_server import EngineServer
from psr_runtime.config import Endpoint
from psr_runtime.data.reading import read_records
from psr_runtime.data.records import Pair, Tree
from psr_runtime.engine import Completion, Engine, Sampling, VLLMClient
from psr_runtime.prompts.tokens import Tokenizer
from psr_runtime.protocol.errors import DataError
from psr_runtime.search import stage as search_stage
from psr_runtime.stage import run_stage
from psr_runtime.storage import Storage, file_uri
from tests.search.following import assert_pairs_follow, assert_prompts_follow
from tests.search.language import CONTEXT, EOS, WORDS, after, encode, search_fields, write_problems
from tests.search.live import Recorder
from tests.search.standin import StandIn

pytestmark = pytest.mark.engine

PROBLEM = "<user>How much is 2 + 1 + 1?"


def ask(engine: Engine, prompts: list[str], sampling: Sampling) -> list[list[Completion]]:
    """Completions of each prompt, asked one after the other."""

    async def all_of_them() -> list[list[Completion]]:
        async with engine:
            return [
                await engine.complete(encode(prompt), sampling, purpose="test", affinity=prompt) for prompt in prompts
            ]

    return asyncio.run(all_of_them())


def client(live: EngineServer) -> VLLMClient:
    return VLLMClient(Endpoint(urls=[live.url]), live.digest)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=8, stop=("\nStep 2:",)),  # ids run past the stop string
        Sampling(max_tokens=4, stop=("\nStep 2:",)),  # the stop string is complete with the last token allowed
        Sampling(max_tokens=3, stop=("\nStep 2:",)),  # one token too few for it
        Sampling(max_tokens=32, stop=("\nStep 9:",), stop_token_ids=(EOS,)),  # on to the end of the turn
        Sampling(max_tokens=32),  # which the model's own configuration names, too
        Sampling(max_tokens=11, stop_token_ids=(EOS,)),
    ],
    ids=["stop", "stop at the limit", "before the stop", "eos by id", "eos", "eos at the limit"],
)
def test_the_stand_in_answers_as_vllm_does(live: EngineServer, sampling: Sampling) -> None:
    """Greedily both say the same: the same ids, EOS among them iff it was sampled, the same reasons to end."""
    prompts = [PROBLEM, f"{PROBLEM}Step 1: ", f"{PROBLEM}Step 1: 2 + 1 = 3.\n", f"{PROBLEM}\\boxed{{4", "and on "]
    real, stand_in = (ask(engine, prompts, sampling) for engine in (client(live), StandIn()))
    assert real == stand_in


def test_samples_of_both_are_of_one_language(live: EngineServer) -> None:
    """Every answer is possible in the language, ends where it has to and not before, and is about as likely in both."""
    sampling = Sampling(max_tokens=8, temperature=1.0, n=64, seed=5, stop=("\nStep 2:",), stop_token_ids=(EOS,))
    prompts = [PROBLEM, PROBLEM + " + 0?", f"{PROBLEM}Step 1: ", PROBLEM + " + 0 + 0?"]
    for engine in (client(live), StandIn()):
        completions = zip(prompts, ask(engine, prompts, sampling), strict=True)
        answers = [(prompt, item) for prompt, items in completions for item in items]
        assert len(answers) == 256
        for prompt, answer in answers:
            ids = answer.token_ids
            assert all(token in after(last) for last, token in zip([encode(prompt)[-1], *ids], ids, strict=False))
            texts = ["".join(WORDS[token] for token in ids[:end]) for end in range(1, len(ids) + 1)]
            stops = [token == EOS or "\nStep 2:" in text for token, text in zip(ids, texts, strict=True)]
            assert stops == [False] * (len(ids) - 1) + [answer.finish_reason == "stop"]
            assert (answer.finish_reason == "length") <= (len(ids) == 8)
        opened = [item.token_ids[1] for prompt, item in answers if item.token_ids[0] == WORDS.index("Step 1: ")]
        share = opened.count(WORDS.index("2 + 1 = ")) / len(opened)
        assert abs(share - 0.65) < 0.14  # some 170 draws: four standard deviations
        reasons = [(item.finish_reason, item.token_ids[-1] == EOS) for _, item in answers]
        assert set(reasons) >= {("stop", False), ("stop", True), ("length", False)}


def test_a_seed_repeats_and_child_i_of_a_request_has_seed_plus_i(live: EngineServer) -> None:
    """Why seeds are never counted up: two requests with neighbouring seeds would draw the same."""
    for engine in (client(live), StandIn()):
        four, again, third = (
            ask(engine, [PROBLEM], Sampling(max_tokens=8, temperature=1.0, n=n, seed=seed))[0]
            for n, seed in ((4, 70), (4, 70), (1, 72))
        )
        assert four == again
        assert third == four[2:3]


def test_the_context_is_known_and_a_longer_prompt_refused(live: EngineServer) -> None:
    async def too_long() -> int:
        async with client(live) as engine:
            length = await engine.context_length()
            with pytest.raises(DataError, match="the server refuses the request"):
                await engine.complete([4] * (length + 1), Sampling(max_tokens=1), purpose="test", affinity="")
            return length

    assert asyncio.run(too_long()) == CONTEXT


def test_prompts_grow_by_the_ids_that_were_kept_and_are_found_in_the_cache(
    live: EngineServer,
    speaker: Path,
    words: Tokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    engine = Recorder(Endpoint(urls=[live.url]), live.digest)
    monkeypatch.setattr(search_stage, "open_engine", lambda endpoint, digest: engine)
    problems = write_problems(tmp_path / "problems.jsonl", 8)
    config = {"output": file_uri(tmp_path / "out"), **search_fields(speaker, problems)}
    before = hits_so_far(live)

    assert run_stage("search", json.dumps(config)) == 0

    trees = read_records(Storage(), file_uri(tmp_path / "out/trees.jsonl"), Tree)
    pairs = read_records(Storage(), file_uri(tmp_path / "out/pairs.jsonl"), Pair)
    assert assert_prompts_follow(engine.requests, trees) == 3
    assert_pairs_follow(pairs, trees, words, live.digest)
    assert len(pairs) > 0
    for candidate in (c for tree in trees for level in tree.levels for c in level.candidates):
        assert (EOS in candidate.ids) == (candidate.ended == "eos")
    judge = engine.usage["judge"].cached_tokens  # what a request with several samples reports is only its last one's
    hits = {"judge": judge, "candidates": hits_so_far(live) - before - judge}
    for purpose, attainable in engine.attainable.items():
        sent = sum(len(r.prompt_ids) * r.sampling.n for r in engine.requests if r.purpose == purpose)
        cached = f"{hits[purpose]} from the prefix cache, {hits[purpose] / attainable:.1%} of {attainable} attainable"
        with capsys.disabled():
            print(f"\n{purpose}: {engine.usage[purpose].requests} requests, {sent} prompt tokens, {cached}")
        assert 0 < hits[purpose] <= attainable


def hits_so_far(live: EngineServer) -> int:
    """Prompt tokens that the server has found in its prefix cache since it started."""
    metrics = httpx.get(f"{live.url}/metrics", timeout=30).text
    match = re.search(r"^vllm:prefix_cache_hits_total\{.*\} (\S+)$", metrics, re.MULTILINE)
    assert match is not None, metrics
    return int(float(match[1]))
