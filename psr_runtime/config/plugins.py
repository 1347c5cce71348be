"""What other packages bring, found by name: judges, graders, storage schemes, whatever has an entry-point group.

A manifest names an implementation (`judge.strategy: Pairwise`). `Registry` finds it: among our own, each a file in the
package that the field of the configuration names, imported when it is first used; or among the entry points of the
installed packages. The version of a package that brings one is part of the digest of every result that it decided
(`config/digest.py`); our own code is versioned by the stage's schema.

    [project.entry-points."psr.judges"]
    Coin = "my_package.judges:CoinJudge"
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from psr_runtime.config.fields import PLUGIN
from psr_runtime.config.packages import entry_points, own_implementations, package_of
from psr_runtime.config.spelling import did_you_mean
from psr_runtime.protocol.errors import ConfigurationError

T = TypeVar("T")


class Registry(Generic[T]):
    """The implementations of one kind, by name.

    Args:
        group: the entry-point group, `psr.judges` say.
        field: what names one in a manifest, for messages: `judge.strategy`.
        own: our own, `module:attribute` by name.
    """

    def __init__(self, group: str, field: str, own: Mapping[str, str]) -> None:
        self.group = group
        self.field = field
        self._own = dict(own)
        self._registered: dict[str, T] = {}
        self._brought: dict[str, T] = {}

    @classmethod
    def of(cls, config: type[BaseModel], name: str, field: str) -> Registry[T]:
        """The implementations that a field of a configuration names (`fields.plugin`)."""
        extra = config.model_fields[name].json_schema_extra
        if not isinstance(extra, dict) or PLUGIN not in extra:
            raise TypeError(f"{config.__name__}.{name} names no plug-in")
        declared: Any = extra[PLUGIN]
        return cls(declared["group"], field, own_implementations(declared["own"]))

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: add an implementation in this process, for tests and notebooks."""

        def add(item: T) -> T:
            self._registered[name] = item
            return item

        return add

    def unregister(self, name: str) -> None:
        """Take back what `register` added."""
        self._registered.pop(name, None)

    def names(self) -> list[str]:
        """Every name that is there, sorted."""
        return sorted({*self._own, *self._registered, *(item.name for item in entry_points(self.group))})

    def load(self, name: str) -> T:
        """The implementation of a name.

        Raises:
            ConfigurationError: nobody brings it; the message says which names are there.
        """
        if name in self._registered:
            return self._registered[name]
        if name in self._own:
            module, _, attribute = self._own[name].partition(":")
            own: T = getattr(importlib.import_module(module), attribute)
            return own
        if name not in self._brought:
            self._brought[name] = self._fetch(name)
        return self._brought[name]

    def _fetch(self, name: str) -> T:
        """The implementation that another package brings. Looking for it reads what is installed: once is enough."""
        for item in entry_points(self.group):
            if item.name == name:
                try:
                    loaded: T = item.load()
                except (ImportError, AttributeError) as error:
                    raise ConfigurationError(
                        f"{self.field} {name}: {item.value} of {package_of(item)} cannot be imported ({error})"
                    ) from error
                return loaded
        meant = did_you_mean(name, self.names())
        raise ConfigurationError(
            f"{self.field}: nobody brings {name!r}; there are {', '.join(self.names())}. A package brings one by an "
            f"entry point in the group {self.group}; in pods it has to be in the image{meant}"
        )
