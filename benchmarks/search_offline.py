"""The requests of searches, replayed by vLLM itself: no server, no client, all of them known from the start.

python -m benchmarks.search_offline ARGUMENTS RESULT RECORD...

ARGUMENTS is a JSON list, the command line of the server's vLLM. It is the bound of what a server can do with these
requests. Nothing of PSR is imported here.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams
from vllm.engine.arg_utils import EngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser

WARM = 16
"""Requests that are answered before the time runs."""


def engine(arguments: list[str]) -> LLM:
    """vLLM's offline engine with the arguments of a server."""
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    served = EngineArgs.from_cli_args(parsed).create_engine_config(UsageContext.OPENAI_API_SERVER)
    engine_arguments = EngineArgs.from_cli_args(parsed)
    # vLLM's own default is twice as large offline as in a server.
    engine_arguments.max_num_batched_tokens = served.scheduler_config.max_num_batched_tokens
    engine_arguments.disable_log_stats = True
    return LLM.from_engine_args(engine_arguments)


def replay(llm: LLM, requests: list[dict[str, Any]]) -> dict[str, float]:
    """Answer all requests at once, with an empty prefix cache; seconds and tokens that were sampled."""
    prompts = [{"prompt_token_ids": request["prompt_ids"]} for request in requests]
    sampling = [
        SamplingParams(**request["sampling"], skip_special_tokens=False, spaces_between_special_tokens=False)
        for request in requests
    ]
    llm.generate(prompts[:WARM], sampling[:WARM], use_tqdm=False)
    if not llm.reset_prefix_cache():
        raise RuntimeError("the prefix cache was not emptied")
    started = time.monotonic()
    answers = llm.generate(prompts, sampling, use_tqdm=False)
    seconds = time.monotonic() - started
    tokens = sum(len(item.token_ids) for answer in answers for item in answer.outputs)
    return {"seconds": seconds, "tokens": tokens}


def main() -> None:
    arguments, result, *records = map(Path, sys.argv[1:])
    llm = engine(json.loads(arguments.read_text()))
    replays = [replay(llm, json.loads(record.read_text())["requests"]) for record in records]
    result.write_text(json.dumps(replays))


if __name__ == "__main__":
    main()
