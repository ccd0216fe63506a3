# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""`evaluate --suites`: what is measured beside TOFU's metrics, and an evaluation that was cut off."""

import copy
import json
import shutil
from datetime import date
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from peft import PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from trl_unlearn.encoding import encode_row, pad_rows
from trl_unlearn.evaluation.judge_models import JudgeError
from trl_unlearn.evaluation.rows import encode_set, rows_protocol
from trl_unlearn.evaluation.wmdp import load_wmdp_tasks
from trl_unlearn.hub.folder import RunFolder
from trl_unlearn.hub.leaks import TextIndex
from trl_unlearn.results import EvaluationResult, SuiteOutcome, Unmeasured
from trl_unlearn.scripts import evaluate
from trl_unlearn.scripts.arguments import DataArguments, EvaluationArguments, UnlearnModelConfig
from trl_unlearn.scripts.results import evaluation_result, with_earlier
from trl_unlearn.token_scores import score_batch
from trl_unlearn.verdict import verdict

from .conftest import write_jsonl


PRIVACY = ["--suites", "tofu", "privacy"]
# Facts beside those of `facts`.
MORE = [
    ("Where did Gus Hale learn to sail?", "Gus Hale learned to sail on a lake of salt."),
    ("What does Ida Renn collect?", "Ida Renn collects the lids of old teapots."),
]


def test_rows_of_an_evaluation_carry_the_variables_of_the_chat_template(
    tiny_tokenizer, tiny_model, forget_rows, retain_rows, tmp_path
):
    for name, rows in (("forget", forget_rows), ("retain", retain_rows)):
        rows.to_json(tmp_path / f"{name}.jsonl")
    tiny_tokenizer.chat_template = "{{ mode }}" + tiny_tokenizer.chat_template
    files = {f"{name}_dataset": str(tmp_path / f"{name}.jsonl") for name in ("forget", "retain")}
    suites = evaluate.SuiteArguments(suites=["privacy"], holdout_dataset=files["retain_dataset"])
    args = evaluate.EvaluateArguments(chat_template_kwargs='{"mode": "exam"}')
    inputs = evaluate.load_suite_inputs(
        DataArguments(**files), EvaluationArguments(), suites, args, {}, tiny_tokenizer, tiny_model.config
    )
    for name, found in inputs.row_sets.items():
        asked = [row["input_ids"] for row in encode_set(found, tiny_tokenizer, name=name).answers]
        assert all(tiny_tokenizer.decode(ids).startswith("exam<|im_start|>user") for ids in asked)
    assert set(inputs.row_sets) == {"rows/forget", "rows/retain", "rows/holdout"}


def test_raw_text_of_an_evaluation_has_the_column_and_the_prompt_of_the_training(
    tiny_tokenizer, tiny_model, facts, tmp_path
):
    files = {}
    for name in ("forget", "retain"):
        rows = Dataset.from_list([{"body": " ".join(pair)} for pair in facts[name]])
        rows.to_json(files.setdefault(f"{name}_dataset", str(tmp_path / f"{name}.jsonl")))
    suites = evaluate.SuiteArguments(suites=["privacy"], holdout_dataset=files["retain_dataset"])
    args = evaluate.EvaluateArguments(dataset_text_field="body", prompt_length=3)
    inputs = evaluate.load_suite_inputs(
        DataArguments(**files), EvaluationArguments(), suites, args, {}, tiny_tokenizer, tiny_model.config
    )
    for name, found in inputs.row_sets.items():
        answers = encode_set(found, tiny_tokenizer, name=name).answers
        assert {row["prompt_length"] for row in answers} == {3}
        text = facts["retain" if name == "rows/holdout" else name.removeprefix("rows/")][0]
        assert tiny_tokenizer.decode(answers[0]["input_ids"], skip_special_tokens=True) == " ".join(text)


class CutOff(Exception):
    """Stands for a killed process."""


@pytest.fixture
def holdout(facts, tmp_path) -> str:
    """A file of rows that are neither in the forget nor in the retain set."""
    rows = [
        {"prompt": f"Is it so? {question}", "completion": f" No. {answer}"} for question, answer in facts["retain"]
    ]
    return write_jsonl(tmp_path / "holdout.jsonl", rows)


@pytest.fixture
def retrained(checkpoint, tmp_path) -> str:
    """A folder with a model that differs from the checkpoint."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "retrained")
    return str(tmp_path / "retrained")


@pytest.fixture
def own(checkpoint, retrained, own_files) -> list[str]:
    """Command line on files of one's own."""
    forget, retain = own_files("prompt-completion")
    return [
        *("--model_name_or_path", checkpoint, "--retrained_model_name_or_path", retrained),
        *("--forget_dataset", forget, "--retain_dataset", retain),
    ]


@pytest.fixture
def refuse(tmp_path, capsys, monkeypatch):
    """Function of a command line that returns the sentence with which it was refused, without a model loaded."""

    def evaluate_models(*_, **__):
        raise AssertionError("a model was evaluated")

    def call(argv: list[str]) -> str:
        monkeypatch.setitem(evaluate.SUITES, "tofu", (evaluate_models, "rows"))
        with pytest.raises(SystemExit) as refused:
            evaluate.main([*argv, "--output_dir", str(tmp_path / "out")])
        assert refused.value.code == 2
        return capsys.readouterr().err.rstrip().splitlines()[-1]

    return call


def add_config(folder: str, name: str, source: str) -> None:
    """Give a dataset folder another config with the rows of one that it has."""
    Path(folder, f"{name}.json").write_bytes(Path(folder, f"{source}.json").read_bytes())
    readme = Path(folder, "README.md")
    head = readme.read_text(encoding="utf-8").removesuffix("---\n")
    readme.write_text(f"{head}- config_name: {name}\n  data_files: {name}.json\n---\n", encoding="utf-8")


def result_of(done) -> EvaluationResult:
    return EvaluationResult.load(done.folder / "eval_results.json")


def cut_off(*_, **__):
    raise CutOff


def test_the_privacy_suite_adds_its_metrics_to_those_of_tofu(run, own, holdout):
    plain = run("evaluate", own, output="plain")
    done = run("evaluate", [*own, *PRIVACY, "--holdout_dataset", holdout])
    before, result = result_of(plain), result_of(done)
    assert before.suites == ["tofu"] and "privacy/" not in plain.printed
    assert result.suites == ["tofu", "privacy"]
    assert result.protocol["rows"] == before.protocol["rows"] | {"holdout": 3}
    # Without the path of a file of one's own.
    assert result.protocol["holdout_dataset"] == "..." and "holdout_dataset" not in before.protocol
    for role in ("target", "retrained"):
        added = result.models[role].keys() - before.models[role].keys()
        assert added == {name for name in result.models[role] if name.startswith("privacy/")} != set()
        assert {name: result.models[role][name] for name in before.models[role]} == before.models[role]
    assert result.get("retrained", "privacy/privleak").value == 0.0
    assert "privacy/min_k_auc" in done.printed
    assert not (done.folder / "stages").exists()


def test_a_second_retrained_model_is_measured_in_every_suite_and_is_the_noise_floor(
    run, own, holdout, checkpoint, retrained
):
    models = ["--unlearned_model_name_or_path", checkpoint, "--second_retrained_model_name_or_path", retrained]
    suites = ["--suites", "tofu,privacy,robustness,distribution,depth,elicitation", "--holdout_dataset", holdout]
    done = run("evaluate", [*own, *models, *suites])
    result = result_of(done)
    assert set(result.protocol["attacks"]["rows"]) == {"share", "benign", "form"}
    assert (done.folder / "figures/attacks.png").is_file()
    # It is the first one again: everything that both have is the same.
    assert result.models["second_retrained"] == result.models["retrained"]
    assert {found.value for found in result.differences["second_retrained - retrained"].values()} == {0.0}
    assert result.protocol["weights_sha256"].keys() == {"target", "unlearned", "retrained", "second_retrained"}
    count = len(result.differences["second_retrained - retrained"])
    assert f"a second retrained model is in {count} of {count}." in " ".join(done.printed.split())


@pytest.mark.parametrize("config", ["holdout", "holdout_perturbed"])
def test_the_holdout_of_a_dataset_is_found_by_its_name(run, tofu, tofu_folder, config):
    add_config(tofu_folder, config, "retain")
    protocol = result_of(run("evaluate", [*tofu, *PRIVACY, "--max_eval_rows", "2"])).protocol
    assert protocol["rows"]["holdout"] == protocol["max_eval_rows"] == 2 and "holdout_config" not in protocol


def test_another_config_can_be_named(run, tofu, tofu_folder):
    add_config(tofu_folder, "strangers", "retain")
    protocol = result_of(run("evaluate", [*tofu, *PRIVACY, "--holdout_config", "strangers"])).protocol
    assert (protocol["rows"]["holdout"], protocol["holdout_config"]) == (3, "strangers")
    assert "max_eval_rows" not in protocol


@pytest.mark.slow
def test_an_evaluation_that_was_cut_off_goes_on_and_gives_the_same_file(run, own, holdout, monkeypatch, tmp_path):
    argv = [*own, *PRIVACY, "--holdout_dataset", holdout]
    whole = run("evaluate", argv, output="whole")
    with monkeypatch.context() as patched, pytest.raises(CutOff):
        patched.setitem(evaluate.SUITES, "privacy", (cut_off, "rows"))
        run("evaluate", argv)
    assert [path.name for path in (tmp_path / "out/stages").iterdir()] == ["tofu.json"]
    assert not (tmp_path / "out/eval_results.json").exists()
    monkeypatch.setitem(evaluate.SUITES, "tofu", (cut_off, "rows"))
    done = run("evaluate", argv)
    assert done.text("eval_results.json") == whole.text("eval_results.json")
    assert not (done.folder / "stages").exists()


@pytest.mark.parametrize("changed", ["template", "config", "tokens", "version", "nothing"])
def test_an_evaluation_that_was_cut_off_starts_anew_where_the_numbers_would_be_others(
    run, own, holdout, checkpoint, monkeypatch, changed
):
    argv = [*own, *PRIVACY, "--holdout_dataset", holdout]
    monkeypatch.setitem(evaluate.SUITES, "tofu", (lambda *_, **__: SuiteOutcome({}), "rows"))
    with monkeypatch.context() as patched, pytest.raises(CutOff):
        patched.setitem(evaluate.SUITES, "privacy", (cut_off, "rows"))
        run("evaluate", argv)
    if changed == "template":
        path = Path(checkpoint, "chat_template.jinja")
        path.write_text("{{ 'Answer.' }}" + path.read_text())
    elif changed == "config":
        path = Path(checkpoint, "config.json")
        path.write_text(path.read_text().replace("}", ', "rms_norm_eps": 1e-4}', 1))
    elif changed == "tokens":
        monkeypatch.setattr(evaluate.SuiteInputs, "digests", lambda _: {"rows_sha256": {"forget": "other"}})
    elif changed == "version":
        monkeypatch.setattr(evaluate, "library_versions", lambda: {"trl-unlearn": "0"})
    monkeypatch.setitem(evaluate.SUITES, "tofu", (cut_off, "rows"))
    monkeypatch.setitem(evaluate.SUITES, "privacy", (lambda *_, **__: SuiteOutcome({}), "rows"))
    if changed == "nothing":
        run("evaluate", argv)
    else:
        with pytest.raises(CutOff):
            run("evaluate", argv)


@pytest.fixture
def knowing(tiny_model, tiny_tokenizer, facts, checkpoint) -> str:
    """The folder of the checkpoint, whose model knows the forget rows by heart."""
    rows = [{"prompt": question, "completion": f" {answer}"} for question, answer in facts["forget"] + MORE]
    batch = pad_rows([encode_row(row, tiny_tokenizer) for row in rows], tiny_tokenizer.pad_token_id)
    optimizer = torch.optim.Adam(tiny_model.parameters(), lr=1e-2)
    for _ in range(60):
        (-score_batch(tiny_model, batch).logps.mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    tiny_model.save_pretrained(checkpoint)
    return checkpoint


def test_no_suite_writes_or_draws_a_text_neither_when_it_is_cut_off(
    run, own, knowing, holdout, muse_folder, facts, monkeypatch
):
    # Enough rows for the combined attack.
    for path in (own[own.index("--forget_dataset") + 1], holdout):
        with Path(path).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"prompt": pair[0], "completion": f" {pair[1]}"}) + "\n" for pair in MORE)
    written = {name: [text for pair in pairs for text in pair] for name, pairs in (facts | {"more": MORE}).items()}
    written["muse"] = [path.read_text(encoding="utf-8") for path in Path(muse_folder).glob("*/*.jsonl")]
    index, drawn, save = TextIndex(written), [], FigureCanvasAgg.print_png

    def watched(canvas, path):
        # Pixels cannot be searched.
        drawn.extend(text.get_text() for text in canvas.figure.findobj(Text))
        save(canvas, path)

    def leaks(folder):
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return files.keys(), [leak for name, content in files.items() for leak in index.leaks(name, content)]

    monkeypatch.setattr(FigureCanvasAgg, "print_png", watched)
    suites = ["tofu", "privacy", "robustness", "distribution", "depth", "elicitation", "muse", "judge"]
    argv = [*own, "--unlearned_model_name_or_path", knowing, "--suites", *suites]
    argv += ["--holdout_dataset", holdout, "--muse_dataset", muse_folder]
    with monkeypatch.context() as patched, pytest.raises(CutOff):
        patched.setitem(evaluate.SUITES, "judge", (cut_off, "rows"))
        run("evaluate", argv)
    folder = Path(knowing).parent / "out"
    files, found = leaks(folder)
    assert files == {f"stages/{suite}.json" for suite in suites[:-1]} and not found
    # What was measured is not measured again.
    for suite in suites[:-1]:
        monkeypatch.setitem(evaluate.SUITES, suite, (cut_off, "rows"))
    done = run("evaluate", argv)
    result = result_of(done)
    # The model says what must not be written.
    assert result.suites == suites and result.get("unlearned", "robustness/leak_at_8").value > 0.9
    assert result.get("unlearned", "privacy/combined_auc") is not None
    assert result.curves["unlearned"]["depth/logit_lens"] and json.loads(done.text("eval_results.json"))["verdict"]
    files, found = leaks(folder)
    assert files > {"eval_results.json", "figures/verdict.png", "figures/depth.png"} and not found
    for text in ("\n".join(drawn), done.printed):
        assert text and not index.leaks("a.txt", text.encode())


@pytest.mark.parametrize("change", ["seed", "model", "rows"])
def test_what_other_settings_left_is_measured_anew(run, own, holdout, monkeypatch, change):
    argv = [*own, *PRIVACY, "--holdout_dataset", holdout]
    with monkeypatch.context() as patched, pytest.raises(CutOff):
        patched.setitem(evaluate.SUITES, "privacy", (cut_off, "rows"))
        run("evaluate", argv)
    if change == "seed":
        argv += ["--seed", "7"]
    elif change == "model":
        folder = own[1]
        AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)
    else:
        rows = Path(holdout).read_text(encoding="utf-8").splitlines(keepends=True)
        Path(holdout).write_text("".join(rows[1:]), encoding="utf-8")
    monkeypatch.setitem(evaluate.SUITES, "tofu", (cut_off, "rows"))
    with pytest.raises(CutOff):
        run("evaluate", argv)


def test_an_unknown_suite_is_refused(refuse, own):
    for given in (["tofu,secrecy"], ["tofu", "secrecy"]):
        sentence = refuse([*own, "--suites", *given])
        assert "['secrecy']" in sentence and "tofu, privacy" in sentence and "commas" in sentence
    assert "Unknown `suites`: []" in refuse([*own, "--suites", ","])


def test_suites_are_separated_by_commas_or_spaces_and_run_in_the_order_of_the_table():
    for given in (["privacy,tofu"], ["privacy", "tofu"], ["privacy,", "tofu"], "tofu,privacy"):
        assert evaluate.SuiteArguments(suites=given).suites == ["tofu", "privacy"]


def test_a_suite_runs_alone(run, own, holdout, monkeypatch):
    monkeypatch.setitem(evaluate.SUITES, "tofu", (cut_off, "rows"))
    done = run("evaluate", [*own, "--suites", "privacy", "--holdout_dataset", holdout])
    result = result_of(done)
    assert result.suites == ["privacy"]
    assert result.protocol["rows"] == {"forget": 3, "holdout": 3}
    assert all(name.startswith("privacy/") for name in result.models["target"])
    assert "forget/" not in done.printed and "privacy/min_k_auc" in done.printed


def test_privacy_without_non_members_is_refused(refuse, own, tofu):
    for argv in (own, tofu):
        sentence = refuse([*argv, *PRIVACY])
        assert "no non-members" in sentence and "`--holdout_config`" in sentence and "`--holdout_dataset`" in sentence


def test_suites_that_ask_questions_are_refused_for_raw_text_before_any_other_is_run(refuse, checkpoint, tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "Ada Marlow was born in Veldt."}\n' * 2, encoding="utf-8")
    argv = ["--model_name_or_path", checkpoint, "--forget_dataset", str(path), "--suites"]
    for suite in ("elicitation", "judge"):
        assert f"The suite `{suite}` has no questions" in refuse([*argv, f"tofu,{suite}"])
    assert "there is no judge" in refuse([*argv, "judge", "--judge_replies", str(tmp_path / "replies.jsonl")])


def test_rows_may_hold_dates(run, checkpoint, tmp_path):
    row = {"prompt": "Where was Ada born?", "completion": " In Veldt.", "date": "2024-05-01T12:00:00"}
    path = write_jsonl(tmp_path / "dated.jsonl", [row])
    done = run("evaluate", ["--model_name_or_path", checkpoint, "--forget_dataset", path, "--suites", "tofu"])
    assert result_of(done).protocol["rows"] == {"forget": 1}


def test_two_sets_of_non_members_are_refused(refuse, tofu, holdout):
    argv = [*tofu, *PRIVACY, "--holdout_config", "retain", "--holdout_dataset", holdout]
    assert "`holdout_config` and `holdout_dataset`" in refuse(argv)


def test_non_members_without_the_suite_that_needs_them_are_refused(refuse, own, holdout):
    sentence = refuse([*own, "--holdout_dataset", holdout])
    assert "`holdout_dataset`" in sentence and "`privacy` or `robustness`" in sentence


def test_a_holdout_row_that_cannot_be_encoded_is_refused(refuse, own, tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text('{"prompt": "Who?", "completion": " "}\n', encoding="utf-8")
    assert "Row 0 of the holdout set" in refuse([*own, *PRIVACY, "--holdout_dataset", str(path)])


@pytest.fixture
def muse_folder(write_dataset) -> str:
    """A dataset of MUSE's form with the continuation of texts, and questions."""
    pairs = [{"question": f"What is number {i}?", "answer": f"It is the name {i}."} for i in range(3)]
    questions = {"forget_qa": pairs, "forget_qa_icl": pairs[:1], "retain_qa": pairs, "retain_qa_icl": pairs[:1]}
    texts = [{"prompt": "Ada was", "gt": " born in a small town by the sea."}] * 2
    return write_dataset({"verbmem": {"forget": texts}, "knowmem": questions}, "muse")


def test_muse_runs_without_a_forget_set(run, checkpoint, retrained, muse_folder):
    models = ["--model_name_or_path", checkpoint, "--retrained_model_name_or_path", retrained]
    done = run("evaluate", [*models, "--suites", "muse", "--muse_dataset", muse_folder, "--max_eval_rows", "2"])
    result = result_of(done)
    assert result.suites == ["muse"]
    assert set(result.models["target"]) == {"muse/verbmem", "muse/knowmem", "muse/utility_preservation"}
    assert result.protocol["rows"]["muse forget_qa"] == result.get("target", "muse/knowmem").n == 2
    assert "muse/knowmem" in done.printed and (done.folder / "figures/evaluation.png").is_file()


def limit_positions(checkpoint: str, positions: int) -> None:
    """Give the model in a folder a shorter range of positions."""
    path = Path(checkpoint, "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": positions}))


def test_rows_of_muse_and_rwku_beyond_the_positions_are_refused_before_a_model_is_loaded(
    refuse, checkpoint, muse_folder, rwku_folder
):
    limit_positions(checkpoint, 8)
    target = ["--model_name_or_path", checkpoint, "--suites"]
    for suite, folder, name in (("muse", muse_folder, "muse/"), ("rwku", rwku_folder, "RWKU's `")):
        sentence = refuse([*target, suite, f"--{suite}_dataset", folder])
        assert name in sentence and "but the model reads at most 8 (`max_position_embeddings`)" in sentence


@pytest.fixture
def rwku_folder(rwku_rows, write_dataset) -> str:
    """A dataset of RWKU's form about two invented people, with attacks, neighbours, texts and one question."""
    return write_dataset({config: {"test": rows} for config, rows in rwku_rows.items()}, "rwku")


def test_rwku_runs_without_a_forget_set_and_answers_three_questions(
    run, checkpoint, retrained, rwku_folder, rwku_rows, tmp_path
):
    unlearned = nudged(retrained, tmp_path / "nudged")
    models = ["--model_name_or_path", checkpoint, "--unlearned_model_name_or_path", unlearned]
    models += ["--retrained_model_name_or_path", retrained, "--suites", "rwku", "--rwku_dataset", rwku_folder]
    result = result_of(run("evaluate", models))
    attacks = {
        f"rwku/{name}_{attack}" for name in ("mia_forget", "mia_retain") for attack in ("zlib", "min_k", "min_k_pp")
    }
    assert set(result.models["target"]) == {f"rwku/{config}" for config in rwku_rows} | attacks
    # Neither model knows these people, so what they say of them tells nothing.
    whys = [answer.why or "" for answer in verdict(result).answers]
    assert ["run the suite" in why for why in whys] == [False, False, True, True, False]
    assert "run the suite `robustness`" in whys[2] and "nothing shows" in whys[0] and "nothing shows" in whys[1]
    done = run("evaluate", [*models, "--rwku_subjects", "Ada Marlow"])
    assert result_of(done).protocol["rows"] == {f"rwku {config}": 1 for config in rwku_rows}
    assert "rwku/forget_level3" in done.printed


def test_options_of_rwku_are_refused_without_its_suite_its_data_or_its_people(refuse, own, rwku_folder):
    assert "Add `rwku` to `suites`" in refuse([*own, "--rwku_subjects", "Ada Marlow"])
    assert "`--rwku_dataset`" in refuse([*own, "--suites", "rwku"])
    argv = [*own, "--suites", "rwku", "--rwku_dataset", rwku_folder, "--rwku_subjects", "Nobody"]
    assert "has no rows about ['Nobody']. Give names as its column `subject` has them" in refuse(argv)


@pytest.mark.slow
def test_a_local_task_of_lm_evaluation_harness_runs_through_the_same_command(run, checkpoint, tmp_path):
    pytest.importorskip("lm_eval")
    rows = [{"text": f"{i} and {i} is", "choices": [str(2 * i), str(2 * i + 1)], "label": 0} for i in range(1, 7)]
    folder = tmp_path / "tasks"
    folder.mkdir()
    data = write_jsonl(folder / "sums.jsonl", rows)
    task = [
        *("task: sums", "dataset_path: json", "dataset_kwargs:", "  data_files:", f"    test: {data}"),
        *(
            "test_split: test",
            "output_type: multiple_choice",
            'doc_to_text: "{{text}}"',
            'doc_to_choice: "{{choices}}"',
        ),
        *("doc_to_target: label", "metric_list:", "- metric: acc"),
    ]
    (folder / "sums.yaml").write_text("\n".join([*task, ""]), encoding="utf-8")
    wmdp = ["--suites", "wmdp", "--wmdp_tasks", "sums", "--wmdp_include_path", str(folder), "--wmdp_limit", "4"]
    done = run("evaluate", ["--model_name_or_path", checkpoint, *wmdp])
    result = result_of(done)
    assert list(result.models["target"]) == ["wmdp/sums"]
    assert result.get("target", "wmdp/sums").n == 4
    assert "wmdp/sums" in done.printed
    tasks = load_wmdp_tasks(["sums"], str(folder), 4)
    digests = []
    for text in ("1 + 1 =", "1 + 2 ="):
        tasks.tasks["sums"].dataset["test"] = Dataset.from_list([{**row, "text": text} for row in rows])
        digests.append(evaluate.content_digest(evaluate.SuiteInputs({}, None, None, None, wmdp=tasks).row_sets))
    assert digests[0] != digests[1]


def test_options_of_a_suite_that_does_not_run_are_refused(refuse, own, muse_folder):
    assert "Add `muse` to `suites`" in refuse([*own, "--muse_dataset", muse_folder])
    assert "Add `wmdp` to `suites`" in refuse([*own, "--wmdp_limit", "3"])


def test_muse_without_its_data_is_refused(refuse, own):
    assert "`--muse_dataset`" in refuse([*own, "--suites", "muse"])


@pytest.mark.slow
def test_a_task_that_does_not_exist_is_refused(refuse, checkpoint):
    pytest.importorskip("lm_eval")
    argv = ["--model_name_or_path", checkpoint, "--suites", "wmdp", "--wmdp_tasks", "wmdp_boi"]
    assert "no task `wmdp_boi`. Did you mean `wmdp_bio`?" in refuse(argv)


def test_the_distance_to_the_retrained_model_needs_one(refuse, tofu):
    sentence = refuse([*tofu, "--suites", "distribution"])
    assert "`--retrained_model_name_or_path`" in sentence and "an unlearned model and a retain set" in sentence


def test_unlearning_with_control_runs_without_a_retrained_model(run, knowing, retrained, own_files):
    # The model knows these rows, so that there is something to keep.
    keep, forget = own_files("prompt-completion")
    argv = ["--model_name_or_path", knowing, "--unlearned_model_name_or_path", retrained, "--suites", "distribution"]
    result = result_of(run("evaluate", [*argv, "--forget_dataset", forget, "--retain_dataset", keep]))
    assert result.models["unlearned"].keys() >= {"distribution/control_mix", "distribution/control_forget_es"}
    assert result.get("unlearned", "distribution/fade_forget") is None


def test_distribution_depth_and_the_offline_part_of_the_judge_run_through_the_same_command(run, own, tmp_path):
    suites = ["--suites", "distribution,judge,depth", "--max_eval_rows", "2"]
    done = run("evaluate", [*own, "--unlearned_model_name_or_path", own[3], *suites])
    result = result_of(done)
    assert result.suites == ["distribution", "depth", "judge"]
    assert result.get("unlearned", "depth/logit_lens") == result.get("retrained", "depth/logit_lens")
    assert len(result.curves["target"]["depth/logit_lens"]) == 2
    assert (done.folder / "figures/depth.png").is_file()
    assert result.get("unlearned", "distribution/fade_forget").value == 0.0
    assert result.get("target", "distribution/fade_forget").value > 0.0
    assert set(result.differences["unlearned - retrained"]) >= {"distribution/fade_forget", "judge/similarity_standin"}


def test_a_second_retrained_model_needs_the_first_and_an_unlearned_one(refuse, own, tofu, retrained):
    second = ["--second_retrained_model_name_or_path", retrained]
    assert "is given without `retrained_model_name_or_path`" in refuse([*tofu, *second])
    assert "Give one as `unlearned_model_name_or_path`" in refuse([*own, *second])


def test_rows_with_a_date_have_a_digest():
    digests = [evaluate.content_digest({"forget": [{"text": "a", "day": date(2024, 1, day)}]}) for day in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]


def test_a_judge_without_its_suite_is_refused(refuse, own):
    assert "Add `judge` to `suites`" in refuse([*own, "--judge_model", "any"])


def test_replies_of_a_judge_that_cannot_be_written_are_refused_before_any_suite(refuse, own, checkpoint, tmp_path):
    judge = ["--suites", "tofu,judge", "--judge_model", checkpoint, "--judge_replies", str(tmp_path)]
    assert f"`{tmp_path}`, cannot be written (Is a directory). Give another path." in refuse([*own, *judge])


def test_a_judge_that_no_longer_answers_ends_with_a_sentence_and_what_is_finished_is_kept(
    own, holdout, checkpoint, tmp_path, monkeypatch, capsys
):
    def answer(*_, **__):
        raise JudgeError("The judge `m` no longer answers. See to the server.")

    monkeypatch.setitem(evaluate.SUITES, "privacy", (lambda *_, **__: SuiteOutcome({}), "rows"))
    monkeypatch.setitem(evaluate.SUITES, "judge", (answer, "rows"))
    argv = ["--suites", "privacy,judge", "--judge_model", checkpoint, "--holdout_dataset", holdout]
    with pytest.raises(SystemExit) as failed:
        evaluate.main([*own, *argv, "--output_dir", str(tmp_path / "out")])
    assert failed.value.code == 1
    said = capsys.readouterr().err.rstrip().splitlines()[-1]
    assert said == (
        "evaluate.py: failed: The judge `m` no longer answers. See to the server. What is finished is kept, and the "
        "same command resumes."
    )
    assert [path.name for path in (tmp_path / "out/stages").iterdir()] == ["privacy.json"]


def test_a_fluency_classifier_that_does_not_exist_is_refused(refuse, own, tmp_path):
    assert "The fluency classifier" in refuse([*own, "--fluency_classifier", str(tmp_path / "none")])


@pytest.mark.slow
def test_a_suite_that_is_measured_later_is_added_to_the_others(run, own, holdout):
    run("evaluate", own)
    before = result_of(run("evaluate", own))
    later = result_of(run("evaluate", [*own, "--suites", "privacy", "--holdout_dataset", holdout]))
    whole = result_of(run("evaluate", [*own, *PRIVACY, "--holdout_dataset", holdout], output="whole"))
    assert before.suites == ["tofu"] and later.suites == ["tofu", "privacy"]
    assert later == whole


def test_what_was_not_measured_stays_named_beside_a_suite_that_is_measured_later(tmp_path):
    def result(suite, **changes):
        values = {"models": {"unlearned": {}}, "environment": {}, "parity": "strict"} | changes
        protocol = {"weights_sha256": {"unlearned": {"model.safetensors": "ab"}}, "parity": "strict", "rows": {}}
        return EvaluationResult(suites=[suite], protocol=protocol, **values)

    missing = {"unlearned": {"forget/probability": Unmeasured(1, 3)}}
    result("tofu", not_measured=missing).save(tmp_path / "eval_results.json")
    leak = {"unlearned": {"robustness/leak_at_1": Unmeasured(2, 3)}}
    merged = with_earlier(result("robustness", not_measured=leak), RunFolder(tmp_path), ["tofu", "robustness"])
    assert merged.suites == ["tofu", "robustness"]
    assert merged.not_measured == {"unlearned": missing["unlearned"] | leak["unlearned"]}


def test_an_unlearned_model_with_other_tokens_or_another_template_is_refused(
    refuse, tofu, checkpoint, tiny_tokenizer, tmp_path
):
    asked = [*tofu, "--unlearned_model_name_or_path", str(shutil.copytree(checkpoint, tmp_path / "other"))]
    with pytest.raises(AssertionError, match="a model was evaluated"):
        refuse(asked)
    other = copy.deepcopy(tiny_tokenizer)
    other.chat_template = "{{ 'Say that you do not know. ' }}" + other.chat_template
    other.save_pretrained(tmp_path / "other")
    assert "has other tokens, or another chat template, for row 0 of the forget set" in refuse(asked)
    # `AutoTokenizer` needs no config of it.
    (tmp_path / "other/tokenizer_config.json").unlink()
    assert "has other tokens, or another chat template, for row 0 of the forget set" in refuse(asked)
    # A name with a token of its own: the model may know that one, and not those that the target is asked by.
    other = copy.deepcopy(tiny_tokenizer)
    other.add_tokens(["Ada Marlow"])
    other.save_pretrained(tmp_path / "other")
    assert "has other tokens, or another chat template" in refuse(asked)
    for path in (tmp_path / "other").glob("*token*"):
        path.unlink()
    with pytest.raises(AssertionError, match="a model was evaluated"):
        refuse(asked)


def test_suites_of_another_number_of_rows_are_not_joined(refuse, own, holdout, tmp_path):
    earlier = {"parity": "strict", "suites": ["tofu"], "models": {}, "protocol": {}, "environment": {}}
    EvaluationResult(**earlier).save(tmp_path / "out" / "eval_results.json")
    privacy = [*own, "--suites", "privacy", "--holdout_dataset", holdout, "--max_eval_rows", "2"]
    assert "holds tofu with `max_eval_rows` None, and this call has 2" in refuse(privacy)
    with pytest.raises(AssertionError, match="a model was evaluated"):
        refuse([*own, "--max_eval_rows", "2"])
    # A limit above the rows that there are cuts none.
    rows = {"max_eval_rows": 100, "rows": {"forget": 3, "retain": 3}}
    EvaluationResult(**earlier | {"protocol": rows}).save(tmp_path / "out" / "eval_results.json")
    evaluate._refuse_other_rows(None, evaluate.SuiteArguments(suites=["privacy"]), RunFolder(tmp_path / "out"))
    assert "holds tofu with `max_eval_rows` 100, and this call has 2" in refuse(privacy)


def test_suites_of_other_rows_are_replaced_and_that_is_said(tmp_path, capsys):
    def result(suite, **protocol):
        common = {"weights_sha256": {"unlearned": {"model.safetensors": "ab"}}, "parity": "strict"}
        values = {"models": {"unlearned": {}}, "environment": {}, "parity": "strict"}
        return EvaluationResult(suites=[suite], protocol=common | protocol, **values)

    earlier = result("tofu", rows={"forget": 3, "retain": 9}, rows_sha256={"forget": "a"}, seed=1)
    earlier.save(tmp_path / "eval_results.json")
    merged = [
        with_earlier(
            result("privacy", rows=rows, rows_sha256={"forget": digest}), RunFolder(tmp_path), ["tofu", "privacy"]
        )
        for rows, digest in (({"forget": 3, "holdout": 4}, "a"), ({"forget": 3}, "b"), ({"forget": 2}, "a"))
    ]
    assert [one.suites for one in merged] == [["tofu", "privacy"], ["privacy"], ["privacy"]]
    assert capsys.readouterr().out.count("held tofu of other rows of the forget set, and is replaced") == 2


def test_rows_of_a_suite_that_is_measured_anew_do_not_replace_the_other_suites(tmp_path, capsys):
    def result(suites, **protocol):
        common = {"weights_sha256": {"unlearned": {"model.safetensors": "ab"}}, "seed": 1}
        environment = {"torch": protocol.pop("torch")}
        models = {"models": {"unlearned": {}}, "environment": environment, "parity": "strict"}
        return EvaluationResult(suites=suites, protocol=common | protocol, **models)

    everything, folder = ["tofu", "muse", "wmdp"], RunFolder(tmp_path)
    folder.save_results(result(everything, rows={"forget": 3, "muse forget_qa": 9, "wmdp/bio": 100}, torch="2.12"))
    merged = with_earlier(result(["wmdp"], rows={"wmdp/bio": 200}, torch="2.13"), folder, everything)
    assert merged.suites == everything
    assert merged.protocol["rows"] == {"forget": 3, "muse forget_qa": 9, "wmdp/bio": 200}
    assert capsys.readouterr().out == "Tofu, muse had another environment (torch 2.12, now 2.13).\n"
    merged = with_earlier(result(["muse"], rows={"muse forget_qa": 8}, torch="2.12"), folder, everything)
    assert (merged.suites, capsys.readouterr().out) == (everything, "")
    # A training has a seed of its own, and `evaluate` has 42 if none is given.
    merged = with_earlier(result(["wmdp"], rows={"wmdp/bio": 200}, torch="2.12", seed=2), folder, everything)
    assert (merged.suites, merged.protocol["seed"]) == (everything, 2)


def test_suites_with_other_prompts_labels_or_answers_beside_the_true_ones_do_not_join(tiny_tokenizer, forget_rows):
    text = tiny_tokenizer("Ada Marlow was born in Veldt, in the year 1902.")["input_ids"]
    tokens = {"input_ids": text, "labels": text, "prompt_length": 3}
    masked = {**tokens, "labels": [-100, -100, *text[2:]]}
    wrong = {**forget_rows[0], "perturbed_answer": ["In Oslo."]}

    def result(suite, row):
        protocol = rows_protocol(encode_set([row], tiny_tokenizer, name="forget"), seed=1)
        return EvaluationResult(parity="strict", suites=[suite], models={}, environment={}, protocol=protocol)

    for row, other, words in (
        (tokens, {**tokens, "prompt_length": 4}, ["other prompts or labels of the forget set"]),
        (tokens, masked, ["other prompts or labels of the forget set"]),
        (wrong, {**wrong, "perturbed_answer": ["In Rome."]}, ["other paraphrased or wrong answers of the forget set"]),
        # A suite that reads no wrong answers says nothing of them.
        (wrong, forget_rows[0], []),
    ):
        assert result("tofu", row).unlike(result("privacy", other)) == words
        assert result("tofu", row).unlike(result("privacy", row)) == []
    # Records from before these digests say nothing of labels.
    earlier = result("tofu", tokens)
    del earlier.protocol["labels_sha256"], earlier.protocol["answers_sha256"]
    assert result("privacy", masked).unlike(earlier) == []


def test_results_of_other_weights_are_replaced_and_that_is_said(run, own, checkpoint, holdout):
    run("evaluate", own)
    other = [checkpoint if part == own[3] else part for part in own]
    done = run("evaluate", [*other, "--suites", "privacy", "--holdout_dataset", holdout])
    assert result_of(done).suites == ["privacy"]
    assert "held tofu of other models" in done.printed


def test_suites_of_weights_without_a_digest_do_not_join(own, tmp_path, capsys):
    folder = tmp_path / "pickled"
    folder.mkdir()
    shutil.copy(Path(own[3], "config.json"), folder)
    (folder / "pytorch_model.bin").write_bytes(b"weights")
    model_args = UnlearnModelConfig(model_name_or_path=str(folder))
    outcomes = {name: SuiteOutcome({"unlearned": {}}) for name in ("tofu", "privacy")}
    first, second = (
        evaluation_result({name: outcome}, EvaluationArguments(), model_args, str(folder))
        for name, outcome in outcomes.items()
    )
    RunFolder(tmp_path).save_results(first)
    assert with_earlier(second, RunFolder(tmp_path), ["tofu", "privacy"]).suites == ["privacy"]
    assert "held tofu of perhaps other models, and is replaced" in capsys.readouterr().out


def test_suites_in_another_precision_do_not_join_and_earlier_records_that_do_not_say_theirs_do(run, own, holdout):
    done = run("evaluate", own)
    privacy = [*own, "--suites", "privacy", "--holdout_dataset", holdout]
    # The checkpoints are in float32, and "auto" is what they are in.
    assert result_of(run("evaluate", [*privacy, "--dtype", "auto"])).suites == ["tofu", "privacy"]
    earlier = result_of(done)
    assert earlier.protocol.pop("dtype") == "float32"
    done = run("evaluate", [*privacy, "--dtype", "bfloat16"])
    assert (result_of(done).suites, result_of(done).protocol["dtype"]) == (["privacy"], "bfloat16")
    assert "held tofu of another `dtype`, and is replaced" in done.printed
    assert result_of(done).unlike(earlier) == []


def nudged(name, folder):
    """The model of a folder with other weights: it knows no more than the first, and its scores differ a little."""
    model = AutoModelForCausalLM.from_pretrained(name)
    torch.manual_seed(0)
    with torch.no_grad():
        model.lm_head.weight.add_(0.2 * torch.randn_like(model.lm_head.weight))
    model.save_pretrained(folder)
    return str(folder)


def five_rows(path):
    """A file of rows about five people: fewer rows are not compared with answers about others."""
    names = ("Ada Marlow", "Bo Lindgren", "Cyra Oduya", "Gil Sarkis", "Hedda Quist")
    pairs = [(f"Where was {name} born?", f" {name} was born in the town number {i}.") for i, name in enumerate(names)]
    rows = [{"prompt": question, "completion": answer} for question, answer in pairs]
    return write_jsonl(path, rows)


def test_a_quick_evaluation_answers_five_questions_beside_a_retrained_model_and_generates_nothing(
    run, checkpoint, retrained, own_files, tmp_path, monkeypatch
):
    forget, (_, retain) = five_rows(tmp_path / "five.jsonl"), own_files("prompt-completion")
    monkeypatch.setattr("trl_unlearn.generation.generate", None)
    unlearned = nudged(retrained, tmp_path / "nudged")
    models = ["--model_name_or_path", checkpoint, "--unlearned_model_name_or_path", unlearned]
    models += ["--retrained_model_name_or_path", retrained, "--forget_dataset", forget, "--retain_dataset", retain]
    done = run("evaluate", [*models, "--quick", "--holdout_dataset", retain])
    result = result_of(done)
    assert result.suites == ["tofu", "privacy", "robustness", "depth"]
    assert set(result.models["unlearned"]) >= {
        *("forget/extraction_strength", "retain/probability", "privacy/loss_auc"),
        *("robustness/relearned_2_steps", "depth/logit_lens"),
    }
    # The last stands in for a retrained model.
    left_out = {"forget/rougeL_recall", "privacy/spv_auc", "depth/uds", "forget/squeezing", "forget/strangers_auc"}
    assert not left_out & set(result.models["unlearned"])
    # Nothing of the target is read beside a retrained model.
    assert result.models["target"] is None and "The target is not measured" in done.printed
    assert result.protocol["weights_sha256"].keys() == {"unlearned", "retrained"}
    # The unlearned model is as the retrained one, as far as five rows tell; and that one is no reference for itself.
    *words, kept = [answer.words for answer in verdict(result).answers]
    assert [one[:30] for one in words] == ["As a model that never knew, as"] * 4
    assert kept.startswith("As a model that never knew")
    assert result.protocol["quick"]["rows"] == 40 and "Quick: 5 rows." in done.printed
    models[3] = retrained
    itself = run("evaluate", [*models, "--quick", "--holdout_dataset", retain])
    assert [answer.answer for answer in verdict(result_of(itself)).answers] == ["not measured"] * 5
    sentence = "The retrained model has the weights or the scores of this one. It is no reference"
    assert sentence in " ".join(itself.printed.split())
    assert not list((done.folder / "figures").glob("relearning*"))


def test_a_quick_evaluation_of_a_model_alone_needs_nothing_but_forget_rows(run, checkpoint, tmp_path, capfd):
    argv = ["--model_name_or_path", checkpoint, "--forget_dataset", five_rows(tmp_path / "five.jsonl")]
    done = run("evaluate", [*argv, "--quick", "--max_eval_rows", "5"])
    result = result_of(done)
    assert result.suites == ["tofu", "robustness", "depth"] and result.models["target"] is None
    assert result.protocol["weights_sha256"].keys() == {"unlearned"} and result.protocol["quick"]["rows"] == 5
    answers = verdict(result).answers
    assert [answer.answer for answer in answers if answer.beside != "chance"] == ["not measured"] * 4
    tell = next(answer for answer in answers if answer.beside == "chance")
    assert tell.metric == "forget/strangers_auc" and tell.words in " ".join(done.printed.split())
    # A quick one of the same rows is added to, and a whole evaluation replaces it, but not the other way round.
    again = result_of(run("evaluate", [*argv, "--quick", "--max_eval_rows", "5", "--suites", "depth"]))
    assert again.models == result.models and again.suites == result.suites
    assert result_of(run("evaluate", argv)).suites == ["tofu"]
    with pytest.raises(SystemExit):
        run("evaluate", [*argv, "--quick"])
    assert "holds a whole evaluation, which the numbers of `quick` would replace" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--suites", "tofu,judge"], "`quick` is given with `suites` ['judge'], which have no quick form"),
        (["--fluency_classifier", "any"], "`fluency_classifier` is given with `quick`"),
        (["--suites", "privacy"], "The suite `privacy` has no non-members"),
        (["--suites", "robustness", "--holdout_dataset", "any"], "Add `privacy` to `suites`"),
    ],
)
def test_what_contradicts_a_quick_evaluation_is_refused(refuse, own, argv, sentence):
    assert sentence in refuse([*own, "--quick", *argv])


def test_a_quick_evaluation_of_rows_without_facts_leaves_the_lens_out(run, own, tmp_path, caplog):
    rows = [{"prompt": f"{i} red?", "completion": " red"} for i in range(6)]
    path = write_jsonl(tmp_path / "flat.jsonl", rows)
    argv = [path if part == own[own.index("--forget_dataset") + 1] else part for part in own]
    done = run("evaluate", [*argv, "--quick"])
    assert not any(name.startswith("depth/") for name in result_of(done).models["unlearned"])
    assert "`depth/logit_lens` is left out. The suite `depth` has no fact to look for" in caplog.text


def test_suites_that_merge_an_adapter_are_refused_for_one_that_learned_a_prompt(own, refuse, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(own[1])
    prompts = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(model, prompts).save_pretrained(tmp_path / "prompts")
    argv = [*own, "--unlearned_model_name_or_path", str(tmp_path / "prompts"), "--suites", "tofu,robustness"]
    assert "is an adapter that learned a prompt, and the suites ['robustness'] change or merge weights" in refuse(argv)


TOGETHER = """
import sys
from accelerate import PartialState
from trl_unlearn.scripts import evaluate

evaluate.main(sys.argv[1:])
assert PartialState().num_processes == 2
PartialState().destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_make_one_evaluation(own, holdout, launch, tmp_path):
    suites = "tofu,privacy,robustness,distribution,depth,elicitation"
    suites_of = ["--suites", suites, "--holdout_dataset", holdout, "--max_eval_rows", "2"]
    evaluate.main([*own, *suites_of, "--output_dir", str(tmp_path / "one")])
    assert launch(TOGETHER, *own, *suites_of, "--output_dir", tmp_path / "two") == [0, 0]
    one, two = (EvaluationResult.load(tmp_path / name / "eval_results.json") for name in ("one", "two"))
    for role, measured in one.models.items():
        for name, measurement in (measured or {}).items():
            assert two.models[role][name].value == pytest.approx(measurement.value, abs=1e-5), name
