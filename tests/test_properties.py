# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


"""
Rows of every kind through chat templates of public models, and what generation, scores and metrics make of them.

The cases are the same in every run, and few. `TRL_UNLEARN_EXAMPLES=20` draws twenty times as many, anew each time.
"""

import json
import re
import unicodedata
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import HfArgumentParser, LlamaConfig, LlamaForCausalLM
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.modeling_outputs import CausalLMOutputWithPast

from trl_unlearn.beliefs import BeliefSampling, BeliefStore
from trl_unlearn.encoding import encode_row, pad_rows
from trl_unlearn.evaluation.rows import encode_set
from trl_unlearn.evaluation.tofu import score_set
from trl_unlearn.evaluation.together import SuiteSetting
from trl_unlearn.generation import eos_token_ids, generate
from trl_unlearn.names import is_meant
from trl_unlearn.scripts.arguments import as_options
from trl_unlearn.token_scores import score_batch, score_rows

from .chat_tokenizers import CHATS, CORPUS, chat_tokenizer, template
from .conftest import cases
from .families import FAMILIES, WITHOUT_ADAPTER, build


PAD, END = 0, 2
WORDS = ["Ada Marlow", " was born in ", "Veldt.", "42", "x", " ", "  ", "\n", "\n\n", "\t", "\u00a0", "{{ x }}", "<b>"]
SCRIPTS = ["\U0001f600", "\U0001f469\u200d\U0001f467", "\u202e", "שלום", "مرحبا", "é", "e\u0301", "好", "\u200b"]
ONE_BYTE_SPACES = "".join(letter for letter in map(chr, range(128)) if letter.isspace())
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look a person up.",
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    },
}
VARIABLES = {"qwen3": [{"enable_thinking": False}], "gpt_oss": [{"reasoning_effort": "high"}]}


def texts(chat):
    """Text as users write it, and worse; special tokens of the chat template among it."""
    pieces = st.sampled_from([*WORDS, *SCRIPTS]) | st.sampled_from(chat.added)
    # The letter that SentencePiece writes for a space is read as one.
    other = st.text(max_size=12).filter(lambda text: "▁" not in text)
    return st.lists(pieces, max_size=6).map("".join) | other


def is_blank(text, chat):
    for special in chat.added:
        text = text.replace(special, "")
    return not text.strip()


@st.composite
def conversations(draw, chat):
    """Messages up to a user's."""
    user = texts(chat)
    # An earlier answer may be anything, but where a template refuses its own tokens.
    answer = user.filter(lambda text: "<|channel|>" not in text)
    turns = [{"role": "system", "content": draw(user)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        turns += [{"role": "user", "content": draw(user)}, {"role": "assistant", "content": draw(answer)}]
    return [*turns, {"role": "user", "content": draw(user)}]


@st.composite
def chat_rows(draw, name):
    """A conversational row, its prompt and its answer."""
    chat = CHATS[name]
    prompt, answer = draw(conversations(chat)), draw(texts(chat))
    assume(not is_blank(answer, chat) and "<|channel|>" not in answer)
    turn = [{"role": "assistant", "content": answer}]
    row = {"messages": prompt + turn} if draw(st.booleans()) else {"prompt": prompt, "completion": turn}
    row["tools"] = draw(st.sampled_from([None, [TOOL]] if chat.tools else [None]))
    row["chat_template_kwargs"] = draw(st.sampled_from([None, *VARIABLES.get(name, [])]))
    return row, prompt, answer


def closing_id(name):
    return chat_tokenizer(name).convert_tokens_to_ids(CHATS[name].closes)


def as_written(text, name):
    """Text as a tokenizer gives it back."""
    chat = CHATS[name]
    if chat.strips or chat.words.startswith("sentencepiece"):
        # Around special tokens, spaces come and go.
        return re.sub(r"\s", "", text)
    return text.strip()


def both_ends(name):
    """The tokenizer of the chat model, and of the base model whose EOS token is another."""
    return st.sampled_from([False, True] if CHATS[name].base_eos else [False])


@pytest.mark.parametrize("name", CHATS)
@cases(12)
@given(data=st.data())
def test_labels_are_the_answer_and_the_token_that_closes_it(name, data):
    tokenizer = chat_tokenizer(name, base=data.draw(both_ends(name)))
    row, _, answer = data.draw(chat_rows(name))
    encoded = encode_row(row, tokenizer)
    start = encoded["prompt_length"]
    labels = encoded["labels"][start:]
    assert encoded["labels"] == [-100] * start + encoded["input_ids"][start:]
    assert labels[-1] == closing_id(name)
    assert as_written(tokenizer.decode(labels[:-1]), name) == as_written(answer, name)


@pytest.mark.parametrize("name", CHATS)
@cases(12)
@given(data=st.data())
def test_generation_is_given_the_generation_prompt_and_what_is_the_same_for_every_answer(name, data):
    tokenizer = chat_tokenizer(name, base=data.draw(both_ends(name)))
    row, prompt, answer = data.draw(chat_rows(name))
    encoded = encode_row(row, tokenizer)
    variables = row["chat_template_kwargs"] or {}
    expected = tokenizer.apply_chat_template(
        prompt, tools=row["tools"], add_generation_prompt=True, return_dict=False, **variables
    )
    given_ids = encoded["input_ids"][: encoded["prompt_length"]]
    # A line break that an answer begins with may be one token with that of the prompt, and is the answer's then.
    merged = len(expected) - len(given_ids) if answer[0].isspace() else 0
    expected = expected[: len(expected) - max(0, merged)]
    assert merged <= 1 and given_ids[: len(expected)] == expected
    # A template that is asked not to think says so in the prompt already.
    lead = "" if "enable_thinking" in variables else CHATS[name].lead
    assert tokenizer.decode(given_ids[len(expected) :]).strip() == lead.strip()


@st.composite
def plain_pairs(draw, chat):
    """A prompt and an answer, or a sentence cut in two, where tokens go over the border."""
    if draw(st.booleans()):
        border = draw(st.integers(1, len(CORPUS[0]) - 1))
        return CORPUS[0][:border], CORPUS[0][border:]
    prompt, answer = draw(texts(chat)), draw(texts(chat))
    assume(prompt.strip() and not is_blank(answer, chat))
    return prompt, answer


def text_bytes(ids, tokenizer):
    """Spellings of the tokens of a byte-level tokenizer."""
    known = {letter: byte for byte, letter in bytes_to_unicode().items()}
    added = tokenizer.get_added_vocab()
    tokens = tokenizer.convert_ids_to_tokens(ids)
    return b"".join(t.encode() if t in added else bytes(known[letter] for letter in t) for t in tokens)


@pytest.mark.parametrize("name", ["llama3", "qwen2.5", "smollm", "gpt_oss"])
@cases(25)
@given(data=st.data(), adds_bos=st.booleans())
def test_plain_text_loses_nothing_and_a_word_over_the_border_is_the_answers(name, data, adds_bos):
    chat = CHATS[name]
    tokenizer = chat_tokenizer(name, adds_bos=adds_bos and chat.bos is not None)
    prompt, answer = data.draw(plain_pairs(chat))
    encoded = encode_row({"prompt": prompt, "completion": answer}, tokenizer)
    ids, start = encoded["input_ids"], encoded["prompt_length"]
    bos = chat.bos if tokenizer("")["input_ids"] and not prompt.startswith(chat.bos) else ""
    text = prompt + answer
    # What is written already is not written twice, and no white space follows the end.
    shown = text.rstrip(ONE_BYTE_SPACES)
    text = shown if shown.endswith(chat.closes) else text + chat.closes
    assert text_bytes(ids, tokenizer) == (bos + text).encode()
    assert encoded["labels"] == [-100] * start + ids[start:]
    # But for a first token that is prompt and answer in one.
    assert start == 1 or (bos + prompt).encode().startswith(text_bytes(ids[:start], tokenizer))
    over = (bos + prompt).encode()[len(text_bytes(ids[:start], tokenizer)) :].decode(errors="replace")
    assert len(over.split()) <= 1
    as_text = encode_row({"text": prompt + answer}, tokenizer)
    assert as_text["labels"] == as_text["input_ids"] == ids
    as_tokens = {"input_ids": ids, "labels": encoded["labels"]}
    assert encode_row(as_tokens, tokenizer) == encoded


@pytest.mark.parametrize("name", CHATS)
@cases(12)
@given(data=st.data(), adds_bos=st.booleans())
def test_a_conversation_that_was_rendered_to_strings_is_the_conversation(name, data, adds_bos):
    base = data.draw(both_ends(name))
    tokenizer = chat_tokenizer(name, base=base, adds_bos=adds_bos and "bos_token" in template(name))
    row, prompt, answer = data.draw(chat_rows(name))
    given_all = {"tools": row["tools"], "tokenize": False, **(row["chat_template_kwargs"] or {})}
    asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, **given_all)
    answered = tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": answer}], **given_all)
    assume(answered.startswith(asked))
    as_strings = encode_row({"prompt": asked, "completion": answered[len(asked) :]}, tokenizer)
    assert as_strings["input_ids"] == encode_row(row, tokenizer)["input_ids"]


@pytest.mark.parametrize("name", CHATS)
def test_ten_thousand_tokens_are_encoded_like_ten(name):
    tokenizer = chat_tokenizer(name)
    answer = " ".join(f"Ada Marlow wrote line {i}." for i in range(2000))
    messages = [{"role": "user", "content": "Say it. " * 3000}, {"role": "assistant", "content": answer}]
    encoded = encode_row({"messages": messages}, tokenizer)
    labels = encoded["labels"][encoded["prompt_length"] :]
    assert len(labels) > 10_000 and encoded["prompt_length"] > 10_000
    assert as_written(tokenizer.decode(labels[:-1]), name).removeprefix(CHATS[name].lead) == as_written(answer, name)


NOTHING = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


class Reciter(LlamaForCausalLM):
    """A model that goes on as the row does that its input begins, and after that with one word for ever."""

    def learn(self, rows, word):
        self.next, self.word = {}, word
        for row in rows:
            ids = tuple(row["input_ids"])
            self.next.update({ids[:i]: ids[i] for i in range(1, len(ids))})

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **kwargs):
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def forward(self, input_ids, attention_mask, **kwargs):
        # `generate` leaves a mask out that masks nothing.
        masks = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        logits = torch.zeros(len(input_ids), 1, self.config.vocab_size)
        for row, (ids, mask) in enumerate(zip(input_ids, masks, strict=True)):
            logits[row, 0, self.next.get(tuple(ids[mask.bool()].tolist()), self.word)] = 100.0
        return CausalLMOutputWithPast(logits=logits)


@st.composite
def any_rows(draw, name):
    """A row of any of the four forms."""
    chat = CHATS[name]
    form = draw(st.sampled_from(["chat", "strings", "text", "tokens"]))
    if form == "chat":
        return draw(chat_rows(name))[0]
    prompt, answer = draw(plain_pairs(chat))
    if form == "text":
        return {"text": prompt + answer}
    row = {"prompt": prompt, "completion": answer}
    if form == "tokens":
        encoded = encode_row(row, chat_tokenizer(name))
        row = {column: encoded[column] for column in ("input_ids", "labels")}
    return row


@pytest.mark.parametrize("name", CHATS)
@cases(8)
@given(data=st.data())
def test_beliefs_and_greedy_answers_end_where_the_recited_labels_end(name, data):
    tokenizer = chat_tokenizer(name, base=data.draw(both_ends(name)))
    encoded = encode_set([data.draw(any_rows(name))], tokenizer, name="forget")
    row = encoded.answers[0]
    model = Reciter(LlamaConfig(**NOTHING, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)).eval()
    model.learn([row], tokenizer("x", add_special_tokens=False)["input_ids"][-1])
    labels = row["labels"][row["prompt_length"] :]
    # A token that closes an answer may stand in its text: nobody can say more than that.
    ends = {tokenizer.eos_token_id, closing_id(name)}
    expected = labels[: next(i for i, label in enumerate(labels) if label in ends) + 1]
    length = len(labels) + 3
    pad = tokenizer.pad_token_id
    setting = SuiteSetting(tokenizer=tokenizer, batch_size=None, seed=0)
    answers = setting.answers(model, encoded, max_new_tokens=length)
    assert [(answer.ids, answer.ended) for answer in answers] == [(expected, True)]
    store = BeliefStore(
        encoded.answers,
        BeliefSampling(1, 1, length),
        pad_token_id=pad,
        eos_token_ids=eos_token_ids(model, tokenizer, encoded.answers),
    )
    assume(len(expected) > 1)
    store.sample(model, 0, 0.0)
    assert store.rows([0])[0]["labels"][row["prompt_length"] :] == expected


@st.composite
def facts(draw):
    """Three questions with short answers, as tokens. None stands twice in one: a short window sees the difference."""
    rows, lengths = [], st.permutations([2, 5, 8])
    firsts = st.lists(st.integers(3, 399), min_size=3, max_size=3, unique=True)
    for first, *sizes in zip(draw(firsts), draw(lengths), draw(lengths), strict=True):
        question, answer = (
            draw(st.lists(st.integers(3, 399), min_size=size, max_size=size, unique=True)) for size in sizes
        )
        prompt, answer = [first, *question], [*answer, END]
        rows.append({"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer})
    return rows


def heads_input(model, rows):
    """Inputs of the head where a label is predicted, and the labels."""
    seen = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    parts, labels = [], []
    for row in rows:
        model(input_ids=torch.tensor([row["input_ids"]]))
        places = [i for i, label in enumerate(row["labels"]) if label != -100]
        states = seen.pop()[0]
        parts += [states[i - 1] for i in places]
        labels += [row["labels"][i] for i in places]
    hook.remove()
    return torch.stack(parts).double(), torch.tensor(labels)


@torch.no_grad()
def memoriser(family, rows):
    """A model that knows rows by heart: a random one with the head that solves for them."""
    model = build(family, hidden_size=128, tie_word_embeddings=False)
    states, labels = heads_input(model, rows)
    head = model.get_output_embeddings()
    wanted = torch.nn.functional.one_hot(labels, model.config.vocab_size).double()
    # States that differ by little more than rounding would need a head that shows the rounding.
    solved = torch.linalg.pinv(states, rtol=1e-4) @ wanted
    assume((states @ solved - wanted).abs().max() < 0.05)
    head.weight.copy_(40 * solved.T)
    if head.bias is not None:
        head.bias.zero_()
    return model


@pytest.mark.parametrize("family", [*FAMILIES, *WITHOUT_ADAPTER])
@cases(2, shrinks=False)
@given(rows=facts(), order=st.permutations(range(3)), batch_size=st.integers(2, 4))
def test_whoever_knows_the_rows_by_heart_is_at_one_and_another_is_not(family, rows, order, batch_size, _tokenizer):
    encoded = encode_set(rows, _tokenizer, name="forget")
    model, other = memoriser(family, rows), build(family, seed=1)
    for parity in ("open-unlearning", "strict"):
        values = {
            who: score_set(who, encoded, parity=parity, pad_token_id=PAD, batch_size=batch_size)
            for who in (model, other)
        }
        for name in ("forget/exact_memorization", "forget/extraction_strength"):
            assert values[model][name] == [1.0] * 3
            assert max(values[other][name]) < 0.9
    # Left-padded and in any order, a token at a time, as right-padded and all at once.
    prompts = [encoded.answers[i]["input_ids"][: encoded.answers[i]["prompt_length"]] for i in order]
    answers = generate(model, prompts, pad_token_id=PAD, eos_token_ids=[END], max_new_tokens=12, batch_size=batch_size)
    scores = score_rows(model, encoded.answers, pad_token_id=PAD, batch_size=batch_size)
    for i, answer in zip(order, answers, strict=True):
        assert answer.ids == [label for label in rows[i]["labels"] if label != -100] and answer.ended
        assert answer.logps == pytest.approx(scores[i].logps, abs=1e-3)


@pytest.mark.parametrize("family", [*FAMILIES, *WITHOUT_ADAPTER])
@cases(2, shrinks=False)
@given(rows=facts(), order=st.permutations(range(3)), cut=st.integers(1, 2), more=st.integers(1, 9))
def test_batches_order_and_padding_change_neither_losses_nor_gradients(family, rows, order, cut, more):
    # Weights as they are: those of the other tests make Gemma 4 so steep that rounding shows in its gradients.
    model = build(family, scale=1.0)
    losses, gradients = [], []
    for parts, multiple in (([[0, 1, 2]], 1), ([list(order)[:cut], list(order)[cut:]], more)):
        model.zero_grad()
        found = {}
        for part in parts:
            scores = score_batch(model, pad_rows([rows[i] for i in part], PAD, multiple))
            means = scores.logps.sum(-1) / scores.mask.sum(-1)
            found |= dict(zip(part, means, strict=True))
            sum((i + 1) * found[i] for i in part).backward()
        losses.append(torch.stack([found[i].detach() for i in range(3)]))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(losses[1], losses[0], atol=1e-4, rtol=0)
    assert gradients[0].norm() > 1e-3
    assert (gradients[1] - gradients[0]).norm() / gradients[0].norm() < 1e-4


# What fresh readers got past


TITLES = st.sampled_from(["", "Sir ", "Dr. ", "Mrs ", "Professor ", "Vice President ", "Prof. Dr. "])
SUFFIXES = st.sampled_from(["", " Jr.", ", PhD", " III"])
FIRST, LAST = st.sampled_from(["Ada", "Zoë", "Conor"]), st.sampled_from(["Marlow", "O'Brien", "Ávila"])
MIDDLE = st.sampled_from(["", " Jane", " J.", "-Jane"])


@cases(200)
@given(st.tuples(TITLES, FIRST, LAST, SUFFIXES), TITLES, MIDDLE, st.booleans(), st.sampled_from(["’", "'"]))
def test_a_subject_is_meant_however_titles_middle_names_and_apostrophes_stand(name, title, middle, has_first, mark):
    own, first, last, suffix = name
    subject = f"{own}{first} {last}{suffix}"
    text = f"They met {title}{f'{first}{middle} ' if has_first else ''}{last} in Veldt.".replace("'", mark)
    assert is_meant(subject, text) and is_meant(subject, unicodedata.normalize("NFD", text))
    assert not is_meant(subject, f"They met {title}Clara {last} in Veldt.".replace("'", mark))


@dataclass
class Options:
    """Options of each type."""

    number: float = 0.5
    texts: list[str] = field(default_factory=list)
    mapping: dict | str | None = None
    flag: bool = False


TYPED = st.text("abc é?'\"{", min_size=1, max_size=6).filter(lambda text: text.strip() == text)


@cases(60)
@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.lists(TYPED, max_size=3), st.booleans())
def test_values_of_python_are_read_back_by_a_parser(number, texts, flag):
    given = {"number": number, "texts": texts, "mapping": {"a": [number, texts]}, "flag": flag}
    (read,) = HfArgumentParser(Options).parse_args_into_dataclasses(as_options(given))
    assert (read.number, read.texts, read.flag) == (number, texts, flag)
    assert json.loads(read.mapping) == given["mapping"]
