# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import copy
import dataclasses
import logging
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import DistributedType
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GenerationConfig, LlamaForCausalLM

from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer
from trl_unlearn.encoding import encode_row, pad_rows
from trl_unlearn.records import Truncation
from trl_unlearn.token_scores import score_batch
from trl_unlearn.trainer import step
from trl_unlearn.trainer.checks import refuse_sharding
from trl_unlearn.trainer.forget_objectives import FORGET_OBJECTIVES
from trl_unlearn.trainer.guard import DivergenceError
from trl_unlearn.trainer.inputs import refusal_of, with_refusals
from trl_unlearn.trainer.run_record import RunClock, build_run_record
from trl_unlearn.trainer.step import StepRow, retain_index

from ..families import build


LORA = {"r": 4, "target_modules": "all-linear"}


@pytest.fixture
def new_trainer(build_trainer, forget_rows, retain_rows):
    def new(model=None, peft=False, forget=forget_rows, retain=retain_rows, **options):
        given = {name: options.pop(name) for name in ("eval_dataset", "optimizers") if name in options}
        given |= {"train_dataset": forget, "retain_dataset": retain}
        settings = {"per_device_train_batch_size": 3, "max_completion_length": 6}
        settings |= {"num_train_epochs": 1, "logging_steps": 1}
        peft_config = LoraConfig(**LORA) if peft else None
        return build_trainer(settings | options, model, peft_config=peft_config, **given)

    return new


def _inputs(trainer, rows):
    return trainer.data_collator([trainer.train_dataset[row] for row in rows])


def _mean_logps(model, rows, pad_token_id):
    """Mean log-prob of each row, one forward pass a row."""
    means = []
    for row in rows:
        scores = score_batch(model, pad_rows([row], pad_token_id))
        means.append(scores.logps.sum() / scores.mask.sum())
    return torch.stack(means)


def test_each_row_is_mixed_with_its_own_beliefs_only(new_trainer, tiny_tokenizer):
    trainer = new_trainer(forget_loss_type="ga", retain_loss_type="none", lambda_bss=0.3, num_beliefs=2)
    trainer.model.train()
    trainer.belief_store.sample(trainer.model, 0, 0.0)
    pad = tiny_tokenizer.pad_token_id
    for rows in ([0], [1], [2], [2, 0]):
        loss = trainer.training_step(trainer.model, _inputs(trainer, rows))
        targets = _mean_logps(trainer.model, [trainer.train_dataset[row] for row in rows], pad)
        beliefs = torch.stack(
            [_mean_logps(trainer.model, trainer.belief_store.rows([row]), pad).mean() for row in rows]
        )
        torch.testing.assert_close(loss, (0.7 * targets + 0.3 * beliefs).mean(), atol=1e-5, rtol=0)
    assert (
        len({tuple(map(tuple, (b["input_ids"] for b in trainer.belief_store.rows([row])))) for row in range(3)}) == 3
    )


def test_a_belief_ends_where_the_chat_template_closes_an_answer(new_trainer, tiny_model, tiny_tokenizer):
    # As in a base checkpoint that was fine-tuned on ChatML: the EOS token is another.
    tiny_tokenizer.eos_token, tiny_model.generation_config.eos_token_id = "<|pad|>", tiny_tokenizer.pad_token_id
    store = new_trainer(max_completion_length=40).belief_store
    end_of_turn = tiny_tokenizer.convert_tokens_to_ids("<|im_end|>")
    answers = [[x for x in row["labels"] if x != -100] for row in store._rows]
    assert all(answer[-1] == end_of_turn for answer in answers)
    assert [store.prompt_and_target(i)[1] for i in range(len(store))] == answers
    tiny_model.lm_head.register_forward_hook(lambda module, inputs, logits: logits + 9 * (torch.arange(400) == 2))
    store.sample(tiny_model, 0, 0.0)
    beliefs = [[x for x in row["labels"] if x != -100] for row in store.rows(range(3))]
    assert [belief.index(end_of_turn) for belief in beliefs] == [len(belief) - 1 for belief in beliefs]


# The model's norms compute in float32, and a prompt's gradient passes them once for all rows that share it.
PRECISIONS = [(torch.float64, False, 1e-9), (torch.float64, True, 1e-7), (torch.float32, True, 1e-5)]


@pytest.mark.parametrize(("dtype", "share_prompts", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(("lambda_bss", "num_rows"), [(0.0, 8), (0.5, 8), (0.5, 7)])
def test_accumulating_gives_the_gradients_of_one_batch(
    new_trainer, tiny_model, forget_rows, retain_rows, lambda_bss, num_rows, dtype, share_prompts, tolerance
):
    forget = Dataset.from_list([*forget_rows, *retain_rows, *forget_rows][:num_rows])
    gradients = []
    # 3 x 3 leaves a last micro-batch that is smaller than the others.
    for batch, accumulation in ((8, 1), (1, 8), (3, 3)):
        model = copy.deepcopy(tiny_model).to(dtype)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        trainer = new_trainer(
            model,
            forget=forget,
            optimizers=(torch.optim.SGD(model.parameters(), lr=1.0), None),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            lambda_bss=lambda_bss,
            share_prompts=share_prompts,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
        )
        trainer.train()
        assert trainer.state.global_step == 1
        after = [parameter.detach() for parameter in trainer.model.parameters()]
        gradients.append(torch.cat([(x - y).flatten() for x, y in zip(before, after, strict=True)]).double())
    scale = gradients[0].norm()
    assert scale > 1e-3
    for other in gradients[1:]:
        assert (gradients[0] - other).norm() / scale < tolerance


@pytest.mark.parametrize(("dtype", "share_prompts", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(
    "losses",
    [
        {},
        {"forget_loss_type": "npo", "retain_loss_type": "kl"},
        {"forget_loss_type": "dpo", "retain_loss_type": "none"},
        {"forget_loss_type": "undial"},
        {"forget_loss_type": "rmu", "retain_loss_type": "hidden"},
    ],
)
def test_beliefs_in_slices_give_the_gradients_of_one_pass(
    new_trainer, tiny_model, losses, dtype, share_prompts, tolerance, monkeypatch
):
    def one_pass(rows, padding, *_):
        return [step.collate_rows(rows, **padding) | {"share_prompts": False, "is_last": True}]

    gradients, passes = [], []
    for is_whole in (False, True):
        options = {"num_beliefs": 16, "share_prompts": share_prompts}
        trainer = new_trainer(copy.deepcopy(tiny_model).to(dtype), **options, **losses)
        if is_whole:
            monkeypatch.setattr("trl_unlearn.trainer.bootstrap_unlearn_trainer.passes", one_pass)
        trainer.create_optimizer()
        trainer.state.epoch = 0.0
        passes.append(0)
        trainer.model.model.register_forward_hook(lambda *_: passes.append(passes.pop() + 1))
        inputs = _inputs(trainer, [0, 1, 2])
        trainer._refresh_beliefs_if_due(trainer.model)
        passes[-1] = 0
        trainer.training_step(trainer.model, inputs)
        found = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
        gradients.append(torch.cat(found).double())
    assert passes[0] > passes[1]
    assert gradients[1].norm() > 1e-3
    assert (gradients[0] - gradients[1]).norm() / gradients[1].norm() < tolerance


def test_a_model_that_cannot_share_prompts_trains_without_and_one_warning_says_so(new_trainer, caplog):
    trained = []
    for share_prompts in (True, False):
        trainer = new_trainer(build("mamba"), num_beliefs=1, share_prompts=share_prompts)
        trainer.train()
        trained.append([*trainer.model.parameters()])
        # Not in the second run.
        assert caplog.text.count("`share_prompts` does nothing") == 1
    assert all(map(torch.equal, *trained))


@pytest.mark.parametrize(
    ("options", "count"), [({}, 1), ({"lambda_bss": 0.0}, 0), ({"lambda_bss": 0.0, "forget_loss_type": "dpo"}, 1)]
)
def test_rows_without_a_prompt_in_common_need_no_warning(new_trainer, caplog, options, count):
    # Its window is shorter than the rows.
    new_trainer(build("mistral"), **options)
    assert caplog.text.count("`share_prompts` does nothing") == count


@pytest.fixture(scope="module")
def _knowing():
    return {}


@pytest.fixture
def knowing_model(_knowing, tiny_model, tiny_tokenizer, forget_rows):
    """The tiny model, which knows the forget set: weighted objectives leave alone what is not known."""
    if not _knowing:
        batch = pad_rows([encode_row(row, tiny_tokenizer) for row in forget_rows], tiny_tokenizer.pad_token_id)
        optimizer = torch.optim.AdamW(tiny_model.parameters(), lr=1e-2)
        for _ in range(60):
            (-score_batch(tiny_model, batch).logps.mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert score_batch(tiny_model, batch).logps.mean() > -0.1
        _knowing.update(copy.deepcopy(tiny_model.state_dict()))
    tiny_model.load_state_dict(_knowing)
    return tiny_model


@pytest.mark.parametrize("peft", [True, False])
@pytest.mark.parametrize("forget_loss_type", FORGET_OBJECTIVES)
def test_each_objective_does_to_the_forget_set_what_it_is_for(new_trainer, knowing_model, forget_loss_type, peft):
    trainer = new_trainer(
        knowing_model,
        peft=peft,
        forget_loss_type=forget_loss_type,
        retain_loss_type="none",
        lambda_bss=0.0,
        num_train_epochs=8,
        warmup_steps=0,
        learning_rate=1e-2 if peft else 2e-3,
        lr_scheduler_type="constant",
        forget_loss_kwargs={"coefficient": 5.0} if forget_loss_type == "rmu" else None,
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss/forget" in entry]
    if forget_loss_type == "rmu":
        assert logged[-1]["loss/forget"] < 0.9 * logged[0]["loss/forget"]
    else:
        assert logged[-1]["forget/logps"] < logged[0]["forget/logps"] - 0.1


def test_the_original_model_scores_each_forget_row_once(new_trainer, monkeypatch):
    scored = []
    plain = step.score_batch
    monkeypatch.setattr(
        step,
        "score_batch",
        lambda model, batch, **kw: scored.append(len(batch["labels"])) or plain(model, batch, **kw),
    )
    trainer = new_trainer(forget_loss_type="npo", num_train_epochs=4, lambda_bss=0.5, belief_refresh_epochs=2)
    trainer.train()
    beliefs = {tuple(row["input_ids"]) for row in trainer.belief_store.rows(range(3))}
    assert len(beliefs) == 9
    # Three rows, and nine beliefs at each of two refreshes, which may repeat one another.
    assert 3 + 9 < sum(scored) <= 3 + 2 * 9


def test_a_belief_may_repeat_its_target(new_trainer, monkeypatch):
    trainer = new_trainer(forget_loss_type="npo", retain_loss_type="none", num_beliefs=2)
    repeated = [{name: row[name] for name in ("input_ids", "labels")} for row in trainer.train_dataset]
    monkeypatch.setattr(trainer.belief_store, "rows", lambda indices: [repeated[i] for i in indices for _ in range(2)])
    trainer.train()
    entry = trainer.state.log_history[0]
    assert entry["loss/beliefs"] == pytest.approx(entry["loss/forget"])


def test_what_max_length_cut_off_is_in_the_record_of_the_run(new_trainer, tiny_tokenizer, forget_rows):
    whole = [encode_row(row, tiny_tokenizer) for row in forget_rows]
    length = max(row["prompt_length"] for row in whole) + 3
    lost = [len(row["input_ids"]) - 1 - length for row in whole]
    record = build_run_record(new_trainer(max_length=length, lambda_bss=0.0), RunClock())
    assert record.forget_set.truncation == Truncation(3, sum(lost), length)
    assert build_run_record(new_trainer(lambda_bss=0.0), RunClock()).forget_set.truncation is None


@pytest.mark.parametrize(
    ("name", "is_there", "expected"),
    [("org/base", False, True), ("org/base", True, False), ("../org/base", False, False), ("", False, False)],
)
def test_a_base_that_was_a_folder_is_not_on_the_hub_in_the_record_where_it_was_moved_away(
    new_trainer, tmp_path, monkeypatch, name, is_there, expected
):
    trainer = new_trainer(lambda_bss=0.0)
    trainer.model.config._name_or_path = name
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    if is_there:
        Path(name).mkdir(parents=True)
    assert build_run_record(trainer, RunClock()).base_model_on_hub is expected


def test_a_special_token_at_which_a_row_was_cut_off_ends_no_belief(new_trainer, tiny_tokenizer):
    row = {"prompt": "Where?", "completion": " Ada<|im_start|>Marlow"}
    start = encode_row(row, tiny_tokenizer)["prompt_length"]
    trainer = new_trainer(forget=Dataset.from_list([row]), max_length=start + 2, retain_loss_type="none")
    assert tiny_tokenizer.decode(trainer.train_dataset[0]["labels"][-1]) == "<|im_start|>"
    assert trainer.belief_store.eos_token_ids == [tiny_tokenizer.eos_token_id]


def test_variables_of_the_chat_template_are_in_every_prompt(new_trainer, tiny_tokenizer):
    tiny_tokenizer.chat_template = "{{ mode }}" + tiny_tokenizer.chat_template
    trainer = new_trainer(forget_loss_type="dpo", chat_template_kwargs='{"mode": "exam"}')
    rows = [*trainer.train_dataset["input_ids"], *trainer.train_dataset["chosen_input_ids"]]
    store = trainer.belief_store
    rows += [*trainer.retain_dataset["input_ids"], *(store.prompt_and_target(i)[0] for i in range(len(store)))]
    assert len(rows) == 12
    assert all(tiny_tokenizer.decode(ids).startswith("exam<|im_start|>user") for ids in rows)


def test_dpo_prefers_a_refusal_to_the_answer_and_to_its_beliefs(new_trainer, tiny_tokenizer):
    trainer = new_trainer(forget_loss_type="dpo", retain_loss_type="none", num_beliefs=2)
    trainer.state.epoch = 0.0
    trainer.model.train()
    trainer._refresh_beliefs_if_due(trainer.model)
    rows = trainer._step_rows(_inputs(trainer, [1]), None)
    assert [row.kind for row in rows] == ["forget", "beliefs", "beliefs"]
    for row in rows:
        text = tiny_tokenizer.decode(row.chosen["input_ids"])
        assert text.endswith(f"{refusal_of(42, 1)}<|im_end|>")
        prompt = rows[0].encoded["labels"].count(-100)
        assert row.chosen["input_ids"][:prompt] == rows[0].encoded["input_ids"][:prompt]


def test_refusals_that_are_cut_off_are_counted(new_trainer, tiny_tokenizer, forget_rows, caplog):
    row = encode_row(forget_rows[0], tiny_tokenizer)
    length = row["prompt_length"] + 2
    options = {"forget_loss_type": "dpo", "retain_loss_type": "none"}
    new_trainer(forget=forget_rows.select([0]), max_length=length, **options)
    assert f"1 of 1 rows of the refusal set (100.0 %) are longer than `max_length={length}`" in caplog.text


def test_a_row_that_cannot_be_encoded_with_its_refusal_is_named_by_its_index(tiny_tokenizer):
    rows = Dataset.from_list([{"prompt": "one", "completion": " two"}, {"prompt": "one " * 99, "completion": " two"}])
    with pytest.raises(ValueError, match=r"^Row 1 of the forget set, with a refusal as its answer, has no label"):
        with_refusals(rows, rows, tiny_tokenizer, seed=0, max_length=40)
    rows = Dataset.from_list([{"prompt": "one", "completion": " two", "text": None}, {"text": "one two"}])
    with pytest.raises(ValueError, match=r"^Row 1 of the forget set, .* has no prompt, which `forget_loss_type"):
        with_refusals(rows, rows, tiny_tokenizer, seed=0, max_length=40)


def test_dpo_without_prompts_is_refused(new_trainer):
    with pytest.raises(ValueError, match=r"has the columns \['text'\]"):
        new_trainer(
            forget=Dataset.from_list([{"text": "one two three four"}]), forget_loss_type="dpo", prompt_length=2
        )


@pytest.mark.parametrize("peft", [True, False])
@pytest.mark.parametrize("names", [None, r"layers\.1\.mlp\.down_proj"])
def test_rmu_trains_only_the_chosen_parameters(new_trainer, names, peft):
    trainer = new_trainer(
        peft=peft,
        forget_loss_type="rmu",
        forget_loss_kwargs={"layer": 1, "parameters": names},
        lambda_bss=0.0,
        warmup_steps=0,
    )
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    changed = [name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])]
    assert changed
    assert all(re.search(names or r"layers\.[01]\.", name) for name in changed)


def test_rmu_without_anything_to_train_is_refused(new_trainer):
    with pytest.raises(ValueError, match="leave no parameter to train"):
        new_trainer(forget_loss_type="rmu", forget_loss_kwargs={"parameters": "layers.77"})


def test_a_run_logs_each_term_by_group_and_name(new_trainer):
    trainer = new_trainer(peft=True, num_train_epochs=2, belief_refresh_epochs=1)
    trainer.train()
    logged = {name for entry in trainer.state.log_history for name in entry}
    assert logged >= {
        "loss/forget", "loss/retain", "loss/beliefs", "forget/logps", "retain/logps", "beliefs/logps",
        "beliefs/coverage", "beliefs/length", "beliefs/target_share", "beliefs/seconds",
        "forget/entropy", "retain/entropy", "beliefs/entropy", "throughput/tokens_per_second",
        "throughput/rows_per_second",
    }  # fmt: skip
    assert [audit["epoch"] for audit in trainer.belief_store.audits] == [0, 1]


def test_the_record_has_license_and_language_of_the_base_s_card_unless_the_config_says_otherwise(
    new_trainer, tiny_model, tmp_path
):
    assert new_trainer().run_record().license is None
    (tmp_path / "base").mkdir()
    (tmp_path / "base/README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n", encoding="utf-8")
    tiny_model.config.name_or_path = str(tmp_path / "base")
    record = new_trainer().run_record()
    assert (record.license, record.language) == ("mit", ["en"])
    assert new_trainer(hub_license="apache-2.0").run_record().license == "apache-2.0"


@pytest.mark.parametrize(("link", "kept"), [("https://example.org/a/LICENSE", True), ("../LICENSE", False)])
def test_a_license_of_another_kind_keeps_its_name_and_a_link_that_leads_somewhere(
    new_trainer, tiny_model, tmp_path, link, kept
):
    (tmp_path / "base").mkdir()
    head = f"---\nlicense: other\nlicense_name: qwen-research\nlicense_link: {link}\n---\n"
    (tmp_path / "base/README.md").write_text(head, encoding="utf-8")
    tiny_model.config.name_or_path = str(tmp_path / "base")
    record = new_trainer().run_record()
    assert (record.license, record.license_name) == ("other", "qwen-research")
    assert record.license_link == (link if kept else None)
    given = new_trainer(hub_license="mit").run_record()
    assert (given.license, given.license_name, given.license_link) == ("mit", None, None)


@pytest.mark.parametrize("refresh_epochs,refreshes", [(0.0, 1), (2.0, 2), (0.5, 6)])
def test_beliefs_are_refreshed_when_they_are_due(new_trainer, refresh_epochs, refreshes):
    trainer = new_trainer(num_train_epochs=3, belief_refresh_epochs=refresh_epochs, per_device_train_batch_size=1)
    trainer.train()
    assert len(trainer.belief_store.audits) == refreshes


def test_off_policy_beliefs_are_those_of_the_original_model(new_trainer, tiny_model):
    original = copy.deepcopy(tiny_model)
    trainer = new_trainer(num_train_epochs=2, belief_refresh_epochs=0, learning_rate=1e-2)
    trainer.train()
    sampled = trainer.belief_store.audits[0]["sha256"]
    assert trainer.belief_store.sample(original, 0, 0.0)["sha256"] == sampled


def test_the_logged_loss_is_the_weighted_sum_of_its_terms(new_trainer):
    trainer = new_trainer(forget_weight=0.7, retain_weight=2.0, lambda_bss=0.25)
    trainer.train()
    entry = trainer.state.log_history[0]
    forget = 0.75 * entry["loss/forget"] + 0.25 * entry["loss/beliefs"]
    assert entry["loss"] == pytest.approx(0.7 * forget + 2.0 * entry["loss/retain"], abs=1e-5)


def test_retain_rows_are_paired_anew_in_each_epoch_and_cover_the_set():
    epochs = [[retain_index(42, epoch, row, 5) for row in range(10)] for epoch in range(3)]
    assert len({tuple(pairs) for pairs in epochs}) == 3
    for pairs in epochs:
        assert sorted(pairs[:5]) == sorted(pairs[5:]) == list(range(5))


@pytest.mark.parametrize("forget_loss_type,retain_loss_type", [("npo", "nll"), ("ga", "kl")])
@pytest.mark.parametrize("kind", ["lora", "full", "adapter"])
def test_the_reference_is_the_model_as_it_was_passed_in(
    new_trainer, tiny_model, tiny_tokenizer, forget_loss_type, retain_loss_type, kind, tmp_path
):
    model = tiny_model
    if kind == "adapter":
        model = get_peft_model(model, LoraConfig(**LORA, init_lora_weights=False))
    original = copy.deepcopy(model)
    trainer = new_trainer(
        model,
        peft=kind == "lora",
        forget_loss_type=forget_loss_type,
        retain_loss_type=retain_loss_type,
        num_train_epochs=3,
        learning_rate=1e-2,
    )
    trainer.train()
    batch = pad_rows(list(trainer.train_dataset), tiny_tokenizer.pad_token_id)
    with trainer._reference() as reference:
        found = score_batch(reference, batch).logps
    expected = score_batch(original.eval(), batch).logps
    torch.testing.assert_close(found, expected.detach(), atol=1e-5, rtol=0)
    current = score_batch(trainer.model, batch).logps
    assert (current - expected).abs().max() > 1e-2
    # The reference is frozen and is not saved.
    trainer.save_model()
    assert not (tmp_path / "out" / "ref").exists()
    if kind == "adapter":
        loaded = PeftModel.from_pretrained(copy.deepcopy(original.unload()), tmp_path / "out").eval()
        torch.testing.assert_close(score_batch(loaded, batch).logps, current, atol=1e-5, rtol=0)


def test_the_saved_card_is_ours_and_says_that_results_are_missing(new_trainer, tmp_path):
    trainer = new_trainer(peft=True, max_steps=1)
    trainer.train()
    trainer.save_model()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "trl-unlearn" in card and "not evaluated" in card


def test_evaluation_rows_are_scored_like_retain_rows(new_trainer, retain_rows, tiny_model, tiny_tokenizer):
    trainer = new_trainer(max_steps=1)
    rows = trainer._prepare_dataset(retain_rows, tiny_tokenizer, trainer.args, False, None, "eval")
    found = trainer.evaluate(rows)["eval_loss"]
    assert found == pytest.approx(-_mean_logps(tiny_model.eval(), list(rows), 0).mean().item(), abs=1e-4)


@pytest.mark.parametrize("peft,expected", [(True, 2e-4), (False, 1e-5)])
def test_the_learning_rate_follows_from_what_is_trained(new_trainer, peft, expected):
    assert new_trainer(peft=peft).args.learning_rate == expected


def test_a_given_learning_rate_stays(new_trainer):
    assert new_trainer(peft=True, learning_rate=3e-3).args.learning_rate == 3e-3


def test_a_run_leaves_its_config_as_it_was(tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows):
    options = {"forget_loss_type": "rmu", "retain_loss_type": "hidden", "lambda_schedule": "adaptive", "max_steps": 1}
    options |= {"gradient_checkpointing_kwargs": {"use_reentrant": False}, "save_strategy": "no"}
    args = BootstrapUnlearnConfig(str(tmp_path), max_completion_length=4, report_to="none", **options)
    lora = LoraConfig(**LORA)

    def values():
        return {one.name: getattr(config, one.name) for config in (args, lora) for one in dataclasses.fields(config)}

    given = copy.deepcopy(values())
    ends = []
    for layers, peft_config in ((6, lora), (12, None), (6, lora)):
        config = copy.deepcopy(tiny_model.config)
        config.num_hidden_layers, config.layer_types = layers, None
        trainer = BootstrapUnlearnTrainer(
            LlamaForCausalLM(config),
            args,
            train_dataset=forget_rows,
            retain_dataset=retain_rows.to_iterable_dataset(),
            eval_dataset=None,
            processing_class=tiny_tokenizer,
            peft_config=peft_config,
        )
        trainer.train()
        ends.append((trainer.args.learning_rate, trainer.args.forget_loss_kwargs["layer"]))
        recorded = trainer.run_record().hyperparameters
        assert ends[-1] == (recorded["learning_rate"], recorded["forget_loss_kwargs"]["layer"])
        assert values() == given
    assert ends == [(2e-4, 2), (1e-5, 4), (2e-4, 2)]


def test_an_objective_that_is_set_as_an_attribute_trains_with_its_own_beta(
    tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows
):
    args = BootstrapUnlearnConfig(str(tmp_path), max_steps=1, lambda_bss=0.0, save_strategy="no", report_to="none")
    args.forget_loss_type = "npo"
    trainer = BootstrapUnlearnTrainer(
        tiny_model, args, train_dataset=forget_rows, retain_dataset=retain_rows, processing_class=tiny_tokenizer
    )
    trainer.train()
    assert trainer.run_record().hyperparameters["beta"] == 0.1


def test_an_adapter_says_on_which_revision_of_its_base_it_was_trained(new_trainer, tiny_model):
    tiny_model.name_or_path, tiny_model.config._commit_hash = "org/base", "ab" * 20
    adapter = LoraConfig(r=2, target_modules=["q_proj"])
    (config,) = new_trainer(get_peft_model(tiny_model, adapter)).model.peft_config.values()
    assert (config.base_model_name_or_path, config.revision) == ("org/base", "ab" * 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model, _: setattr(model, "_hf_peft_config_loaded", True), "`load_adapter` of Transformers"),
        (lambda model, _: model.requires_grad_(False), "No weight of the model requires a gradient"),
        (lambda _, tokenizer: tokenizer.add_special_tokens({"pad_token": "[PAD]"}), "The padding token is 400, but"),
    ],
)
def test_a_model_that_would_train_for_nothing_or_has_no_padding_is_refused(
    new_trainer, tiny_model, tiny_tokenizer, change, message
):
    change(tiny_model, tiny_tokenizer)
    with pytest.raises(ValueError, match=message):
        new_trainer(tiny_model)


def test_two_runs_with_one_seed_end_in_the_same_weights(new_trainer, tiny_model):
    ends = []
    for _ in range(2):
        trainer = new_trainer(copy.deepcopy(tiny_model), num_train_epochs=2, learning_rate=1e-2)
        trainer.train()
        ends.append(torch.cat([parameter.flatten() for parameter in trainer.model.parameters()]))
    assert torch.equal(*ends)


def test_rows_in_both_sets_are_counted_in_a_warning(new_trainer, forget_rows, retain_rows, caplog):
    both = Dataset.from_list([*retain_rows, forget_rows[0], forget_rows[2]])
    with caplog.at_level(logging.WARNING):
        new_trainer(retain=both)
    assert "2 of 3 forget rows are in the retain set too" in caplog.text


def test_a_frozen_adapter_is_refused(new_trainer, tiny_model, tmp_path):
    get_peft_model(copy.deepcopy(tiny_model), LoraConfig(**LORA)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="is_trainable=True"):
        new_trainer(PeftModel.from_pretrained(tiny_model, tmp_path / "adapter"))


def test_a_larger_belief_top_k_than_the_vocabulary_is_refused(new_trainer):
    with pytest.raises(ValueError, match="`belief_top_k` is 5000, but the model's vocabulary has"):
        new_trainer(belief_top_k=5000)


@pytest.mark.parametrize("missing", ["forget", "retain"])
def test_a_missing_set_is_refused(new_trainer, missing):
    with pytest.raises(ValueError, match=f"there is no {missing} set"):
        new_trainer(**{missing: None})


def test_fsdp_that_would_not_shard_is_refused(new_trainer, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=r"`accelerate` makes `NO` of it here.* `recipes/accelerate/zero3\.yaml`"):
        new_trainer()


def test_the_first_version_of_fsdp_is_refused():
    state = SimpleNamespace(fsdp_plugin=SimpleNamespace(fsdp_version=1))
    with pytest.raises(ValueError, match="`fsdp_version: 2`"):
        refuse_sharding(SimpleNamespace(distributed_type=DistributedType.FSDP, state=state))


def test_one_process_with_several_gpus_is_refused(new_trainer, monkeypatch):
    monkeypatch.setattr(BootstrapUnlearnConfig, "n_gpu", 2)
    with pytest.raises(ValueError, match=r"One process sees 2 GPUs.*accelerate launch --num_processes 2"):
        new_trainer()


def _longest(tokenizer, *sets):
    return max(len(encode_row(row, tokenizer)["input_ids"]) for rows in sets for row in rows)


def test_a_table_of_positions_that_just_holds_the_rows_is_enough(
    new_trainer, new_gpt2, tiny_tokenizer, forget_rows, retain_rows
):
    # A multiple of 8 would be beyond it, and so would beliefs of the length that is asked for.
    limit = _longest(tiny_tokenizer, forget_rows, retain_rows) + 1
    assert limit % 8
    trainer = new_trainer(new_gpt2(limit), max_completion_length=200, num_beliefs=2)
    trainer.train()
    lengths = [len(row["input_ids"]) for row in trainer.belief_store.rows([0, 1, 2])]
    assert max(lengths) == limit and trainer.state.global_step == 1


def test_rows_to_score_and_refusals_beyond_the_positions_are_refused(
    new_trainer, new_gpt2, tiny_tokenizer, forget_rows, retain_rows
):
    short = [{"prompt": "Is it?", "completion": " No."}]
    row = {"prompt": forget_rows[0]["prompt"], "completion": [{"role": "assistant", "content": "So. " * 40}]}
    limit = _longest(tiny_tokenizer, short, retain_rows)
    for eval_dataset, name in ((Dataset.from_list([row]), "eval"), ({"other": Dataset.from_list([row])}, "other")):
        with pytest.raises(ValueError, match=rf"Row 0 of the {name} set has \d+ tokens, .* at most {limit} "):
            new_trainer(new_gpt2(limit), forget=Dataset.from_list(short), eval_dataset=eval_dataset)
    limit = _longest(tiny_tokenizer, short)
    with pytest.raises(ValueError, match=rf"Row 0 of the forget set, with a refusal as its answer, .* most {limit} "):
        new_trainer(new_gpt2(limit), forget=Dataset.from_list(short), retain_loss_type="none", forget_loss_type="dpo")


@pytest.mark.parametrize("refresh_epochs", [0, 1])
@pytest.mark.parametrize("peft", [False, True])
def test_a_second_run_is_that_of_a_new_trainer(new_trainer, tiny_model, refresh_epochs, peft):
    settings = {
        **{"lambda_schedule": "adaptive", "retain_max_drop": 0.01, "belief_refresh_epochs": refresh_epochs},
        **{"num_train_epochs": 4, "learning_rate": 2e-3, "warmup_steps": 0, "num_beliefs": 2, "logging_steps": 3},
    }
    other = new_trainer(copy.deepcopy(tiny_model), peft=peft, **settings)
    trainer = new_trainer(peft=peft, **settings)
    trainer.train()
    first = trainer.run_record()
    # As an interrupted step leaves them.
    trainer._metrics["train"]["loss/retain"].append(99.0)
    trainer._row_metrics.note(
        [StepRow({}, "retain", 1.0, (0,))], {name: torch.tensor([99.0]) for name in ("loss", "logps", "entropy")}
    )
    trainer.stop_reason = "Enough."
    other.model.load_state_dict(trainer.model.state_dict())
    trainer.train()
    other.train()
    weights = dict(other.model.named_parameters())
    assert all(torch.equal(value, weights[name]) for name, value in trainer.model.named_parameters())
    timed = ("train_", "throughput/", "beliefs/seconds")
    found, expected = (
        [
            {name: value for name, value in entry.items() if not name.startswith(timed)}
            for entry in one.state.log_history
        ]
        for one in (trainer, other)
    )
    assert found == expected and found[0]["weights/lambda_bst"] > 0.15
    audits = [[one["sha256"] for one in x.belief_store.audits] for x in (trainer, other)]
    assert audits[0] == audits[1]
    assert trainer.stop_reason is None
    record = trainer.run_record()
    assert (record.started_at, record.steps) == (max(record.started_at, first.started_at), 4)
    assert record.seconds < first.seconds + other.run_record().seconds


def test_an_optimizer_that_was_passed_in_stays_in_a_second_run(new_trainer, tiny_model):
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=1e-3)
    trainer = new_trainer(optimizers=(optimizer, None))
    for _ in range(2):
        trainer.train()
        assert trainer.optimizer.optimizer is optimizer


def test_texts_that_are_all_prompt_of_their_beliefs_are_counted(new_trainer, forget_rows, caplog):
    texts = Dataset.from_list([{"text": "Bo wrote."}, {"text": forget_rows[0]["completion"][0]["content"]}])
    new_trainer(forget=texts, prompt_length=6)
    assert "1 of 2 forget texts are no longer than `prompt_length` (6 tokens)" in caplog.text
    caplog.clear()
    for settings in ({"prompt_length": 2}, {"prompt_length": 6, "lambda_bss": 0.0}):
        new_trainer(forget=texts, **settings)
    new_trainer(forget=forget_rows)
    assert "no longer than" not in caplog.text


def test_a_model_whose_scores_are_not_finite_ends_training_before_its_beliefs_are_any_token(new_trainer):
    trainer = new_trainer()
    with torch.no_grad():
        trainer.model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(DivergenceError, match=r"no belief.*This was at step 0"):
        trainer.train()


@pytest.mark.parametrize(
    ("settings", "listed"),
    [
        ({"temperature": 0.9, "top_p": 0.6}, "`temperature`, `top_p`"),
        ({"early_stopping": True, "length_penalty": 2.0}, "`early_stopping`, `length_penalty`"),
        ({"output_scores": True, "top_k": 5}, "`top_k`, `output_scores`"),
    ],
)
def test_a_whole_model_whose_generation_config_is_invalid_is_saved(
    new_trainer, tiny_model, tmp_path, caplog, settings, listed
):
    for name, value in settings.items():
        setattr(tiny_model.generation_config, name, value)
    trainer = new_trainer(tiny_model, max_steps=1)
    assert f"is saved without {listed}: as it is, that has no effect." in caplog.text
    trainer.train()
    trainer.save_model(tmp_path / "saved")
    assert not settings.keys() & GenerationConfig.from_pretrained(tmp_path / "saved").to_diff_dict().keys()
    tiny_model.generation_config.max_new_tokens = -1
    with pytest.raises(ValueError, match=r"could not be saved: .*Correct `generation_config.json`"):
        new_trainer(tiny_model)


def test_a_generation_config_that_samples_stays(new_trainer, tiny_model):
    tiny_model.generation_config.update(do_sample=True, temperature=0.9)
    assert new_trainer(tiny_model).model.generation_config.temperature == 0.9
