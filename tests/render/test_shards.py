"""One variable serves all shards: read by another implementation of Kubernetes' expansion, it is each configuration."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from psr_operator.backends.job import job
from psr_operator.planner.types import Placement, Workload
from psr_operator.render import RenderError
from psr_runtime.config import MergeStage, SearchStage
from tests.render.samples import ROOT, SETTINGS, owner, search_configurations, workload


def expand(text: str, variables: dict[str, str]) -> str:
    """Kubernetes' `$(NAME)` expansion as its documentation has it: `$$` is `$`, an unknown name stays as it is."""
    expanded, at = "", 0
    while at < len(text):
        here = text[at : at + 2]
        end = text.find(")", at)
        if here == "$$":
            expanded, at = expanded + "$", at + 2
        elif here == "$(" and end != -1:
            name = text[at + 2 : end]
            expanded, at = expanded + variables.get(name, f"$({name})"), end + 1
        else:
            expanded, at = expanded + text[at], at + 1
    return expanded


def environment(rendered: dict[str, Any], index: int) -> dict[str, str]:
    """The variables of a pod as a kubelet makes them: in order, each may name the ones before it."""
    label = {"metadata.labels['batch.kubernetes.io/job-completion-index']": str(index)}
    known: dict[str, str] = {}
    for item in rendered["spec"]["template"]["spec"]["containers"][0]["env"]:
        if "value" in item:
            known[item["name"]] = expand(item["value"], known)
        elif "fieldRef" in item["valueFrom"]:
            known[item["name"]] = label[item["valueFrom"]["fieldRef"]["fieldPath"]]
        else:
            known[item["name"]] = "from a Secret"
    return known


def rendered(wanted: Workload) -> dict[str, Any]:
    return job(wanted, owner("PreferenceGeneration", "loop"), SETTINGS)


def search(*configurations: Any) -> Workload:
    return workload("search", *configurations, placement=Placement(), server="loop-server")


def test_the_expansion_of_the_test_is_that_of_kubernetes() -> None:
    known = {"A": "1", "B": "$(A)"}
    table = {"$(A)": "1", "$$(A)": "$(A)", "$$$(A)": "$1", "$(C)": "$(C)", "$A $": "$A $", "$(A": "$(A", "$(B)": "$(A)"}
    assert {text: expand(text, known) for text in table} == table


@pytest.mark.parametrize("shards", [1, 2, 3, 13, 128])
def test_every_pod_reads_its_own_configuration(shards: int) -> None:
    configurations = search_configurations(shards)
    rendered_job = rendered(search(*configurations))
    assert (rendered_job["spec"]["completions"], rendered_job["spec"]["parallelism"]) == (shards, shards)
    for index, configuration in enumerate(configurations):
        text = environment(rendered_job, index)["PSR_STAGE_CONFIG"]
        assert SearchStage.model_validate_json(text) == configuration
        assert isinstance(json.loads(text)["shard"], int)


@settings(deadline=None)  # other work on the machine is no fault of the text
@given(
    text=st.text(st.one_of(st.sampled_from('$(){}PSR_SHARD012"\\\n'), st.characters(codec="utf-8")), max_size=40),
    shards=st.integers(1, 12),
)
def test_no_text_is_taken_for_an_expansion(text: str, shards: int) -> None:
    configurations = search_configurations(shards, prompts={"solve": text, "judge": f"$(PSR_SHARD) {text}"})
    rendered_job = rendered(search(*configurations))
    for index, configuration in enumerate(configurations):
        assert SearchStage.model_validate_json(environment(rendered_job, index)["PSR_STAGE_CONFIG"]) == configuration


def test_a_digit_in_the_prefix_is_no_shard() -> None:
    moved = [
        item.model_copy(update={"output": f"s3://b00/0/$(PSR_SHARD)/0-of-11/shards/{index}-of-11"})
        for index, item in enumerate(search_configurations(11))
    ]
    rendered_job = rendered(search(*moved))
    outputs = [json.loads(environment(rendered_job, index)["PSR_STAGE_CONFIG"])["output"] for index in range(11)]
    assert outputs == [item.output for item in moved]


@pytest.mark.parametrize(
    "change",
    [
        {"output": "s3://bucket/same"},
        {"output": f"{ROOT}/other/2-of-3/2"},
        {"seed": 7},
        {"shard": 1},
        {"prompts": {"solve": "{problem} 2"}},
    ],
)
def test_shards_that_differ_otherwise_are_refused(change: dict[str, Any]) -> None:
    first, second, third = search_configurations(3)
    changed = SearchStage.model_validate(third.to_json() | change)
    with pytest.raises(RenderError, match="shard 2 of 3 differs") as caught:
        rendered(search(first, second, changed))
    assert caught.value.reason == "ShardsDiffer"


def test_shards_of_the_same_output_are_refused() -> None:
    first, second = (item.model_copy(update={"output": "s3://bucket/same"}) for item in search_configurations(2))
    with pytest.raises(RenderError, match="differs"):
        rendered(search(first, second))


def test_a_configuration_that_no_pod_can_be_given_is_refused() -> None:
    parts = [f"{ROOT}/{'x' * 100}/shards/{index}-of-1200" for index in range(1200)]
    large = workload("merge", MergeStage(parts=parts, output=f"{ROOT}/pairs"), placement=Placement())
    with pytest.raises(RenderError, match="use fewer shards or shorter texts") as caught:
        rendered(large)
    assert caught.value.reason == "ConfigurationTooLarge"
    fits = workload("merge", MergeStage(parts=parts[:700], output=f"{ROOT}/pairs"), placement=Placement())
    assert len(environment(rendered(fits), 0)["PSR_STAGE_CONFIG"]) < 128 * 1024
