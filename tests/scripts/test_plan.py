# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Settings for a request, by the model's knowledge of its rows."""

import re
from types import SimpleNamespace

import psutil
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from trl_unlearn.evaluation.callbacks import curve_point
from trl_unlearn.evaluation.rows import encode_set
from trl_unlearn.evaluation.stopping import EndAfter
from trl_unlearn.records import MISSED
from trl_unlearn.scripts import preflight, prepare
from trl_unlearn.scripts.arguments import UnlearnModelConfig
from trl_unlearn.scripts.plan import advice, plan, retain_count, retain_spare, second_attempt, step_settings
from trl_unlearn.scripts.preflight import Knowledge, fit_base, knowledge
from trl_unlearn.scripts.rows import spread
from trl_unlearn.trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig

from ..conftest import FACTS, conversations


NAMES = ["Ada Marlow", "Bo Lindgren", "Cyra Oduya"]


@pytest.fixture
def chosen(forget_rows, retain_rows, tiny_tokenizer):
    """Function of what is known and of options: the settings, and the reasons as one text."""

    def call(
        names=NAMES,
        is_by_heart=False,
        *,
        base=None,
        use_peft=True,
        subjects=None,
        width=576,
        own=True,
        retain=retain_rows,
        floor=0.7,
        processes=1,
        **given,
    ):
        known = Knowledge([1.0] * 3, [0.9] * 3, 1.0, names, is_by_heart)
        request = SimpleNamespace(
            model_args=UnlearnModelConfig(use_peft=use_peft),
            training_args=SimpleNamespace(seed=42, world_size=processes),
            tokenizer=tiny_tokenizer,
            config=LlamaConfig(hidden_size=width),
            given=given,
            subjects=subjects,
            learns_retain=own,
        )
        one = plan(request, known, forget_rows, retain, retain_floor=floor, base=base)
        return one.settings, " ".join(one.reasons)

    return call


@pytest.mark.parametrize(
    ("strengths", "rows"), [([0.9, 0.1, 0.1], [0]), ([0.9, 0.9, 0.1], [0, 1, 2]), ([0.1, 0.1, 0.1], [0, 1, 2])]
)
def test_few_known_rows_are_unlearned_alone_and_rows_that_are_known_only_beside_others_all(strengths, rows):
    known = Knowledge(strengths, [0.1] * 3, 0.9, NAMES)
    assert known.is_known and known.to_unlearn == rows


def test_a_large_forget_set_has_passes_and_a_small_one_steps(chosen, monkeypatch):
    assert chosen()[0]["num_train_epochs"] == 240
    monkeypatch.setattr("trl_unlearn.scripts.plan._STEPS", 7)
    assert chosen()[0]["num_train_epochs"] == 8


def test_passes_are_counted_in_steps_of_all_processes_and_accumulated_batches(chosen):
    # Three rows, one a batch: three steps a pass, or two of two batches, or one of four or more.
    options = [
        {},
        {"gradient_accumulation_steps": 2},
        {"processes": 2},
        {"gradient_accumulation_steps": 2, "processes": 2},
    ]
    settings = [chosen(per_device_train_batch_size=1, **option)[0] for option in options]
    assert [one["num_train_epochs"] for one in settings] == [80, 120, 120, 240]
    assert [one["belief_refresh_epochs"] for one in settings] == [5, 8, 8, 15]


def test_rows_about_people_are_unlearned_by_what_the_model_says_of_strangers(chosen):
    settings, reasons = chosen()
    assert (settings["forget_loss_type"], settings["stop_metric"]) == ("ignorance", "strangers_auc")
    assert "people whom it does not know" in reasons and "below 0.70" in reasons
    assert "forget_subjects" not in settings
    assert chosen(subjects=NAMES)[0]["forget_subjects"] == NAMES


def test_rows_under_the_last_name_or_a_misspelt_one_of_a_subject_are_about_it(tiny_model, tiny_tokenizer):
    for nobody in ([], ["She"]):
        asked = [*nobody, "Ada Marlow", "Marlow", "Adaa Marloww"]
        rows = conversations([(f"Where was {name} born?", "She was born in Veldt.") for name in asked])
        assert knowledge(tiny_model, tiny_tokenizer, rows, ["Ada Marlow"], 0).has_names == (not nobody)
    # The model is asked about somebody else in place of a name that is given.
    assert not knowledge(tiny_model, tiny_tokenizer, rows.select([2, 3]), ["Ada Marlow"], 0).has_names


@pytest.mark.parametrize("words", [5, 9])
def test_names_of_more_words_than_can_be_replaced_are_no_error(words, tiny_model, tiny_tokenizer):
    names = [" ".join(f"{letter}{'abcdefghij'[i]}x" for i in range(words)) for letter in "AB"]
    rows = conversations([(f"Where was {name} born?", "In Veldt.") for name in names for _ in range(2)])
    known = knowledge(tiny_model, tiny_tokenizer, rows, None, 0)
    assert known.has_names and not known.is_by_heart


def test_rows_that_are_about_nobody_are_unlearned_by_ascent(chosen):
    settings, reasons = chosen(names=[None, None, "Cyra Oduya"], subjects=NAMES)
    assert (settings["forget_loss_type"], settings["stop_metric"]) == ("bs_t", "extraction_strength")
    assert "do not name whom they are about" in reasons
    assert settings["learning_rate"] == pytest.approx(3e-4)
    assert "forget_loss_kwargs" not in settings and "forget_subjects" not in settings


def test_a_metric_of_the_goal_that_is_given_has_its_own_level(chosen):
    settings, reasons = chosen(forget_loss_type="npo", stop_metric="strangers_auc")
    assert (settings["stop_at"], settings["stop_metric"]) == ("0.6", "strangers_auc")
    assert "likelier than one about somebody else in 60%" in reasons


def test_rows_that_are_known_by_heart_are_taught_by_a_copy_that_loses_them(chosen):
    settings, reasons = chosen(is_by_heart=True, subjects=NAMES)
    assert (settings["forget_loss_type"], settings["lambda_bss"]) == ("ignorance", 0)
    assert settings["forget_subjects"] == NAMES and "a copy of the model that loses them" in reasons
    assert settings["stop_every_steps"] == 2 * chosen()[0]["stop_every_steps"]
    assert [chosen(is_by_heart=by_heart)[0]["stop_at"] for by_heart in (True, False)] == ["0.7", "0.6"]
    # It is at the level of strangers, where a base is above it.
    margins = [one["forget_loss_kwargs"]["margin"] for one in (settings, chosen(is_by_heart=True, base="org/base")[0])]
    assert margins == [0, 2.5]
    # Strangers that are given are asked about.
    assert "people whom it does not know" in chosen(is_by_heart=True, forget_aliases=["Dov Peretz"])[1]


@pytest.mark.parametrize("base", [None, "org/base"])
def test_a_large_forget_set_comes_down_to_its_teacher(chosen, base, monkeypatch):
    small = chosen(is_by_heart=True, base=base)[0]
    monkeypatch.setattr("trl_unlearn.scripts.plan.LARGE_FORGET_SET", 2)
    large = chosen(is_by_heart=True, base=base)[0]
    changed = {name: large.get(name) for name in small if small[name] != large.get(name)}
    assert changed == {"stop_at": "teacher", "stop_metric": None}
    one, reasons = chosen(is_by_heart=True, base=base, stop_metric="strangers_auc")
    assert (one["stop_at"], one["stop_metric"]) == ("teacher", "strangers_auc")
    assert "ends when `strangers_auc` is that of the teacher, or" in reasons
    settings, reasons = chosen([None] * 3, is_by_heart=True, base="org/base")
    assert (settings["stop_at"], settings["stop_metric"]) == ("teacher", "extraction_strength")
    assert "ends when `extraction_strength` is that of the teacher, or" in reasons


@pytest.mark.parametrize("floor", [0.7123, 0.0004321])
def test_a_low_probability_of_rows_to_keep_is_a_floor_that_can_be_used(chosen, floor):
    assert chosen(floor=floor)[0]["stop_retain_floor"] == pytest.approx(floor, rel=1e-3)


@pytest.mark.parametrize(("given", "most"), [({}, 3), ({"max_eval_rows": 2}, 2)])
def test_the_floor_is_a_part_of_what_the_first_look_at_the_goal_measures(
    given, most, monkeypatch, tiny_model, tiny_tokenizer, forget_rows
):
    monkeypatch.setattr(prepare, "MOST_EVALUATED", 3)
    retain = conversations(FACTS[1:])
    request = SimpleNamespace(tokenizer=tiny_tokenizer, given=given, args=SimpleNamespace(max_utility_loss=0.2))
    sets = [
        encode_set(rows, tiny_tokenizer, name=name)
        for rows, name in ((forget_rows, "forget"), (spread(retain, most), "retain"))
    ]
    measured = curve_point(tiny_model, *sets, pad_token_id=0)["retain_probability"]
    assert prepare._retain_floor(request, tiny_model, retain) == pytest.approx(0.8 * measured, rel=1e-5)


def test_a_copy_teaches_only_where_rows_to_keep_about_others_repair_it(chosen):
    nobody = conversations([("what is rain?", "it is water.")])
    settings, reasons = chosen(is_by_heart=True, retain=nobody)
    assert (settings["forget_loss_type"], settings["lambda_bss"]) == ("bs_t", 0.5)
    assert "the rows to keep name nobody else" in reasons
    alone = "the model itself about people whom it does not know"
    for given in ({"retain": nobody, "forget_loss_type": "ignorance"}, {"ignorant_retain_rows": 0}):
        settings, reasons = chosen(is_by_heart=True, **given)
        assert alone in reasons and settings["forget_loss_kwargs"] == {"penalty": 0.5, "margin": 1.0}
    assert alone in chosen(is_by_heart=True, retain=nobody, forget_aliases=["Ivo Brandt"])[1]


def test_a_base_that_never_knew_is_the_teacher_of_any_rows(chosen):
    settings, reasons = chosen([None] * 3, base="org/base")
    assert settings["ignorant_model_name_or_path"] == "org/base" and settings["lambda_bss"] == 0
    assert "`org/base`" in reasons and settings["stop_metric"] == "extraction_strength"


def test_the_base_of_an_adapter_is_the_teacher_if_it_does_not_know_the_rows(checkpoint, tiny_tokenizer, forget_rows):
    model = LlamaForCausalLM.from_pretrained(checkpoint)
    assert fit_base(model, tiny_tokenizer, forget_rows) is None
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    assert fit_base(adapted, tiny_tokenizer, forget_rows) == checkpoint


@pytest.mark.parametrize(
    ("width", "use_peft", "rate"), [(192, True, 1.3e-3), (576, True, 4.3e-4), (192, False, 4e-4), (8192, False, 1e-5)]
)
def test_the_learning_rate_follows_the_width_of_the_model(chosen, width, use_peft, rate):
    assert chosen(width=width, use_peft=use_peft)[0]["learning_rate"] == pytest.approx(rate)


def test_what_is_given_wins_and_other_choices_follow_it(chosen):
    settings, reasons = chosen(forget_loss_type="npo", learning_rate=1.0, stop_at="0.2", forget_aliases=["A B"])
    assert (settings["forget_loss_type"], settings["learning_rate"], settings["stop_at"]) == ("npo", 1.0, "0.2")
    assert "because it was given" in reasons and "`stop_at` is reached (0.2)" in reasons
    assert not {"stop_metric", "forget_loss_kwargs", "forget_aliases"} & settings.keys()


@pytest.mark.parametrize(("objective", "base"), [("ignorance", "org/base"), ("npo", None)])
def test_an_objective_that_is_given_has_the_base_as_its_teacher_if_it_has_one(objective, base, monkeypatch):
    monkeypatch.setattr(prepare, "fit_base", lambda *_: "org/base")
    args = SimpleNamespace(trust_remote_code=False)
    request = SimpleNamespace(given={"forget_loss_type": objective}, tokenizer=None, training_args=args)
    assert prepare._teacher(request, None, None) == base


@pytest.fixture
def trainer():
    """Function of how a training ended: what a second attempt reads and changes of it."""

    def call(shortfall="It was not reached.", missed="steps", minutes=None):
        args = SimpleNamespace(learning_rate=0.1, retain_weight=2.0, save_strategy="steps", seed=0, device="cpu")
        accelerator = SimpleNamespace(print=lambda _: None, reduce=lambda value: value)
        one = SimpleNamespace(args=args, shortfall=shortfall, missed=missed, accelerator=accelerator)
        one.callback_handler, one.first_attempt = SimpleNamespace(callbacks=[]), None
        if minutes is not None:
            one.callback_handler.callbacks.append(EndAfter(one, minutes))
            one.callback_handler.callbacks[0].on_train_begin(args, None, None)
        return one

    return call


@pytest.mark.parametrize(
    ("missed", "rate", "weight"), [("steps", 0.2, 2.0), ("floor", 0.1, 4.0), ("overshot", 0.05, 2.0)]
)
def test_a_second_attempt_changes_what_the_first_one_lacked(trainer, missed, rate, weight):
    one = trainer(missed=missed, minutes=10)
    assert second_attempt(one)
    assert (one.args.learning_rate, one.args.retain_weight, one.args.save_strategy) == (rate, weight, "no")
    assert one.first_attempt.startswith("First attempt: It was not reached. The second resumed from there with a ")


@pytest.mark.parametrize("case", [{"shortfall": None}, {"minutes": 1e-9}])
def test_there_is_no_second_attempt_where_the_goal_is_reached_or_the_time_is_over(trainer, case):
    one = trainer(**case)
    assert not second_attempt(one)
    assert (one.args.learning_rate, one.first_attempt) == (0.1, None)


@pytest.mark.parametrize(
    ("missed", "own", "way"),
    [
        (None, False, "`--stop_at`"),
        ("steps", False, "`--num_train_epochs`"),
        ("minutes", False, "`--max_minutes`"),
        ("floor", False, "`--retain`"),
        ("floor", True, "`--max_utility_loss`"),
        ("overshot", False, "`--learning_rate`"),
        ("diverged", False, "`--learning_rate`"),
        ("earlier", True, "all requests as `--forget`"),
        ("broken", True, "`--ignorant_model_name_or_path`"),
    ],
)
def test_the_advice_is_the_one_thing_that_was_missing(missed, own, way):
    sentence = advice(SimpleNamespace(missed=missed, hyperparameters={}), own)
    assert way in sentence and sentence.count("`--") == 1


def test_every_way_to_miss_a_goal_has_an_advice():
    for missed in MISSED:
        assert advice(SimpleNamespace(missed=missed, hyperparameters={}), False).startswith("Most likely to help: ")


def test_broken_text_beside_a_base_is_no_reason_to_ask_for_a_base():
    run = SimpleNamespace(missed="broken", hyperparameters={"ignorant_model_name_or_path": "org/base"})
    assert advice(run, False) == "Most likely to help: fewer rows as `--forget`."


@pytest.fixture
def machine(forget_rows, tiny_model, tiny_tokenizer, tmp_path):
    """Function of options and settings: the findings of the checks of the machine, in MiB."""
    args = BootstrapUnlearnConfig(output_dir=str(tmp_path / "run"), report_to=[], use_cpu=True)
    # The trainer's own default is gradient checkpointing, and the plan's is none.
    assert args.gradient_checkpointing

    def call(copies=0, merges=False, model_args=None, config=tiny_model.config, **given):
        step = step_settings(given, len(forget_rows))
        model_args = UnlearnModelConfig(model_name_or_path="org/model", **(model_args or {}))
        inputs = model_args, args, config, tiny_tokenizer, forget_rows
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(preflight, "_size", lambda count: f"{count / 2**20:.6f}")
            return dict(preflight.machine_checks(*inputs, step, copies, merges))

    return call


def mebibytes(finding):
    return float(finding.split()[1])


def test_memory_is_estimated_for_the_steps_that_are_planned_and_disk_for_a_merged_copy(machine, tiny_model):
    plain = machine()
    memory, disk = (mebibytes(plain[name]) for name in ("memory", "disk"))
    assert mebibytes(machine(gradient_checkpointing=True)["memory"]) < memory
    assert mebibytes(machine(per_device_train_batch_size=1)["memory"]) < memory
    weights = sum(parameter.numel() for parameter in tiny_model.parameters()) * 4 / 2**20
    assert mebibytes(machine(copies=1)["memory"]) - memory == pytest.approx(weights, abs=1e-3)
    assert mebibytes(machine(merges=True)["disk"]) - disk == pytest.approx(weights, abs=1e-3)


@pytest.mark.parametrize("targets", [None, ["c_attn"], ["wte", "lm_head"], ["attention"]])
@pytest.mark.parametrize("family", ["Llama", "GPT-2"])
def test_the_weights_of_an_adapter_are_counted_as_peft_makes_them(family, targets, machine, tiny_model, new_gpt2):
    model = tiny_model if family == "Llama" else new_gpt2(64)
    names = {name.split(".")[-1] for name, _ in model.named_modules()}
    given = {} if targets is None else {"lora_target_modules": targets}
    if targets is not None and not names & set(targets):
        with pytest.raises(ValueError, match="names no layer of the model"):
            machine(model_args=given, config=model.config)
        return
    found = machine(model_args=given, config=model.config)["trained weights"]
    config = LoraConfig(task_type="CAUSAL_LM", r=32, target_modules=targets or "all-linear")
    trained = sum(one.numel() for one in get_peft_model(model, config).parameters() if one.requires_grad)
    assert f" {trained:,} weights" in found


@pytest.mark.parametrize("model_args", [{}, {"load_in_4bit": True}, {"dtype": "bfloat16"}])
def test_merging_needs_main_memory_for_the_base_in_float32_however_it_was_loaded(
    machine, tiny_model, monkeypatch, model_args
):
    weights = sum(parameter.numel() for parameter in tiny_model.parameters()) * 4
    assert "memory to merge" not in machine(model_args=model_args)
    found = machine(model_args=model_args, merges=True)["memory to merge"]
    assert float(found.split()[0]) == pytest.approx(weights / 2**20, abs=1e-3)
    # The model is on the GPU.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**40, 2**40))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=weights - 1))
    machine(model_args=model_args)
    with pytest.raises(ValueError, match="Leave `merge` out"):
        machine(model_args=model_args, merges=True)


@pytest.mark.parametrize(
    ("cuda", "model_args", "checkpointing", "ways"),
    [
        (False, {}, False, "`--gradient_checkpointing true` or `--dtype bfloat16`"),
        (False, {"dtype": "bfloat16"}, True, "use a machine with more"),
        (True, {}, True, "`--load_in_4bit`"),
        (True, {"load_in_4bit": True}, False, "`--gradient_checkpointing true`"),
        # All weights in bfloat16 would hardly move.
        (True, {"use_peft": False}, True, "`--use_peft true`"),
        (False, {"use_peft": False, "dtype": "bfloat16"}, True, "`--use_peft true`"),
    ],
)
def test_only_ways_to_save_memory_that_are_not_taken_yet_are_named(
    cuda, model_args, checkpointing, ways, machine, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    free = 2**18
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, free))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    finding = machine(model_args=model_args, gradient_checkpointing=checkpointing)["memory"]
    assert finding.endswith(f" free; if it does not fit, {ways}")


@pytest.mark.parametrize(
    ("cuda", "model_args", "way"),
    [
        (False, {}, "Try `--dtype bfloat16`, or use a machine with more."),
        (False, {"use_peft": False}, "Try `--use_peft true` with `--dtype bfloat16`, or use a machine with more."),
        (True, {"use_peft": False}, "Try `--use_peft true` with `--load_in_4bit`, or use a machine with more."),
        (False, {"use_peft": False, "dtype": "bfloat16"}, "Use a machine with more."),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_a_way_that_trains_an_adapter(
    cuda, model_args, way, machine, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1000, 1000))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(ValueError, match=re.escape(f"of memory are free. {way}")):
        machine(model_args=model_args)


def test_rows_that_the_model_made_are_held_and_not_learned(chosen):
    assert [chosen(own=own)[0]["retain_loss_type"] for own in (True, False)] == ["nll", "kl"]
    assert chosen(own=False, retain_loss_type="nll")[0]["retain_loss_type"] == "nll"


@pytest.mark.parametrize("is_by_heart, count", [(False, 160), (True, 320)])
def test_more_rows_to_keep_are_made_where_answers_come_under_any_name(is_by_heart, count):
    assert retain_count(80, is_by_heart) == count and count * retain_spare(is_by_heart) in (320, 400)
    assert retain_count(1, is_by_heart) == 64 and retain_count(1000, is_by_heart) == 400
