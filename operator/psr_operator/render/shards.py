"""One configuration for all pods of a Workload: Kubernetes fills in the number of a shard when its pod starts.

`$(PSR_SHARD)` in a variable's value stands for the variable that is declared before it; `$$` stands for one `$`. Shards
differ in two places: the field `shard`, and the end of `output`, which is `shard_folder` of their number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from psr_operator.reasons import Reason
from psr_operator.render.settings import RenderError
from psr_runtime.config import StageConfig
from psr_runtime.protocol import SHARD_VARIABLE
from psr_runtime.stages import shard_folder

PLACEHOLDER = f"$({SHARD_VARIABLE})"
LARGEST = 120 * 1024
"""Bytes of a configuration. Linux gives one variable 128 KiB, its name included."""


def document(configurations: Sequence[StageConfig]) -> str:
    """The configuration of every pod as the value of one variable: JSON, in the spelling of Kubernetes.

    Args:
        configurations: one a shard, in order; they differ in `shard` and in the end of `output`.

    Raises:
        RenderError: ShardsDiffer, they differ otherwise; ConfigurationTooLarge.
    """
    values = [configuration.to_json() for configuration in configurations]
    text = _escaped(_dumps(values[0])) if len(values) == 1 else _template(values[0], len(values))
    for index, value in enumerate(values):
        if _expanded(text, index) != value:
            raise _differs(index, len(values))
    size = len(text.encode())
    if size > LARGEST:
        raise RenderError(
            Reason.CONFIGURATION_TOO_LARGE,
            f"the configuration takes {size} bytes and a pod's variable holds {LARGEST}; use fewer shards or shorter "
            "texts (prompts, chatTemplate, URIs)",
        )
    return text


def _template(first: dict[str, Any], shards: int) -> str:
    """The configuration of shard 0 with the placeholder where its number stands."""
    folder = shard_folder(0, shards)
    if not first["output"].endswith(f"/{folder}"):
        raise _differs(0, shards)
    before = _escaped(_dumps(first["output"].removesuffix(folder)))
    fields = {key: _escaped(_dumps(value)) for key, value in first.items()}
    fields["output"] = f'{before[:-1]}{shard_folder(PLACEHOLDER, shards)}"'
    if "shard" in fields:
        fields["shard"] = PLACEHOLDER
    return "{" + ",".join(f'"{key}":{text}' for key, text in fields.items()) + "}"


def _differs(index: int, shards: int) -> RenderError:
    return RenderError(
        Reason.SHARDS_DIFFER,
        f"shard {index} of {shards} differs in more than its number, or its output does not end in "
        f"{shard_folder(index, shards)}; all shards share one configuration",
    )


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _escaped(text: str) -> str:
    return text.replace("$", "$$")


def _expanded(text: str, index: int) -> Any:
    """What the process of a shard will read."""
    pattern = rf"\$\$|{re.escape(PLACEHOLDER)}"
    return json.loads(re.sub(pattern, lambda match: "$" if match[0] == "$$" else str(index), text))
