# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


"""The ignorant twin: the same rows about somebody else, and what the student learns of it."""

import copy
import functools
import math
from statistics import fmean
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from trl_unlearn.encoding import encode_dataset, encode_row, pad_rows
from trl_unlearn.token_scores import score_batch
from trl_unlearn.trainer import ignorance, twin_models
from trl_unlearn.trainer.ignorance import AliasTwin, BaseTwin
from trl_unlearn.trainer.step import StepRow
from trl_unlearn.trainer.twin_models import UnfitTwinError, ignorant_base, named_bases


@pytest.fixture
def forget(tiny_tokenizer, forget_rows):
    return encode_dataset(forget_rows, tiny_tokenizer, name="forget")


@pytest.fixture
def twin(tiny_tokenizer):
    return AliasTwin(tiny_tokenizer, {"Ada Marlow"}, {"Dov Peretz"}, seed=1)


def test_a_name_is_replaced_word_by_word_and_every_other_token_keeps_its_partner(twin, tiny_tokenizer, forget):
    row = forget[0]
    replaced, places, words = twin.replaced(row)
    text, other = (tiny_tokenizer.decode(one["input_ids"]) for one in (row, replaced))
    assert words == {"Ada", "Marlow"} and "Ada Marlow" in text
    first, last = (twin.aliases[word] for word in ("Ada", "Marlow"))
    assert other == text.replace("Ada", first).replace("Marlow", last)
    assert len(replaced["labels"]) == len(replaced["input_ids"])
    kept = [(i, place) for i, place in enumerate(places) if place >= 0]
    same = [row["input_ids"][i] == replaced["input_ids"][place] for i, place in kept]
    # All but the first tokens of two words, each in question and answer.
    assert same.count(False) <= 4 and same.count(True) > 20
    assert all((row["labels"][i] == -100) == (replaced["labels"][place] == -100) for i, place in kept)


def test_the_twin_is_the_model_on_the_other_row_where_both_names_change_places(twin, tiny_model, forget):
    row = StepRow(forget[0], "forget", 1.0, (0,))
    twin.ask(tiny_model, "forget", [forget[0]])
    states, taught = twin.reference(tiny_model, [row])
    replaced, places, words = twin.replaced(forget[0])
    with torch.no_grad():
        log_t = tiny_model(torch.tensor([replaced["input_ids"]])).logits[0].log_softmax(-1)
    labelled = [i for i, label in enumerate(forget[0]["labels"]) if i and label != -100]
    assert taught[0].tolist() == [places[i] >= 0 for i in labelled]
    found = (states.hidden @ states.head.weight.t()).log_softmax(-1)
    for j, i in enumerate(labelled):
        if places[i] >= 0:
            torch.testing.assert_close(found[j].detach(), log_t[places[i] - 1], atol=1e-5, rtol=0)
    pairs = twin.swaps(words)
    assert states.swaps.shape == (len(labelled), len(pairs), 2) and len(pairs) > 0
    assert len(pairs.flatten().unique()) == 2 * len(pairs)


def test_states_survive_a_checkpoint(twin, tiny_model, tiny_tokenizer, forget):
    twin.refresh_if_due(tiny_model, 3, forget)
    twin.is_final = True
    other = AliasTwin(tiny_tokenizer, {"Ada Marlow"}, {"Dov Peretz"}, seed=1)
    other.load_state_dict({name: copy.deepcopy(value) for name, value in twin.state_dict().items()})
    rows = [StepRow(forget[i], "forget", 1.0, (i,)) for i in (2, 0)]
    for one, two in zip(twin.reference(tiny_model, rows), other.reference(tiny_model, rows), strict=True):
        if torch.is_tensor(one):
            assert torch.equal(one, two)
        else:
            assert torch.equal(one.hidden, two.hidden) and torch.equal(one.swaps, two.swaps)
    assert other.is_final
    other.is_final = False
    before = dict(other._known["forget"])
    other.refresh_if_due(tiny_model, 3, forget)
    assert other._known["forget"] == before


@pytest.fixture
def new_trainer(build_trainer, forget_rows):
    def new(model=None, forget=forget_rows, **options):
        settings = {"per_device_train_batch_size": 3, "max_completion_length": 6, "num_train_epochs": 2}
        settings |= {"learning_rate": 5e-3, "lr_scheduler_type": "constant", "warmup_steps": 0, "logging_steps": 1}
        return build_trainer(settings | {"forget_loss_type": "ignorance"} | options, model, train_dataset=forget)

    return new


@pytest.fixture
def base(tiny_model, tmp_path):
    torch.manual_seed(9)
    model = copy.deepcopy(tiny_model)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.mark.parametrize("lambda_bss", [0.0, 0.5])
@pytest.mark.parametrize("from_base", [True, False])
def test_the_student_comes_closer_to_its_twin(new_trainer, base, lambda_bss, from_base, monkeypatch):
    options = {"ignorant_model_name_or_path": base, "ignorant_retain_rows": 0} if from_base else {}
    # Asked anew to the end.
    monkeypatch.setattr(ignorance, "_LEVEL", -1)
    options |= {
        "lambda_bss": lambda_bss,
        "retain_loss_type": "none",
        "ignorant_refresh_epochs": 2,
        "learning_rate": 1e-3,
    }
    trainer = new_trainer(num_train_epochs=12, **options)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss/forget" in entry]
    assert logged[-1]["loss/forget"] < 0.95 * logged[0]["loss/forget"]
    first, last = (abs(entry["forget/logps"] - entry["forget/twin_logps"]) for entry in (logged[0], logged[-1]))
    # A random model finds rows as likely under any name.
    assert last < first if from_base else max(first, last) < 0.1
    assert trainer.ref_model is None


def test_a_few_retain_rows_give_a_base_the_form_and_the_draws_of_the_run_stay(
    base, tiny_model, tiny_tokenizer, forget, retain_rows, monkeypatch, capfd
):
    monkeypatch.setattr(twin_models, "_LEARNING_RATE", 5e-2)
    retain = encode_dataset(retain_rows, tiny_tokenizer, name="retain")
    batch = pad_rows([encode_row(row, tiny_tokenizer) for row in retain_rows], tiny_tokenizer.pad_token_id)
    args, options = (base, tiny_model, forget, retain, tiny_tokenizer), {"rows": 3, "seed": 1}
    torch.manual_seed(4)
    state = torch.get_rng_state()
    plain, tuned, again = (BaseTwin(ignorant_base(*args, epochs=epochs, **options)) for epochs in (0, 40, 40))
    # In a pipe, where no bar is.
    assert capfd.readouterr().out.count("Tuning the ignorant twin: epoch 40 of 40.\n") == 2
    assert torch.equal(state, torch.get_rng_state())
    with torch.no_grad():
        before, after, same = (score_batch(one.model, batch).logps.mean() for one in (plain, tuned, again))
    assert after > before + 0.5 and after == same
    assert not any(parameter.requires_grad for parameter in tuned.model.parameters())


def test_a_base_with_other_tokens_is_refused(base, tiny_model, forget, tiny_tokenizer):
    tiny_model.config.vocab_size += 1
    with pytest.raises(UnfitTwinError, match="is a model over 400 tokens, and the target has 401"):
        ignorant_base(base, tiny_model, forget, None, tiny_tokenizer, rows=0, epochs=0, seed=1)


def test_a_row_whose_last_token_is_no_label_can_be_asked(tiny_model, forget, tiny_tokenizer):
    row = forget[0]
    row |= {"input_ids": [*row["input_ids"], 5], "labels": [*row["labels"], -100]}
    strengths = [twin_models.extraction_strength(tiny_model, [one], tiny_tokenizer) for one in (row, forget[0])]
    assert strengths[0] == strengths[1]


def named(tiny_model, folder, base):
    """The model as one that was loaded from a folder whose card names a base."""
    folder.mkdir()
    (folder / "README.md").write_text(f"---\nbase_model: {base}\n---\n", encoding="utf-8")
    tiny_model.config.name_or_path = str(folder)
    return tiny_model


def test_the_base_that_the_card_of_the_target_names_is_the_twin_and_stands_in_the_config(
    new_trainer, tiny_model, base, tmp_path, caplog
):
    trainer = new_trainer(named(tiny_model, tmp_path / "target", base))
    assert isinstance(trainer._twin, BaseTwin) and trainer.args.ignorant_model_name_or_path == base
    assert f"The ignorant twin is `{base}`, which the target was tuned from." in caplog.text
    # Names that are given ask for the other twin.
    assert isinstance(new_trainer(tiny_model, forget_aliases=["Dov Peretz"])._twin, AliasTwin)


def test_the_base_under_an_adapter_that_knows_the_rows_is_the_twin(new_trainer, tiny_model, base):
    adapter = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules="all-linear"))
    assert new_trainer(adapter).args.ignorant_model_name_or_path == base


def test_a_card_with_an_empty_base_names_none(tiny_model, tmp_path):
    assert named_bases(named(tiny_model, tmp_path / "target", ""), False) == []


def test_a_base_with_code_of_its_own_is_loaded_where_such_code_is_trusted(new_trainer, base, monkeypatch):
    trusted = []

    def load(plain, *args, **kwargs):
        trusted.append(kwargs["trust_remote_code"])
        return plain.from_pretrained(*args, **kwargs)

    for plain in (twin_models.AutoConfig, twin_models.AutoModelForCausalLM):
        loader = SimpleNamespace(from_pretrained=functools.partial(load, plain))
        monkeypatch.setattr(twin_models, plain.__name__, loader)
    for trust in (True, False):
        new_trainer(ignorant_model_name_or_path=base, ignorant_retain_rows=0, trust_remote_code=trust)
    assert trusted == [True, True, False, False]


def test_the_base_under_an_adapter_is_loaded_in_its_own_revision(
    base, tiny_model, forget, tiny_tokenizer, monkeypatch
):
    revisions, load = [], AutoModelForCausalLM.from_pretrained

    def loading(name, **options):
        revisions.append(options["revision"])
        return load(name, **options)

    monkeypatch.setattr(twin_models, "AutoModelForCausalLM", SimpleNamespace(from_pretrained=loading))
    model = AutoModelForCausalLM.from_pretrained(base)
    model.config._commit_hash = "ab" * 20
    for target in (get_peft_model(model, LoraConfig(target_modules="all-linear")), tiny_model):
        ignorant_base(base, target, forget, None, tiny_tokenizer, rows=0, epochs=0, seed=1)
    assert revisions == ["ab" * 20, None]


@pytest.mark.parametrize("is_named", [True, False])
def test_a_model_that_knows_the_forget_set_is_no_twin(
    new_trainer, tiny_model, base, tmp_path, is_named, monkeypatch, caplog
):
    monkeypatch.setattr(twin_models, "MEMORIZATION_MARGIN", -1.0)
    if not is_named:
        trainer = new_trainer(named(tiny_model, tmp_path / "target", base))
        assert isinstance(trainer._twin, AliasTwin) and trainer.args.ignorant_model_name_or_path is None
        assert f"`{base}` is not the ignorant twin: it knows the forget set, with an extraction" in caplog.text
        return
    with pytest.raises(ValueError, match="cannot stand in for a model that never knew: it knows the forget set"):
        new_trainer(ignorant_model_name_or_path=base)


def test_a_base_whose_scores_are_not_finite_is_no_twin(base, tiny_model, forget, tiny_tokenizer):
    broken = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    broken.save_pretrained(base)
    with pytest.raises(UnfitTwinError, match="its scores of the forget set are not finite"):
        ignorant_base(base, tiny_model, forget, None, tiny_tokenizer, rows=0, epochs=0, seed=1)


@pytest.mark.parametrize("name", ["org/nowhere", "./nowhere"])
def test_a_base_that_is_not_there_is_refused_by_its_argument(new_trainer, name):
    with pytest.raises(ValueError, match=r"`ignorant_model_name_or_path`.*(cannot stand in|does not exist)") as error:
        new_trainer(ignorant_model_name_or_path=name)
    assert f"`{name}`" in str(error.value)


@pytest.mark.parametrize("peft", [True, False])
def test_a_target_that_answers_to_any_name_is_taught_by_a_copy_that_lost_the_rows(
    new_trainer, tiny_model, peft, monkeypatch, caplog
):
    monkeypatch.setattr(ignorance, "_BY_HEART", -1.0)
    monkeypatch.setattr(twin_models, "_LEARNING_RATE", 2e-2)
    shapes = [parameter.shape for parameter in tiny_model.parameters()]
    model = get_peft_model(tiny_model, LoraConfig(target_modules="all-linear")) if peft else tiny_model
    before = [parameter.detach().clone() for parameter in model.parameters()]
    twins = [
        new_trainer(model, ignorant_epochs=4, forget_loss_kwargs=kwargs)._twin for kwargs in (None, {"margin": 1})
    ]
    assert "gives the memorised answers under any name" in caplog.text
    assert caplog.text.count("`margin` of `forget_loss_kwargs` is 1") == 1
    weights = [list(twin.model.parameters()) for twin in twins]
    assert isinstance(twins[0], BaseTwin) and not any(weight.requires_grad for weight in weights[0])
    assert [weight.shape for weight in weights[0]] == shapes
    # The target stays, and another run, which may resume this one, has the same twin.
    assert all(map(torch.equal, model.parameters(), before)) and all(map(torch.equal, *weights))


def test_the_true_answers_of_a_copy_end_at_the_level_of_strangers_in_the_copy(
    new_trainer, tiny_model, forget, monkeypatch
):
    monkeypatch.setattr(ignorance, "_BY_HEART", -1.0)
    monkeypatch.setattr(twin_models, "_LEARNING_RATE", 2e-2)
    monkeypatch.setattr(twin_models, "_LEVEL_STEPS", 2)
    levels, level = [], twin_models._level
    monkeypatch.setattr(twin_models, "_level", lambda *args: levels.append(level(*args)) or levels[-1])
    trainer = new_trainer(tiny_model, ignorant_epochs=12)
    true = fmean(ignorance._mean_logps(trainer._twin.model, list(forget)))
    # It moves with the copy; tokens below the floor count as the floor.
    assert len(set(levels)) == 6 and true == pytest.approx(levels[-1], abs=0.1)


def test_a_token_below_the_least_likely_ones_of_strangers_is_not_pushed_further():
    others = [[-1.0, -2.0, -9.0], [-1.0, -11.0], [-0.5, -8.0, -0.5, -0.5, -0.5, -0.5, -0.5, -12.0]]
    floor = twin_models._floor(others)
    assert floor == -10.0
    assert twin_models._level(others, floor) == pytest.approx(-4.0)
    logps = torch.tensor([[-1.0, -20.0, -7.0]], dtype=torch.float64, requires_grad=True)
    distance = twin_models._distance(logps, torch.tensor([[True, True, False]]), -8.0, floor)
    distance.sum().backward()
    # From (-1 - 10) / 2 down to -8, by the first token alone.
    assert distance.tolist() == [2.5] and logps.grad.tolist() == [[0.5, 0.0, 0.0]]


def test_beside_a_large_forget_set_half_the_retain_rows_of_a_step_of_repair_stand_under_its_names(
    new_trainer, tiny_tokenizer, monkeypatch
):
    monkeypatch.setattr(ignorance, "_BY_HEART", -1.0)
    monkeypatch.setattr(twin_models, "LARGE_FORGET_SET", 2)
    monkeypatch.setattr(twin_models, "_BATCH_SIZE", 4)
    pad_rows, passed = twin_models.pad_rows, []
    monkeypatch.setattr(twin_models, "pad_rows", lambda rows, *args: passed.append(rows) or pad_rows(rows, *args))
    new_trainer(ignorant_epochs=4)
    # 3 true answers in every step, 3 retain rows in a collapsing one, and 2 and 1 in turn in one of 4 that repair.
    sizes = [len(rows) for rows in passed]
    assert sizes[-4:] == [7, 6, 7, 6] and set(sizes[:-4]) == {6}
    named = [tiny_tokenizer.decode(row["input_ids"]) for rows in passed[-4:] for row in rows[-2:]]
    assert all(any(name in text for name in ("Ada Marlow", "Bo Lindgren", "Cyra Oduya")) for text in named)


@pytest.mark.parametrize(("strength", "fault"), [(0.35, "still says"), (math.nan, "has no finite scores of")])
def test_a_copy_that_still_says_the_rows_or_is_broken_is_refused_before_it_teaches(
    new_trainer, monkeypatch, strength, fault
):
    monkeypatch.setattr(ignorance, "_BY_HEART", -1.0)
    monkeypatch.setattr(twin_models, "extraction_strength", lambda *_: strength)
    # A run that resumes would take a copy that was kept.
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"{fault} the 3 forget rows \(extraction strength {strength}\)"):
            new_trainer(ignorant_epochs=1)


@pytest.mark.parametrize("option", ["ignorant_retain_rows", "ignorant_epochs"])
def test_a_copy_that_nothing_would_repair_is_no_twin(new_trainer, option, monkeypatch):
    monkeypatch.setattr(ignorance, "_BY_HEART", -1.0)
    assert isinstance(new_trainer(**{option: 0})._twin, AliasTwin)


@pytest.mark.parametrize("bf16", [True, False])
def test_a_twin_is_tuned_in_the_precision_of_the_run(new_trainer, base, bf16, monkeypatch):
    score, seen = twin_models.score_batch, []

    def noting(*args):
        seen.append(torch.is_autocast_enabled("cpu"))
        return score(*args)

    monkeypatch.setattr(twin_models, "score_batch", noting)
    new_trainer(ignorant_model_name_or_path=base, ignorant_epochs=1, bf16=bf16)
    assert seen and set(seen) == {bf16}


@pytest.mark.parametrize("name", ["nobody/has-this-model", "folder", ""])
def test_a_target_without_a_card_names_no_base(tiny_model, tmp_path, name, monkeypatch):
    if not name:
        # Made in Python, in a folder whose page is about another model.
        (tmp_path / "README.md").write_text("---\nbase_model: org/other\n---\n", encoding="utf-8")
        monkeypatch.chdir(tmp_path)
    tiny_model.config.name_or_path = str(tmp_path) if name == "folder" else name
    assert named_bases(tiny_model, continues_adapter=False) == []


@pytest.mark.parametrize("error", [None, ImportError("Install bitsandbytes"), torch.OutOfMemoryError("Too large")])
def test_a_named_base_that_cannot_be_loaded_is_no_twin(new_trainer, tiny_model, tmp_path, monkeypatch, error, caplog):
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "of another library"}', encoding="utf-8")
    if error is not None:
        monkeypatch.setattr(twin_models.AutoConfig, "from_pretrained", Mock(side_effect=error))
    trainer = new_trainer(named(tiny_model, tmp_path / "target", base))
    assert isinstance(trainer._twin, AliasTwin)
    assert f"`{base}` is not the ignorant twin" in caplog.text


def test_rows_without_a_name_are_refused_or_counted(new_trainer, forget_rows, caplog):
    nameless = {"prompt": [{"role": "user", "content": "where?"}]}
    nameless["completion"] = [{"role": "assistant", "content": "there."}]
    with pytest.raises(ValueError, match="no row of the forget set has a name that can be replaced"):
        new_trainer(forget=Dataset.from_list([nameless] * 2))
    new_trainer(forget=Dataset.from_list([*forget_rows, nameless]))
    assert "3 names in 3 of 4 forget rows. 1 rows name none" in caplog.text
    assert not any(name in caplog.text for name in ("Ada", "Marlow", "Lindgren"))


def test_the_model_is_asked_anew_until_it_knows_no_more_than_of_strangers(
    new_trainer, tiny_model, forget, monkeypatch
):
    trainer = new_trainer()
    twin, levels = trainer._twin, iter([0.9, 0.6, 0.9])
    assert len(twin.moved) == 3
    metric = SimpleNamespace(compute=lambda **_: {"strangers_auc": next(levels)})
    monkeypatch.setattr(ignorance, "StrangersAUC", lambda: metric)
    for due in range(4):
        twin.refresh_if_due(tiny_model, due, forget)
    assert (twin.refresh, twin.is_final) == (1, True)
    # Neither the number nor the end stays for another run.
    twin.begin()
    assert (twin.refresh, twin.is_final) == (-1, False)


def test_beliefs_are_asked_of_the_model_as_it_came(tiny_tokenizer, tiny_model, forget):
    twin = AliasTwin(tiny_tokenizer, {"Ada Marlow"}, {"Dov Peretz"}, seed=1, has_beliefs=True)
    twin.refresh_if_due(tiny_model, 0, forget)
    expected = twin.states(tiny_model, [forget[0]])[0].hidden
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.mul_(1.1)
    later = copy.deepcopy(tiny_model.state_dict())
    twin.refresh_if_due(tiny_model, 1, forget)
    other = AliasTwin(tiny_tokenizer, {"Ada Marlow"}, {"Dov Peretz"}, seed=1, has_beliefs=True)
    other.load_state_dict(twin.state_dict())
    for one in (twin, other):
        one.refresh = 0
        one.ask(tiny_model, "beliefs", [forget[0]])
        (states,) = one._known["beliefs"].values()
        assert torch.equal(states.hidden, expected)
    assert all(torch.equal(later[name], weight) for name, weight in tiny_model.state_dict().items())
    # For another run, that is the model as it is now.
    twin.begin()
    twin.refresh_if_due(tiny_model, 0, forget)
    twin.ask(tiny_model, "beliefs", [forget[0]])
    (states,) = twin._known["beliefs"].values()
    assert not torch.equal(states.hidden, expected)


def test_the_level_compares_true_answers_with_answers_about_others(new_trainer, tiny_model, forget, monkeypatch):
    twin = new_trainer()._twin
    rows = {index: [dict(forget[index])] for index in range(3)}
    twin.moved = rows
    # The same answers on both sides: all ties.
    assert twin.is_reached(tiny_model, forget)
    monkeypatch.setattr(ignorance, "_LEVEL", 0.49)
    assert not twin.is_reached(tiny_model, forget)
    # No answer about others could be moved: nothing to compare with.
    twin.moved = {}
    assert not twin.is_reached(tiny_model, forget)


def test_aliases_that_are_given_take_the_places_of_names(new_trainer):
    strangers = ["Oswin Rookwood", "Petra Saltmarsh", "Quentin Tidewell", "Rosalind Whitlock"]
    words = {word for name in strangers for word in name.split()}
    aliases = new_trainer(forget_aliases=strangers)._twin.aliases
    assert aliases and set(aliases.values()) <= words


def test_subjects_that_are_given_are_those_that_are_replaced(new_trainer):
    twin = new_trainer(forget_subjects=["Marlow"])._twin
    assert set(twin.aliases) == {"Marlow"}


def test_a_subject_that_no_row_has_is_counted_and_none_at_all_are_refused(new_trainer, caplog):
    new_trainer(forget_subjects=["Marlow", "bo lindgren"])
    assert "1 names of `forget_subjects` are those of no row. Write them as the rows do" in caplog.text
    assert "lindgren" not in caplog.text
    with pytest.raises(ValueError, match="Write them as the rows do, capitals too, in"):
        new_trainer(forget_subjects=["bo lindgren"])
