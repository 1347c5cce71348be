"""What a fingerprint says about measured log-probabilities."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from psr_runtime.artefacts.fingerprint import FACTOR, NOISE, Fingerprint, Probe, compare, distance, noise_of

NEW = [[-1.0, -2.0], [-3.0, -4.0]]
PARENT = [[-1.1, -2.1], [-3.1, -4.1]]
NOISE_HERE = 1e-3


def mark(parent: list[list[float]] | None = PARENT) -> Fingerprint:
    parents = parent if parent is not None else [None, None]
    probes = [Probe(ids=[5, 6, 7], new=new, parent=old) for new, old in zip(NEW, parents, strict=True)]
    return Fingerprint(dtype="float32", probes=probes)


def moved(values: list[list[float]], by: float) -> list[list[float]]:
    return [[value + by for value in row] for row in values]


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        (NEW, "Agrees"),
        (moved(NEW, 0.01), "Agrees"),  # 0.01 from the model, 0.11 from the parent
        (moved(NEW, -0.019), "Agrees"),  # 0.019 and 0.081: nearer by 4.3
        (moved(NEW, -0.021), "Refuses"),  # 0.021 and 0.079: nearer by 3.8
        (PARENT, "Refuses"),  # a swap that left the parent in place
        (moved(NEW, 0.03), "Refuses"),  # nearer by 4.3, but further than a cold start: half a swap
        (moved(NEW, 5.0), "Refuses"),  # neither of the two
        ([[-1.0, math.nan], [-3.0, -4.0]], "Refuses"),
        ([[-1.0, -math.inf], [-3.0, -4.0]], "Refuses"),
    ],
)
def test_verdict_by_distance(measured: list[list[float]], verdict: str) -> None:
    check = compare(mark(), measured, 6 * NOISE_HERE)
    assert check.verdict == verdict
    assert check.accepts_cold_start == (verdict == "Agrees")


def test_a_small_update_is_inconclusive_and_a_cold_start_near_it_is_accepted() -> None:
    small = mark(moved(NEW, 3e-3))  # 3 times the noise
    assert compare(small, NEW, NOISE_HERE).verdict == "Inconclusive"
    assert compare(small, NEW, NOISE_HERE).accepts_cold_start
    assert not compare(small, moved(NEW, 5e-3), NOISE_HERE).accepts_cold_start


def test_without_a_parent_a_cold_start_must_be_near() -> None:
    alone = mark(None)
    near, far = compare(alone, moved(NEW, 3.9e-3), NOISE_HERE), compare(alone, moved(NEW, 4.1e-3), NOISE_HERE)
    assert (near.verdict, near.accepts_cold_start) == ("Inconclusive", True)
    assert (far.verdict, far.accepts_cold_start) == ("Inconclusive", False)
    assert near.to_parent is None
    assert near.separation is None


@given(st.floats(-1, 1), st.floats(1e-6, 0.02))
def test_agrees_only_where_nearer_by_the_factor(shift: float, noise: float) -> None:
    check = compare(mark(), moved(NEW, shift), noise)
    assert check.to_parent is not None
    near = check.to_new * FACTOR <= check.to_parent and check.to_new <= FACTOR * noise
    assert check.verdict == ("Agrees" if near else "Refuses")


def test_distance_is_the_mean_over_all_tokens_and_cuts_to_what_was_measured() -> None:
    assert distance([[1.0, 2.0], [3.0]], [[1.0, 2.0], [6.0]]) == 1.0
    assert distance([[1.0]], [[2.0, 100.0]]) == 1.0
    with pytest.raises(ValueError, match="1 probes measured, 2"):
        distance([[1.0]], [[1.0], [2.0]])
    with pytest.raises(ValueError, match="probe 0 has no tokens"):
        distance([[]], [[1.0]])


def test_the_message_of_a_check_names_the_distances() -> None:
    text = str(compare(mark(), PARENT, NOISE_HERE))
    assert "0.1 nats a token from the model" in text
    assert "0.1 apart" in text


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ({"ids": [1, 2, 3], "new": [-1.0], "parent": None}, "new has 1 log-probabilities for 2 tokens"),
        ({"ids": [1, 2], "new": [-1.0], "parent": [-1.0, -1.0]}, "parent has 2"),
        ({"ids": [1, 2], "new": [math.nan], "parent": None}, "not finite"),
        ({"ids": [1], "new": [], "parent": None}, "at least 2 items"),
    ],
)
def test_a_broken_probe_is_refused(probe: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Probe.model_validate(probe)


def test_noise_follows_the_engine() -> None:
    assert noise_of("float32") < noise_of("float16") < noise_of("bfloat16")
    assert noise_of("int4") == max(NOISE.values())
