# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import io

from rich.console import Console

from trl_unlearn.evaluation.tables import print_results, print_verdict
from trl_unlearn.results import (
    DIFFERENCES,
    METRICS,
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


def printed(width: int = 80, result: EvaluationResult | None = None) -> str:
    stream = io.StringIO()
    print_results(result or make_result(), Console(file=stream, width=width))
    return stream.getvalue()


def test_what_could_not_be_measured_is_told_from_what_was_not_run():
    result = make_result()
    del result.models["unlearned"]["forget/probability"]
    result.not_measured = {"unlearned": {"forget/probability": Unmeasured(rows=2, n=400)}}
    text = " ".join(printed(result=result).split())
    assert "forget/probability -0.123 ± 0.011 not measured not run" in text
    assert "scores of the unlearned model are not finite: `forget/probability` (in 2 of 400 rows)." in text


def test_the_table_fits_80_columns_with_every_name_and_value_unbroken():
    lines = printed().splitlines()
    assert max(map(len, lines)) <= 80
    lines = lines[: next(i for i, line in enumerate(lines) if "unlearned - target" in line)]
    cells = {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in lines if "/" in line.split(" ")[0]}
    assert list(cells) == [name for name, _, _, _ in METRICS] + ["own/metric"]
    assert " ".join(cells["forget/paraphrase_probability"].split()) == "-0.123 ± 0.011 -0.123 ± 0.011 not run"
    assert " ".join(cells["own/metric"].split()) == "not run 1.000 not run"


def test_the_differences_stand_below_with_their_intervals():
    lines = printed().splitlines()
    lines = lines[next(i for i, line in enumerate(lines) if "unlearned - target" in line) :]
    cells = {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in lines if "/" in line.split(" ")[0]}
    assert list(cells) == [name for name, _, _, _ in METRICS]
    assert " ".join(cells["retain/probability"].split()) == " ".join(["-0.123 [-0.456, -0.012]"] * 2)


def test_the_table_says_parity_fluency_source_and_what_was_not_evaluated():
    text = " ".join(printed().split())
    assert "Parity: strict." in text and "stand-in" in text and "The retrained model was not evaluated." in text


def test_a_model_that_has_not_forgotten_gets_a_red_line_and_one_that_has_none():
    result, stream = make_result(), io.StringIO()
    console = Console(file=stream, width=200, force_terminal=True, color_system="standard")
    for role, value in (("target", 1.0), ("unlearned", 0.4)):
        result.models[role]["forget/extraction_strength"] = Measurement(value)
    print_verdict(result, console)
    assert stream.getvalue() == ""
    result.models["unlearned"]["forget/extraction_strength"] = Measurement(0.974)
    print_verdict(result, console)
    line = "It has not forgotten: `forget/extraction_strength` is 0.974, above half of the target's 1.000."
    assert stream.getvalue() == f"\x1b[1;31m{line}\x1b[0m\n"
