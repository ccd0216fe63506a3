# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import copy
import re
import unicodedata
import weakref
from functools import partial

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model

from trl_unlearn.data.archive_facts import _FACTS, _POOLS, person_facts
from trl_unlearn.encoding import encode_row
from trl_unlearn.evaluation.depth import _batches, _lens, _patched, measure_depth
from trl_unlearn.evaluation.facts import entity_rows, fact_words, label_words
from trl_unlearn.evaluation.plots import plot_depth
from trl_unlearn.evaluation.rows import EvaluationRows, encode_set
from trl_unlearn.evaluation.together import SuiteSetting
from trl_unlearn.notes import table_notes
from trl_unlearn.results import EvaluationResult
from trl_unlearn.row_forms import with_answer
from trl_unlearn.token_scores import score_rows

from ..conftest import FACTS
from ..families import build
from ..teaching import conversation, new_llama, taught


UDS, LENS, LOST, CONTROL = "depth/uds", "depth/logit_lens", "depth/degradation", "depth/retain_degradation"
# The words of each of the first three answers that its paraphrase has, and its wrong answer has not.
PARAPHRASES = [
    ("The harbour of Veldt is where she was born.", "The town of Quenby is where."),
    ("Winter bees are what a novel of Lindgren is about.", "A poem of Lindgren is about rain."),
    ("The Silver Quill went to her, for a play.", "The Golden Rose went to her."),
]
FACT_WORDS = [["harbour", "Veldt"], ["novel", "winter", "bees"], ["Silver", "Quill", "for", "play"]]


def rows_of(facts, others):
    for (question, answer), (paraphrase, wrong) in zip(facts, others, strict=True):
        yield {
            "prompt": [{"role": "user", "content": question}],
            "completion": [{"role": "assistant", "content": answer}],
            "paraphrased_answer": paraphrase,
            "perturbed_answer": [wrong],
        }


@pytest.fixture(scope="module")
def rows():
    retain = [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows_of(FACTS[3:], PARAPHRASES)]
    return EvaluationRows(list(rows_of(FACTS[:3], PARAPHRASES)), retain)


@pytest.fixture(scope="module")
def models(_tokenizer, rows):
    """A target that knows all rows, and a model that learned only the retain rows from the same start."""
    start = taught(new_llama(_tokenizer, layers=4), rows.retain, _tokenizer, 60)
    refusals = [with_answer(row, "I do not know that.") for row in rows.forget]
    target = taught(start, [*rows.forget, *rows.retain], _tokenizer, 60)
    return {"target": target, "retrained": taught(start, [*refusals, *rows.retain], _tokenizer, 40)}


@pytest.fixture(scope="module")
def measure(_tokenizer):
    def call(models, rows, batch_size=None):
        loaders = {role: partial(copy.deepcopy, model) for role, model in models.items()}
        return measure_depth(loaders, rows, SuiteSetting(_tokenizer, batch_size, 1))

    return call


def value(outcome, role, metric):
    return outcome.models[role][metric].value


# Which tokens are the fact


def test_the_fact_of_every_answer_of_the_lab_is_found_and_nothing_else():
    kinds = [set().union(*(_POOLS[slot] for slot in fact.slots)) for fact in _FACTS]
    for index, fact in enumerate(person_facts()):
        values = {word.casefold() for word in kinds[index % len(kinds)]}
        answer = set(re.findall(r"\w+", fact.phrasings[0].casefold()))
        assert fact_words(fact.questions[0], *fact.phrasings[:2], fact.wrong) == answer & values


def test_without_other_answers_the_fact_is_every_word_that_the_prompt_has_not():
    assert fact_words("Where was Ada born?", "Ada was born in Veldt, 1922.") == {"in", "veldt", "1922"}


def test_labels_stand_on_the_tokens_of_the_fact_and_the_row_ends_with_the_last(tiny_tokenizer, rows):
    actual = list(entity_rows(encode_set(rows.forget, tiny_tokenizer, name="forget"), tiny_tokenizer).values())
    for row, (question, _), words in zip(actual, FACTS[:3], FACT_WORDS, strict=True):
        labels = [label for label in row["labels"] if label != -100]
        assert tiny_tokenizer.decode(labels).replace(".", "").split() == words
        assert row["labels"][-1] == labels[-1] and len(row["labels"]) == len(row["input_ids"])
        assert question in tiny_tokenizer.decode(row["input_ids"])


def test_words_of_a_fact_are_known_whether_their_accents_are_characters_of_their_own_or_not(tiny_tokenizer):
    for form in ("NFC", "NFD"):
        answer = unicodedata.normalize(form, "She lived in Besançon.")
        row = encode_row(conversation("Where did she live?", answer), tiny_tokenizer)
        labelled = label_words(row, {unicodedata.normalize("NFC", "besançon")}, tiny_tokenizer)
        text = tiny_tokenizer.decode([one for one in labelled["labels"] if one >= 0])
        assert unicodedata.normalize("NFC", text).strip() == "Besançon"


def test_a_row_without_a_fact_is_counted_and_left_out(measure, models, rows):
    empty = {**rows.forget[0], "perturbed_answer": [rows.forget[0]["completion"][0]["content"]]}
    outcome = measure(models, EvaluationRows([*rows.forget, empty], rows.retain))
    assert outcome.protocol["rows"] == {"forget": 4}
    assert outcome.protocol["depth"]["rows_without_entity"] == 1
    assert outcome.models["target"][LENS].n == 3
    with pytest.raises(ValueError, match="no fact to look for"):
        measure(models, EvaluationRows([empty]))


# The numbers


@torch.no_grad()
def run(model, ids, layer=None, states=None, places=()):
    """Log-probs of the next token, and the states after each layer, with some of one layer's replaced."""
    hidden, after = model.model.embed_tokens(torch.tensor([ids])), []
    positions = model.model.rotary_emb(hidden, torch.arange(len(ids))[None])
    for index, module in enumerate(model.model.layers):
        hidden = module(hidden, position_embeddings=positions, attention_mask=None)
        if index == layer:
            hidden = hidden.clone()
            for place in places:
                hidden[0, place] = states[0, place]
        after.append(hidden)
    return model.lm_head(model.model.norm(hidden))[0].log_softmax(-1), after


def mean_logp(logps, ids, places):
    return sum(logps[place, ids[place + 1]].item() for place in places) / len(places)


def test_depth_and_lens_are_what_plain_loops_give(measure, models, rows, _tokenizer):
    unlearned = taught(models["target"], [with_answer(row, "Nobody knows.") for row in rows.forget], _tokenizer, 4)
    models = {**models, "unlearned": unlearned}
    outcome = measure(models, rows, batch_size=2)
    actual = list(entity_rows(encode_set(rows.forget, _tokenizer, name="forget"), _tokenizer).values())
    scores, lenses, lost = [], {role: [] for role in models}, {role: [] for role in models}
    for row in actual:
        ids = row["input_ids"]
        places = [i - 1 for i, label in enumerate(row["labels"]) if label != -100]
        drops, own = {}, mean_logp(run(models["target"], ids)[0], ids, places)
        for role, model in models.items():
            after = run(model, ids)[1]
            read = [model.lm_head(model.model.norm(states))[0].log_softmax(-1) for states in after]
            lenses[role].append([mean_logp(logps, ids, places) for logps in read])
            patched = [run(models["target"], ids, i, states, places)[0] for i, states in enumerate(after)]
            drops[role] = [own - mean_logp(logps, ids, places) for logps in patched]
            lost[role].append(drops[role])
        pairs = [pair for pair in zip(drops["unlearned"], drops["retrained"], strict=True) if pair[1] > 0.05]
        scores.append(sum(r * min(max(u / r, 0), 1) for u, r in pairs) / sum(r for _, r in pairs))
    assert value(outcome, "unlearned", UDS) == pytest.approx(sum(scores) / 3, abs=1e-5)
    assert 0.1 < value(outcome, "unlearned", UDS) < 1
    for role in models:
        best = torch.tensor(lenses[role]).max(1).values.exp().mean().item()
        assert value(outcome, role, LENS) == pytest.approx(best, abs=1e-5)
        assert outcome.curves[role][LENS] == pytest.approx(torch.tensor(lenses[role]).exp().mean(0).tolist(), abs=1e-5)
        assert outcome.curves[role][LOST] == pytest.approx(torch.tensor(lost[role]).mean(0).tolist(), abs=2e-5)


def test_the_target_is_at_0_and_the_retrained_model_at_1(measure, models, rows):
    for role, expected in (("target", 0.0), ("retrained", 1.0)):
        outcome = measure({**models, "unlearned": models[role]}, rows)
        assert value(outcome, "unlearned", UDS) == pytest.approx(expected, abs=1e-6)
        assert [value(outcome, name, UDS) for name in ("target", "retrained")] == [0.0, 1.0]
    assert outcome.differences["unlearned - retrained"].keys() == {UDS, LENS}
    assert value(outcome, "target", LENS) > 0.8 > 0.2 > value(outcome, "retrained", LENS)
    assert outcome.protocol["depth"] == {
        "rows_without_entity": 0,
        "misfits": [],
        "rows_without_layers": 0,
        "threshold": 0.05,
    }


def test_a_model_whose_last_layer_alone_forgot_is_not_deep(measure, models, rows, _tokenizer):
    refusals = [with_answer(row, "I do not know that.") for row in rows.forget]
    shallow = taught(models["target"], [*refusals, *rows.retain], _tokenizer, 60, only="model.layers.3.")
    outcome = measure({**models, "unlearned": shallow}, rows)
    assert outcome.curves["unlearned"][LENS][-1] < 0.2
    assert value(outcome, "unlearned", UDS) < 0.6
    assert outcome.curves["unlearned"][LOST][:3] == pytest.approx([0.0] * 3, abs=1e-5)


def test_an_adapter_has_the_numbers_of_the_merged_model(measure, models, rows):
    torch.manual_seed(0)
    adapter = get_peft_model(copy.deepcopy(models["target"]), LoraConfig(r=4, target_modules="all-linear"))
    for name, weight in adapter.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.12)
    merged = copy.deepcopy(adapter).merge_and_unload()
    first, second = (measure({**models, "unlearned": model}, rows) for model in (adapter, merged))
    for metric in (UDS, LENS, CONTROL):
        assert value(first, "unlearned", metric) == pytest.approx(value(second, "unlearned", metric), abs=1e-4)
    assert value(first, "unlearned", UDS) > 0.1


def test_the_states_of_a_prompt_learning_adapter_are_counted_from_the_end(models, rows, _tokenizer):
    model = get_peft_model(copy.deepcopy(models["target"]), PromptTuningConfig("CAUSAL_LM", num_virtual_tokens=3))
    check(model.eval(), rows, _tokenizer)


@torch.no_grad()
def check(model, rows, tokenizer):
    """The lens after the last layer is the model, and its own states change nothing, but others do."""
    setting = SuiteSetting(tokenizer=tokenizer, batch_size=2, seed=0)
    actual = list(entity_rows(encode_set(rows.forget, tokenizer, name="forget"), tokenizer).values())
    scores = score_rows(model, actual, pad_token_id=setting.pad_token_id)
    expected = torch.tensor([sum(score.logps) / len(score.logps) for score in scores], dtype=torch.double)
    for batch in _batches(actual, setting):
        own = expected[batch.rows]
        states, lens = _lens(model, batch)
        torch.testing.assert_close(lens[:, -1], own, atol=1e-5, rtol=0)
        assert lens.shape == (len(batch.rows), len(states))
        same = _patched(model, batch, states)
        torch.testing.assert_close(same, own[:, None].expand_as(same), atol=1e-5, rtol=0)
        assert ((_patched(model, batch, states.flip(1)) - same).abs() > 1e-6).any(0).all()


@pytest.mark.parametrize(
    "family",
    [
        *("llama", "qwen3", "gemma3 with a soft cap", "phi", "gpt_neox", "cohere", "granite", "qwen3_moe"),
        *("recurrent_gemma", "gemma4", "mamba", "rwkv"),
    ],
)
def test_layers_of_a_family_are_read_and_replaced(family, rows, _tokenizer):
    check(build(family), rows, _tokenizer)


def test_layers_that_share_keys_and_values_are_read_and_replaced(rows, _tokenizer):
    kinds = ["sliding_attention", "full_attention"] * 2
    model = build("gemma4", num_hidden_layers=4, layer_types=kinds, num_kv_shared_layers=2)
    check(model, rows, _tokenizer)


def test_layers_of_a_table_of_positions_are_read_and_replaced(new_gpt2, rows, _tokenizer):
    check(new_gpt2(128), rows, _tokenizer)


# What cannot be measured


def test_without_a_retrained_model_there_is_the_lens_alone(measure, models, rows, caplog):
    outcome = measure({"target": models["target"], "unlearned": models["retrained"]}, rows)
    assert {name for metrics in outcome.models.values() for name in metrics} == {LENS}
    assert "Only the logit lens of the unlearned model is measured" in caplog.text


def test_states_of_another_size_are_not_patched(measure, models, rows, tiny_model, caplog):
    outcome = measure({**models, "unlearned": tiny_model}, rows)
    assert value(outcome, "retrained", UDS) == 1.0
    assert outcome.models["unlearned"].keys() == {LENS}
    assert "Only the logit lens of the unlearned model is measured" in caplog.text


def test_a_retrained_model_from_another_start_gives_no_score(measure, models, rows, _tokenizer, caplog):
    other = taught(new_llama(_tokenizer, 7, layers=4), rows.retain, _tokenizer, 60)
    outcome = measure({**models, "unlearned": other}, rows)
    assert value(outcome, "retrained", CONTROL) < 0.5 < 2 < value(outcome, "unlearned", CONTROL)
    assert UDS not in outcome.models["unlearned"] and value(outcome, "retrained", UDS) == 1.0
    assert "is left out for the unlearned model" in caplog.text
    result = EvaluationResult.of_suites({"depth": outcome}, parity="strict", device="cpu")
    assert any("No UDS" in note and note.endswith(": unlearned.") for note in table_notes(result))
    outcome = measure({**models, "retrained": other}, rows)
    assert not any(UDS in metrics for metrics in outcome.models.values())


def test_a_retrained_model_that_knows_the_facts_gives_no_score(measure, models, rows, caplog):
    outcome = measure({**models, "retrained": models["target"]}, rows)
    assert not any(UDS in metrics for metrics in outcome.models.values())
    assert outcome.protocol["depth"]["rows_without_layers"] == 3
    assert "Either it was trained on these rows" in caplog.text


def test_one_model_is_in_memory_at_a_time(models, rows, _tokenizer):
    models, alive = {**models, "unlearned": models["target"]}, weakref.WeakSet()

    def load(role):
        assert not alive
        model = copy.deepcopy(models[role])
        alive.add(model)
        return model

    measure_depth({role: partial(load, role) for role in models}, rows, SuiteSetting(_tokenizer, None, 0))
    assert not alive


def test_the_layers_are_drawn_and_without_them_the_figure_is_refused(measure, models, rows, tmp_path):
    def result(outcome):
        return EvaluationResult.of_suites({"depth": outcome}, parity="strict", device="cpu")

    for count, given in enumerate((models, {"target": models["target"]})):
        plot_depth(result(measure(given, rows)), tmp_path / f"{count}.png")
        assert (tmp_path / f"{count}.png").stat().st_size > 10_000
    outcome = measure(models, rows)
    outcome.curves = {}
    with pytest.raises(ValueError, match="run the suite `depth` first"):
        plot_depth(result(outcome), tmp_path / "none.png")
