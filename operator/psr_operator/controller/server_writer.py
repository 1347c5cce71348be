"""A server's objects: made together, exchanged when another one is wanted, and put right when somebody changes them."""

from __future__ import annotations

import base64
import hashlib
import logging
import secrets
from collections.abc import Mapping
from typing import Any

from psr_operator.api import PolicyServer, Resource
from psr_operator.controller.client import Client
from psr_operator.controller.creating import Creator, Obstacle, collision, owned
from psr_operator.controller.facts import DeploymentFacts, deployment_facts
from psr_operator.controller.paths import object_path
from psr_operator.controller.store import Store
from psr_operator.planner.types import Server
from psr_operator.render import (
    ANNOTATION_KEY_HASH,
    ANNOTATION_MODEL_HASH,
    RenderError,
    Settings,
    key_secret,
    model_hash,
    server_hash,
)
from psr_operator.render import server as render_server
from psr_runtime.protocol import key_secret_name

log = logging.getLogger(__name__)


class ServerWriter(Creator):
    """Writes the objects of servers.

    Args:
        settings: what rendering needs to know of this operator.
    """

    def __init__(self, client: Client, store: Store, settings: Settings) -> None:
        super().__init__(client)
        self._store = store
        self._settings = settings
        self._righted: dict[str, int] = {}

    async def server(self, owner: PolicyServer, server: Server, facts: DeploymentFacts | None) -> bool:
        """Make a server's objects exist as wanted. The Deployment comes last: while it is there, the others are.

        A Deployment whose wanted value is the same is left alone, whatever this operator would render today, and only
        its annotation of the model changes with the model: pods are not restarted by an upgrade. One that somebody
        else has changed is written anew.
        """
        drifted = facts is not None and self._is_drifted(facts)
        same_server = facts is not None and facts.server_hash == server_hash(server) and not drifted
        same_model = facts is not None and facts.model_hash == model_hash(server)
        running = facts is not None and facts.replicas > 0
        if facts is not None and running and same_server and same_model:
            if facts.replicas != server.replicas:
                await self._scale(owner, facts, server.replicas)
            return False
        keeps_image = facts is not None and running and not (drifted and facts.changed_image)
        objects = self._rendered(server, owner, facts.image if facts is not None and keeps_image else None)
        if facts is None:
            await self.create(owner.metadata.namespace, key_secret(server.name, owner, _new_key()), owner.metadata.uid)
        for body in sorted(objects, key=lambda item: item["kind"] == "Deployment"):
            if body["kind"] == "Deployment":
                if server.digest is None:  # only pods of its own distinguish this model from another
                    annotations = body["spec"]["template"]["metadata"].setdefault("annotations", {})
                    annotations[ANNOTATION_MODEL_HASH] = model_hash(server)
                only_model = running and same_server and server.digest is not None
                raw = await self._put(body, owner, fresh=facts is None, only_annotations=only_model)
                self._store_deployment(raw)
                if drifted and facts is not None:
                    self._righted[facts.uid] = int(raw["metadata"].get("generation") or 0)
                    log.warning("Deployment %s was changed by %s and is put right", facts.name, facts.changed_by)
            elif not (same_model if body["kind"] == "ConfigMap" else same_server):
                await self._put(body, owner, fresh=facts is None)
        return facts is None

    async def release(self, owner: PolicyServer, facts: DeploymentFacts) -> None:
        """Scale a server to nothing."""
        if facts.replicas != 0:
            await self._scale(owner, facts, 0)

    async def restore(self, owner: PolicyServer, server: Server, facts: DeploymentFacts, key: str | None) -> list[str]:
        """Make the objects of a running server again that somebody has removed.

        Args:
            key: the bearer key that its pods have, where it is known. With another one they are made anew.

        Returns:
            What was made.

        Raises:
            Obstacle: it cannot be made.
        """
        namespace, uid = owner.metadata.namespace, owner.metadata.uid
        restored = []
        for body in self._rendered(server, owner, facts.image):
            kind, name = body["kind"], body["metadata"]["name"]
            if kind != "Deployment" and await self.client.get(object_path(kind, namespace, name)) is None:
                await self.create(namespace, body, uid)
                restored.append(f"{kind}/{name}")
        secret = key_secret_name(server.name)
        if await self.client.get(object_path("Secret", namespace, secret)) is None:
            bears = key or _new_key()
            await self.create(namespace, key_secret(server.name, owner, bears), uid)
            restored.append(f"Secret/{secret}")
            if key is None:
                await self._roll(owner, facts, bears)
        for what in restored:
            log.warning("%s/%s had been removed and is made again", namespace, what)
        return restored

    def _rendered(self, server: Server, owner: Resource, image: str | None) -> list[dict[str, Any]]:
        try:
            return render_server(server, owner, self._settings, image=image)
        except RenderError as error:
            raise Obstacle(error.reason, str(error)) from error

    def _is_drifted(self, facts: DeploymentFacts) -> bool:
        """Whether somebody else has changed a Deployment since it was written last."""
        return bool(facts.changed_by) and self._righted.get(facts.uid) != facts.generation

    async def _scale(self, owner: PolicyServer, facts: DeploymentFacts, replicas: int) -> None:
        live = await self._own_deployment(owner, facts)
        if live is not None:
            live["spec"]["replicas"] = replicas
            await self._replace_deployment(live)

    async def _roll(self, owner: PolicyServer, facts: DeploymentFacts, key: str) -> None:
        """Have the pods made anew with another key."""
        live = await self._own_deployment(owner, facts)
        if live is not None:
            annotations = live["spec"]["template"]["metadata"].setdefault("annotations", {})
            annotations[ANNOTATION_KEY_HASH] = hashlib.sha256(key.encode()).hexdigest()[:16]
            await self._replace_deployment(live)

    async def _own_deployment(self, owner: PolicyServer, facts: DeploymentFacts) -> dict[str, Any] | None:
        """The Deployment as the apiserver has it now; None where it is gone or somebody else's."""
        live = await self.client.get(object_path("Deployment", facts.labels.namespace, facts.name))
        return live if live is not None and owned(live, owner.metadata.uid) else None

    async def _replace_deployment(self, live: dict[str, Any]) -> None:
        meta = live["metadata"]
        path = object_path("Deployment", meta["namespace"], meta["name"])
        self._store_deployment(await self.client.replace(path, live))

    def _store_deployment(self, raw: Mapping[str, Any]) -> None:
        facts = deployment_facts(raw)
        if facts is not None:
            self._store.deployments.put(facts)

    async def _put(
        self, body: dict[str, Any], owner: Resource, *, fresh: bool, only_annotations: bool = False
    ) -> dict[str, Any]:
        """Create an object of a server, or replace the one that is there (`only_annotations`: its annotations)."""
        kind, namespace, uid = body["kind"], owner.metadata.namespace, owner.metadata.uid
        if fresh:
            raw, created = await self.create(namespace, body, uid)
            if created:
                return raw
        path = object_path(kind, namespace, body["metadata"]["name"])
        live = await self.client.get(path)
        if live is None:
            return (await self.create(namespace, body, uid))[0]
        if not owned(live, uid):
            raise collision(kind, body["metadata"]["name"])
        if only_annotations:
            live["metadata"].setdefault("annotations", {}).update(body["metadata"].get("annotations", {}))
            return await self.client.replace(path, live)
        meta = {
            **body["metadata"],
            "uid": live["metadata"]["uid"],
            "resourceVersion": live["metadata"]["resourceVersion"],
        }
        return await self.client.replace(path, {**body, "metadata": meta})


def _new_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(24)).decode()
