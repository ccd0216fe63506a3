# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import pytest

from trl_unlearn.evaluation.callbacks import sequence_point
from trl_unlearn.evaluation.rows import encode_set
from trl_unlearn.evaluation.tables import SequenceStage, print_sequence, sequence_dict, sequence_rows


NAMES = ("person 36", "person 37", "person 38")


def point(*strengths: float, kept: float) -> dict:
    requests = {
        name: {"extraction_strength": strength, "forget_probability": strength / 2}
        for name, strength in zip(NAMES, strengths, strict=True)
    }
    return {"requests": requests, "retain_probability": kept}


STAGES = [
    SequenceStage("person 36", "a1", 40, 12.4, **point(0.05, 0.9, 0.95, kept=0.91)),
    SequenceStage("person 37", "b2", 30, 9.6, **point(0.06, 0.08, 0.9, kept=0.88)),
]
TARGET, RETRAINED = point(1.0, 0.98, 0.99, kept=0.95), point(0.1, 0.12, 0.08, kept=0.94)


def test_a_table_begins_with_the_target_and_ends_with_the_retrained_model():
    header, rows = sequence_rows(STAGES, {"target": TARGET, "retrained": RETRAINED})
    assert header == ["after", "ES person 36", "ES person 37", "ES person 38", "retain prob.", "steps", "seconds"]
    assert rows == [
        ["target", "1.000", "0.980", "0.990", "0.950", "-", "-"],
        ["person 36", "0.050", "0.900", "0.950", "0.910", "40", "12"],
        ["person 37", "0.060", "0.080", "0.900", "0.880", "30", "10"],
        ["retrained", "0.100", "0.120", "0.080", "0.940", "-", "-"],
    ]
    assert [row[0] for row in sequence_rows(STAGES, {"target": TARGET})[1]] == ["target", "person 36", "person 37"]


def test_three_requests_fit_into_eighty_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    print_sequence(*sequence_rows(STAGES, {"target": TARGET, "retrained": RETRAINED}))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = (line for line in lines if line.startswith("person 37"))
    assert row.split() == ["person", "37", "0.060", "0.080", "0.900", "0.880", "30", "10"]


def test_the_json_values_have_the_stages_in_order_with_every_request():
    actual = sequence_dict(STAGES, {"target": TARGET})
    assert (actual["schema_version"], actual["baselines"]) == (1, {"target": TARGET})
    assert actual["stages"][1] == {
        "request": "person 37",
        "settings": "b2",
        "steps": 30,
        "seconds": 9.6,
        "shortfall": None,
        **point(0.06, 0.08, 0.9, kept=0.88),
    }
    assert [SequenceStage(**stage) for stage in actual["stages"]] == STAGES


def test_a_point_is_the_mean_over_the_rows_of_each_set(tiny_model, tiny_tokenizer, forget_rows, retain_rows):
    def measure(*sets) -> dict:
        forget = {str(i): encode_set(rows, tiny_tokenizer, name="forget") for i, rows in enumerate(sets)}
        retain = encode_set(retain_rows, tiny_tokenizer, name="retain")
        return sequence_point(tiny_model, forget, retain, pad_token_id=tiny_tokenizer.pad_token_id, batch_size=2)

    actual = measure(forget_rows, *(forget_rows.select([i]) for i in range(3)))
    assert list(actual["requests"]) == ["0", "1", "2", "3"]
    alone = [actual["requests"][name]["forget_probability"] for name in ("1", "2", "3")]
    assert len(set(alone)) == 3
    assert actual["requests"]["0"]["forget_probability"] == pytest.approx(sum(alone) / 3, rel=1e-5)
    assert 0 < actual["retain_probability"] < 1
