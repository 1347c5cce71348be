"""Storage, and what every stage is configured with besides its own fields."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from psr_runtime.config.fields import Schema, Uri, operation


class StorageAccess(Schema):
    """How to reach an S3 store. Credentials come from the environment or the pod's identity, never from here."""

    endpoint: Annotated[str, StringConstraints(pattern=r"^https?://", max_length=256)] | None = operation(
        None, description="S3 endpoint URL. Unset: AWS."
    )
    region: Annotated[str, StringConstraints(max_length=64)] | None = operation(None, description="S3 region.")
    path_style: bool | None = operation(
        None,
        description="True: the bucket stands in the path of a URL; false: in its host name. Unset: in the path where "
        "an endpoint is given.",
    )


class Owner(Schema):
    """Who may write under a storage prefix: the first writer's uid stands in `owner.json`."""

    uri: Uri = operation(description="The prefix that is owned.")
    uid: Annotated[str, StringConstraints(max_length=64)] = operation(description="uid of the owning object.")
    name: Annotated[str, StringConstraints(max_length=128)] = operation(description="namespace/name, for messages.")


class StageConfig(Schema):
    """What every stage is configured with besides its own fields."""

    output: Uri = operation(description="Where the artefact goes.")
    storage: StorageAccess = operation(StorageAccess(), description="How to reach the storage.")
    owner: Owner | None = operation(None, description="Claim on the storage prefix.")
