"""`psr wait` for an object of a cluster: unlike `kubectl wait`, it ends when the object is Stalled, too."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from psr_operator.controller.client import Client, NoCredentials, Refused, Unreachable
from psr_operator.controller.kopf_adapter import login_from
from psr_operator.controller.paths import object_path

POLL_SECONDS = 1.0


class CannotRead(Exception):
    """There is no way to the cluster, or it refuses; repeating will not help."""


class Reader:
    """Reads one object again and again.

    Args:
        kubeconfig: None for the usual places.
    """

    def __init__(self, kind: str, namespace: str, name: str, kubeconfig: str | None) -> None:
        self._path = object_path(kind, namespace, name)
        self._kubeconfig = kubeconfig

    def read(self) -> Mapping[str, Any] | None:
        """The object as it is now, None where there is none.

        Raises:
            CannotRead: no credentials, or the apiserver refuses them.
        """
        try:
            return asyncio.run(self._read())
        except (Refused, NoCredentials, OSError) as error:
            raise CannotRead(str(error)) from error

    async def _read(self) -> dict[str, Any] | None:
        client = Client(login_from(self._kubeconfig))
        try:
            while True:
                try:
                    return await client.get(self._path)
                except Unreachable:
                    await asyncio.sleep(POLL_SECONDS)
        finally:
            await client.close()
