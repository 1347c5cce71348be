"""The stage `prune`."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from urllib.parse import unquote

from pydantic import Field, StringConstraints, model_validator

from psr_runtime.config.fields import Schema, Uri, input_uri, method, operation
from psr_runtime.config.storage import Owner, StageConfig


class PrunedModel(Schema):
    """A checkpoint whose weights are to go."""

    uri: Uri = input_uri(description="The checkpoint, below the prefix that is claimed.")
    digest: Annotated[str, StringConstraints(max_length=80)] = method(
        description="Its digest; the weights of any other artefact that stands there are left alone."
    )


class PruneStage(StageConfig):
    """`prune`: remove the weights of checkpoints that nobody reads any more. Output: a list of what was removed."""

    models: Annotated[list[PrunedModel], Field(min_length=1, max_length=64)] = method(description="The checkpoints.")
    retention: Literal["Last", "Best"] = operation(description="The rule that lets them go, for those who miss them.")
    owner: Owner = operation(description="Claim on the prefix that the checkpoints lie below.")

    @model_validator(mode="after")
    def _below_the_claim(self) -> Self:
        for model in self.models:
            rest = model.uri.removeprefix(self.owner.uri.rstrip("/") + "/")
            if rest == model.uri or {"", ".", ".."} & set(unquote(rest).split("/")):
                raise ValueError(f"{model.uri} does not lie below {self.owner.uri}; nothing outside of it is removed")
        return self
