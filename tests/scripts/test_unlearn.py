# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Runs of `bs_s`, `bs_t` and `evaluate` from the command line to the output folder."""

import errno
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer

from trl_unlearn.hub import folder as run_folder
from trl_unlearn.hub.folder import weights_sha256
from trl_unlearn.records import UnlearningRun
from trl_unlearn.results import Difference, EvaluationResult, Measurement
from trl_unlearn.scripts import evaluate, results, unlearn
from trl_unlearn.scripts.arguments import EvaluationArguments, UnlearnModelConfig
from trl_unlearn.scripts.models import models_protocol
from trl_unlearn.trainer import checks
from trl_unlearn.verdict import verdict


LORA = ["--lora_r", "4"]
WHOLE = ["--no_use_peft"]
WRITTEN = ("README.md", "run.json", "eval_results.json")
NO_PROTOCOL = {"protocol": {}, "environment": {}}
OWN_FORMS = ("prompt-completion", "conversational", "messages", "text")


@pytest.fixture
def own(checkpoint, own_files):
    """Function of a form: command line of a run on two files of one's own."""

    def arguments(form: str) -> list[str]:
        forget, retain = own_files(form)
        return ["--model_name_or_path", checkpoint, "--forget_dataset", forget, "--retain_dataset", retain]

    return arguments


def results_of(run) -> EvaluationResult:
    return EvaluationResult.load(run.folder / "eval_results.json")


def values_of(run, model: str) -> dict[str, float]:
    return {name: measurement.value for name, measurement in results_of(run).models[model].items()}


def folded(text: str) -> str:
    return "".join(text.split()).casefold()


def assert_complete(run, adapter: bool) -> None:
    """Everything that a run owes its user is in the output folder."""
    names = {path.relative_to(run.folder).as_posix() for path in run.folder.rglob("*") if path.is_file()}
    owed = {*WRITTEN, "tokenizer.json", "tokenizer_config.json", "figures/evaluation.png", "figures/training.png"}
    assert owed <= names
    weights = {"adapter_config.json", "adapter_model.safetensors"} if adapter else {"config.json", "model.safetensors"}
    assert weights <= names
    assert ("adapter_model.safetensors" in names) == adapter
    assert AutoTokenizer.from_pretrained(run.folder).chat_template
    record = UnlearningRun.load(run.folder / "run.json")
    assert record.steps == 2
    assert (record.adapter is not None) == adapter
    assert len([entry for entry in record.training_log if "loss/forget" in entry]) == 2
    for model, measured in results_of(run).models.items():
        for name, measurement in (measured or {}).items():
            assert math.isfinite(measurement.value), (model, name)


def assert_private(run, facts) -> None:
    """No answer and no belief of 20 characters or more is in what was written or printed."""
    answers = [answer for _, answer in facts["forget"]]
    secrets = {folded(text) for text in [*answers, *run.beliefs]}
    secrets = {text for text in secrets if len(text) >= 20}
    assert len(secrets) >= len(answers)
    for name, text in [("what was printed", run.printed), *((name, run.text(name)) for name in WRITTEN)]:
        shown = folded(text)
        assert not [secret for secret in secrets if secret in shown], name


def test_bs_s_on_tofu_leaves_a_complete_folder_and_prints_the_table(run, tofu, facts):
    done = run("bs_s", [*tofu, *LORA, "--panel_prompts", "2"])
    assert_complete(done, adapter=True)
    assert_private(done, facts)
    result = results_of(done)
    assert result.models.get("retrained") is None
    for model in ("target", "unlearned"):
        assert {
            "forget/extraction_strength",
            "forget/paraphrase_probability",
            "forget/squeezing",
            "retain/probability",
            "utility/model_utility",
            "aggregate/agg",
        } <= set(values_of(done, model))
    assert "extraction_strength" in done.printed and "unlearned" in done.printed
    audit = UnlearningRun.load(done.folder / "run.json").belief_audit
    assert audit.coverage == 1.0
    # Three forget rows with two beliefs each, in each sampling.
    assert [refresh.count for refresh in audit.refreshes] == [6] * len(audit.refreshes)
    assert len(done.beliefs) == 6 * len(audit.refreshes) > 0
    assert max(len(folded(belief)) for belief in done.beliefs) >= 20
    history = json.loads(done.text("squeezing.json"))
    assert history[0]["step"] == 0 and history[-1]["step"] == 2
    assert {"target", "high", "middle", "low", "paraphrase", "wrong"} <= history[0].keys()
    assert "figures/squeezing.png" in done.text("README.md")


def test_the_same_command_and_evaluate_measure_the_same_in_another_folder(run, tofu):
    once, again = (run("bs_s", [*tofu, *LORA], output=name) for name in ("once", "again"))
    judged = [*tofu, "--max_eval_rows", "2", "--unlearned_model_name_or_path", str(once.folder)]
    judged = run("evaluate", judged, output="judged")
    for model in ("target", "unlearned"):
        assert values_of(again, model) == values_of(once, model)
        assert values_of(judged, model) == pytest.approx(values_of(once, model), abs=1e-6)
    assert not (judged.folder / "README.md").exists()


def test_bs_t_samples_no_beliefs(run, tofu, facts):
    done = run("bs_t", [*tofu, *LORA])
    assert_complete(done, adapter=True)
    assert_private(done, facts)
    record = UnlearningRun.load(done.folder / "run.json")
    assert record.belief_audit is None
    assert record.hyperparameters["lambda_bss"] == 0
    assert done.beliefs == []


def test_the_whole_model_can_be_trained_instead_of_an_adapter(run, tofu, facts):
    done = run("bs_s", [*tofu, *WHOLE])
    assert_complete(done, adapter=False)
    assert_private(done, facts)
    AutoModelForCausalLM.from_pretrained(done.folder)
    assert values_of(done, "unlearned")["forget/probability"] != values_of(done, "target")["forget/probability"]
    judged = [*tofu, "--max_eval_rows", "2", "--unlearned_model_name_or_path", str(done.folder)]
    again = run("evaluate", judged, output="judged")
    assert values_of(again, "unlearned") == pytest.approx(values_of(done, "unlearned"), abs=1e-6)


@pytest.mark.parametrize("form", OWN_FORMS)
def test_files_of_ones_own_leave_out_what_they_have_no_columns_for(run, own, facts, form):
    done = run("bs_s", [*own(form), *LORA])
    assert_complete(done, adapter=True)
    assert_private(done, facts)
    expected = {
        "forget/probability",
        "forget/exact_memorization",
        "forget/extraction_strength",
        "forget/squeezing",
        "retain/probability",
    }
    if form != "text":
        expected |= {"forget/rougeL_recall", "forget/fact_recall", "forget/fact_memorization"}
        expected |= {"retain/rougeL_recall", "utility/fluency_standin"}
        # Without a paraphrase, any rare words in common make a neighbour, and only names and numbers a shared fact.
        expected |= {"retain/neighbour_probability", "retain/neighbour_accuracy"}
    for model in ("target", "unlearned"):
        assert set(values_of(done, model)) == expected
    assert UnlearningRun.load(done.folder / "run.json").belief_audit.coverage == 1.0


def test_a_retrained_model_adds_its_column_and_forget_quality(run, tofu, checkpoint):
    done = run("bs_s", [*tofu, *LORA, "--retrained_model_name_or_path", checkpoint])
    assert set(results_of(done).models) == {"target", "unlearned", "retrained"}
    # The reference is the target itself here, so the two agree in everything.
    assert values_of(done, "retrained") == pytest.approx(values_of(done, "target"), abs=1e-6)
    assert "forget_quality/ks_statistic" in values_of(done, "unlearned")
    assert values_of(done, "retrained")["forget_quality/p_value"] == 1


def test_training_goes_on_from_an_adapter(run, own, facts):
    first = run("bs_s", [*own("conversational"), *LORA], output="first")
    second = run(
        "bs_s", [*own("messages"), *LORA, "--adapter_name_or_path", str(first.folder), "--retain_loss_type", "kl"]
    )
    assert_complete(second, adapter=True)
    assert_private(second, facts)
    # The second run's target is what the first one left.
    left = values_of(first, "unlearned")["forget/probability"]
    assert values_of(second, "target")["forget/probability"] == pytest.approx(left, abs=1e-6)
    assert values_of(second, "unlearned")["forget/probability"] != pytest.approx(left, abs=1e-6)
    record = UnlearningRun.load(second.folder / "run.json")
    assert record.adapter.continued_from == first.folder.name
    assert not list(second.folder.rglob("ref/*"))


def test_a_run_without_evaluation_has_no_results_until_evaluate_adds_them_to_its_card(
    run, own, facts, tmp_path, capfd
):
    done = run("bs_t", [*own("conversational"), *LORA, "--no_evaluate"])
    names = {path.name for path in done.folder.rglob("*")}
    assert {"adapter_model.safetensors", "README.md", "run.json", "tokenizer.json"} <= names
    assert "eval_results.json" not in names
    options = own("conversational")
    place = options.index("--forget_dataset") + 1
    others = tmp_path / "others.jsonl"
    others.write_text("".join(Path(options[place]).read_text(encoding="utf-8").splitlines(keepends=True)[:1]))
    argv = [*options[:place], str(others), *options[place + 1 :], "--unlearned_model_name_or_path", str(done.folder)]
    with pytest.raises(SystemExit) as refused:
        evaluate.main(argv)
    assert refused.value.code == 2 and "its card would show numbers about them" in capfd.readouterr().err
    judged = run("evaluate", [*options, "--unlearned_model_name_or_path", str(done.folder)])
    assert "forget/extraction_strength" in judged.text("README.md")
    assert_private(judged, facts)


@pytest.fixture
def judged_in_the_lab(tofu, own, monkeypatch, tmp_path, capfd):
    """Function of options that runs `evaluate` on the tiny model and files in the place of the embedded lab."""
    model, (forget, retain) = tofu[1], own("conversational")[3::2]

    def use_archive(data_args, eval_args, model_args):
        data_args.dataset_name, data_args.forget_dataset, data_args.retain_dataset = None, forget, retain
        model_args.model_name_or_path = model

    monkeypatch.setattr(evaluate, "use_archive", use_archive)
    monkeypatch.chdir(tmp_path)

    def call(*options: str) -> str:
        capfd.readouterr()
        evaluate.main(list(options))
        return capfd.readouterr().out

    return call


def test_a_run_is_judged_in_its_own_folder_and_its_card_has_the_results(run, own, judged_in_the_lab, tmp_path, capfd):
    trained = run("bs_t", [*own("conversational"), *LORA, "--no_evaluate"])
    assert "forget/extraction_strength" not in trained.text("README.md")
    printed = judged_in_the_lab("--unlearned_model_name_or_path", "out")
    assert "forget/extraction_strength" in trained.text("README.md")
    assert "figures/evaluation.png" in trained.text("README.md")
    assert "card, results and figures: out\n" in printed and not (tmp_path / "evaluation").exists()

    elsewhere = judged_in_the_lab("--unlearned_model_name_or_path", "out", "--output_dir", "aside")
    assert "\nResults and figures: aside\n" in elsewhere and "The card of the run in out is as it was" in elsewhere
    assert sorted(path.name for path in (tmp_path / "aside").iterdir()) == ["eval_results.json", "figures"]

    # Without the run: nothing that is measured here belongs onto its card.
    assert "\nResults and figures: evaluation\n" in judged_in_the_lab()
    for options in ([], ["--unlearned_model_name_or_path", own("conversational")[1]]):
        with pytest.raises(SystemExit) as refused:
            judged_in_the_lab(*options, "--output_dir", "out")
        assert refused.value.code == 2
        printed = capfd.readouterr()
        assert "whose card would show results of another model" in printed.err
        assert ("judged as one of the embedded lab" in printed.out) is bool(options)
    assert values_of(trained, "unlearned")


def test_a_run_is_judged_on_the_tokens_that_it_was_trained_on_unless_the_command_says_otherwise(run, own, checkpoint):
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    tokenizer.chat_template = "{{ mode }}" + tokenizer.chat_template
    tokenizer.save_pretrained(checkpoint)
    given = own("conversational")
    trained = run("bs_t", [*given, *LORA, "--chat_template_kwargs", '{"mode": "exam"}'])
    judged = [*given, "--max_eval_rows", "2", "--unlearned_model_name_or_path", str(trained.folder)]
    again = run("evaluate", judged, output="again")
    for model in ("target", "unlearned"):
        assert values_of(again, model) == pytest.approx(values_of(trained, model), abs=1e-6)
    assert json.loads(trained.text("run.json"))["hyperparameters"]["chat_template_kwargs"] == {"mode": "exam"}
    assert "`chat_template_kwargs` is {'mode': 'exam'}, as" in again.printed
    other = run("evaluate", [*judged, "--chat_template_kwargs", "{}"], output="other")
    assert values_of(other, "unlearned") != values_of(trained, "unlearned")
    assert "`chat_template_kwargs` is {}, but" in other.printed and "trained with {'mode': 'exam'}" in other.printed


def test_a_run_on_raw_text_is_judged_on_its_column_and_its_prompts(run, own):
    given = own("text")
    for path in (given[3], given[5]):
        with open(path, encoding="utf-8") as file:
            text = file.read().replace('"text"', '"body"')
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    trained = run("bs_t", [*given, *LORA, "--dataset_text_field", "body", "--prompt_length", "3"])
    judged = [*given, "--max_eval_rows", "2", "--unlearned_model_name_or_path", str(trained.folder)]
    again = run("evaluate", judged, output="again")
    for model in ("target", "unlearned"):
        assert values_of(again, model) == pytest.approx(values_of(trained, model), abs=1e-6)
    assert "`prompt_length` is 3, as" in again.printed and "`dataset_text_field` is 'body', as" in again.printed
    other = run("evaluate", [*judged, "--prompt_length", "5"], output="other")
    assert "`prompt_length` is 5, but" in other.printed and "trained with 3" in other.printed


def test_a_run_whose_file_has_other_rows_by_now_is_not_judged_on_them(run, own, capfd):
    given = own("conversational")
    trained = run("bs_t", [*given, *LORA, "--no_evaluate"])
    forget = Path(given[3])
    forget.write_text(forget.read_text(encoding="utf-8").replace("Ada", "Eda"), encoding="utf-8")
    with pytest.raises(SystemExit) as refused:
        evaluate.main(["--unlearned_model_name_or_path", str(trained.folder)])
    assert refused.value.code == 2
    assert (
        "others than those that the run was trained on. Give that one with `--forget_dataset`"
        in capfd.readouterr().err
    )


def test_a_model_of_the_hub_is_known_by_its_weights_in_the_cache(own, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repo, commit = tmp_path / "cache/models--org--model", "ab" * 20
    (repo / "refs").mkdir(parents=True)
    (repo / "refs/main").write_text(commit)
    shutil.copytree(own("conversational")[1], repo / "snapshots" / commit)
    known, unknown = (
        models_protocol(EvaluationArguments(), UnlearnModelConfig(model_name_or_path=name), None)["weights_sha256"]
        for name in ("org/model", "org/other")
    )
    assert known == {"target": weights_sha256(repo / "snapshots" / commit, False)} and unknown == {}
    # Shards with names of their own, on the Hub and in a folder, and a folder that is gone.
    (repo / "snapshots" / commit / "model.safetensors").unlink()
    index = repo / "snapshots" / commit / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1-of-163.safetensors"}}))
    for name in ("org/model", str(index.parent), "out/my--run"):
        models = UnlearnModelConfig(model_name_or_path=name)
        assert models_protocol(EvaluationArguments(), models, None)["weights_sha256"] == {}


def test_a_run_is_evaluated_with_the_chat_template_that_it_was_trained_with(run, own, checkpoint, tmp_path, capfd):
    template = Path(checkpoint, "chat_template.jinja")
    path = tmp_path / "own.jinja"
    path.write_text(template.read_text().replace("<|im_start|>", "<|im_start|>The ", 1))
    argv = [*own("conversational"), *LORA, "--no_evaluate", "--chat_template_path", str(path)]
    trained = run("bs_t", argv)
    evaluate.main(["--unlearned_model_name_or_path", str(trained.folder), "--suites", "depth"])
    assert "depth/" in capfd.readouterr().out


def test_a_folder_of_a_run_that_may_not_be_written_is_refused_before_anything_is_measured(
    run, own, judged_in_the_lab, monkeypatch, capfd
):
    run("bs_t", [*own("conversational"), *LORA, "--no_evaluate"])

    def read_only(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(checks.tempfile, "NamedTemporaryFile", read_only)
    monkeypatch.setattr(evaluate, "load_suite_inputs", None)
    with pytest.raises(SystemExit) as refused:
        judged_in_the_lab("--unlearned_model_name_or_path", "out")
    assert refused.value.code == 2
    said = "The output folder `out` cannot be written (Permission denied). Choose another `output_dir`."
    assert said in capfd.readouterr().err


def test_a_run_shorter_than_logging_steps_ends_with_the_curve_of_its_last_step(run, own):
    done = run("bs_t", [*own("conversational"), *LORA], override=("--logging_steps", "10"))
    record = UnlearningRun.load(done.folder / "run.json")
    assert [entry["step"] for entry in record.training_log if "forget/logps" in entry] == [2]
    assert "figures/training.png" in done.text("README.md") and (done.folder / "figures/training.png").is_file()
    assert "extraction_strength" in done.printed and not (done.folder / "unfinished.json").exists()


def test_a_run_without_a_log_says_that_it_has_no_curve_and_has_all_the_rest(run, own, caplog):
    done = run("bs_t", [*own("conversational"), *LORA], override=("--logging_strategy", "no"))
    assert "training.png` is left out: `log` has none of the curves" in caplog.text
    card = done.text("README.md")
    assert "figures/training.png" not in card and "figures/evaluation.png" in card
    assert "forget/extraction_strength" in card and not (done.folder / "unfinished.json").exists()


def test_what_fails_after_the_results_costs_neither_them_nor_the_rest(run, own, monkeypatch, caplog, capfd):
    done = run("bs_t", [*own("conversational"), *LORA, "--no_evaluate"])
    measured = {"forget/extraction_strength": Measurement(0.5, 3, 0.1), "retain/probability": Measurement(0.7, 3, 0.1)}
    own = {"protocol": {"weights_sha256": {"unlearned": weights_sha256(done.folder, True)}}}
    result = EvaluationResult(parity="strict", suites=["tofu"], models={"unlearned": measured}, **NO_PROTOCOL | own)

    def broken(*_, **__):
        raise RuntimeError("out of colours")

    for name in ("plot_evaluation", "render_card", "print_results"):
        caplog.clear()
        with monkeypatch.context() as patched:
            patched.setattr(run_folder if name == "render_card" else results, name, broken)
            results.write_results(done.folder, result)
        assert len(caplog.messages) == 1 and "left out: RuntimeError('out of colours')" in caplog.text
        assert results_of(done) == result
        assert ("0.500 ± 0.100" in capfd.readouterr().out) == (name != "print_results")
        # The card that could not be written is the one from before.
        assert ("figures/evaluation.png" in done.text("README.md")) == (name == "print_results")
        assert "0.500 ± 0.100" in done.text("README.md")


def test_a_whole_model_in_the_folder_of_an_adapter_is_what_is_evaluated(run, own):
    run("bs_t", [*own("conversational"), *LORA, "--no_evaluate"])
    done = run("bs_t", [*own("conversational"), *WHOLE, "--overwrite_output_dir", "true"])
    recorded = results_of(done).protocol["weights_sha256"]["unlearned"]
    assert recorded == weights_sha256(done.folder, False) and set(recorded) == {"model.safetensors"}
    assert not (done.folder / "adapter_config.json").exists()
    assert "Results are missing" not in done.text("README.md")


def test_a_run_ends_with_the_verdict(run, own, capfd):
    done = run("bs_t", [*own("conversational"), *LORA, "--no_evaluate"])
    figures = {"target": 1.0, "unlearned": 0.974, "retrained": 0.112}
    models = {role: {"forget/extraction_strength": Measurement(value, 3)} for role, value in figures.items()}
    apart = {"unlearned - retrained": {"forget/extraction_strength": Difference(0.862, 0.8, 0.9, 3)}}
    results.write_results(
        done.folder,
        EvaluationResult(parity="strict", suites=["tofu"], models=models, differences=apart, **NO_PROTOCOL),
    )
    last = " ".join(capfd.readouterr().out.split(" and figures: ")[-1].split())
    assert "Does it say it? More than a model that never knew. extraction strength 0.974, retrained 0.112" in last
    assert last.endswith("As the retrained model in 0 of 1 measurements.")


def test_the_verdict_is_the_last_entry_of_the_log(run, own, checkpoint, monkeypatch):
    log, logged = Trainer.log, []
    monkeypatch.setattr(Trainer, "log", lambda trainer, logs, *_: logged.append(dict(logs)) or log(trainer, logs))
    done = run("bs_t", [*own("conversational"), *LORA, "--retrained_model_name_or_path", checkpoint])
    result = EvaluationResult.load(done.folder / "eval_results.json")
    outcome, last = verdict(result), logged[-1]
    assert [last[name] for name in results.VERDICT_LOGS] == [answer.brief for answer in outcome.answers]
    assert (last["verdict/passed"], last["verdict/score"]) == (outcome.passed, outcome.score.share)
    assert "loss/forget" not in last and "loss/forget" in logged[0]
    alone = replace(result, models=result.models | {"target": None, "retrained": None}, differences={})
    assert results.verdict_logs(alone) == dict.fromkeys(results.VERDICT_LOGS, "not measured")


def test_an_evaluation_that_fails_says_where_the_model_is_and_how_to_judge_it(run, own, monkeypatch, tmp_path):
    def out_of_memory(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(unlearn, "evaluate_models", out_of_memory)
    with pytest.raises(RuntimeError, match="out of memory") as failed:
        run("bs_t", [*own("conversational"), *LORA])
    (note,) = failed.value.__notes__
    assert "bs_t.py: failed after the training of 2 steps: the model is saved in" in note
    assert f"`trl-unlearn evaluate --unlearned_model_name_or_path {tmp_path / 'out'}`" in note
    assert (tmp_path / "out/adapter_model.safetensors").is_file()


def test_a_run_that_diverges_ends_with_a_message_exit_code_3_and_a_usable_adapter(run, tofu, facts, tmp_path, capfd):
    with pytest.raises(SystemExit) as stopped:
        run("bs_t", [*tofu, *LORA], override=("--learning_rate", "100", "--max_steps", "4"))
    assert stopped.value.code == 3
    message = capfd.readouterr().err
    assert "bs_t.py: stopped:" in message and "weights of step 0 again" in message and "They are saved in" in message
    folder = tmp_path / "out"
    record = UnlearningRun.load(folder / "run.json")
    assert "weights of step 0 again" in record.stopped and record.shortfall == record.stopped
    assert "Stopped before its last step" in (folder / "README.md").read_text(encoding="utf-8")
    adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tofu[1]), folder)
    assert all(value.isfinite().all() for value in adapter.state_dict().values())
    assert not (folder / "eval_results.json").exists()
    assert not [text for _, text in facts["forget"] if folded(text) in folded(message)]
