"""Everything that kopf does for the operator: it finds credentials and keeps the watches going.

Each event goes to the informer and that is all: kopf's handlers leave no annotation or finalizer on anything, and what
kopf could keep of an object (diffs, retries, peers, events) is turned off. Its own barrier before the first event, an
index, would hold every object and a task for each of them until the last one is listed: 40 KB an object. So
`Informer.take_in` lists before. There is one kopf a namespace: one that is gone or forbidden ends no other's watch.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import kopf
from kopf._core.engines.peering import Identity  # else kopf asks for the user's name, which a pod has none of
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory  # no public switch turns its notes off

from psr_operator.api import GROUP, KINDS, VERSION
from psr_operator.controller.client import Client, Connection, NoCredentials
from psr_operator.controller.informer import Dependents, Informer

SAID_AT_THE_END = ("_cogs.clients", "_core.reactor.queueing", "_core.reactor.orchestration", "_core.reactor.running")
"""Parts of kopf that log what they then raise, once for every watch. `watch` raises it, and its caller says it once."""


def quieten() -> None:
    """Keep kopf's warnings in the log, and what is said elsewhere out of it."""
    logging.getLogger("kopf").setLevel(logging.WARNING)
    for part in SAID_AT_THE_END:
        logging.getLogger(f"kopf.{part}").setLevel(logging.CRITICAL)


def login_from(kubeconfig: str | None) -> Callable[[], Connection]:
    """How to find credentials: a kubeconfig, else the pod's service account, else the usual kubeconfig.

    Raises:
        NoCredentials: when called and there is neither.
    """

    def login() -> Connection:
        settings = kopf.OperatorSettings()
        info = None
        try:
            if kubeconfig is not None:
                os.environ["KUBECONFIG"] = kubeconfig
            else:
                info = kopf.login_with_service_account(settings=settings)
            info = info or kopf.login_with_kubeconfig(settings=settings)
        except kopf.LoginError as error:
            raise NoCredentials(str(error)) from error
        if info is None:
            raise NoCredentials("no service account and no kubeconfig: give --kubeconfig FILE")
        if not (info.token or info.username or info.certificate_path or info.certificate_data):
            raise NoCredentials(
                "the kubeconfig's user has no token, password or client certificate; exec plug-ins and OIDC are not "
                "read here (psr wait reads them): give the operator the token of a service account"
            )
        return Connection(
            server=info.server,
            headers=info.as_http_headers(),
            tls=info.as_ssl_context() if info.server.startswith("https://") else None,
            default_namespace=info.default_namespace,
        )

    return login


def register(registry: kopf.OperatorRegistry, client: Client, informer: Informer) -> None:
    """Tell kopf how to log in, what to watch, and where events go."""

    @kopf.on.login(registry=registry)
    async def log_in(**_: Any) -> kopf.AiohttpSession:
        await asyncio.to_thread(client.renew)
        return _session(client)

    for name, kind in KINDS.items():
        _watch_own(registry, informer, name, kind.plural)
    for number, of in enumerate(informer.dependents()):
        _watch_dependents(registry, informer, of, f"{of.kind.kind}-event-{number}")


def _watch_own(registry: kopf.OperatorRegistry, informer: Informer, kind: str, plural: str) -> None:
    @kopf.on.event(GROUP, VERSION, plural, id=f"{kind}-event", registry=registry)
    async def event(body: kopf.Body, type: str | None, **_: Any) -> None:
        raw = {**dict(body), "kind": kind, "metadata": dict(body["metadata"])}
        informer.own(raw, gone=type == "DELETED")


def _watch_dependents(registry: kopf.OperatorRegistry, informer: Informer, of: Dependents, name: str) -> None:
    resource = (*of.kind.api_version.split("/"), of.kind.plural)

    @kopf.on.event(*resource, id=name, registry=registry)
    async def event(body: kopf.Body, type: str | None, **_: Any) -> None:
        informer.dependent(of, body, gone=type == "DELETED", listed=type is None)


def _session(client: Client) -> kopf.AiohttpSession:
    """A session for kopf with connections of its own; kopf closes it at its end and whenever it is refused (401)."""
    return kopf.AiohttpSession(
        server=client.server, aiohttp_session=client.for_watches(), default_namespace=client.default_namespace
    )


async def watch(
    client: Client, informer: Informer, *, identity: str, namespace: str | None, on_start: Callable[[], None]
) -> None:
    """Watch until cancelled, or until a watch is refused. There may be several at a time, one a namespace.

    Args:
        namespace: None for the whole cluster.
        on_start: called once kopf has begun; it has taken over the signals by then.

    Raises:
        Exception: whatever ended kopf; it has nothing under way any more.
    """
    registry = kopf.OperatorRegistry()
    register(registry, client, informer)
    tasks = await kopf.spawn_tasks(
        registry=registry,
        settings=settings_for(informer),
        memories=NoMemories(),
        identity=Identity(identity),
        standalone=True,
        clusterwide=namespace is None,
        namespaces=[namespace] if namespace is not None else [],
        stop_flag=asyncio.Event(),
    )
    on_start()
    # Not `kopf.run_tasks`: at its end it cancels every task of the process, those of other namespaces too.
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise RuntimeError(f"kopf ended: {', '.join(task.get_name() for task in done)}")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class NoMemories(ResourceMemories):
    """kopf's notes of an object (memo, daemons, retries) end with the event. Nothing here uses them, and kept for each
    object they take as much memory as the store."""

    async def recall(self, raw_body: Any, **options: Any) -> ResourceMemory:
        return await super().recall(raw_body, **{**options, "ephemeral": True})


class NoDiff(kopf.DiffBaseStorage):
    """kopf's change handlers are not used: nothing is compared with what was handled last, and nothing is stored."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        """Nothing to store."""


def settings_for(informer: Informer) -> kopf.OperatorSettings:
    """kopf's settings: no events, no peering, no annotations; streams that end in time."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.posting.loggers = False
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.networking.request_timeout = 8
    settings.networking.error_backoffs = (1, 2)  # then it ends, and whoever called `watch` looks why
    settings.process.ultimate_exiting_timeout = None  # a kopf that ends is not the end of this process
    settings.watching.server_timeout = 600
    settings.watching.client_timeout = 660
    settings.watching.chunk_size = 100
    settings.persistence.diffbase_storage = NoDiff()
    settings.queueing.idle_timeout = 0.1
    settings.watching.label_selectors.update(selectors(informer))
    return settings


def selectors(informer: Informer) -> Mapping[str, str]:
    """The label selector of each kind that is not ours, by kopf's name of the kind (`pods`, `batch/jobs`)."""
    return {
        "/".join([*of.kind.api_version.split("/")[:-1], of.kind.plural]): of.kind.selector
        for of in informer.dependents()
    }
