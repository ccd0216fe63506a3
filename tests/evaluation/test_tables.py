# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import io
from dataclasses import replace

import pytest
from rich.console import Console

from trl_unlearn.evaluation.tables import print_results, print_summary, print_verdict
from trl_unlearn.results import (
    DIFFERENCES,
    METRICS,
    MODEL_ROLES,
    SUMMARY,
    Difference,
    EvaluationResult,
    Measurement,
    Unmeasured,
)


def make_result() -> EvaluationResult:
    full = {name: Measurement(-0.123, 400, 0.011) for name, _, _, _ in METRICS}
    return EvaluationResult(
        parity="strict",
        suites=["tofu"],
        models={"target": full, "unlearned": full | {"own/metric": Measurement(1.0)}, "retrained": None},
        differences={
            key: {name: Difference(-0.123, -0.456, -0.012, 400) for name, _, _, _ in METRICS} for key in DIFFERENCES
        },
        protocol={"fluency_source": "standin"},
        environment={},
    )


@pytest.fixture
def printed(monkeypatch, capsys):
    """Function that returns what another prints in 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def call(function, *args):
        function(*args)
        return capsys.readouterr().out

    return call


def test_what_could_not_be_measured_is_told_from_what_was_not_run(printed):
    result = make_result()
    del result.models["unlearned"]["forget/probability"]
    result.not_measured = {"unlearned": {"forget/probability": Unmeasured(rows=2, n=400)}}
    text = " ".join(printed(print_results, result).split())
    assert "forget/probability -0.123 ± 0.011 not measured not run" in text
    assert "scores of the unlearned model are not finite: `forget/probability` (in 2 of 400 rows)." in text


def test_the_table_fits_80_columns_with_every_name_and_value_unbroken(printed):
    lines = printed(print_results, make_result()).splitlines()
    assert max(map(len, lines)) <= 80
    lines = lines[: next(i for i, line in enumerate(lines) if "unlearned - target" in line)]
    cells = {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in lines if "/" in line.split(" ")[0]}
    assert list(cells) == [name for name, _, _, _ in METRICS] + ["own/metric"]
    assert " ".join(cells["forget/paraphrase_probability"].split()) == "-0.123 ± 0.011 -0.123 ± 0.011 not run"
    assert " ".join(cells["own/metric"].split()) == "not run 1.000 not run"


def test_the_differences_stand_below_with_their_intervals(printed):
    lines = printed(print_results, make_result()).splitlines()
    lines = lines[next(i for i, line in enumerate(lines) if "unlearned - target" in line) :]
    cells = {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in lines if "/" in line.split(" ")[0]}
    assert list(cells) == [name for name, _, _, _ in METRICS]
    assert " ".join(cells["retain/probability"].split()) == " ".join(["-0.123 [-0.456, -0.012]"] * 2)


def test_the_table_says_parity_fluency_source_and_what_was_not_evaluated(printed):
    text = " ".join(printed(print_results, make_result()).split())
    assert "Parity: strict." in text and "stand-in" in text and "The retrained model was not evaluated." in text


def test_the_summary_has_six_rows_and_says_where_all_are(printed):
    result = make_result()
    # The classifier was not run: its stand-in is in its place.
    for model in ("target", "unlearned"):
        del result.models[model]["utility/fluency"]
    lines = [line for line in printed(print_summary, result, "out/README.md").splitlines() if line.strip()]
    names = [name for name in (line.split()[0] for line in lines) if "/" in name]
    assert names == [*SUMMARY[:-1], "utility/fluency_standin"]
    assert lines[-1].startswith("All ") and lines[-1].endswith("metrics, their differences and notes: out/README.md")


def test_the_verdict_has_a_line_a_question_and_colours_what_speaks_against_the_model():
    stream, plain, result = io.StringIO(), io.StringIO(), make_result()
    console = Console(file=stream, width=80, force_terminal=True, color_system="standard")
    print_verdict(replace(result, models=result.models | {"unlearned": None}), console)
    assert stream.getvalue() == ""
    said, kept = "forget/extraction_strength", "retain/probability"
    models = {role: dict.fromkeys((said, kept), Measurement(0.4, 400, 0.01)) for role in MODEL_ROLES}
    apart = {said: Difference(0.3, 0.25, 0.35), kept: Difference(-0.1, -0.2, -0.01)}
    result = replace(result, models=models, differences={"unlearned - retrained": apart})
    print_verdict(result, console)
    lines = stream.getvalue().splitlines()
    assert lines[1] == "\x1b[1;31mDoes it say it? More than a model that never knew.\x1b[0m"
    assert "[0.250, 0.350]" in lines[2] + lines[3]
    assert "\x1b[33mDoes it come back? Not measured: run the suite `robustness`.\x1b[0m" in lines
    assert "\x1b[33mDoes it still work? Perhaps worse than a model that never knew.\x1b[0m" in lines
    print_verdict(result, Console(file=plain, width=80))
    assert max(map(len, plain.getvalue().splitlines())) <= 80
    assert "As the retrained model in 0 of 2 measurements." in plain.getvalue()
