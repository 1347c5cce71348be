"""Controls beside a run, and the table of the terminal."""

from typing import Any

from psr_runtime.report.compare import table, with_controls


def model(name: str, accuracy: float | None, **more: Any) -> dict[str, Any]:
    return {"model": name, "accuracy": accuracy, "standard_error": 0.016, "problems": 1000, "pairs": None} | more


RUN = {
    "models": [
        model(
            "M1",
            0.509,
            pairs=241,
            judge={"accuracy_on_own_candidates": 0.998},
            tokens={"training": 1_790_000, "candidates": 20_000, "judge": 13_500},
            seconds={"sft": 73.8, "search": 2.2},
        ),
        model("M2", 0.755, tokens={"training": 900, "evaluation": 40_000}, seconds={"step-dpo": 1.3}),
    ],
    "controls": {},
}
RANDOM = {"models": [model("M1", 0.509), model("M2", 0.517, pairs=230)]}


def test_a_control_ends_at_its_difference_to_the_first_model() -> None:
    merged = with_controls(RUN, {"random": RANDOM})

    assert merged["controls"]["random"]["difference"] == 0.008
    assert [entry["accuracy"] for entry in merged["controls"]["random"]["models"]] == [0.509, 0.517]
    assert merged["models"] == RUN["models"]
    assert RUN["controls"] == {}


def test_controls_are_added_to_those_that_are_there() -> None:
    merged = with_controls(with_controls(RUN, {"random": RANDOM}), {"inverted": RANDOM})

    assert sorted(merged["controls"]) == ["inverted", "random"]


def test_a_control_without_an_evaluation_has_no_difference() -> None:
    merged = with_controls(RUN, {"random": {"models": [model("M1", None)]}})

    assert merged["controls"]["random"]["difference"] is None


def test_the_table_has_a_row_a_model_and_fits_80_columns() -> None:
    text = table(with_controls(RUN, {"random": RANDOM}))

    assert text == (
        "        model  accuracy  s.e.  vs first  pairs   judge       tokens   seconds\n"
        "           M1    50.9 %   1.6              241  99.8 %       33,500      76.0\n"
        "           M2    75.5 %   1.6     +24.6              -       40,000       1.3\n"
        "    random M2    51.7 %   1.6      +0.8    230       -\n"
    )
    assert max(map(len, text.splitlines())) <= 80
