"""One configuration for all pods of a Job: what differs between shards is filled in by Kubernetes.

`$(PSR_SHARD)` in a variable's value stands for the variable that is declared before it; `$$` stands for one `$`.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from typing import Any

from psr_operator.reasons import Reason
from psr_operator.render.settings import RenderError
from psr_runtime.config import StageConfig

SHARD = "PSR_SHARD"
LARGEST = 120 * 1024
"""Bytes of a configuration. Linux gives one variable 128 KiB, its name included."""


def document(configurations: Sequence[StageConfig]) -> str:
    """The value of PSR_STAGE_CONFIG for every pod: JSON, in the spelling of a Kubernetes variable.

    Args:
        configurations: one a shard, in order; they differ in `shard` and in one number within `output`.

    Raises:
        RenderError: ShardsDiffer, they differ otherwise; ConfigurationTooLarge.
    """
    values = [configuration.to_json() for configuration in configurations]
    text = _escaped(_dumps(values[0])) if len(values) == 1 else _template(values)
    for index, value in enumerate(values):
        if _expanded(text, index) != value:
            raise RenderError(
                Reason.SHARDS_DIFFER,
                f"shard {index} of {len(values)} differs in more than its number; they share one Job",
            )
    size = len(text.encode())
    if size > LARGEST:
        raise RenderError(
            Reason.CONFIGURATION_TOO_LARGE,
            f"the configuration takes {size} bytes and a pod's variable holds {LARGEST}; use fewer shards or shorter "
            "texts (prompts, chatTemplate, URIs)",
        )
    return text


def _template(values: Sequence[dict[str, Any]]) -> str:
    """The first configuration with its index replaced: `shard`, and where the first two outputs begin to differ."""
    first, second = values[0]["output"], values[1]["output"]
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    before = "".join(letter for letter, _ in same)
    after = first[len(before) + 1 :]
    fields = {key: _escaped(_dumps(value)) for key, value in values[0].items()}
    fields["output"] = f"{_escaped(_dumps(before))[:-1]}$({SHARD}){_escaped(_dumps(after))[1:]}"
    if "shard" in fields:
        fields["shard"] = f"$({SHARD})"
    return "{" + ",".join(f'"{key}":{text}' for key, text in fields.items()) + "}"


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _escaped(text: str) -> str:
    return text.replace("$", "$$")


def _expanded(text: str, index: int) -> Any:
    """What the process of a shard will read."""
    return json.loads(re.sub(rf"\$\$|\$\({SHARD}\)", lambda found: "$" if found[0] == "$$" else str(index), text))
