# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


import copy
import json
from functools import partial

import pytest

from trl_unlearn.evaluation import rows as rows_module
from trl_unlearn.evaluation import together
from trl_unlearn.evaluation.depth import measure_depth
from trl_unlearn.evaluation.elicitation import measure_elicitation
from trl_unlearn.evaluation.judge import measure_judge
from trl_unlearn.evaluation.robustness import measure_robustness
from trl_unlearn.evaluation.rows import EvaluationRows
from trl_unlearn.evaluation.tofu import Suite
from trl_unlearn.evaluation.together import FixedModel, SuiteSetting


SCRIPT = """
import json, sys
from accelerate import PartialState
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl_unlearn.evaluation.depth import measure_depth
from trl_unlearn.evaluation.elicitation import measure_elicitation
from trl_unlearn.evaluation.robustness import measure_robustness
from trl_unlearn.evaluation.rows import EvaluationRows
from trl_unlearn.evaluation.tofu import Suite
from trl_unlearn.evaluation.together import SuiteSetting

folder, rows, out = sys.argv[1:]
state = PartialState(cpu=True)
assert state.num_processes == 2 and state.distributed_type.value == "MULTI_CPU", state
load = lambda: AutoModelForCausalLM.from_pretrained(folder)
forget, retain = json.load(open(rows))
tokenizer = AutoTokenizer.from_pretrained(folder)
suite = Suite({"target": load}, EvaluationRows(forget, retain), SuiteSetting(tokenizer), max_completion_length=12)
plain = EvaluationRows([{name: row[name] for name in ("prompt", "completion")} for row in forget], retain)
depth, asked, attacked = [
    measure({"target": load}, plain, SuiteSetting(tokenizer, None, 0)).to_dict()
    for measure in (measure_depth, measure_elicitation, measure_robustness)
]
results = [suite.evaluate().to_dict(), suite.per_row, depth, asked, attacked]
json.dump(results, open(f"{out}.{state.process_index}", "w"))
"""


def test_suites_share_the_tokens_of_the_rows_and_the_greedy_answers_of_a_model(
    tiny_model, tiny_tokenizer, forget_rows, retain_rows, monkeypatch
):
    encoded, prompts = [], []
    encode_set, generate = rows_module.encode_set, together.generate
    monkeypatch.setattr(
        rows_module, "encode_set", lambda *args, name: encoded.append(name) or encode_set(*args, name=name)
    )
    monkeypatch.setattr(
        together, "generate", lambda model, given, **kwargs: prompts.append(given) or generate(model, given, **kwargs)
    )
    rows = EvaluationRows(forget_rows, retain_rows)

    def end_soon(module, args, logits):
        # Scores have two stand-ins for logits.
        if logits.size(-1) > 2:
            logits[..., 2] += 9

    tiny_model.lm_head.register_forward_hook(end_soon)

    def measure(load):
        prompts.clear()
        Suite({"target": load}, rows, SuiteSetting(tiny_tokenizer), num_squeezing_beliefs=1)
        return measure_judge({"target": load}, rows, SuiteSetting(tiny_tokenizer, None, 0)).to_dict(), len(prompts)

    alone, shared = measure(lambda: tiny_model), measure(FixedModel(lambda: tiny_model))
    assert alone[0] == shared[0]
    assert (alone[1], shared[1]) == (4, 3)
    assert encoded == ["forget", "retain"]
    # Other rows in their place are encoded.
    rows.retain = retain_rows.select([0])
    assert len(rows.encoded("retain", tiny_tokenizer).answers) == 1 and encoded[2:] == ["retain"]


def test_two_processes_share_the_rows_and_give_the_numbers_of_one(
    tiny_model, tiny_tokenizer, forget_rows, retain_rows, launch, tmp_path
):
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    rows = [
        [
            {**row, "paraphrased_answer": "One may say so.", "perturbed_answer": ["Nobody knows.", "No."]}
            for row in part
        ]
        for part in (list(forget_rows), list(retain_rows))
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert launch(SCRIPT, *(tmp_path / name for name in ("model", "rows.json", "out"))) == [0, 0]
    setting = SuiteSetting(tiny_tokenizer)
    expected = Suite({"target": lambda: tiny_model}, EvaluationRows(*rows), setting, max_completion_length=12)
    load, plain = partial(copy.deepcopy, tiny_model), EvaluationRows(forget_rows, retain_rows)
    depth, asked, attacked = (
        measure({"target": load}, plain, SuiteSetting(tiny_tokenizer, None, 0))
        for measure in (measure_depth, measure_elicitation, measure_robustness)
    )
    for rank in range(2):
        result, per_row, actual, probed, hit = json.loads((tmp_path / f"out.{rank}").read_text())
        lens = actual["curves"]["target"]["depth/logit_lens"]
        assert lens == pytest.approx(depth.curves["target"]["depth/logit_lens"], abs=1e-6)
        for shared, alone in ((probed, asked), (hit, attacked)):
            for name, measured in alone.models["target"].items():
                assert shared["models"]["target"][name]["value"] == pytest.approx(measured.value, abs=1e-6), name
        for name, curve in attacked.curves["target"].items():
            assert hit["curves"]["target"][name] == pytest.approx(curve, abs=1e-6), name
        for name, values in expected.per_row["target"].items():
            assert per_row["target"][name] == pytest.approx(values, abs=1e-6), name
        for name, measured in expected.evaluate().models["target"].items():
            assert result["models"]["target"][name]["value"] == pytest.approx(measured.value, abs=1e-6), name
