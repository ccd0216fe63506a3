# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import trl_unlearn
from trl_unlearn.notes import group_hints, table_notes
from trl_unlearn.records import (
    AdapterRecord,
    BeliefAudit,
    BeliefRefresh,
    DatasetRecord,
    UnlearningRun,
)
from trl_unlearn.results import (
    METRIC_GROUPS,
    METRICS,
    EvaluationResult,
    Measurement,
    SuiteOutcome,
    Unmeasured,
    format_measurement,
)


def make_run(**changes) -> UnlearningRun:
    values = {
        "base_model": "org/model",
        "base_model_on_hub": True,
        "base_model_revision": "abc",
        "adapter": AdapterRecord("LORA", r=8, alpha=16, target_modules=["q_proj"]),
        "forget_set": DatasetRecord("org/data", rows=4, sha256="aa", config="forget10", split="train", on_hub=True),
        "hyperparameters": {"forget_loss_type": "bs_t", "lambda_bss": 0.5, "generation_kwargs": {"num_beams": 2}},
        "steps": 2,
        "epochs": 1.0,
        "effective_batch_size": 2,
        "seed": 0,
        "world_size": 1,
        "belief_audit": BeliefAudit(1.0, [BeliefRefresh(0.0, 12, 5.5, -0.25, 0.5, 1.0, "bb")]),
        "training_log": [
            {"step": 1, "epoch": 0.5, "loss/forget": -0.5},
            {"step": 2, "epoch": 1.0, "loss/forget": None},
        ],
        "final_metrics": {"train_loss": -0.75},
        "versions": {"torch": "2.13.0"},
        "started_at": "2026-01-02T03:04:05+00:00",
        "seconds": 1.5,
        "hardware": "CPU",
    }
    return UnlearningRun(**(values | changes))


def make_result(**changes) -> EvaluationResult:
    values = {
        "parity": "strict",
        "suites": ["tofu"],
        "models": {
            "target": {"forget/probability": Measurement(0.9, n=4, stderr=0.1)},
            "unlearned": {"forget/probability": Measurement(0.2, n=4, stderr=0.1), "aggregate/agg": Measurement(0.5)},
            "retrained": None,
        },
        "protocol": {"fluency_source": "standin", "rows": {"forget": 4}},
        "environment": {"torch": "2.13.0"},
    }
    return EvaluationResult(**(values | changes))


@pytest.mark.parametrize("changes", [{}, {"adapter": None, "belief_audit": None, "base_model_revision": None}])
def test_a_run_is_the_same_after_saving_and_loading(tmp_path, changes):
    run = make_run(**changes)
    run.save(tmp_path / "new" / "run.json")
    assert UnlearningRun.load(tmp_path / "new" / "run.json") == run


def test_a_run_of_a_version_that_recorded_no_truncation_is_read():
    run = make_run()
    data = run.to_dict()
    del data["forget_set"]["truncation"]
    assert UnlearningRun.from_dict(data) == run


def test_a_result_is_the_same_after_saving_and_loading(tmp_path):
    result = make_result(not_measured={"unlearned": {"forget/squeezing": Unmeasured(1, 4), "own/sum": Unmeasured()}})
    result.curves = {"target": {"depth/logit_lens": [0.25, 0.5]}}
    result.save(tmp_path / "eval_results.json")
    assert EvaluationResult.load(tmp_path / "eval_results.json") == result


def test_an_adapter_may_name_its_modules_by_a_pattern():
    run = make_run(adapter=AdapterRecord("LORA", target_modules="all-linear"))
    assert UnlearningRun.from_dict(run.to_dict()) == run


def test_what_is_not_finite_is_written_as_null_and_never_as_nan(tmp_path):
    log = [{"step": 1, "loss/forget": -math.inf, "forget/logps": math.nan}]
    make_run(training_log=log).save(tmp_path / "run.json")
    text = (tmp_path / "run.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert UnlearningRun.load(tmp_path / "run.json").training_log == [
        {"step": 1, "loss/forget": None, "forget/logps": None}
    ]


def test_a_metric_that_is_no_number_comes_back_as_nan():
    result = make_result(models={"unlearned": {"forget/probability": Measurement(math.inf, n=2)}})
    again = EvaluationResult.from_dict(result.to_dict()).get("unlearned", "forget/probability")
    assert math.isnan(again.value) and again.n == 2


def test_numbers_of_numpy_are_written_as_numbers():
    models = {"unlearned": {"forget/probability": Measurement(np.float32(0.5), n=np.int64(3))}}
    data = json.loads(json.dumps(make_result(models=models).to_dict()))
    assert data["models"]["unlearned"]["forget/probability"] == {"value": 0.5, "n": 3, "stderr": None}


def test_a_value_without_a_json_form_is_refused_by_its_key():
    run = make_run(hyperparameters={"forget_loss_type": "ga", "lambda_bss": 0, "kwargs": {"stop": {1}}})
    with pytest.raises(ValueError, match=r"`UnlearningRun\.hyperparameters\.kwargs\.stop` is a `set`"):
        run.to_dict()


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    make_run(seed=1).save(tmp_path / "run.json")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        make_run(seed=2).save(tmp_path / "run.json")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    assert UnlearningRun.load(tmp_path / "run.json").seed == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "`schema_version` is 2"),
        ({"surprise": 1}, r"unknown keys \['surprise'\]"),
        ({"seed": "0"}, r"`UnlearningRun\.seed` is '0' \(`str`\), expected `int`"),
        ({"seed": True}, r"`UnlearningRun\.seed` is True"),
        ({"steps": None}, r"`UnlearningRun\.steps` is None"),
        ({"forget_set": {"name": "x"}}, r"`UnlearningRun\.forget_set` lacks the keys \['rows', 'sha256'\]"),
        ({"training_log": [{"step": "one"}]}, r"`UnlearningRun\.training_log\[0\]\.step` is 'one'"),
        ({"hyperparameters": {"lambda_bss": 0}}, r"`hyperparameters` lacks \['forget_loss_type'\]"),
    ],
)
def test_a_run_that_is_not_one_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        UnlearningRun.from_dict(make_run().to_dict() | change)


def test_a_run_without_a_key_is_refused():
    data = make_run().to_dict()
    del data["base_model"]
    with pytest.raises(ValueError, match=r"lacks the keys \['base_model'\]"):
        UnlearningRun.from_dict(data)


@pytest.mark.parametrize("content", ["{", "[1]", "null"])
def test_a_file_that_holds_no_record_is_refused(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"is not JSON|`schema_version` is None"):
        UnlearningRun.load(tmp_path / "run.json")


@pytest.mark.parametrize(
    ("change", "message"), [({"parity": "loose"}, "`parity` is 'loose'"), ({"models": {"base": {}}}, r"\['base'\]")]
)
def test_a_result_with_an_unknown_parity_or_model_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        make_result(**change)


@pytest.mark.parametrize(
    ("loss", "weight", "name"),
    [
        ("bs_t", 0, "BS-T"),
        ("bs_t", 0.5, "BS-S"),
        ("ga", 0.0, "GA"),
        ("npo", 0, "NPO"),
        ("npo", 0.5, "BS-S on NPO"),
    ],
)
def test_the_method_is_named_after_its_objective_and_its_beliefs(loss, weight, name):
    assert make_run(hyperparameters={"forget_loss_type": loss, "lambda_bss": weight}).method == name


def test_rows_hold_every_metric_in_order_and_what_else_was_measured_at_the_end():
    result = make_result(models={"unlearned": {"own/metric": Measurement(1.0), "aggregate/agg": Measurement(0.5)}})
    rows = list(result.rows())
    tofu = [name for name, _, group, _ in METRICS if group in ("forget", "keep", "aggregate")]
    assert [name for _, name, _ in rows] == [*tofu, "own/metric"]
    assert rows[-2] == ("aggregate", "aggregate/agg", [None, Measurement(0.5), None])
    assert rows[-1] == ("other", "own/metric", [None, Measurement(1.0), None])
    assert {group for _, _, group, _ in METRICS} == set(METRIC_GROUPS)


def test_rows_hold_the_metrics_of_a_suite_that_was_run_and_no_line_of_one_that_was_not():
    privacy = [name for name, _, group, _ in METRICS if group == "privacy"]
    assert not {name for _, name, _ in make_result().rows()} & set(privacy)
    ran = replace(make_result(), suites=["tofu", "privacy"])
    assert [name for group, name, _ in ran.rows() if group == "privacy"] == privacy
    assert "Privacy: closer to retrained is better." in group_hints(ran)


@pytest.mark.parametrize(
    ("measurement", "text"),
    [
        (None, "not run"),
        (Measurement(math.nan), "not finite"),
        (Measurement(0.0), "0.000"),
        (Measurement(0.12345, n=3, stderr=0.0126), "0.123 ± 0.013"),
        (Measurement(0.5, n=1, stderr=math.nan), "0.500"),
        (Measurement(4.2e-7), "4e-07"),
        (Measurement(-6.4), "-6.400"),
        (Measurement(-100.0, n=48, stderr=0.04), "-100.0 ± 0.0"),
    ],
)
def test_a_measurement_is_shown_with_its_error_and_its_absence(measurement, text):
    assert format_measurement(measurement) == text


def test_the_notes_say_what_a_reader_could_take_for_granted():
    notes = " ".join(table_notes(make_result()))
    assert "The retrained model was not evaluated." in notes
    assert "Parity: strict." in notes
    assert "stand-in" in notes
    published = replace(make_result(), parity="open-unlearning", protocol={"fluency_source": "classifier"})
    assert "Parity: open-unlearning." in " ".join(table_notes(published))
    assert "stand-in" not in " ".join(table_notes(published))


def test_a_standin_and_what_it_stands_for_are_not_both_due():
    def names(*measured: str) -> list[str]:
        actual = {name: Measurement(1.0) for name in measured}
        result = EvaluationResult(
            parity="strict", suites=["tofu"], models={"target": actual}, protocol={}, environment={}
        )
        return [name for _, name, _ in result.rows() if "fluency" in name]

    assert names("utility/fluency_standin") == ["utility/fluency_standin"]
    assert names("utility/fluency") == ["utility/fluency"]
    assert names() == ["utility/fluency", "utility/fluency_standin"]


def test_only_results_py_makes_an_evaluation_result_and_nobody_changes_one():
    package = Path(trl_unlearn.__file__).parent
    changed = re.compile(
        r"(?<!class )\bEvaluationResult\(|\bresult\.(models|differences|not_measured|protocol)\b.* \|?= "
    )
    actual = {path.name for path in package.rglob("*.py") if changed.search(path.read_text(encoding="utf-8"))}
    assert actual == set()


def test_suites_are_joined_in_the_order_of_tables_and_the_first_ones_word_counts():
    first = SuiteOutcome(
        {"target": {"forget/probability": Measurement(0.5)}}, protocol={"rows": {"forget": 4}, "seed": 1}
    )
    other = SuiteOutcome(
        {"target": {"privacy/loss_auc": Measurement(0.6)}, "retrained": {}},
        not_measured={"retrained": {"privacy/loss_auc": Unmeasured(1, 7)}},
        curves={"target": {"own/metric": [0.5]}},
        protocol={"rows": {"forget": 4, "holdout": 3}, "seed": 2},
    )
    result = EvaluationResult.of_suites(
        {"tofu": first, "privacy": other}, parity="strict", device="cpu", protocol={"weights_sha256": {"target": "a"}}
    )
    assert result.suites == ["tofu", "privacy"] and result.environment["device"] == "cpu"
    assert result.models == {
        "target": first.models["target"] | other.models["target"],
        "retrained": {},
        "unlearned": None,
    }
    assert result.not_measured == other.not_measured
    assert result.curves == other.curves
    assert result.protocol == {
        "parity": "strict",
        "rows": {"forget": 4, "holdout": 3},
        "seed": 1,
        "weights_sha256": {"target": "a"},
    }
    notes = table_notes(
        replace(result, protocol=result.protocol | {"repeated_rows": {"forget": 2}, "members_in_holdout": 1})
    )
    assert any(note.startswith("2 of 4 rows of the forget set repeat another one") for note in notes)
    assert any(note.startswith("1 of 3 held-out rows stand in the forget or the retain set") for note in notes)
    assert SuiteOutcome.from_dict(json.loads(json.dumps(other.to_dict()))) == other
    later = EvaluationResult.of_suites({"judge": first}, parity="strict", device="cpu")
    joined = later.with_suites_of(result, ["privacy"], ["tofu", "privacy", "judge"])
    assert joined.suites == ["privacy", "judge"]
    assert joined.models["target"] == other.models["target"] | first.models["target"]


def test_the_protocol_of_a_suite_that_is_measured_anew_replaces_the_earlier_one():
    def record(suites, version, **protocol):
        models = {"unlearned": {f"{name}/x": Measurement(version) for name in suites}}
        common = {"protocol": {"seed": 1} | protocol, "environment": {"torch": version}}
        return EvaluationResult(parity="strict", suites=suites, models=models, **common)

    order = ["tofu", "privacy", "robustness", "wmdp", "judge"]
    earlier = record(
        order,
        1,
        rows={"forget": 4, "holdout": 3, "wmdp/bio": 100, "wmdp/cyber": 100},
        judge="A",
        attacks={"blunt": ["benign"]},
        quantized_share=0.5,
        members_in_holdout=2,
        holdout_config="holdout01",
        near_facts={"shared": 4},
        kept_rows={"unlearned": 4},
    )
    rows = {"forget": 4, "holdout": 3, "wmdp/bio": 200}
    now = record(order[1:], 2, rows=rows, judge="B")
    joined = now.with_suites_of(earlier, ["tofu"], order)
    kept = {"near_facts": {"shared": 4}, "kept_rows": {"unlearned": 4}}
    assert joined.protocol == {"seed": 1, "rows": rows, "judge": "B"} | kept
    assert joined.environment == {"torch": 2}
    assert [one.value for one in joined.models["unlearned"].values()] == [1, 2, 2, 2, 2]
    # What suites that stay have written stays, too.
    joined = record(["tofu"], 2, rows={"forget": 4}).with_suites_of(earlier, order[1:], order)
    assert joined.protocol == {name: one for name, one in earlier.protocol.items() if name not in kept}
