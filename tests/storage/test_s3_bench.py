"""What the transfer benchmark says about its measurements."""

from __future__ import annotations

import pytest

from benchmarks.s3 import Figures, summary


def figures(who: str, verb: str, seconds: float, *, rss: float = 100.0, hashing: float = 0.0) -> Figures:
    return Figures(who, verb, seconds, seconds + 1, rss, seconds, hashing)


def test_ours_are_compared_with_the_fastest_peer_by_medians() -> None:
    measured = [
        *(figures("ours", verb, seconds, rss=rss) for verb in ("upload", "download") for seconds, rss in RUNS),
        *(figures("slow", verb, 40.0) for verb in ("upload", "download")),
        *(figures("quick", "upload", seconds) for seconds in (9.0, 9.0, 100.0)),
        figures("quick", "download", 8.0, hashing=4.0),
    ]
    result = summary(measured, 1 << 20)
    assert (result["upload_fastest_peer"], result["upload_ratio"]) == ("quick", 0.9)
    assert (result["download_ratio"], result["download_ratio_verified"]) == (0.8, 1.2)
    assert result["rss_mb"] == 250.0
    assert result["medians"]["upload"]["slow"]["process_seconds"] == 41.0
    assert len(result["transfers"]) == len(measured)


RUNS = [(10.0, 100.0), (9.0, 250.0), (30.0, 100.0)]


@pytest.mark.parametrize("names", [["ours"], ["slow"]])
def test_alone_there_is_no_ratio(names: list[str]) -> None:
    measured = [figures(name, verb, 1.0) for name in names for verb in ("upload", "download")]
    assert not [key for key in summary(measured, 1) if key.endswith("ratio")]
