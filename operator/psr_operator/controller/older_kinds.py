"""What the kinds of the cluster do not know of what this version writes: found in the apiserver's answers, said once.

Definitions and operator are upgraded one after the other. A field that the stored kind does not have is dropped by the
apiserver; written again at every look, it would be a write at every look.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

log = logging.getLogger(__name__)

FORGET_SECONDS = 600.0
"""After which it is found out anew: the definitions may have been upgraded."""
EACH = "[]"
"""In a place: each item of a list."""

Place = tuple[str, ...]


@dataclass
class OlderKinds:
    """The fields that an apiserver has dropped.

    Attributes:
        clock: monotonic seconds.
    """

    clock: Callable[[], float]
    _dropped: dict[str, dict[Place, float]] = field(default_factory=dict)
    _said: set[tuple[str, Place]] = field(default_factory=set)

    def learn(self, kind: str, sent: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
        """Compare what was sent of an object with what the apiserver has stored of it."""
        for place in _missing(sent, stored):
            self._dropped.setdefault(kind, {})[place] = self.clock()
            if (kind, place) not in self._said:
                self._said.add((kind, place))
                log.warning(
                    "%s.%s is not stored: the kinds of this cluster are older than the operator; upgrade them "
                    "(docs/install.md)",
                    kind,
                    ".".join(place),
                )

    def known(self, kind: str, part: str, values: dict[str, Any]) -> dict[str, Any]:
        """The part of an object that is written, `status` say, without what would be dropped."""
        dropped = self._dropped.get(kind)
        if not dropped:
            return values
        limit = self.clock() - FORGET_SECONDS
        places = {place[1:] for place, time in dropped.items() if place[0] == part and time > limit}
        kept = _without(values, places)
        assert isinstance(kept, dict)
        return kept


def _missing(sent: Any, stored: Any, at: Place = ()) -> Iterator[Place]:
    """Places of fields that were sent and not stored."""
    if isinstance(sent, Mapping) and isinstance(stored, Mapping):
        for key, value in sent.items():
            if key in stored:
                yield from _missing(value, stored[key], (*at, key))
            elif value is not None:
                yield (*at, key)
    elif isinstance(sent, list) and isinstance(stored, list) and len(sent) == len(stored):
        for one, other in zip(sent, stored, strict=True):
            yield from _missing(one, other, (*at, EACH))


def _without(value: Any, places: set[Place]) -> Any:
    if not places:
        return value
    if isinstance(value, list):
        inner = {place[1:] for place in places if place[0] == EACH}
        return [_without(item, inner) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: _without(item, {place[1:] for place in places if place[0] == key and len(place) > 1})
        for key, item in value.items()
        if (key,) not in places
    }
