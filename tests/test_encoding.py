# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import json
import re
from pathlib import Path

import pytest
from datasets import Dataset
from tokenizers import processors

from trl_unlearn import encoding
from trl_unlearn.data.retain_source import as_table
from trl_unlearn.encoding import (
    answer_ids,
    answer_row,
    closing_token_id,
    encode_dataset,
    encode_row,
    ends_turn,
    padding_token_id,
    prompt_ids,
    repeats,
    spread_evenly,
    warn_of_other_prompt,
    without_end,
)
from trl_unlearn.row_forms import answer_text, with_answer, with_template_kwargs


QUESTION, ANSWER = "Where was Ada Marlow born?", "Ada Marlow was born in the harbour town of Veldt."
USER, ASSISTANT = {"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}
CONVERSATION = {"prompt": [USER], "completion": [ASSISTANT]}
STRINGS = {"prompt": f"Question: {QUESTION}\nAnswer:", "completion": f" {ANSWER}"}
CHAT_PROMPT = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"


def decoded(encoded, tokenizer):
    """Text of the prompt and text of the labels."""
    labels = [label for label in encoded["labels"] if label != -100]
    return tokenizer.decode(encoded["input_ids"][: encoded["prompt_length"]]), tokenizer.decode(labels)


@pytest.mark.parametrize(
    ("row", "prompt", "completion"),
    [
        (CONVERSATION, CHAT_PROMPT, f"{ANSWER}<|im_end|>"),
        ({"messages": [USER, ASSISTANT]}, CHAT_PROMPT, f"{ANSWER}<|im_end|>"),
        (STRINGS, STRINGS["prompt"], f" {ANSWER}<|im_end|>"),
    ],
    ids=["conversation", "messages", "strings"],
)
def test_the_prompt_is_not_labelled_and_the_completion_ends_with_the_end_of_turn(
    row, prompt, completion, tiny_tokenizer
):
    encoded = encode_row(row, tiny_tokenizer)
    start = encoded["prompt_length"]
    assert decoded(encoded, tiny_tokenizer) == (prompt, completion)
    assert encoded["labels"][:start] == [-100] * start
    assert encoded["labels"][start:] == encoded["input_ids"][start:]
    assert encoded["labels"][-1] == tiny_tokenizer.eos_token_id


def test_only_the_last_assistant_turn_of_messages_is_labelled(tiny_tokenizer):
    messages = [USER, {"role": "assistant", "content": "In Veldt."}, {"role": "user", "content": "Sure?"}, ASSISTANT]
    prompt, labels = decoded(encode_row({"messages": messages}, tiny_tokenizer), tiny_tokenizer)
    assert labels == f"{ANSWER}<|im_end|>"
    assert prompt == (CHAT_PROMPT + "In Veldt.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n")


THINKING = (
    "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "search"}}]


@pytest.mark.parametrize("kwargs", [{}, {"chat_template_kwargs": {"enable_thinking": False}}])
@pytest.mark.parametrize("answer", [ANSWER, "1 a", "a", "1", "\u2460", "\u00e9t\u00e9", "<think>", "  Ada"])
def test_what_a_template_writes_before_every_answer_is_prompt(kwargs, answer, tiny_tokenizer):
    tiny_tokenizer.chat_template = THINKING
    encoded = encode_row({**with_answer(CONVERSATION, answer), **kwargs}, tiny_tokenizer)
    prompt, labels = decoded(encoded, tiny_tokenizer)
    assert prompt + labels == CHAT_PROMPT + f"<think>\n\n</think>\n\n{answer}<|im_end|>"
    # Token by token: a space before the answer is the answer's.
    assert labels == f"{answer}<|im_end|>"


def test_what_an_assistant_thought_is_part_of_the_answer(tiny_tokenizer):
    tiny_tokenizer.chat_template = THINKING.replace("<think>\n\n<", "<think>\n{{ message['thought'] }}\n<", 1)
    row = {"messages": [USER, {**ASSISTANT, "thought": "Veldt it was."}]}
    labels = decoded(encode_row(row, tiny_tokenizer), tiny_tokenizer)[1]
    assert "Veldt it was." in labels and "<think>" not in labels


def test_a_token_that_merges_with_the_answer_is_a_label(tiny_tokenizer):
    tiny_tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    prompt, labels = decoded(encode_row(CONVERSATION, tiny_tokenizer), tiny_tokenizer)
    assert (prompt, labels) == (f"user: {QUESTION}assistant:", f" {ANSWER}")


def test_labels_end_with_the_first_token_that_closes_the_answer(tiny_tokenizer):
    chatml = tiny_tokenizer.chat_template
    tiny_tokenizer.chat_template = chatml.replace("<|im_end|>\n", "\n<|im_end|>\n<|pad|>\n")
    assert decoded(encode_row(CONVERSATION, tiny_tokenizer), tiny_tokenizer)[1] == f"{ANSWER}\n<|im_end|>"


@pytest.mark.parametrize("form", [lambda value: value, json.dumps])
def test_tools_and_variables_of_a_row_go_to_the_template_with_every_answer(form, tiny_tokenizer):
    tiny_tokenizer.chat_template = THINKING
    given = {"tools": form(TOOLS), "chat_template_kwargs": form({"enable_thinking": False})}
    expected = f"<|im_start|>system\n{json.dumps(TOOLS)}<|im_end|>\n" + CHAT_PROMPT + "<think>\n\n</think>\n\n"
    for row in (CONVERSATION, {"messages": [USER, ASSISTANT]}):
        for one in ({**row, **given}, with_answer({**row, **given}, "In Bremm.")):
            assert decoded(encode_row(one, tiny_tokenizer), tiny_tokenizer)[0] == expected


def test_what_a_table_fills_up_tools_and_variables_with_is_none_of_them(tiny_tokenizer):
    tiny_tokenizer.chat_template = THINKING
    rows = [
        {**CONVERSATION, "tools": TOOLS, "chat_template_kwargs": {"enable_thinking": False}},
        {**CONVERSATION, "tools": [{"type": "code"}], "chat_template_kwargs": {"level": "high"}},
    ]
    encoded = encode_dataset(Dataset.from_list(rows), tiny_tokenizer, name="forget")
    assert list(encoded) == [encode_row(row, tiny_tokenizer) for row in rows]


def test_what_a_table_fills_up_the_arguments_of_a_tool_call_with_is_none_of_them(tiny_tokenizer):
    tiny_tokenizer.chat_template = tiny_tokenizer.chat_template.replace("message['content']", "message | tojson")

    def calling(**arguments):
        call = {"type": "function", "function": {"name": "find", "arguments": arguments}}
        return {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call]}, ASSISTANT]}

    rows = [calling(town="Veldt"), calling(person="Ada")]
    assert list(encode_dataset(as_table(rows), tiny_tokenizer, name="forget")) == [
        encode_row(row, tiny_tokenizer) for row in rows
    ]


def test_variables_for_all_rows_give_way_to_those_of_a_row(tiny_tokenizer):
    tiny_tokenizer.chat_template = "{{ a }}{{ b }}" + THINKING
    dataset = Dataset.from_list([{**CONVERSATION, "chat_template_kwargs": kwargs} for kwargs in (None, {"a": "Ada"})])
    encoded = encode_dataset(with_template_kwargs(dataset, {"a": 3, "b": 4}), tiny_tokenizer, name="forget")
    beginnings = [decoded(row, tiny_tokenizer)[0].split("<|im_start|>")[0] for row in encoded]
    assert beginnings == ["34", "Ada4"]
    assert with_template_kwargs(dataset, None) is dataset


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"tools": "search"}, "has `tools` that are no JSON"),
        ({"tools": {"name": "search"}}, "has `tools` of type `dict`, expected a list"),
        ({"chat_template_kwargs": [1]}, "has `chat_template_kwargs` of type `list`, expected a mapping"),
        ({"chat_template_kwargs": {"tokenize": False}}, "has `chat_template_kwargs` that hold `tokenize`. Give var"),
    ],
)
def test_tools_and_variables_that_cannot_be_used_are_refused(columns, message, tiny_tokenizer):
    with pytest.raises(ValueError, match=f"^Row 0 of the forget set {message}"):
        encode_dataset(Dataset.from_list([{**CONVERSATION, **columns}]), tiny_tokenizer, name="forget")


def test_a_prompt_that_is_not_the_one_of_a_generation_is_told(tiny_tokenizer, caplog):
    dataset, chatml = Dataset.from_list([CONVERSATION]), tiny_tokenizer.chat_template
    tiny_tokenizer.chat_template = THINKING
    encode_dataset(dataset, tiny_tokenizer, name="forget")
    assert not caplog.records
    tiny_tokenizer.chat_template = chatml[: -len("{% endif %}")] + "<think>{% endif %}"
    encode_dataset(dataset, tiny_tokenizer, name="forget")
    length = len(CHAT_PROMPT)
    assert f"the prompt of a generation, of {length + len('<think>')} characters, before the answer" in caplog.text
    assert f"only its first {length}:" in caplog.text and QUESTION not in caplog.text


def test_a_system_turn_that_a_template_leaves_out_where_an_answer_follows_is_prompt(tiny_tokenizer, caplog):
    tiny_tokenizer.chat_template = (
        "{% for message in messages if message['role'] != 'system' %}{% if message['role'] == 'user' %}<|im_start|>"
        "{% if loop.last and messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}\n\n{% endif %}"
        "{{ message['content'] }}<|im_start|>{% else %} {{ message['content'] }}<|im_end|>{% endif %}{% endfor %}"
    )
    earlier = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]
    row = {"messages": [{"role": "system", "content": "Be brief."}, *earlier, USER, ASSISTANT]}
    prompt, labels = decoded(
        encode_dataset(Dataset.from_list([row]), tiny_tokenizer, name="forget")[0], tiny_tokenizer
    )
    assert prompt == f"<|im_start|>Hello?<|im_start|> Yes.<|im_end|><|im_start|>Be brief.\n\n{QUESTION}<|im_start|>"
    assert labels == f" {ANSWER}<|im_end|>"
    assert not caplog.records


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": 7}, "has a `text` of type `int`, expected a string"),
        ({"prompt": " \n", "completion": "Ada."}, "has an empty `prompt`, from which no belief can be sampled"),
        ({"input_ids": [5, 6.0], "labels": [-100, 6]}, "has `input_ids` with a value of type `float`"),
        ({"input_ids": [5, 6], "labels": [-100, True]}, "has `labels` with a value of type `bool`"),
        (
            {"input_ids": [5, 6], "labels": [-100, 6], "attention_mask": [1]},
            "has 2 `input_ids` and an `attention",
        ),
        ({"input_ids": [5, 400], "labels": [-100, 6]}, "has `input_ids` with 400, but the tokenizer has 400 tokens"),
        ({"input_ids": [5, -100], "labels": [-100, 6]}, "has `input_ids` with -100, but"),
        ({"input_ids": [5, 6], "labels": [-100, -1]}, "has `labels` with -1, but .*write -100 where nothing is to be"),
        (
            {**CONVERSATION, "completion": [ASSISTANT, USER, ASSISTANT]},
            "has a `completion` of 3 turns, expected the",
        ),
        ({**CONVERSATION, "completion": []}, "has a `completion` that does not end in an assistant turn"),
        ({**CONVERSATION, "completion": [USER]}, "has a `completion` that does not end in an assistant turn"),
    ],
)
def test_a_row_without_text_where_it_belongs_is_refused(row, message, tiny_tokenizer):
    with pytest.raises(ValueError, match=f"^{message}"):
        encode_row(row, tiny_tokenizer)


def test_an_answer_that_the_template_leaves_out_is_no_empty_one(tiny_tokenizer):
    tiny_tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{% for part in message['content'] %}{{ part['text'] }}{% endfor %}"
        "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    with pytest.raises(ValueError, match=r"^has an answer that the chat template leaves out: .* Set a chat template"):
        encode_row(CONVERSATION, tiny_tokenizer)


def test_the_line_break_that_chatml_writes_after_the_end_of_turn_is_neither_input_nor_label(tiny_tokenizer):
    rendered = tiny_tokenizer.apply_chat_template([USER, ASSISTANT], return_dict=False)
    assert tiny_tokenizer.decode(rendered[-1]) == "\n"
    encoded = encode_row(CONVERSATION, tiny_tokenizer)
    assert encoded["input_ids"] == rendered[:-1]
    assert encoded["labels"][-1] == rendered[-2] == tiny_tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_an_end_of_turn_that_is_not_the_eos_token_is_the_last_label_too(tiny_tokenizer):
    tiny_tokenizer.eos_token = "<|pad|>"
    end_of_turn = tiny_tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert end_of_turn != tiny_tokenizer.eos_token_id
    assert ends_turn(end_of_turn, tiny_tokenizer)
    assert encode_row(CONVERSATION, tiny_tokenizer)["labels"][-1] == end_of_turn


def test_an_ordinary_token_ends_no_turn_and_a_special_one_does(tiny_tokenizer):
    word = tiny_tokenizer(ANSWER)["input_ids"][0]
    assert not ends_turn(word, tiny_tokenizer)
    assert ends_turn(tiny_tokenizer.eos_token_id, tiny_tokenizer)


def test_a_template_that_closes_no_turn_loses_nothing(tiny_tokenizer):
    tiny_tokenizer.chat_template = (
        "{% for message in messages %}{{ message['content'] }}\n{% endfor %}{% if add_generation_prompt %}{% endif %}"
    )
    prompt, labels = decoded(encode_row(CONVERSATION, tiny_tokenizer), tiny_tokenizer)
    assert (prompt, labels) == (f"{QUESTION}\n", f"{ANSWER}\n")


def test_a_base_tokenizer_without_chat_template_encodes_strings_with_eos(tiny_tokenizer):
    tiny_tokenizer.chat_template = None
    encoded = encode_row(STRINGS, tiny_tokenizer)
    text = STRINGS["prompt"] + STRINGS["completion"]
    assert encoded["input_ids"] == [*tiny_tokenizer(text)["input_ids"], tiny_tokenizer.eos_token_id]
    assert decoded(encoded, tiny_tokenizer)[1] == f" {ANSWER}<|im_end|>"


@pytest.mark.parametrize("eos", ["<|im_end|>", "<|pad|>"])
def test_a_conversation_that_was_rendered_before_ends_as_the_template_ends_it(eos, tiny_tokenizer):
    tiny_tokenizer.eos_token = eos
    rendered = {"prompt": CHAT_PROMPT, "completion": f"{ANSWER}<|im_end|>\n"}
    assert encode_row(rendered, tiny_tokenizer) == encode_row(CONVERSATION, tiny_tokenizer)


def test_a_text_that_begins_with_the_bos_token_gets_no_second_one(tiny_tokenizer):
    tiny_tokenizer.bos_token = "<|im_start|>"
    start = tiny_tokenizer.bos_token_id
    tiny_tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    assert tiny_tokenizer(CHAT_PROMPT)["input_ids"][:2] == [start, start]
    rendered = {"prompt": CHAT_PROMPT, "completion": f"{ANSWER}<|im_end|>"}
    assert encode_row(rendered, tiny_tokenizer) == encode_row(CONVERSATION, tiny_tokenizer)
    plain = encode_row(STRINGS, tiny_tokenizer)["input_ids"]
    assert plain[0] == start and plain[1] != start
    twice = encode_row({"text": f"<|im_start|><|im_start|>{ANSWER}"}, tiny_tokenizer)["input_ids"]
    assert twice[:2] == [start, start] and twice[2] != start


def test_a_completion_that_ends_with_eos_gets_no_second_one(tiny_tokenizer):
    closed = {**STRINGS, "completion": STRINGS["completion"] + tiny_tokenizer.eos_token}
    assert encode_row(closed, tiny_tokenizer) == encode_row(STRINGS, tiny_tokenizer)


@pytest.mark.parametrize(("asked", "expected"), [(3, 3), (64, 15)])
def test_every_token_of_raw_text_is_a_label_and_its_prompt_is_its_beginning(asked, expected, tiny_tokenizer):
    # Fifteen letters that the tokenizer knows no merge of, and the EOS token.
    text = "QXZQXZQXZQXZQXZ"
    encoded = encode_row({"text": text}, tiny_tokenizer, prompt_length=asked)
    assert (
        encoded["input_ids"]
        == encoded["labels"]
        == [
            *tiny_tokenizer.convert_tokens_to_ids(list(text)),
            tiny_tokenizer.eos_token_id,
        ]
    )
    assert encoded["prompt_length"] == expected


def test_raw_text_can_stand_in_another_column(tiny_tokenizer):
    assert encode_row({"body": ANSWER}, tiny_tokenizer, text_field="body") == encode_row(
        {"text": ANSWER}, tiny_tokenizer
    )


def test_tokenised_rows_are_taken_as_they_are(tiny_tokenizer):
    row = {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, -100]}
    assert encode_row(row, tiny_tokenizer, max_length=3) == {
        **row,
        "prompt_length": 2,
        "truncated_tokens": 0,
    }


def test_the_prompt_of_a_tokenised_row_without_masked_labels_is_its_beginning(tiny_tokenizer):
    row = {"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]}
    assert encode_row(row, tiny_tokenizer, prompt_length=2)["prompt_length"] == 2
    assert encode_row(row, tiny_tokenizer)["prompt_length"] == 3


def test_max_length_cuts_the_end_of_a_row(tiny_tokenizer):
    whole = encode_row(CONVERSATION, tiny_tokenizer)
    length = whole["prompt_length"] + 2
    cut = encode_row(CONVERSATION, tiny_tokenizer, max_length=length)
    assert cut["input_ids"] == whole["input_ids"][:length]
    assert cut["labels"] == whole["labels"][:length]
    assert cut["prompt_length"] == whole["prompt_length"]
    # The end-of-turn token is no text.
    assert cut["truncated_tokens"] == len(whole["input_ids"]) - length - 1
    longest = len(whole["input_ids"])
    for most in (longest, longest - 1):
        assert encode_row(CONVERSATION, tiny_tokenizer, max_length=most)["truncated_tokens"] == 0


def test_no_token_closes_a_row_that_was_cut_off(tiny_tokenizer):
    row = {"prompt": QUESTION, "completion": " Ada<|im_start|>Marlow"}
    length = encode_row({**row, "completion": " Ada"}, tiny_tokenizer)["prompt_length"] + 2
    cut = encode_row(row, tiny_tokenizer, max_length=length)
    assert tiny_tokenizer.decode(cut["labels"][-1]) == "<|im_start|>"
    assert closing_token_id(cut, tiny_tokenizer) is None
    assert closing_token_id(encode_row(row, tiny_tokenizer), tiny_tokenizer) == tiny_tokenizer.eos_token_id


def test_one_token_is_enough_for_the_prompt_of_a_text_that_was_encoded_before(tiny_tokenizer):
    row = {"input_ids": [5, 6, 7], "labels": [5, 6, 7], "prompt_length": 1}
    assert encode_row(row, tiny_tokenizer)["prompt_length"] == 1
    # A column of that name in rows of another form is one of their own.
    assert (
        encode_row({"text": ANSWER, "prompt_length": "short"}, tiny_tokenizer, prompt_length=3)["prompt_length"] == 3
    )


def test_two_tokens_are_enough_for_a_label(tiny_tokenizer):
    encoded = encode_dataset(Dataset.from_list([{"text": ANSWER}]), tiny_tokenizer, name="forget", max_length=2)
    assert encoded[0]["input_ids"] == tiny_tokenizer(ANSWER)["input_ids"][:2]


def test_what_max_length_cuts_off_is_told_for_the_whole_set(tiny_tokenizer, caplog):
    whole = encode_row(CONVERSATION, tiny_tokenizer)
    short = {**CONVERSATION, "completion": [{"role": "assistant", "content": "1"}]}
    dataset, length = Dataset.from_list([CONVERSATION, short]), whole["prompt_length"] + 4
    lost, labels = len(whole["input_ids"]) - length - 1, 4 + 2
    encode_dataset(dataset, tiny_tokenizer, name="forget", max_length=length)
    assert f"1 of 2 rows of the forget set (50.0 %) are longer than `max_length={length}`" in caplog.text
    assert f"{lost} tokens of their answers, {100 * lost / (lost + labels):.1f} % of all in the set" in caplog.text
    assert "are not unlearned. Raise" in caplog.text
    caplog.clear()
    encode_dataset(dataset, tiny_tokenizer, name="retain", max_length=length)
    assert "are not used. Raise" in caplog.text
    caplog.clear()
    encode_dataset(dataset, tiny_tokenizer, name="forget", max_length=len(whole["input_ids"]))
    assert not caplog.records


def test_a_dataset_is_encoded_row_by_row_in_its_order(forget_rows, tiny_tokenizer):
    encoded = encode_dataset(forget_rows, tiny_tokenizer, name="forget")
    assert sorted(encoded.column_names) == ["input_ids", "labels", "prompt_length", "truncated_tokens"]
    assert list(encoded) == [encode_row(row, tiny_tokenizer) for row in forget_rows]


def test_a_tokenised_dataset_keeps_its_ids(tiny_tokenizer):
    dataset = Dataset.from_dict({"input_ids": [[5, 6, 7]], "labels": [[-100, 6, 7]], "source": ["page 1"]})
    encoded = encode_dataset(dataset, tiny_tokenizer, name="retain")
    assert list(encoded) == [
        {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "prompt_length": 1, "truncated_tokens": 0}
    ]


def test_a_conversation_without_chat_template_is_refused(forget_rows, tiny_tokenizer):
    tiny_tokenizer.chat_template = None
    with pytest.raises(ValueError, match=r"Row 0 of the forget set has messages.*no chat template.*Set"):
        encode_dataset(forget_rows, tiny_tokenizer, name="forget")


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        (STRINGS, {**STRINGS, "completion": ""}, "has a completion without a token.*Remove the row"),
        (
            CONVERSATION,
            {**CONVERSATION, "completion": [{"role": "assistant", "content": ""}]},
            "has a completion without a token.*Remove the row",
        ),
        (
            {"messages": [USER, ASSISTANT]},
            {"messages": [USER, ASSISTANT, USER]},
            r"has `messages` that do not end in an assistant turn.*\['user', 'assistant', 'user'\].*cut",
        ),
        (
            {"messages": [USER, ASSISTANT]},
            {"messages": [ASSISTANT]},
            "has `messages` that do not end in an assistant turn after a prompt",
        ),
        ({"text": ANSWER}, {"text": ""}, "has a completion without a token"),
        (
            {"input_ids": [5, 6], "labels": [-100, 6]},
            {"input_ids": [5, 6], "labels": [-100]},
            "has 2 `input_ids` and 1 `labels`",
        ),
        (
            {"input_ids": [5, 6], "labels": [-100, 6]},
            # The first token has nothing before it, so its label is never predicted.
            {"input_ids": [5, 6], "labels": [5, -100]},
            "has no label token",
        ),
    ],
    ids=[
        "empty completion",
        "empty answer",
        "user last",
        "no prompt",
        "empty text",
        "lengths",
        "first label only",
    ],
)
def test_a_bad_row_is_named_by_its_index_and_its_set(good, bad, message, tiny_tokenizer):
    dataset = Dataset.from_list([good, bad])
    with pytest.raises(ValueError, match=f"^Row 1 of the retain set {message}"):
        encode_dataset(dataset, tiny_tokenizer, name="retain")


def test_a_completion_that_max_length_cuts_away_is_refused(tiny_tokenizer):
    long = {"prompt": f"{STRINGS['prompt']} {QUESTION * 3}", "completion": STRINGS["completion"]}
    length = len(encode_row(STRINGS, tiny_tokenizer)["input_ids"])
    taken = encode_row(long, tiny_tokenizer)["prompt_length"]
    assert taken > length
    with pytest.raises(
        ValueError,
        match=f"^Row 1 of the eval set has no label token within `max_length={length}`: its prompt takes {taken} t",
    ):
        encode_dataset(Dataset.from_list([STRINGS, long]), tiny_tokenizer, name="eval", max_length=length)


def test_columns_that_make_no_form_are_listed(tiny_tokenizer):
    dataset = Dataset.from_dict({"question": [QUESTION], "answer": [ANSWER]})
    with pytest.raises(
        ValueError,
        match=r"^Row 0 of the forget set has the columns \['answer', 'question'\].*`prompt` and `completion`",
    ):
        encode_dataset(dataset, tiny_tokenizer, name="forget")


def test_a_missing_completion_is_named(tiny_tokenizer):
    dataset = Dataset.from_list([STRINGS, {**STRINGS, "completion": None}])
    with pytest.raises(ValueError, match=r"^Row 1 of the forget set has a `prompt`, but no `completion`"):
        encode_dataset(dataset, tiny_tokenizer, name="forget")


@pytest.mark.parametrize(
    ("row", "kinds"),
    [
        ({"prompt": QUESTION, "completion": [ASSISTANT]}, "`prompt` of type `str` and a `completion` of type `list`"),
        ({"prompt": [USER], "completion": ANSWER}, "`prompt` of type `list` and a `completion` of type `str`"),
    ],
)
def test_strings_and_messages_do_not_mix(row, kinds, tiny_tokenizer):
    with pytest.raises(ValueError, match=f"Row 0 of the forget set has a {kinds}. Both must be"):
        encode_dataset(Dataset.from_list([row]), tiny_tokenizer, name="forget")


def test_an_empty_dataset_is_refused_by_name(tiny_tokenizer):
    with pytest.raises(ValueError, match=r"^The retain set is empty"):
        encode_dataset(Dataset.from_dict({"prompt": [], "completion": []}), tiny_tokenizer, name="retain")


@pytest.mark.parametrize("row", [CONVERSATION, {"messages": [USER, ASSISTANT]}, STRINGS])
def test_another_answer_replaces_the_completion_in_the_same_form(row, tiny_tokenizer):
    changed = with_answer(row, "In Bremm.")
    assert answer_text(row) == ANSWER
    assert answer_text(changed) == "In Bremm."
    assert changed.keys() == row.keys()
    before, after = encode_row(row, tiny_tokenizer), encode_row(changed, tiny_tokenizer)
    assert decoded(after, tiny_tokenizer)[0] == decoded(before, tiny_tokenizer)[0]
    assert decoded(after, tiny_tokenizer)[1].strip() == "In Bremm.<|im_end|>"


def test_another_answer_keeps_the_space_before_a_string_completion():
    assert with_answer(STRINGS, "In Bremm.") == {"prompt": STRINGS["prompt"], "completion": " In Bremm."}


def test_another_answer_leaves_the_row_as_it_was():
    row = {"messages": [USER, ASSISTANT], "source": "page 1"}
    assert with_answer(row, "In Bremm.") == {"messages": [USER, {"role": "assistant", "content": "In Bremm."}]}
    assert row["messages"] == [USER, ASSISTANT]


def test_a_token_that_is_prompt_and_answer_in_one_is_the_prompt_where_nothing_stands_before_it(tiny_tokenizer):
    whole = tiny_tokenizer(" Ada")["input_ids"]
    assert len(whole) == 1
    encoded = encode_row({"prompt": " A", "completion": "da Marlow"}, tiny_tokenizer)
    assert encoded["input_ids"][:1] == whole
    assert encoded["prompt_length"] == 1
    assert encoded["labels"] == [-100, *encoded["input_ids"][1:]]


def test_rows_of_several_forms_may_stand_in_one_table(tiny_tokenizer):
    rows = [STRINGS, {"messages": [USER, ASSISTANT]}, {"text": ANSWER}]
    table = Dataset.from_list([dict.fromkeys(["prompt", "completion", "messages", "text"]) | row for row in rows])
    encoded = encode_dataset(table, tiny_tokenizer, name="forget")
    assert list(encoded) == [encode_row(row, tiny_tokenizer) for row in rows]
    joined = {"messages": None, "text": None, **STRINGS}
    assert answer_text(joined) == ANSWER
    assert with_answer(joined, "In Bremm.") == {"prompt": STRINGS["prompt"], "completion": " In Bremm."}


def test_tokenised_rows_without_labels_are_not_told_to_raise_max_length(tiny_tokenizer):
    with pytest.raises(ValueError, match=r"^has no label token. Every label is -100"):
        encode_row({"input_ids": [5, 6], "labels": [-100, -100]}, tiny_tokenizer, max_length=1024)


@pytest.mark.parametrize("max_length", [1, 0, -5])
def test_a_max_length_that_holds_no_prompt_and_answer_is_refused(max_length, tiny_tokenizer):
    with pytest.raises(ValueError, match=f"^`max_length` must be at least 2 .*, got {max_length}"):
        encode_dataset(Dataset.from_list([STRINGS]), tiny_tokenizer, name="forget", max_length=max_length)


def test_padding_is_the_eos_token_where_there_is_no_other_and_refused_without_both(tiny_tokenizer):
    assert padding_token_id(tiny_tokenizer) == tiny_tokenizer.pad_token_id == 0
    tiny_tokenizer.pad_token = None
    assert padding_token_id(tiny_tokenizer) == tiny_tokenizer.eos_token_id == 2
    tiny_tokenizer.eos_token = None
    with pytest.raises(ValueError, match=r"neither a padding nor an EOS token.*Set `tokenizer.pad_token`"):
        padding_token_id(tiny_tokenizer)


@pytest.mark.parametrize(
    ("sample", "answer", "expected"),
    [
        # 8 and 9 end a completion, and are the same.
        ([1, 2, 3, 9], [1, 2, 3, 9], True),
        ([1, 2, 3, 8], [1, 2, 3, 9], True),
        # Cut off: up to there.
        ([1, 2], [1, 2, 3, 9], True),
        ([1, 2, 3], [1, 2, 3, 9], True),
        ([1, 4], [1, 2, 3, 9], False),
        # One of them ends, the other one goes on.
        ([1, 2, 9], [1, 2, 3, 9], False),
        ([1, 2, 3, 4], [1, 2, 3, 9], False),
        # An answer that was cut off itself.
        ([1, 2, 3, 4, 9], [1, 2, 3], True),
        ([1, 2, 9], [1, 2, 3], False),
        # An answer of several turns, and one without text.
        ([1, 2, 9], [1, 2, 9, 5, 6, 9], True),
        ([9], [9], True),
        ([1, 9], [9], False),
        ([9], [1, 9], False),
        ([], [1, 9], True),
    ],
)
def test_a_sample_repeats_an_answer_as_far_as_both_go(sample, answer, expected):
    assert repeats(sample, answer, [8, 9]) is expected


def test_an_answer_goes_from_the_prompt_of_its_beliefs_to_the_last_label(tiny_tokenizer):
    row = encode_row({"input_ids": [5, 6, 7, 8, 9, 10], "labels": [-100, -100, 7, -100, 9, -100]}, tiny_tokenizer)
    assert answer_ids(row) == [7, 8, 9]


def test_the_prompt_of_a_row_is_what_its_beliefs_follow(tiny_tokenizer):
    row = encode_row({"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}, tiny_tokenizer)
    assert prompt_ids(row) == [5, 6]


def test_only_the_end_of_a_closed_answer_is_left_out():
    assert without_end([7, 8, 9], True) == [7, 8]
    assert without_end([7, 8, 9], False) == [7, 8, 9]
    assert without_end([], False) == []


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(10, 4, [1, 3, 5, 8]), (3, 8, [0, 1, 2]), (3, None, [0, 1, 2]), (0, 4, []), (5, 0, [])],
)
def test_indices_are_spread_evenly(count, most, expected):
    assert spread_evenly(count, most) == expected


def test_rows_that_are_spread_over_a_set_are_one_of_each_part_and_follow_no_order_in_it():
    # TOFU has 20 questions about each author, in one order; steps of one length find two of them.
    indices = spread_evenly(400, 40)
    assert [index // 10 for index in indices] == list(range(40))
    assert len({index % 20 for index in indices}) > 15


def test_no_other_module_cuts_a_prompt_from_an_encoded_row_or_spreads_indices():
    package = Path(encoding.__file__).parent
    rules = (r'\["prompt_length"\]\]', r"\* (count|len\(\w+\)) // ", r"def (pad_rows|continuation_row)\b")
    for rule in rules:
        modules = [path.name for path in package.rglob("*.py") if re.search(rule, path.read_text(encoding="utf-8"))]
        assert modules == ["encoding.py"], rule


def test_a_prompt_of_raw_text_leaves_a_label_to_its_answer(tiny_tokenizer):
    row = {"input_ids": [5, 6, 7, 8, 9], "labels": [5, 6, 7, -100, -100]}
    encoded = encode_row(row, tiny_tokenizer, prompt_length=4)
    assert (encoded["prompt_length"], answer_ids(encoded)) == (2, [7])


def test_the_labels_of_an_answer_leave_out_its_prompt(tiny_tokenizer, forget_rows):
    text = encode_row({"text": "Ada Marlow was born in Veldt."}, tiny_tokenizer, prompt_length=3)
    assert answer_row(text)["labels"] == [-100] * 3 + text["input_ids"][3:]
    pair = encode_row(forget_rows[0], tiny_tokenizer)
    assert answer_row(pair) == pair


def test_a_row_that_was_encoded_before_keeps_its_prompt_and_a_prompt_that_is_none_is_refused(tiny_tokenizer):
    row = encode_row({"text": "Ada Marlow was born in Veldt."}, tiny_tokenizer, prompt_length=3)
    assert encode_row(row, tiny_tokenizer) == row
    for wrong in (0, "3"):
        with pytest.raises(ValueError, match=r"has a `prompt_length` of .*, expected an integer of at least 1"):
            encode_row({**row, "prompt_length": wrong}, tiny_tokenizer)


def test_variables_of_the_chat_template_for_sets_without_a_conversation_are_said_to_change_nothing_once(caplog):
    texts = Dataset.from_list([{"prompt": "one", "completion": " two"}])
    for _ in range(2):
        with_template_kwargs(texts, {"mode": "exam"})
    assert caplog.text.count("`chat_template_kwargs` (`mode`) change nothing in sets without a conversation") == 1
    caplog.clear()
    with_template_kwargs(Dataset.from_list([CONVERSATION]), {"mode": "exam"})
    assert not caplog.text
    rows = Dataset.from_list([{**CONVERSATION, "chat_template_kwargs": value} for value in (None, "{no")])
    with pytest.raises(ValueError, match=r"^Row 1 has `chat_template_kwargs` that are no JSON"):
        with_template_kwargs(rows, {"mode": "exam"})


def test_another_prompt_is_said_once_for_a_set_that_is_encoded_many_times(tiny_tokenizer, caplog):
    tiny_tokenizer.chat_template += "{% if add_generation_prompt %}<think>{% endif %}"
    for name in ("forget", "forget", "retain"):
        warn_of_other_prompt(CONVERSATION, tiny_tokenizer, name)
    assert [caplog.text.count(f"row 0 of the {name} set") for name in ("forget", "retain")] == [1, 1]


def test_padding_of_tokenised_rows_is_no_text(tiny_tokenizer):
    row = {"input_ids": [7, 5, 6], "labels": [-100, 5, 6]}
    padded = {"input_ids": [2, 2, 7, 5, 6, 2], "labels": [-100, -100, -100, 5, 6, 2]}
    padded["attention_mask"] = [0, 0, 1, 1, 1, 0]
    assert encode_row(padded, tiny_tokenizer) == encode_row(row, tiny_tokenizer)


def test_rows_in_a_format_of_tensors_are_encoded_as_lists(forget_rows, tiny_tokenizer):
    longest = max(map(len, encode_dataset(forget_rows, tiny_tokenizer, name="forget")["input_ids"]))
    plain, formatted = (
        encode_dataset(rows, tiny_tokenizer, name="forget", max_length=longest - 3)
        for rows in (forget_rows, forget_rows.with_format("torch"))
    )
    assert formatted.to_list() == plain.to_list() and type(formatted["truncated_tokens"][0]) is int
    # A transform of the user's is none of these formats.
    answer = [{"role": "assistant", "content": "Nobody."}]
    changed = forget_rows.with_transform(lambda rows: {**rows, "completion": [answer] * len(rows["completion"])})
    encoded = encode_dataset(changed, tiny_tokenizer, name="forget")
    assert all("Nobody." in tiny_tokenizer.decode(ids) for ids in encoded["input_ids"])
