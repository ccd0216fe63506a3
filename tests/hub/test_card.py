# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import math
import re
from dataclasses import replace
from itertools import product

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from markdown_it import MarkdownIt

from trl_unlearn.hub.card import eval_result_files, render_card
from trl_unlearn.hub.folder import RunFolder, is_published
from trl_unlearn.questions import QUESTIONS
from trl_unlearn.records import (
    AdapterRecord,
    BeliefAudit,
    BeliefRefresh,
    ChainLink,
    DatasetRecord,
    Truncation,
    UnlearningRun,
)
from trl_unlearn.results import METRICS, MODEL_ROLES, Difference, EvaluationResult, Measurement, Unmeasured


SECRET_FOLDER = "/home/someone/private"
UNLEARNED = {
    "forget/extraction_strength": Measurement(0.1, 4, 0.02),
    "forget/exact_memorization": Measurement(0.5, 4, 0.02),
    "forget/squeezing": Measurement(-1.0, 4, 0.1),
    "retain/probability": Measurement(0.9, 8, 0.01),
    "aggregate/agg": Measurement(0.6),
}


def make_run(adapter=True, hub=True, retain=True, **changes) -> UnlearningRun:
    folder = "" if hub else SECRET_FOLDER + "/"
    sets = [
        DatasetRecord(
            f"{folder}org/{'data' if hub else name + '.jsonl'}", 4, "ab" * 32, name if hub else None, "train", hub
        )
        for name in ("forget10", "retain90")
    ]
    values = {
        "base_model": f"{folder}org/model-1b",
        "base_model_on_hub": hub,
        "base_model_revision": "abc123" if hub else None,
        "adapter": AdapterRecord("LORA", 8, 16, ["q_proj"], f"{SECRET_FOLDER}/first") if adapter else None,
        "forget_set": sets[0],
        "retain_set": sets[1] if retain else None,
        "hyperparameters": {
            "forget_loss_type": "bs_t",
            "lambda_bss": 0.5,
            "output_dir": f"{SECRET_FOLDER}/out",
            "logging_dir": "runs",
            "hub_token": "hf_verysecret",
            "hub_private_repo": True,
            "deepspeed": "./zero2.json",
            "nested": {"file": f"{SECRET_FOLDER}/x"},
            "warmup_steps": 3,
        },
        "steps": 2,
        "epochs": 1.0,
        "effective_batch_size": 2,
        "seed": 0,
        "world_size": 1,
        "belief_audit": BeliefAudit(1.0, [BeliefRefresh(0.0, 12, 5.5, -0.25, 0.5, 1.0, "cd" * 32)]),
        "started_at": "2026-01-02T03:04:05+00:00",
        "seconds": 1.5,
        "hardware": "CPU",
        "versions": {"torch": "2.13.0"},
    }
    return UnlearningRun(**(values | changes))


def make_result(retrained=True, **unlearned) -> EvaluationResult:
    reference = {
        "forget/extraction_strength": Measurement(0.05, 4, 0.01),
        "forget/exact_memorization": Measurement(0.45, 4, 0.01),
    }
    return EvaluationResult(
        parity="open-unlearning",
        suites=["tofu"],
        models={
            "target": {"retain/probability": Measurement(0.95, 8, 0.01)},
            "unlearned": UNLEARNED | unlearned,
            "retrained": reference if retrained else None,
        },
        protocol={"fluency_source": "standin", "model": f"{SECRET_FOLDER}/target"},
        environment={"torch": "2.13.0"},
    )


def suite_result(suites, retrained) -> EvaluationResult:
    """Results of exactly these suites, and one figure that is not finite."""
    base = make_result(retrained)
    own = {name: Measurement(0.25, 6, 0.05) for name, _, group, _ in METRICS if group in suites}
    own |= {name: Measurement(math.nan, 6) for name in list(own)[:1]}
    models = {
        role: None if found is None else (found if "tofu" in suites else {}) | own
        for role, found in base.models.items()
    }
    digest = {"unlearned": {"adapter_model.safetensors": "ef" * 32}}
    protocol = base.protocol | {"weights_sha256": digest}
    return replace(base, suites=list(suites), models=models, protocol=protocol)


def section(card: str, name: str) -> str:
    return card.split(f"## {name}\n")[1].split("\n## ")[0]


def failures(card: str) -> str:
    return section(card, "Known failures")


SUITES = [None, ("tofu",), ("privacy",), ("robustness",), ("tofu", "privacy", "robustness"), ("muse",), ("wmdp",)]
KINDS = {"adapter": (True, "trained"), "full": (False, "trained"), "merged": (True, "merged")}


@pytest.mark.parametrize(("kind", "hub", "retrained", "suites"), product(KINDS, [True, False], [True, False], SUITES))
def test_what_a_card_says_is_true_of_every_combination(kind, hub, retrained, suites):
    adapter, status = KINDS[kind]
    run = make_run(adapter, hub, status=status)
    result = None if suites is None else suite_result(suites, retrained)
    content = render_card(run, result)
    card = ModelCard(content)
    text, data = card.text, card.data

    finite = {}
    if result is not None:
        measured = result.models["unlearned"].items()
        finite = {name: one.value for name, one in measured if math.isfinite(one.value)}
    assert {one.metric_type: one.metric_value for one in data.eval_results or []} == finite
    configs = {one.metric_type: one.dataset_config for one in data.eval_results or []}
    assert {config for name, config in configs.items() if name.split("/")[0] in (suites or ())} <= {
        f"{name} suite" for name in suites or ()
    }
    assert data.library_name == ("peft" if kind == "adapter" else "transformers")
    assert data.base_model == ("org/model-1b" if hub else None)
    relation = "adapter" if kind == "adapter" else "finetune"
    assert data.get("base_model_relation") == (relation if hub else None)
    assert data.license is None
    assert "None" not in content
    assert SECRET_FOLDER not in content and "hub_" not in content

    assert ("A LoRA adapter for" in text) == ("can be taken off again" in text) == (kind == "adapter")
    assert ("weights merged into it" in text) == (kind == "merged")
    assert ("fully fine-tuned" in text) == (kind == "full")
    loading = section(text, "How to load")
    assert ('from_pretrained("org/model-1b", revision="abc123")' in loading) == (kind == "adapter" and hub)
    assert ("the folder of the local checkpoint `model-1b`" in loading) == (kind == "adapter" and not hub)

    results, robustness = section(text, "Results"), section(text, "Robustness")
    assert ("Results are missing" in results) == ("not evaluated." in section(text, "Status")) == (suites is None)
    for group, words in (("tofu", "**Keep: "), ("privacy", "**Privacy: "), ("robustness", "**Robustness: ")):
        assert (words in results) == (group in (suites or ()))
    assert ("Measured on `adapter_model.safetensors`, SHA-256 `efef" in results) == (suites is not None)
    assert ("Not run: relearning" in robustness) == ("robustness" not in (suites or ()))
    assert ("were run on" in robustness) == ("robustness" in (suites or ()))
    assert ("the merged weights" in robustness) == ("robustness" in (suites or ()) and adapter)

    none = suites is not None and not retrained
    assert ("never saw the forget set; not evaluated here." in results) == none
    assert ("No retrained model was evaluated" in failures(text)) == none
    assert ("This model has not been evaluated" in failures(text)) == (suites is None)
    assert not (none and re.search("above the retrained|below the retrained", text))
    # No question can be answered: there is no interval.
    assert "None of the automatic checks failed" not in failures(text)


@pytest.mark.parametrize(
    ("adapter", "hub", "retain", "result"),
    product([True, False], [True, False], [True, False], [None, make_result(), make_result(retrained=False)]),
)
def test_every_card_parses_and_names_no_path_and_no_secret(adapter, hub, retain, result):
    run = make_run(adapter, hub, retain)
    content = render_card(run, result, ["figures/evaluation.png"])
    data = ModelCard(content).data.to_dict()

    assert data["library_name"] == ("peft" if adapter else "transformers")
    assert data.get("base_model") == ("org/model-1b" if hub else None)
    assert data.get("base_model_relation") == (("adapter" if adapter else "finetune") if hub else None)
    assert data.get("datasets") == (["org/data"] if hub else None)
    assert {"unlearning", "trl-unlearn", "trl", "bs-s"} <= set(data["tags"])
    assert ("model-index" in data) == (result is not None)
    assert ("PeftModel" in content) == ("merge_and_unload" in content) == adapter
    assert ("a local checkpoint" in content) == (not hub)
    assert ("Results are missing" in content) == (result is None)
    assert ("There was no retain set" in content) == (not retain)
    for hidden in ("/home", "someone", "private", "hf_verysecret", "zero2", "`logging_dir`"):
        assert hidden not in content
    assert "\n\n\n" not in content


@pytest.mark.parametrize("hub", [True, False])
def test_the_model_index_holds_the_figures_of_the_unlearned_model(hub):
    data = ModelCard(render_card(make_run(hub=hub), make_result())).data
    assert {entry.metric_type: entry.metric_value for entry in data.eval_results} == {
        name: measurement.value for name, measurement in UNLEARNED.items()
    }
    sets = {entry.metric_type: (entry.dataset_type, entry.dataset_config) for entry in data.eval_results}
    assert sets["forget/squeezing"] == (("org/data", "forget10") if hub else ("forget10.jsonl", None))
    assert sets["retain/probability"] == (("org/data", "retain90") if hub else ("retain90.jsonl", None))
    assert sets["aggregate/agg"][1] == "tofu suite"


@pytest.mark.parametrize("parity", ["open-unlearning", "strict"])
def test_results_in_the_form_of_the_hub_are_parsed_back_by_its_own_functions(parity):
    result = replace(make_result(), parity=parity)
    ((path, text),) = eval_result_files(make_run(), result).items()
    assert path == f".eval_results/tofu-forget10-{parity}.yaml" and is_published(path)
    entries = {entry.task_id: entry for entry in parse_eval_result_entries(yaml.safe_load(text))}
    assert {name: entry.value for name, entry in entries.items()} == {k: v.value for k, v in UNLEARNED.items()}
    assert {entry.dataset_id for entry in entries.values()} == {"org/data"}
    kept = entries["retain/probability"].notes
    assert kept == f"retain probability; definitions: {parity}; config retain90; n = 8; standard error 0.01"


def test_results_on_data_of_ones_own_and_numbers_that_are_not_finite_are_in_no_such_file():
    assert eval_result_files(make_run(hub=False), make_result()) == {}
    result = make_result(**{"forget/squeezing": Measurement(math.nan, 4)})
    assert "forget/squeezing" not in "".join(eval_result_files(make_run(), result).values())


def test_the_files_of_results_are_those_of_the_card(tmp_path):
    folder = RunFolder(tmp_path)
    folder.save_run(make_run())
    folder.save_results(make_result())
    (tmp_path / ".eval_results").mkdir()
    (tmp_path / ".eval_results/privacy-forget10-strict.yaml").write_text("of earlier results")
    folder.write_card()
    assert [path.name for path in tmp_path.glob(".eval_results/*")] == ["tofu-forget10-open-unlearning.yaml"]
    folder.clear()
    assert not list(tmp_path.glob(".eval_results/*"))


def test_the_head_has_license_and_language_where_they_are_known_and_the_card_links_the_paper():
    content = render_card(make_run(license="apache-2.0", language=["en", "de"]))
    data = ModelCard(content).data
    assert (data.license, data.language) == ("apache-2.0", ["en", "de"])
    other = {"license": "other", "license_name": "qwen-research", "license_link": "https://example.org/LICENSE"}
    head = ModelCard(render_card(make_run(**other))).data.to_dict()
    assert {name: head[name] for name in other} == other
    assert "generated_from_trainer" in data.tags and "https://huggingface.co/papers/2510.19422" in content
    data = ModelCard(render_card(make_run())).data.to_dict()
    assert "license" not in data and "language" not in data


def test_a_relative_folder_that_looks_like_a_hub_id_stays_out_of_the_card():
    run = make_run(
        base_model="outputs/secret", base_model_on_hub=False, forget_set=DatasetRecord("mine/rows", 4, "ab")
    )
    content = render_card(run, make_result())
    assert "outputs/" not in content and "mine/" not in content
    assert "`secret`, a local checkpoint" in content


def test_a_path_that_was_taken_for_a_hub_id_stays_out_of_the_card():
    dataset = DatasetRecord(f"{SECRET_FOLDER}/rows", 4, "ab", on_hub=True)
    content = render_card(make_run(base_model=f"{SECRET_FOLDER}/target", forget_set=dataset), make_result())
    assert "someone" not in content and "`target`, a local checkpoint" in content
    assert "base_model" not in ModelCard(content).data.to_dict()


HOSTILE = "x`<img src=x onerror=alert(1)>[a](http://host.invalid) | **b** \u202e\n---\nlicense: mit\n```\nprint(1)\n#"


@pytest.mark.parametrize("adapter", [True, False])
def test_a_hostile_name_changes_nothing_of_a_card_but_the_name(adapter):
    # A folder may be called anything but for slashes, which end its name.
    name = HOSTILE.replace("/", "")
    rows = DatasetRecord(name, 4, "ab" * 32, name, name)
    # A value with a line end is on no card: written as JSON, it has what a path may have.
    settings = make_run().hyperparameters | {"lora_alpha": name.splitlines()[0]}
    names = {"base_model": name, "base_model_on_hub": False, "base_model_revision": '1", evil="', "hardware": name}
    chain = [ChainLink(name, rows, 1, 1.0)]
    run = make_run(adapter, forget_set=rows, retain_set=None, chain=chain, versions={name: name}, **names)
    content = render_card(replace(run, hyperparameters=settings), make_result())
    plain = replace(rows, name="x", config="x", split="x")
    names = {"base_model": "x", "base_model_on_hub": False, "base_model_revision": "abc", "hardware": "x"}
    chain = [ChainLink("x", plain, 1, 1.0)]
    other = make_run(adapter, forget_set=plain, retain_set=None, chain=chain, versions={"x": "x"}, **names)
    settings = make_run().hyperparameters | {"lora_alpha": "x"}
    expected = render_card(replace(other, hyperparameters=settings), make_result())

    card, wanted = ModelCard(content), ModelCard(expected)
    assert card.data.to_dict().keys() == wanted.data.to_dict().keys() and card.data.license is None
    assert [one.metric_value for one in card.data.eval_results] == [
        one.metric_value for one in wanted.data.eval_results
    ]
    parser = MarkdownIt("commonmark").enable("table")

    def kinds(text):
        blocks = parser.parse(text)
        inner = (
            [child.type for child in block.children or [] if not child.type.startswith("text")] for block in blocks
        )
        return list(zip([block.type for block in blocks], inner, strict=True))

    assert kinds(card.text) == kinds(wanted.text)
    assert [line.count(" | ") for line in card.text.splitlines() if line.startswith("|")] == [
        line.count(" | ") for line in wanted.text.splitlines() if line.startswith("|")
    ]
    assert "\u202e" not in content and "evil" not in content
    for code, language in re.findall(r"```(python)\n(.*?)```", content, re.DOTALL):
        compile(language, code, "exec")


def test_a_windows_path_is_cut_to_its_last_part():
    content = render_card(make_run(base_model="C:\\Users\\someone\\target", base_model_on_hub=False), None)
    assert "someone" not in content and "`target`, a local checkpoint" in content


@pytest.mark.parametrize(
    ("role", "sentence"),
    [
        (
            "forget_set",
            "3 of 4 forget rows were cut off at 1,024 tokens: the rest of them (5,000 tokens) was not unlearned",
        ),
        (
            "retain_set",
            "3 of 4 retain rows were cut off at 1,024 tokens: the rest of them (5,000 tokens) was no part",
        ),
    ],
)
def test_what_was_cut_off_is_on_the_card(role, sentence):
    run = make_run()
    assert "were cut off" not in render_card(run)
    cut = replace(getattr(run, role), truncation=Truncation(rows=3, tokens=5000, max_length=1024))
    assert sentence in render_card(replace(run, **{role: cut}))


def test_what_was_not_run_is_said_and_is_never_zero():
    content = render_card(make_run(), make_result(retrained=False))
    row = next(line for line in content.splitlines() if line.startswith("| `forget/extraction_strength`"))
    assert row == "| `forget/extraction_strength` | not run | 0.100 ± 0.020 | not run | 4 |"
    assert "The retrained model was not evaluated." in content
    assert "Not run: relearning" in content


def test_a_metric_that_is_not_finite_stays_out_of_the_model_index():
    result = make_result(**{"aggregate/agg": Measurement(math.nan)})
    content = render_card(make_run(), result)
    assert "aggregate/agg" not in {entry.metric_type for entry in ModelCard(content).data.eval_results}
    assert "| `aggregate/agg` | not run | not finite | not run |" in content


def test_what_could_not_be_measured_is_named_with_its_rows_and_is_a_failure():
    result = make_result()
    result.not_measured = {"unlearned": {"forget/probability": Unmeasured(3, 4), "aggregate/agg": Unmeasured()}}
    content = render_card(make_run(), result)
    assert "| `forget/probability` | not run | not measured | not run |  |" in content
    assert (
        "- Not measured, because scores of the unlearned model are not finite: `forget/probability` (in 3 of 4 rows); "
        "`aggregate/agg` (made of numbers that are missing)." in content
    )
    assert "Broken: scores of this model are not finite, and 2 of its figures" in failures(content)


def test_the_verdict_stands_first_with_what_decides_it():
    result = make_result()
    assert "## Verdict" not in render_card(make_run())
    result.differences = {"unlearned - retrained": {"forget/extraction_strength": Difference(0.05, 0.04, 0.06, 4)}}
    card = render_card(make_run(), result)
    assert card.index("## Verdict") < card.index("## Status")
    found = section(card, "Verdict")
    row = "| Does it say it? | As a model that never knew, as far as these rows tell. | extraction strength | 0.100 | "
    assert row + "retrained 0.050 | 0.050 [0.040, 0.060] | 0.05 |" in found
    assert "| Does it come back? | Not measured: run the suite `robustness`. |  |  |  |  |  |" in section(
        card, "Verdict"
    )
    assert "- As the retrained model in 0 of 1 measurements." in found


@pytest.mark.parametrize("hub", [True, False])
def test_the_verdict_has_its_figure_and_a_command_without_private_names(hub):
    figures = ["figures/verdict.png", "figures/evaluation.png"]
    card = render_card(make_run(hub=hub), make_result(), figures)
    found = section(card, "Verdict")
    assert re.findall(r"\((figures/[^)]+)", card) == figures and "![verdict](figures/verdict.png)" in found
    command = " ".join(found.split("```bash")[1].split("```")[0].replace("\\\n", " ").split())
    names = ("...", "...")
    if hub:
        names = "org/model-1b --model_revision abc123", "org/data --forget_config forget10 --retain_config retain90"
    option = "dataset_name" if hub else "forget_dataset"
    rest = f"--{option} {names[1]}" + ("" if hub else " --retain_dataset ...")
    assert command == (
        # Training continued from an adapter, which makes the target.
        f"trl-unlearn evaluate --suites tofu --model_name_or_path {names[0]} --adapter_name_or_path ... "
        f"--unlearned_model_name_or_path ... --retrained_model_name_or_path ... {rest}"
    )


def test_the_command_measures_the_rows_of_the_run_beside_both_retrained_models():
    run, result = make_run(), make_result()
    run.forget_set.split, run.retain_set.config = "train[:100]", None
    result.models["second_retrained"] = result.models["retrained"]
    found = section(render_card(run, result), "Verdict")
    for option in ("second_retrained_model_name_or_path ...", "forget_split 'train[:100]'", "retain_dataset org/data"):
        assert f"    --{option}" in found
    assert "--retain_split" not in found


@pytest.mark.parametrize(
    ("recorded", "option"),
    [
        ({"holdout_dataset": "..."}, "holdout_dataset ..."),
        ({"holdout_dataset": f"{SECRET_FOLDER}/others.jsonl"}, "holdout_dataset ..."),
        ({"holdout_dataset": "org/others"}, "holdout_dataset org/others"),
        ({"holdout_config": "strangers"}, "holdout_config strangers"),
        ({"max_eval_rows": 24}, "max_eval_rows 24"),
    ],
)
def test_the_command_has_the_number_of_rows_and_the_held_out_rows_of_the_protocol(recorded, option):
    name = next(iter(recorded))
    assert f"--{name}" not in render_card(make_run(), make_result())
    result = make_result()
    result.protocol |= recorded
    card = render_card(make_run(), result)
    assert f"    --{option}" in section(card, "Verdict") and SECRET_FOLDER not in card


def test_a_model_that_has_not_forgotten_is_a_failure_also_without_a_retrained_model():
    result = make_result(retrained=False, **{"forget/extraction_strength": Measurement(0.974)})
    result.models["target"]["forget/extraction_strength"] = Measurement(1.0)
    found = failures(render_card(make_run(), result))
    assert "- It has not forgotten: `forget/extraction_strength` is 0.974, above half of the target's 1.000." in found


KEPT = "retain/probability"
# One number for each question of the verdict.
DECIDING = {
    "Does it say it?": "forget/extraction_strength",
    "Does it know it in second place?": "forget/truth_ratio_knowledge",
    "Does it come back?": "robustness/quantized_int4",
    "Can one tell that it was trained on it?": "privacy/combined_auc",
    "Does it still work?": KEPT,
}


def result_of_every_question(apart) -> EvaluationResult:
    """Results without a fault but for differences of one's own: metric -> difference."""
    base = make_result()
    numbers = {
        name: Measurement(0.95 if name == "retain/probability" else 0.1, 80, 0.01) for name in DECIDING.values()
    }
    models = {role: measured | numbers for role, measured in base.models.items()}
    differences = dict.fromkeys(numbers, Difference(0.0, -0.01, 0.01, 80)) | apart
    return replace(base, models=models, differences={"unlearned - retrained": differences})


def test_a_card_says_that_nothing_failed_only_where_every_question_has_an_answer_without_a_fault():
    assert "None of the automatic checks failed" in failures(render_card(make_run(), result_of_every_question({})))


@pytest.mark.parametrize(("question", "metric"), DECIDING.items())
@pytest.mark.parametrize("low", [0.3, 0.001, math.nan], ids=["certain", "perhaps", "not measured"])
def test_an_answer_that_speaks_against_the_model_or_is_missing_is_a_failure(question, metric, low):
    sign = -1 if metric == KEPT else 1
    apart = Difference(sign * 0.4, *sorted([sign * low, sign * 0.5]), 80)
    found = failures(render_card(make_run(), result_of_every_question({metric: apart})))
    words = "Not measured: " if math.isnan(low) else "Worse than a model" if sign < 0 else "More than a model"
    words = words if low != 0.001 else f"Perhaps {words.lower()}"
    assert f"- {question} {words}" in found and "None of the automatic checks" not in found


def test_a_card_has_no_rules_beside_those_of_its_verdict():
    result = result_of_every_question({"forget/squeezing": Difference(-0.38, -0.4, -0.36, 80)})
    numbers = {"forget/squeezing": (0.0, 0.02, 0.4), KEPT: (0.99, 0.72, 0.71), "privacy/loss_auc": (0.9, 0.53, 0.5)}
    for metric, values in numbers.items():
        for role, value in zip(MODEL_ROLES, values, strict=True):
            result.models[role][metric] = Measurement(value, 80, 0.01)
    result.differences["unlearned - retrained"]["privacy/loss_auc"] = Difference(0.03, 0.01, 0.05, 80)
    assert "None of the automatic checks failed" in failures(render_card(make_run(), result))


def test_without_a_reference_or_an_evaluation_the_card_says_that_nothing_can_be_said():
    assert "No retrained model was evaluated" in failures(render_card(make_run(), make_result(retrained=False)))
    assert "has not been evaluated" in failures(render_card(make_run(), None))
    partial = replace(make_result(), models={"unlearned": {"aggregate/agg": Measurement(0.5)}, "retrained": {}})
    found = failures(render_card(make_run(), partial))
    assert found.count("Not measured: ") == len(QUESTIONS)


def test_a_run_that_diverged_or_missed_rows_says_so():
    audit = BeliefAudit(0.75, [BeliefRefresh(0.0, 3, math.nan, math.nan, 0.0, 1.0, "ab")])
    run = make_run(
        belief_audit=audit, training_log=[{"step": 1, "loss/forget": None}, {"step": 2, "loss/forget": 1.0}]
    )
    found = failures(render_card(run, make_result()))
    assert "Diverged: 1 entries" in found and "Only 75.0% of the forget rows" in found


def test_settings_of_another_method_are_not_shown_as_the_method():
    settings = {"forget_loss_type": "npo", "lambda_bss": 0, "lambda_bst": 0.2, "beta": 0.1, "num_beliefs": 3}
    method = render_card(make_run(hyperparameters=settings, belief_audit=None)).split("<details>")[0]
    assert "| `beta` | 0.1 |" in method
    assert "lambda_bst" not in method and "num_beliefs" not in method


def test_a_merged_model_names_the_weights_that_were_measured_and_those_that_they_became():
    protocol = {
        "weights_sha256": {"unlearned": {"adapter_model.safetensors": "ab" * 32}},
        "merged_weights_sha256": {"model.safetensors": "cd" * 32},
    }
    content = render_card(make_run(status="merged"), replace(make_result(), protocol=protocol))
    lines = section(content, "Results").splitlines()
    assert f"- Measured on `adapter_model.safetensors`, SHA-256 `{'ab' * 32}`." in lines
    assert f"- Merged, after the measurement, to `model.safetensors`, SHA-256 `{'cd' * 32}`." in lines
    assert "weights_sha256" not in content


def test_a_quantised_base_is_named_with_the_adapter_and_under_its_results():
    run = make_run(
        base_quantization={"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    )
    result = make_result()
    result.protocol["base_quantization"] = "4 bits (nf4)"
    content = render_card(run, result)
    assert "The base was loaded in 4 bits (nf4)." in section(content, "Method")
    assert "- The target, and the base of an adapter, was loaded in 4 bits (nf4)." in section(content, "Results")
    assert "was loaded in" not in render_card(make_run(), make_result())


def test_beliefs_that_are_still_to_be_sampled_are_not_denied():
    assert "No sequence beliefs have been sampled yet." in render_card(make_run(belief_audit=None))
    settings = {"forget_loss_type": "bs_t", "lambda_bss": 0.0}
    assert "This method samples no sequence beliefs." in render_card(
        make_run(belief_audit=None, hyperparameters=settings)
    )


@pytest.mark.parametrize("figure", ["/home/x.png", "../x.png", "C:\\x.png", "~/x.png"])
def test_a_figure_outside_the_folder_of_the_card_is_refused(figure):
    with pytest.raises(ValueError, match="expected paths relative to the card"):
        render_card(make_run(), None, [figure])
