"""Which URIs a manifest may hold: ours as they must be written, and those of any other scheme."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from psr_operator.api import KINDS
from psr_operator.api.paths import with_uris
from psr_runtime.config import URI, Uri
from psr_runtime.config.fields import other_scheme

SCHEMES = st.from_regex(r"\A[a-z][a-z0-9+.-]{0,6}\Z")
NEAR = [name[:cut] + more for name in ("file", "s3", "sftp") for cut in range(len(name) + 1) for more in ("", "x", "-")]


@given(st.one_of(SCHEMES, st.sampled_from([name for name in NEAR if re.fullmatch(r"[a-z][a-z0-9+.-]*", name)])))
def test_another_scheme_is_every_scheme_but_those_named(scheme: str) -> None:
    for names in (["file", "s3"], ["s3", "sftp"], ["a", "ab", "abc"], ["file"]):
        assert bool(re.fullmatch(other_scheme(names), scheme)) == (scheme not in names), names


@pytest.mark.parametrize("text", ["", "Gs", "3s", "-a", "a_b", "a:b", "é"])
def test_what_is_no_scheme_is_no_other_scheme(text: str) -> None:
    assert not re.fullmatch(other_scheme(["file", "s3"]), text)


@pytest.mark.parametrize(
    "uri",
    [
        "file:///a",
        "hf://a/b",
        "hf://datasets/a/b@main/c",
        "s3://bucket/a",
        "s3://b.u-3/a b",
        "gs://bucket/a",
        "fil://a",
        "files://a",
        "s3a://b/c",
        "s://a",
    ],
)
def test_uris_are_taken(uri: str) -> None:
    assert TypeAdapter(Uri).validate_python(uri) == uri
    assert re.search(URI, uri)


@pytest.mark.parametrize(
    "uri",
    [
        *(
            "file://host/a",
            "file:/a",
            "file:///",
            "file://",
            "file",
            "s3://B/a",
            "s3://bucket",
            "s3://bucket/",
            "s3:///a",
        ),
        *("hf://a", "hf://a/", "hf://a/b@", "hf://a/b@c@d", "HF://a/b"),
        *("S3://b/a", "/a", "a", "://a", "gs:/a", "gs://", "GS://bucket/a"),
    ],
)
def test_what_is_malformed_is_refused(uri: str) -> None:
    with pytest.raises(ValidationError, match="should match pattern"):
        TypeAdapter(Uri).validate_python(uri)
    assert not re.search(URI, uri)


def test_the_pattern_is_one_that_an_apiserver_compiles() -> None:
    """Go's expressions know no lookahead and no back-reference."""
    assert "(?" not in URI
    assert not re.search(r"\\\d", URI)


@pytest.mark.parametrize(
    "text", ["é" * 2000, "a\0b", "~nobody-here/problems.jsonl"], ids=["too long", "a null", "no user"]
)
def test_a_path_that_no_file_system_takes_is_left_to_the_schema(text: str, tmp_path: Path) -> None:
    document = {"spec": {"problems": text}}
    assert with_uris(KINDS["SelfRewardRun"], document, tmp_path) == document
