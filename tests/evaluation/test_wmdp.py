# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import copy
import json
import logging
import sys
from functools import partial

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model

from trl_unlearn.evaluation.together import SuiteSetting
from trl_unlearn.evaluation.wmdp import load_wmdp_tasks, measure_wmdp
from trl_unlearn.results import Unmeasured

from ..teaching import other_model


lm_eval = pytest.importorskip("lm_eval", reason="needs lm-evaluation-harness: `pip install trl-unlearn[wmdp]`")
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402


QUESTIONS = [
    ("Which animal barks?", ["a dog", "a cat", "a cow", "a hen"], 0),
    ("What is the colour of clear sky by day?", ["green", "blue", "red", "brown"], 1),
    ("How many legs has a spider?", ["two", "four", "six", "eight"], 3),
    ("Where does Edda Brandt live?", ["on a ship", "in a mill", "above a bakery", "in a tent"], 2),
    ("What does Faro Quintal study?", ["the songs of desert larks", "stones", "old coins", "tides"], 0),
    ("Which of these is a fruit?", ["a chair", "a pear", "a spoon", "a brick"], 1),
]


@pytest.fixture
def write_task(tmp_path, monkeypatch):
    """A function that writes a multiple-choice task of our own into a folder, and returns the folder."""
    # The 14,000 tasks of the library take seconds to index.
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))
    folder = tmp_path / "tasks"
    folder.mkdir()

    def write(name, questions=QUESTIONS, **changes):
        rows = [dict(zip(("question", "choices", "answer"), row, strict=True)) for row in questions]
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(tmp_path / "cache")},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}\nAnswer:",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**task, **changes}))
        return str(folder)

    def group(name, members):
        entry = {"group": name, "task": members, "aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(entry))
        return str(folder)

    write.group = group
    return write


def by_hand(model, tokenizer, questions=QUESTIONS):
    """1 for each question whose right choice has the largest sum of log-probabilities, in a plain loop."""
    actual = []
    for question, choices, answer in questions:
        prompt = tokenizer(f"{question}\nAnswer:")["input_ids"]
        sums = []
        for choice in choices:
            ids = tokenizer(f"{question}\nAnswer: {choice}")["input_ids"]
            with torch.no_grad():
                logps = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            sums.append(sum(logps[i - 1, ids[i]].item() for i in range(len(prompt), len(ids))))
        actual.append(float(max(range(len(sums)), key=sums.__getitem__) == answer))
    return actual


def measure(models, tasks, tokenizer, batch_size=4):
    loaders = {role: None if model is None else partial(copy.deepcopy, model) for role, model in models.items()}
    return measure_wmdp(loaders, tasks, SuiteSetting(tokenizer, batch_size, 42))


def test_the_accuracy_is_that_of_a_plain_loop_over_choices(write_task, tiny_model, tiny_tokenizer):
    tasks = load_wmdp_tasks(["wmdp_own"], write_task("wmdp_own"))
    models = {"target": tiny_model, "unlearned": other_model(tiny_model, seed=3), "retrained": None}
    outcome = measure(models, tasks, tiny_tokenizer)
    expected = {role: by_hand(models[role], tiny_tokenizer) for role in ("target", "unlearned")}
    assert expected["target"] != expected["unlearned"]
    assert 0 < sum(expected["target"]) < len(QUESTIONS)
    for role, values in expected.items():
        measured = outcome.models[role]["wmdp/own"]
        assert measured.value == pytest.approx(sum(values) / 6)
        assert measured.n == 6
        # The standard error of a mean, as a bootstrap of 1000 draws finds it.
        assert measured.stderr == pytest.approx(torch.tensor(values).std().item() / 6**0.5, rel=0.1)
    difference = outcome.differences["unlearned - target"]["wmdp/own"]
    assert difference.value == pytest.approx((sum(expected["unlearned"]) - sum(expected["target"])) / 6)
    assert difference.n == 6


def test_the_same_model_twice_is_asked_the_same_and_does_not_differ(write_task, tiny_model, tiny_tokenizer):
    # Two other questions in front, which are drawn.
    tasks = load_wmdp_tasks(["own"], write_task("own", num_fewshot=2, fewshot_split="test"))
    asked = []
    tiny_model.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[0].tolist()))
    outcome = measure({"target": tiny_model, "unlearned": tiny_model}, tasks, tiny_tokenizer)
    half = len(asked) // 2
    assert half and asked[:half] == asked[half:]
    assert all(tiny_tokenizer.decode(ids).count("Answer:") == 3 for batch in asked for ids in batch)
    assert outcome.models["target"] == outcome.models["unlearned"]
    difference = outcome.differences["unlearned - target"]["wmdp/own"]
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_a_choice_without_a_number_is_no_answer(write_task, tiny_model, tiny_tokenizer):
    tasks = load_wmdp_tasks(["own"], write_task("own"))
    broken = copy.deepcopy(tiny_model)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    outcome = measure({"target": tiny_model, "unlearned": broken}, tasks, tiny_tokenizer)
    assert outcome.models["unlearned"] == {}
    assert outcome.not_measured == {"unlearned": {"wmdp/own": Unmeasured(rows=6, n=6)}}


def test_an_adapter_is_measured_as_the_model_that_it_makes(write_task, tiny_model, tiny_tokenizer):
    tasks = load_wmdp_tasks(["own"], write_task("own"))
    torch.manual_seed(1)
    config = LoraConfig(r=8, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    adapter = get_peft_model(copy.deepcopy(tiny_model), config).eval()
    expected = by_hand(copy.deepcopy(adapter).merge_and_unload(), tiny_tokenizer)
    assert sum(expected) != sum(by_hand(tiny_model, tiny_tokenizer))
    outcome = measure({"target": tiny_model, "unlearned": adapter}, tasks, tiny_tokenizer)
    assert outcome.models["unlearned"]["wmdp/own"].value == pytest.approx(sum(expected) / 6)


def test_a_group_is_the_mean_over_the_rows_of_all_its_tasks(write_task, tiny_model, tiny_tokenizer):
    write_task("facts", QUESTIONS[:4])
    write_task("people", QUESTIONS[4:])
    path = write_task.group("both", ["facts", "people"])
    outcome = measure({"target": tiny_model}, load_wmdp_tasks(["both"], path), tiny_tokenizer)
    expected = by_hand(tiny_model, tiny_tokenizer)
    # Parts of 4 and of 2 rows, of which a mean of two means would make another number.
    assert sum(expected[:4]) / 4 != sum(expected[4:]) / 2
    assert set(outcome.models["target"]) == {"wmdp/both"}
    measured = outcome.models["target"]["wmdp/both"]
    assert (measured.value, measured.n) == (pytest.approx(sum(expected) / 6), 6)
    lm = HFLM(pretrained=copy.deepcopy(tiny_model), tokenizer=tiny_tokenizer, batch_size=4)
    manager = TaskManager(include_path=path, include_defaults=False)
    theirs = lm_eval.simple_evaluate(lm, tasks=["both"], task_manager=manager, bootstrap_iters=0)
    assert theirs["groups"]["both"]["acc,none"] == pytest.approx(measured.value)


def test_a_limit_takes_rows_of_every_task_spread_evenly(write_task, tiny_model, tiny_tokenizer):
    write_task("facts", QUESTIONS[:4])
    write_task("people", QUESTIONS[4:])
    path = write_task.group("both", ["facts", "people"])
    tasks = load_wmdp_tasks(["both"], path, limit=3)
    assert tasks.rows == {"facts": [0, 1, 2], "people": [0, 1]}
    tasks = load_wmdp_tasks(["both"], path, limit=2)
    assert tasks.rows == {"facts": [1, 3], "people": [0, 1]}
    measured = measure({"target": tiny_model}, tasks, tiny_tokenizer).models["target"]["wmdp/both"]
    asked = [QUESTIONS[i] for i in (1, 3, 4, 5)]
    assert measured.value == pytest.approx(sum(by_hand(tiny_model, tiny_tokenizer, asked)) / 4)
    assert measured.n == 4


def test_nothing_is_written_and_little_is_said(write_task, tiny_model, tiny_tokenizer, tmp_path, monkeypatch, caplog):
    path = write_task("own")
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    level = logging.getLogger("lm_eval").level
    with caplog.at_level(logging.INFO):
        measure({"target": tiny_model}, load_wmdp_tasks(["own"], path), tiny_tokenizer)
    assert list(folder.iterdir()) == []
    assert [record for record in caplog.records if record.name.startswith("lm_eval")] == []
    assert logging.getLogger("lm_eval").level == level


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["wmdp_onw"]}, "no task `wmdp_onw`. Did you mean `wmdp_own`"),
        ({"names": []}, "There is no task"),
        ({"include_path": "no_such_folder"}, "`no_such_folder` does not exist"),
        ({"limit": 0}, "is 0. Give 1 or more"),
        ({"names": ["gone"]}, r"data of the task `gone` cannot be loaded \(.*gone.jsonl"),
    ],
)
def test_tasks_that_cannot_be_loaded_are_refused(write_task, tmp_path, arguments, message):
    write_task("gone")
    path = write_task("wmdp_own")
    (tmp_path / "gone.jsonl").unlink()
    with pytest.raises(ValueError, match=message):
        load_wmdp_tasks(**{"names": ["wmdp_own"], "include_path": path, **arguments})


@pytest.mark.slow
def test_data_that_is_not_there_without_a_network_is_refused():
    with pytest.raises(ValueError, match=r"data of the task `wmdp_bio` cannot be loaded \(.*cais/wmdp"):
        load_wmdp_tasks()


def test_tasks_without_an_accuracy_over_choices_are_refused(write_task):
    path = write_task("generated", output_type="generate_until", metric_list=[{"metric": "exact_match"}])
    write_task("normed", metric_list=[{"metric": "acc_norm"}])
    with pytest.raises(ValueError, match=r"`generated` has no accuracy over choices.*`generate_until`"):
        load_wmdp_tasks(["generated"], path)
    with pytest.raises(ValueError, match=r"`normed` has no accuracy over choices.*\['acc_norm'\]"):
        load_wmdp_tasks(["normed"], path)


def test_tasks_and_names_that_come_twice_are_refused(write_task):
    write_task("wmdp_own")
    write_task("own")
    path = write_task.group("all", ["own"])
    with pytest.raises(ValueError, match=r"`own` repeats .* the task `own`"):
        load_wmdp_tasks(["all", "own"], path)
    with pytest.raises(ValueError, match=r"`own` repeats .* the metric name `wmdp/own`"):
        load_wmdp_tasks(["wmdp_own", "own"], path)


def test_a_name_is_cut_to_what_fits_into_a_table(write_task):
    name = "mmlu_high_school_Government_and_politics"
    tasks = load_wmdp_tasks([name], write_task(name))
    assert tasks.metrics == {"wmdp/mmlu_high_school_government": [name]}


def test_without_the_library_a_sentence_tells_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ValueError, match=r"`pip install trl-unlearn\[wmdp\]`"):
        load_wmdp_tasks(["wmdp_bio"])


SCRIPT = """
import functools, json, sys
import lm_eval.tasks
from dataclasses import asdict
from accelerate import PartialState
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl_unlearn.evaluation.wmdp import load_wmdp_tasks, measure_wmdp
from trl_unlearn.evaluation.together import SuiteSetting

folder, path, out = sys.argv[1:]
state = PartialState(cpu=True)
assert state.num_processes == 2 and state.distributed_type.value == "MULTI_CPU", state
lm_eval.tasks.TaskManager = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)
load = lambda: AutoModelForCausalLM.from_pretrained(folder)
tasks = load_wmdp_tasks(["many", "single"], path)
outcome = measure_wmdp({"target": load}, tasks, SuiteSetting(AutoTokenizer.from_pretrained(folder), 4, 42))
actual = {name: asdict(one) for name, one in outcome.models["target"].items()}
json.dump(actual, open(f"{out}.{state.process_index}", "w"))
"""


@pytest.mark.slow
def test_two_processes_share_the_rows_and_give_the_numbers_of_one(
    write_task, tiny_model, tiny_tokenizer, launch, tmp_path
):
    # One task has fewer rows than there are processes.
    path = write_task("many", QUESTIONS[:5])
    write_task("single", QUESTIONS[5:])
    tiny_model.save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    assert launch(SCRIPT, *(tmp_path / name for name in ("model", "tasks", "out"))) == [0, 0]
    outcome = measure({"target": tiny_model}, load_wmdp_tasks(["many", "single"], path), tiny_tokenizer)
    for rank in range(2):
        actual = json.loads((tmp_path / f"out.{rank}").read_text())
        assert {name: (one["value"], one["n"]) for name, one in actual.items()} == {
            name: (one.value, one.n) for name, one in outcome.models["target"].items()
        }
