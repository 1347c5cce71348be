"""How objects are created: whose the name is, what cannot be made, and whether it can be made by now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psr_operator.backends.base import ObjectKind, controller_of, labels_of
from psr_operator.controller.client import Client, Refused
from psr_operator.controller.paths import collection_of, kind_of
from psr_operator.reasons import AnyReason, Reason, rejected
from psr_operator.render import LABEL_UID

NO_KINDS: Mapping[tuple[str, str], ObjectKind] = {}


class Obstacle(Exception):
    """What is wanted cannot be made, and waiting will not help.

    Attributes:
        reason: for the condition.
        collection, body: of the POST that was refused, to be tried again; None where nothing was sent.
    """

    def __init__(
        self, reason: AnyReason, message: str, collection: str | None = None, body: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.collection = collection
        self.body = body


class Creator:
    """Creates objects that an object of ours is to own."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def create(
        self,
        namespace: str,
        body: Mapping[str, Any],
        uid: str,
        kinds: Mapping[tuple[str, str], ObjectKind] = NO_KINDS,
    ) -> tuple[dict[str, Any], bool]:
        """POST an object. The object, and whether it was created now (or is ours from before).

        Args:
            uid: of the owner.
            kinds: of a back end, by API version and name.
        """
        kind = body["kind"]
        collection = collection_of(kind_of(body, kinds), namespace)
        try:
            return await self.client.create(collection, body), True
        except Refused as refused:
            name = body["metadata"]["name"]
            if refused.reason == "AlreadyExists":
                live = await self.client.get(f"{collection}/{name}")
                if live is None:
                    raise  # it went in between: again
                if owned(live, uid):
                    return live, False
                if labels_of(live).get(LABEL_UID) == uid and not controller_of(live):
                    raise orphaned(kind, name, collection, body) from refused
                raise collision(kind, name, collection, body) from refused
            if refused.passing or refused.code == 404:
                raise
            raise Obstacle(rejected(kind), str(refused), collection, body) from refused

    async def still_refused(self, obstacle: Obstacle) -> bool:
        """Whether what was refused would be refused again."""
        if obstacle.collection is None or obstacle.body is None:
            return False
        try:
            await self.client.create(f"{obstacle.collection}?dryRun=All", obstacle.body)
        except Refused as refused:
            return not refused.passing or refused.reason == "AlreadyExists"
        return False


def owned(raw: Mapping[str, Any], uid: str) -> bool:
    return any(item["uid"] == uid for item in raw["metadata"].get("ownerReferences") or ())


def collision(kind: str, name: str, collection: str | None = None, body: Mapping[str, Any] | None = None) -> Obstacle:
    message = f"{kind}/{name} exists and belongs to somebody else; remove it, or give this object another name"
    return Obstacle(Reason.NAME_COLLISION, message, collection, body)


def orphaned(kind: str, name: str, collection: str | None = None, body: Mapping[str, Any] | None = None) -> Obstacle:
    """What is said of an object that was made for this one and has no owner any more."""
    message = (
        f"{kind}/{name} was made for this object and has lost its owner reference (an orphaning deletion, or a "
        "restored backup); it may still work, so delete it"
    )
    return Obstacle(Reason.NAME_COLLISION, message, collection, body)
