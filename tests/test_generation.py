# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chisquare

from trl_unlearn import generation
from trl_unlearn.encoding import encode_row
from trl_unlearn.generation import eos_token_ids, generate, rows_that_fit

from .families import build


PAD, EOS, OTHER_EOS = 0, 2, 7


@pytest.fixture
def model(tiny_model):
    """Larger weights than a new model's and a head of its own: its tokens depend on the text and differ in odds."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in tiny_model.model.layers:
            for weight in layer.parameters():
                if weight.dim() == 2:
                    weight.mul_(10)
        head = torch.randn(tiny_model.lm_head.weight.shape, generator=generator)
        tiny_model.lm_head.weight = torch.nn.Parameter(head * 0.35)
    return tiny_model


@pytest.fixture
def prompts(forget_rows, retain_rows, tiny_tokenizer):
    """Six prompts of different lengths."""
    encoded = [encode_row(row, tiny_tokenizer) for rows in (forget_rows, retain_rows) for row in rows]
    prompts = [row["input_ids"][: row["prompt_length"]] for row in encoded]
    assert len(set(map(len, prompts))) > 2
    return prompts


def raise_logit(model, token, by):
    """Make a token likelier at every position."""

    def hook(module, inputs, logits):
        logits = logits.clone()
        logits[..., token] += by
        return logits

    return model.lm_head.register_forward_hook(hook)


def complete(model, prompts, **kwargs):
    return generate(model, prompts, **{"pad_token_id": PAD, "eos_token_ids": [EOS], "max_new_tokens": 8, **kwargs})


@torch.no_grad()
def teacher_forced(model, prompt, ids):
    logps = model(input_ids=torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return [token_logps[token].item() for token_logps, token in zip(logps, ids, strict=True)]


def greedy_loop(model, prompt, max_new_tokens):
    ids = []
    while len(ids) < max_new_tokens and EOS not in ids:
        ids.append(model(input_ids=torch.tensor([prompt + ids])).logits[0, -1].argmax().item())
    return ids


def test_greedy_completions_equal_a_plain_argmax_loop(model, prompts):
    completions = complete(model, prompts)
    for prompt, completion in zip(prompts, completions, strict=True):
        assert completion.ids == greedy_loop(model, prompt, 8)
    assert len({tuple(completion.ids) for completion in completions}) > 1


def test_greedy_completions_end_where_the_argmax_is_eos(model, prompts):
    # EOS is the most likely token of some prefixes and not of others.
    ends = set()
    for by in (4.0, 6.0, 8.0):
        hook = raise_logit(model, EOS, by)
        for prompt, completion in zip(prompts, complete(model, prompts), strict=True):
            assert completion.ids == greedy_loop(model, prompt, 8)
            assert completion.ended == (completion.ids[-1] == EOS)
            ends.add(completion.ended)
        hook.remove()
    assert ends == {True, False}


def test_a_sampled_completion_depends_on_neither_batch_size_nor_order(model, prompts):
    raise_logit(model, EOS, 3.0)
    keys = [(0, 0, row, j) for j in range(3) for row in range(len(prompts))]
    repeated = prompts * 3
    expected = complete(model, repeated, keys=keys, batch_size=1)
    assert {completion.ended for completion in expected} == {True, False}
    for batch_size in (3, 16):
        for order in (range(18), range(17, -1, -1), sorted(range(18), key=lambda i: i * 7 % 18)):
            found = complete(model, [repeated[i] for i in order], keys=[keys[i] for i in order], batch_size=batch_size)
            for i, completion in zip(order, found, strict=True):
                assert completion.ids == expected[i].ids
                assert completion.logps == pytest.approx(expected[i].logps, abs=1e-4)
                assert completion.ended == expected[i].ended


def test_the_global_seed_changes_no_sample_and_is_not_used_up(model, prompts):
    keys = [(0, row) for row in range(len(prompts))]
    torch.manual_seed(1)
    first, state = complete(model, prompts, keys=keys), torch.get_rng_state()
    torch.manual_seed(2)
    assert complete(model, prompts, keys=keys) == first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_keys_decide_the_sample(model, prompts):
    keys = [(0, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 0, 0), (1, 0, 0, 0)]
    first, same, *others = [tuple(c.ids) for c in complete(model, [prompts[0]] * len(keys), keys=keys)]
    assert first == same
    assert len({first, *others}) == 5


def test_logps_are_those_of_the_model_itself_whatever_is_sampled_from(model, prompts):
    raise_logit(model, EOS, 3.0)
    keys = [(3, row) for row in range(len(prompts))]
    completions = complete(model, prompts) + complete(model, prompts, keys=keys, temperature=0.7, top_k=9, top_p=0.9)
    assert any(completion.ended for completion in completions)
    for prompt, completion in zip(prompts * 2, completions, strict=True):
        assert completion.logps == pytest.approx(teacher_forced(model, prompt, completion.ids), abs=1e-4)


@pytest.mark.parametrize("certain", [EOS, OTHER_EOS])
@pytest.mark.parametrize("keyed", [True, False])
def test_every_eos_token_of_the_list_ends_a_completion(certain, keyed, model, prompts):
    raise_logit(model, certain, 200.0)
    keys = [(row,) for row in range(len(prompts))] if keyed else None
    for completion in complete(model, prompts, eos_token_ids=[EOS, OTHER_EOS], keys=keys):
        assert completion.ids == [certain]
        assert completion.ended


def test_a_token_that_is_not_in_the_list_ends_nothing(model, prompts):
    raise_logit(model, OTHER_EOS, 200.0)
    for completion in complete(model, prompts):
        assert completion.ids == [OTHER_EOS] * 8
        assert not completion.ended


def test_a_pad_token_that_is_an_eos_token_changes_nothing(model, prompts):
    raise_logit(model, EOS, 3.0)
    keys = [(row, j) for row in range(len(prompts)) for j in range(4)]
    repeated = [prompt for prompt in prompts for _ in range(4)]
    usual = complete(model, repeated, keys=keys)
    shared = complete(model, repeated, keys=keys, pad_token_id=EOS)
    assert [completion.ids for completion in shared] == [completion.ids for completion in usual]
    for completion in shared:
        assert len(completion.logps) == len(completion.ids)
        assert EOS not in completion.ids[:-1]
        assert completion.ended == (completion.ids[-1] == EOS)
        assert completion.ended or len(completion.ids) == 8
    assert {len(completion.ids) for completion in shared} > {1, 8}


def test_min_new_tokens_forbids_an_immediate_eos_and_no_later_one(model, prompts):
    raise_logit(model, EOS, 200.0)
    for keys in (None, [(row,) for row in range(len(prompts))]):
        for completion in complete(model, prompts, keys=keys, min_new_tokens=1):
            assert len(completion.ids) == 2
            assert completion.ids[0] != EOS and completion.ids[1] == EOS


def allowed_distribution(model, prompt, temperature, top_k, top_p):
    """The distribution of the first token, token by token in the order of its probability."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt])).logits[0, -1].double()
    pi = (logits / temperature).softmax(-1)
    kept, mass = {}, 0.0
    for token in pi.argsort(descending=True).tolist():
        if (top_k and len(kept) == top_k) or mass >= top_p:
            break
        kept[token] = pi[token].item()
        mass += kept[token]
    return {token: p / mass for token, p in kept.items()}


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.5, 0, 1.0), (1.0, 5, 1.0), (1.0, 0, 0.5)]
)
def test_the_first_token_follows_the_distribution_that_is_asked_for(temperature, top_k, top_p, model, prompts):
    count = 4000
    completions = complete(
        model,
        [prompts[0]] * count,
        keys=[(0, 0, 0, j) for j in range(count)],
        max_new_tokens=1,
        batch_size=1000,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
    )
    observed = Counter(completion.ids[0] for completion in completions)
    expected = allowed_distribution(model, prompts[0], temperature, top_k, top_p)
    assert observed.keys() <= expected.keys()
    assert len(expected) > 2
    # The usual rule: five expected counts a cell; the rarer tokens share one.
    frequent = [token for token, p in expected.items() if p * count >= 5]
    cells = [(observed[token], expected[token] * count) for token in frequent]
    rest = count - sum(n for n, _ in cells), count - sum(n for _, n in cells)
    if len(frequent) < len(expected):
        cells.append(rest)
    assert chisquare(*zip(*cells, strict=True)).pvalue > 0.01


def test_later_tokens_do_not_repeat_the_draw_of_the_first(model, prompts):
    # A model whose next token does not depend on the text: two draws of one key must be independent of each other.
    logits = torch.linspace(0, 3, model.config.vocab_size)
    model.lm_head.register_forward_hook(lambda module, inputs, output: logits.expand_as(output).contiguous())
    drawn = complete(model, [[5]] * 400, keys=[(j,) for j in range(400)], eos_token_ids=[], max_new_tokens=2)
    pairs = torch.tensor([completion.ids for completion in drawn], dtype=torch.float64)
    assert torch.corrcoef(pairs.T)[0, 1].abs() < 0.15


@pytest.mark.parametrize("training", [True, False])
def test_generation_runs_in_eval_mode_and_puts_the_mode_of_each_module_back(training, model, prompts):
    seen = set()
    model.lm_head.register_forward_hook(lambda module, *_: seen.add((module.training, torch.is_grad_enabled())))
    model.train(training).model.layers[0].train(not training)
    complete(model, prompts)
    assert seen == {(False, False)}
    assert model.training is training and model.model.layers[0].training is not training


def test_further_fields_of_the_generation_config_are_passed_on(model, prompts):
    usual = complete(model, prompts[:1])[0].ids
    forbidden = usual[0]
    assert forbidden not in complete(model, prompts[:1], generation_kwargs={"suppress_tokens": [forbidden]})[0].ids


def test_fields_that_count_tokens_count_those_of_the_whole_completion(model, prompts):
    forced = {"forced_eos_token_id": EOS}
    (whole,) = complete(model, prompts[:1], eos_token_ids=[], max_new_tokens=100, generation_kwargs=forced)
    assert len(whole.ids) == 100 and whole.ids[-1] == EOS and EOS not in whole.ids[63:65]


def test_eos_tokens_are_those_of_the_generation_config_and_the_tokenizer(tiny_model, tiny_tokenizer):
    tiny_tokenizer.chat_template = None
    tiny_model.generation_config.eos_token_id = [OTHER_EOS, 5]
    assert eos_token_ids(tiny_model, tiny_tokenizer) == [EOS, 5, OTHER_EOS]
    tiny_model.generation_config.eos_token_id = OTHER_EOS
    assert eos_token_ids(tiny_model, tiny_tokenizer) == [EOS, OTHER_EOS]
    tiny_model.generation_config.eos_token_id = None
    assert eos_token_ids(tiny_model, tiny_tokenizer) == [EOS]
    tiny_tokenizer.eos_token = None
    assert eos_token_ids(tiny_model, tiny_tokenizer) == []


@pytest.fixture
def base_checkpoint(tiny_model, tiny_tokenizer):
    """A model and a tokenizer whose EOS token is another than the one that ChatML closes an answer with."""
    tiny_tokenizer.eos_token = "<|pad|>"
    tiny_model.generation_config.eos_token_id = PAD
    assert tiny_tokenizer.convert_tokens_to_ids("<|im_end|>") == EOS
    return tiny_model, tiny_tokenizer


def test_what_the_chat_template_closes_an_answer_with_ends_a_completion(base_checkpoint):
    model, tokenizer = base_checkpoint
    assert eos_token_ids(model, tokenizer) == [PAD, EOS]
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    assert eos_token_ids(model, tokenizer) == [PAD]


def test_the_special_token_that_closes_the_answers_ends_a_completion_and_no_other_last_token_does(base_checkpoint):
    model, tokenizer = base_checkpoint
    tokenizer.chat_template = None
    other_special = tokenizer.convert_tokens_to_ids("<|im_start|>")
    rows = [{"labels": [-100, 9, other_special, -100]}, {"labels": [-100, 9]}, {"labels": [-100, 9, EOS]}]
    assert eos_token_ids(model, tokenizer, rows) == [PAD, other_special, EOS]


@pytest.mark.parametrize("keyed", [True, False])
def test_rows_that_go_on_without_those_that_ended_are_completed_the_same(keyed, model, prompts, monkeypatch):
    def favour_the_end(module, args, output):
        output[..., EOS] += 3.0

    model.lm_head.register_forward_hook(favour_the_end)
    keys = [(0, i) for i in range(len(prompts))] if keyed else None
    expected = complete(model, prompts, keys=keys, max_new_tokens=20)
    assert any(x.ended for x in expected) or not keyed
    sizes, plain = [], model.generate
    monkeypatch.setattr(model, "generate", lambda **kwargs: sizes.append(len(kwargs["input_ids"])) or plain(**kwargs))
    monkeypatch.setattr(generation, "_STAGE", 3)
    found = complete(model, prompts, keys=keys, max_new_tokens=20)
    assert [(x.ids, x.ended) for x in found] == [(x.ids, x.ended) for x in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.logps == pytest.approx(theirs.logps, abs=1e-5)
    assert len(sizes) > 1 and sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "mamba"])
def test_shared_prompts_and_rows_that_leave_their_batch_change_no_completion(family, monkeypatch):
    model, steps = build(family), []
    generator = torch.Generator().manual_seed(1)
    lengths = [12, 5, 12, 20]
    prompts = [torch.randint(5, 390, (length,), generator=generator).tolist() for length in lengths]
    repeated, keys = [x for x in prompts for _ in range(3)], [(0, i, j) for i in range(4) for j in range(3)]
    options = {"keys": keys, "eos_token_ids": list(range(2, 40)), "max_new_tokens": 20}
    monkeypatch.setattr(generation, "_LEG", 3)
    embeddings = model.get_input_embeddings()
    embeddings.register_forward_pre_hook(lambda module, args: steps.append(tuple(args[0].shape)))
    found, seen = complete(model, repeated, **options), steps.copy()
    monkeypatch.setattr(generation, "_new_cache", lambda model: None)
    expected = complete(model, repeated, **options)
    assert [(x.ids, x.ended) for x in found] == [(x.ids, x.ended) for x in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.logps == pytest.approx(theirs.logps, abs=1e-4)
    lasting = [sum(len(x.ids) > step for x in expected) for step in (0, 3, 6, 9)]
    assert lasting[0] > lasting[1] > lasting[2]
    if family == "qwen3":
        # All but the last token of each prompt, once; then a token of each row that has not ended, three times each.
        assert seen[0] == (4, 19)
        assert [rows for rows, _ in seen[1::3]][:4] == lasting and {width for _, width in seen[1:]} == {1}
    else:
        # A window forgets and a state has no tokens: a batch goes on to its end.
        assert seen == steps[len(seen) :] and {rows for rows, _ in seen} == {12}


def test_out_of_memory_halves_the_batch_and_loses_nothing(model, prompts, monkeypatch):
    keys = [(0, i) for i in range(len(prompts))]
    expected = complete(model, prompts, keys=keys)
    sizes, plain = [], model.generate

    def limited(input_ids, **kwargs):
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return plain(input_ids=input_ids, **kwargs)

    monkeypatch.setattr(model, "generate", limited)
    assert [x.ids for x in complete(model, prompts, keys=keys, batch_size=len(prompts))] == [x.ids for x in expected]
    assert sizes[0] == len(prompts) and max(sizes[2:]) <= 2


@pytest.mark.parametrize("message", ["CUDA out of memory. ", "index out of range"])
def test_what_halving_cannot_help_is_raised(message, model, prompts, monkeypatch):
    def fail(**kwargs):
        raise RuntimeError(message)

    monkeypatch.setattr(model, "generate", fail)
    with pytest.raises(RuntimeError, match=message):
        complete(model, prompts)


@pytest.mark.parametrize(("free", "expected"), [(0, 1), (10**15, 128)])
def test_the_batch_size_follows_free_memory(free, expected, model, monkeypatch):
    monkeypatch.setattr(generation, "_free_bytes", lambda device: free)
    assert rows_that_fit(model, 64) == expected


def test_half_of_free_memory_holds_the_rows_that_fit(model, monkeypatch):
    config = model.config
    cache = 4 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 100 * 4
    row = cache + 6 * config.vocab_size * 4
    monkeypatch.setattr(generation, "_free_bytes", lambda device: 2 * 10 * row)
    assert rows_that_fit(model, 100) == 10


@pytest.mark.parametrize(("family", "expected"), [("gemma4", 10), ("mamba", 64), ("rwkv", 1)])
def test_a_cache_that_is_not_the_same_in_every_layer_or_none_gives_a_batch_size(family, expected, monkeypatch):
    # Two heads of 8 numbers in the first layer of Gemma 4, of 16 in the second; keys and values; and the scores.
    row = 2 * 2 * 2 * (8 + 16) * 100 * 4 + 6 * 400 * 4
    monkeypatch.setattr(generation, "_free_bytes", lambda device: 2 * 10 * row)
    assert rows_that_fit(build(family), 100) == expected


def test_no_prompts_have_no_completions(model):
    assert complete(model, []) == []


@pytest.mark.parametrize("keyed", [True, False])
def test_a_completion_ends_where_a_table_of_positions_does(keyed, new_gpt2, prompts, monkeypatch, caplog):
    limit = max(map(len, prompts)) + 3
    model, wide = new_gpt2(limit), new_gpt2(limit + 40)
    wide.load_state_dict({**model.state_dict(), "transformer.wpe.weight": wide.transformer.wpe.weight.detach()})
    with torch.no_grad():
        wide.transformer.wpe.weight[:limit] = model.transformer.wpe.weight
    keys = [(0, i) for i in range(len(prompts))] if keyed else None
    monkeypatch.setattr(generation, "_STAGE", 4)
    progress = SimpleNamespace(count=0, update=lambda n: setattr(progress, "count", progress.count + n))
    monkeypatch.setattr(generation, "tqdm", lambda **kwargs: nullcontext(progress))
    found = complete(model, prompts, keys=keys, max_new_tokens=20, eos_token_ids=[], batch_size=4)
    assert progress.count == len(prompts)
    assert [len(x.ids) for x in found] == [min(20, limit - len(prompt)) for prompt in prompts]
    assert not any(x.ended for x in found) and min(len(x.ids) for x in found) == 3
    # The beginning of what a model with more positions writes.
    free = complete(wide, prompts, keys=keys, max_new_tokens=20, eos_token_ids=[])
    assert [x.ids for x in found] == [x.ids[: len(y.ids)] for x, y in zip(free, found, strict=True)]
    assert f"reads at most {limit} tokens" in caplog.text and "is cut off before 20 tokens" in caplog.text


def test_a_prompt_that_fills_all_positions_is_refused(new_gpt2, prompts):
    limit = max(map(len, prompts))
    with pytest.raises(ValueError, match=f"A prompt has {limit} tokens, but the model reads at most {limit} "):
        complete(new_gpt2(limit), prompts)


def test_rotary_positions_have_no_end(tiny_model, prompts):
    tiny_model.config.max_position_embeddings = max(map(len, prompts))
    assert generation.position_limit(tiny_model) is None
    assert {len(x.ids) for x in complete(tiny_model, prompts, eos_token_ids=[])} == {8}
