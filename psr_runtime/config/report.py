"""The stage `report`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints

from psr_runtime.config.fields import Name, Schema, Text, Uri, input_uri, method
from psr_runtime.config.storage import StageConfig


class ReportedEvaluation(Schema):
    """One evaluation of one model."""

    name: Name = method(description="Name of the evaluation.")
    uri: Uri = input_uri(description="Its artefact.")


class ReportedModel(Schema):
    """One model of a run, as the report reads it. Folders that hold no artefact yet are left out by the caller."""

    name: Annotated[str, StringConstraints(pattern=r"^M[0-9]+$", max_length=8)] = method(description="M1, M2, …")
    checkpoint: Uri = input_uri(description="The checkpoint.")
    pairs: Uri | None = input_uri(None, description="The pair set that this model generated.")
    evaluations: list[ReportedEvaluation] = method([], description="Evaluations of this model.")


class ReportStage(StageConfig):
    """`report`: one self-contained HTML file and `results.json` over a run."""

    title: Annotated[str, StringConstraints(max_length=200)] = method(description="Heading.")
    note: Text | None = method(None, description="A paragraph on top: what a reader must know about this run.")
    models: list[ReportedModel] = method(description="M1 … Mn in order.")
    step_oracle: Literal["None", "Arithmetic"] = method(
        "None",
        description="Judge the judge on the policy's own candidates after the fact. Arithmetic: a step is right "
        "when every equality of integers in it holds.",
    )
    seed: int = method(0, ge=0, lt=2**31, description="Seed of the run, to be shown.")
