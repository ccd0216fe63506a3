# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Rows to token ids and labels, and back to batches: the only tokenisation, for training and evaluation alike."""

import logging
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from uuid import uuid4

import torch
from datasets import Dataset
from jinja2 import TemplateError
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from .row_forms import check_messages, is_conversation, naming, prompt_and_answer, template_arguments, warn_once


logger = logging.getLogger(__name__)

ENCODED_COLUMNS = ("input_ids", "labels", "prompt_length")
# Prompt with its arguments of the chat template -> its tokens in each form that an answer's labels are read from.
RenderedPrompts = dict[str, list[list[int]]]
# Two answers, to see what a chat template writes around every answer: no answer begins, or ends, like both of them.
_PROBES = ("1", "a")
_ROW_FORMS = (
    "`prompt` and `completion` (strings or messages), `messages` (the last turn is the assistant's), `{text_field}`, "
    "or `input_ids` and `labels`"
)


def ends_turn(token_id: int, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a token closes a completion: the EOS token or another special token, such as `<|eot_id|>`."""
    if token_id in tokenizer.all_special_ids:
        return True
    if tokenizer.is_fast:
        # Not `added_tokens_decoder`, which each look-up builds anew: milliseconds for thousands of added tokens.
        return bool(tokenizer.decode(token_id)) and not tokenizer.decode(token_id, skip_special_tokens=True)
    added = tokenizer.added_tokens_decoder.get(token_id)
    return added is not None and added.special


def closing_token_id(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Special token that closes an encoded row's answer (its last label); None if there is none, or it was cut off."""
    if row.get("truncated_tokens"):
        return None
    last = next((label for label in reversed(row["labels"]) if label != -100), None)
    return last if last is not None and ends_turn(last, tokenizer) else None


def answer_ids(row: Mapping[str, Any]) -> list[int]:
    """Tokens of an encoded row's answer: those after [`prompt_ids`], up to its last label."""
    end = max((i + 1 for i, label in enumerate(row["labels"]) if label != -100), default=0)
    return list(row["input_ids"][row["prompt_length"] : end])


def prompt_ids(row: Mapping[str, Any]) -> list[int]:
    """Tokens of an encoded row that its beliefs, and any other answer, are sampled after."""
    return list(row["input_ids"][: row["prompt_length"]])


def without_end(values: Sequence[Any], closed: bool) -> list[Any]:
    """Tokens of an answer, or a value of each, without the end-of-turn token that a closed answer has last."""
    return list(values[:-1] if closed else values)


def spread_evenly(count: int, most: int | None) -> list[int]:
    """At most `most` indices of `count` rows, one of each of as many equal parts; all without a limit (`None`)."""
    # At random within its part, by a fixed seed: of sets with a period (20 questions about each author), steps of one
    # length would read the same few questions.
    kept, generator = count if most is None else min(count, most), random.Random(0)
    return [generator.randrange(index * count // kept, (index + 1) * count // kept) for index in range(kept)]


def answer_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """An encoded row without labels on its prompt, where raw text has some that other answers to it have not."""
    start = row["prompt_length"]
    return {**row, "labels": [-100] * start + list(row["labels"][start:])}


# Five functions give a row another answer: `row_forms.with_answer` before it is encoded, `with_answer_ids` and
# `continuation_row` (without labels of the prompt) by tokens, `subjects._with_text` by a text, and
# `trainer.inputs.with_refusals` in columns beside its own answer.
def with_answer_ids(row: Mapping[str, Any], ids: list[int]) -> dict[str, list[int]]:
    """An encoded row with other tokens for its answer, its end of turn included."""
    # The labels of a prompt, too: raw text has some.
    return {"input_ids": prompt_ids(row) + ids, "labels": list(row["labels"][: row["prompt_length"]]) + ids}


def continuation_row(prompt: list[int], completion: list[int]) -> dict[str, list[int]]:
    """Encoded row (`input_ids`, `labels`) of a generated completion, whose tokens are all labels."""
    return {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}


def repeats(sample: Sequence[int], answer: Sequence[int], end_ids: Collection[int]) -> bool:
    """Whether a sample repeats an answer token for token, as far as both go; `end_ids` all count as the same token."""
    # Where one of them was cut off, the other may be longer. Where one has ended, the other has to end there too. A
    # sample without a token repeats everything.
    sample, answer = ([None if token in end_ids else token for token in ids] for ids in (sample, answer))
    return all(a == b for a, b in zip(sample, answer, strict=False))


def _common_prefix_length(a: Sequence, b: Sequence) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _render(prompt: list[dict[str, str]], tokenizer, given: dict[str, Any]) -> list[list[int]]:
    """Tokens of a prompt as a generation begins, and of the prompt before each of `_PROBES`."""
    asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, **given)
    ends = [[{"role": "assistant", "content": probe}] for probe in _PROBES]
    return [asked, *(tokenizer.apply_chat_template(prompt + end, **given) for end in ends)]


def _encode_conversation(row: Mapping[str, Any], tokenizer, rendered: RenderedPrompts) -> tuple[list[int], int]:
    prompt, answer = prompt_and_answer(row)
    if tokenizer.chat_template is None:
        raise ValueError(
            f"has messages, but the tokenizer (`{type(tokenizer).__name__}`) has no chat template. Set "
            "`tokenizer.chat_template`, pass `--chat_template_path`, or give `prompt` and `completion` as strings."
        )
    given = {**template_arguments(row), "return_dict": False}
    key = repr((prompt, given))
    try:
        if key not in rendered:
            rendered[key] = _render(prompt, tokenizer, given)
        prompt_tokens, *other_ids = rendered[key]
        ids = tokenizer.apply_chat_template(prompt + answer, **given)
        if prompt[0]["role"] == "system" and len(prompt) > 1 and ids[: len(prompt_tokens)] != prompt_tokens:
            # Mistral's templates leave the system turn out where an answer follows, but a generation is prompted with
            # it: put it back in front.
            bare_ids = tokenizer.apply_chat_template(prompt[1:], add_generation_prompt=True, **given)
            if ids[: len(bare_ids)] == bare_ids:
                ids, *other_ids = [prompt_tokens + one[len(bare_ids) :] for one in (ids, *other_ids)]
    except TemplateError as error:
        roles = [message["role"] for message in prompt + answer]
        raise ValueError(
            f"has messages that the chat template refuses (roles: {roles}): {str(error).rstrip('.')}. Change the "
            "messages to what the model was trained on."
        ) from error
    if other_ids[0] == other_ids[1]:
        raise ValueError(
            "has an answer that the chat template leaves out: it may want `content` in parts, as templates for images "
            "do. Set a chat template that writes `content` of type `str`."
        )
    # What a template writes before every answer, such as an empty block of thoughts, is not part of the answer: as
    # labels it would count as remembered. Tokens that merge with the answer are part of it.
    start = max(_labels_start(prompt_tokens, ids), min(_common_prefix_length(other, ids) for other in other_ids))
    # What comes behind the token that ends a generation (a line break in ChatML) is never generated.
    tail = min(_common_prefix_length(other[::-1], ids[start:][::-1]) for other in other_ids)
    end = next((i + 1 for i in range(len(ids) - tail, len(ids)) if ends_turn(ids[i], tokenizer)), len(ids))
    return ids[:end], start


def warn_of_other_prompt(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Warn if a chat template begins an answer with other text than it ends the prompt of a generation with."""
    if not is_conversation(row):
        return
    prompt, _ = prompt_and_answer(row)
    given = {**template_arguments(row), "return_dict": False}
    # Compared as text: a token that the end of the prompt shares with an answer is no other prompt.
    asked = tokenizer.decode(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, **given))
    text = tokenizer.decode(encode_row(row, tokenizer)["input_ids"])
    if not text.startswith(asked):
        warn_once(
            f"The chat template does not write the prompt of a generation, of {len(asked)} characters, before the "
            f"answer of row 0 of the {name} set, but only its first {_common_prefix_length(asked, text)}: answers are "
            "scored, and beliefs sampled, after that. If the model is asked with the rest (the start of a thought, "
            "for instance), set `chat_template_kwargs`, or a chat template that writes the same in both cases."
        )


def _labels_start(prompt_ids: list[int], ids: list[int]) -> int:
    # At least 1: a first token that is prompt and completion in one has nothing before it, and is never predicted.
    return max(1, _common_prefix_length(prompt_ids, ids))


def _tokenize(text: str, tokenizer) -> list[int]:
    """Token ids of a text, with a BOS token unless the text begins with one, as a chat template writes it."""
    begins = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
    return tokenizer(text, add_special_tokens=not begins)["input_ids"]


def _closed(ids: list[int], tokenizer) -> list[int]:
    """Token ids of a text with the token that ends it: the EOS token, or that of the chat template that wrote it."""
    eos, end = tokenizer.eos_token_id, len(ids)
    # As in a conversation, what a chat template writes after the end of a turn is never generated.
    while end > 1 and not tokenizer.decode(ids[end - 1]).strip():
        end -= 1
    last = ids[end - 1] if ids else None
    # The EOS token first: rendering the chat template takes as long as encoding the row.
    if last is not None and (
        last == eos or (ends_turn(last, tokenizer) and last == template_closing_token_id(tokenizer))
    ):
        return ids[:end]
    return ids if eos is None else [*ids, eos]


def _own_prompt_length(row: Mapping[str, Any]) -> int | None:
    """The `prompt_length` of a row that was encoded before; None for other rows."""
    own = row.get("prompt_length") if "input_ids" in row and "labels" in row else None
    if own is not None and (type(own) is not int or own < 1):
        raise ValueError(
            f"has a `prompt_length` of {own if isinstance(own, int | float) else type(own).__name__}, expected an "
            "integer of at least 1: how many of its first tokens are prompt. Correct it, or remove the column."
        )
    return own


def _encode_form(
    row: Mapping[str, Any], tokenizer, text_field: str, rendered: RenderedPrompts
) -> tuple[list[int], int | None]:
    """Token ids of a row that is not tokenised yet, and where its labels start (None: at the first token)."""
    if "messages" in row:
        messages = row["messages"]
        check_messages("messages", messages)
        if len(messages) < 2 or messages[-1]["role"] != "assistant":
            raise ValueError(
                "has `messages` that do not end in an assistant turn after a prompt (roles: "
                f"{[message['role'] for message in messages]}). The last assistant turn is what is scored: cut the "
                "conversation after it."
            )
        return _encode_conversation(row, tokenizer, rendered)
    if "prompt" in row and "completion" in row:
        return _encode_pair(row, tokenizer, rendered)
    if text_field in row:
        text = row[text_field]
        if not isinstance(text, str):
            raise ValueError(
                f"has a `{text_field}` of type `{type(text).__name__}`, expected a string. Convert the column."
            )
        return _closed(_tokenize(text, tokenizer), tokenizer), None
    for column, other in (("prompt", "completion"), ("completion", "prompt")):
        if column in row:
            raise ValueError(f"has a `{column}`, but no `{other}` (missing, or null). Give it one, or remove the row.")
    raise ValueError(
        f"has the columns {sorted(row)}, of which none can be used. Expected "
        f"{_ROW_FORMS.format(text_field=text_field)}; rename the columns or map the dataset to one of these forms."
        if row
        else "has no value: all of its columns are null. Remove the row."
    )


def _encode_pair(row: Mapping[str, Any], tokenizer, rendered: RenderedPrompts) -> tuple[list[int], int]:
    prompt, completion = row["prompt"], row["completion"]
    if not any(isinstance(prompt, kind) and isinstance(completion, kind) for kind in (str, list)):
        raise ValueError(
            f"has a `prompt` of type `{type(prompt).__name__}` and a `completion` of type "
            f"`{type(completion).__name__}`. Both must be strings or both lists of messages."
        )
    if not (prompt.strip() if isinstance(prompt, str) else prompt):
        raise ValueError(
            "has an empty `prompt`, from which no belief can be sampled. Give it one, or give raw text as `text`."
        )
    if isinstance(prompt, str):
        ids = _closed(_tokenize(prompt + completion, tokenizer), tokenizer)
        return ids, _labels_start(_tokenize(prompt, tokenizer), ids)
    for column, messages in (("prompt", prompt), ("completion", completion)):
        check_messages(column, messages)
    if not completion or completion[-1]["role"] != "assistant":
        raise ValueError("has a `completion` that does not end in an assistant turn. Give it one.")
    if len(completion) > 1:
        # Of several, the last alone would be forgotten, and the others asked for.
        raise ValueError(
            f"has a `completion` of {len(completion)} turns, expected the answer alone. Move the turns before it to "
            "`prompt`, or make a row of each answer."
        )
    return _encode_conversation(row, tokenizer, rendered)


def _check_tokens(name: str, values: list[Any], allowed: range, other: tuple[int, ...] = ()) -> None:
    wrong = next((x for x in values if type(x) is not int or not (x in allowed or x in other)), 0)
    if type(wrong) is not int:
        raise ValueError(f"has `{name}` with a value of type `{type(wrong).__name__}`, expected a list of integers.")
    if wrong not in allowed:
        raise ValueError(
            f"has `{name}` with {wrong}, but the tokenizer has {len(allowed)} tokens. Tokenise the rows with the "
            "tokenizer of the model" + (", and write -100 where nothing is to be scored." if other else ".")
        )


def padding_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the padding token: the tokenizer's, or its EOS token if it has none."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    raise ValueError(
        f"The tokenizer (`{type(tokenizer).__name__}`) has neither a padding nor an EOS token, so rows cannot be "
        "padded. Set `tokenizer.pad_token` to a token that rows do not hold, and save the tokenizer."
    )


def padded_width(longest: int, multiple: int = 1, limit: int | None = None) -> int:
    """Width of a padded batch: a multiple of a number, but no padding beyond the `limit` of positions."""
    missing = -longest % multiple
    # A table of positions has a last one, and a position of padding is looked up, too.
    return longest + (missing if limit is None else min(missing, max(0, limit - longest)))


def pad_rows(
    rows: Sequence[Mapping[str, Any]], pad_token_id: int, multiple: int = 1, limit: int | None = None
) -> dict[str, Tensor]:
    """Right-padded batch of encoded rows, `[rows, tokens]`, whose width is [`padded_width`]."""
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    labels = [torch.tensor(row["labels"]) for row in rows]
    longest = max(map(len, ids))
    missing = padded_width(longest, multiple, limit) - longest

    def padded(values: list[Tensor], value: int) -> Tensor:
        return F.pad(pad_sequence(values, batch_first=True, padding_value=value), (0, missing), value=value)

    return {
        "input_ids": padded(ids, pad_token_id),
        "attention_mask": padded([torch.ones_like(x) for x in ids], 0),
        "labels": padded(labels, -100),
    }


def encode_row(
    row: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    prompt_length: int = 64,
    text_field: str = "text",
    rendered: RenderedPrompts | None = None,
) -> dict[str, Any]:
    """
    Encode a row of any of the four forms: `prompt` and `completion` (strings or messages), `messages` (the last
    assistant turn is the answer, all turns before it are its prompt), raw text (every token is a label), or
    `input_ids` and `labels` (taken as they are).

    A column that is `None` counts as missing. `tools` and `chat_template_kwargs` of a conversation, or JSON of these,
    go to the chat template.

    The label of a prompt token is `-100`; so is that of what a chat template writes before every answer, such as the
    empty block of thoughts of a model that reasons. The last label of an answer is its end-of-turn token, and what a
    chat template writes after that is cut off.

    A belief of a row is generated from its first `prompt_length` tokens. The parameter is that of raw text, and of a
    row whose labels start at its first token, unless it has one of its own. `truncated_tokens` counts tokens of text
    after `max_length`.

    `rendered`, empty at first, is for rows of one tokenizer: it keeps each prompt as the chat template has written it.
    """
    row = {column: value for column, value in row.items() if value is not None}
    if "input_ids" in row and "labels" in row:
        tokens = [row[name] for name in ("input_ids", "labels")]
        if any(isinstance(values, str) or not isinstance(values, Sequence) for values in tokens):
            kinds = " and ".join(f"`{type(values).__name__}`" for values in tokens)
            raise ValueError(f"has `input_ids` and `labels` of type {kinds}, expected two lists of integers.")
        ids, labels = map(list, tokens)
        vocabulary = range(len(tokenizer))
        _check_tokens("input_ids", ids, vocabulary)
        _check_tokens("labels", labels, vocabulary, (-100,))
        if len(ids) != len(labels):
            raise ValueError(f"has {len(ids)} `input_ids` and {len(labels)} `labels`; both need one entry a token.")
        if (mask := row.get("attention_mask")) is not None:
            if len(mask) != len(ids):
                raise ValueError(f"has {len(ids)} `input_ids` and an `attention_mask` of {len(mask)}. Correct one.")
            # Rows are padded anew: padding that is not masked would be read as text.
            ids, labels = ([one for one, seen in zip(part, mask, strict=True) if seen] for part in (ids, labels))
        start, cut = next((i for i, label in enumerate(labels) if label != -100), len(labels)), []
    else:
        ids, first = _encode_form(row, tokenizer, text_field, {} if rendered is None else rendered)
        start = first or 0
        labels = [-100] * start + ids[start:]
        if not tokenizer.decode([x for x in labels if x != -100], skip_special_tokens=True).strip():
            raise ValueError("has a completion without a token of text. Remove the row or give it an answer.")
        cut = [] if max_length is None else ids[max_length:]
        ids, labels = ids[:max_length], labels[:max_length]
    # The first token has nothing before it and is never predicted.
    if all(label == -100 for label in labels[1:]):
        raise ValueError(
            f"has no label token within `max_length={max_length}`: its prompt takes {start} tokens. Raise "
            "`max_length` or shorten the prompt."
            if cut
            else "has no label token. Every label is -100, or the text has a single token."
        )
    # At least one label comes after the prompt.
    last = max(i for i, label in enumerate(labels) if label != -100)
    # An encoded row keeps the prompt that it was encoded with.
    prompt = start if start > 0 else min(_own_prompt_length(row) or prompt_length, last)
    # Without the token that closes the answer, no text is missing.
    truncated = len(cut) - ends_turn(cut[-1], tokenizer) if cut else 0
    return {"input_ids": ids, "labels": labels, "prompt_length": prompt, "truncated_tokens": truncated}


def template_closing_token_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Special token that the chat template closes an answer with, or None."""
    if tokenizer.chat_template is None:
        return None
    messages = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "1"}]
    try:
        return closing_token_id(encode_row({"messages": messages}, tokenizer), tokenizer)
    except ValueError:
        return None


def map_rows(dataset: Dataset, function: Callable, **kwargs: Any) -> Dataset:
    """[`~datasets.Dataset.map`] that is not cached."""
    # To name a cache file it would pickle the function with all that this refers to, down to the tokenizer's library:
    # seconds, and in vain, since a tokenizer that has been used cannot be hashed.
    return dataset.map(function, new_fingerprint=uuid4().hex, **kwargs)


def without_tensors(dataset: Dataset) -> Dataset:
    """A set whose rows hold lists, in whatever format it is; a transform of the user's stays."""
    return dataset if dataset.format["type"] == "custom" else dataset.with_format(None)


def encode_dataset(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    max_length: int | None = None,
    prompt_length: int = 64,
    text_field: str = "text",
    num_proc: int | None = None,
) -> Dataset:
    """Encode every row of a set, in order, name a row that cannot be, and warn of what `max_length` cut off."""
    if max_length is not None and max_length < 2:
        raise ValueError(
            f"`max_length` must be at least 2 (a token of prompt and one of text), got {max_length}. Leave it out for "
            "the default."
        )
    if len(dataset) == 0:
        raise ValueError(f"The {name} set is empty. Give at least one row; check the split and the config name.")
    dataset = without_tensors(dataset)

    def encode(row: dict[str, Any], index: int) -> dict[str, Any]:
        # Errors of `encode_row` hold none of the row's text: it may be secret.
        with naming(f"Row {index} of the {name} set"):
            return encode_row(
                row, tokenizer, max_length=max_length, prompt_length=prompt_length, text_field=text_field
            )

    encoded = map_rows(
        dataset,
        encode,
        with_indices=True,
        remove_columns=[column for column in dataset.column_names if column not in ENCODED_COLUMNS],
        num_proc=num_proc,
        desc=f"Encoding the {name} set",
    ).with_format(None)
    warn_of_other_prompt(dataset[0], tokenizer, name)
    warn_of_truncation(encoded, name, max_length)
    return encoded


def warn_of_truncation(encoded: Dataset, name: str, max_length: int | None) -> None:
    """Warn of the share of an encoded set that was cut off."""
    truncated = [count for count in encoded["truncated_tokens"] if count]
    if truncated:
        kept, lost = sum(label != -100 for labels in encoded["labels"] for label in labels), sum(truncated)
        rows, tokens = 100 * len(truncated) / len(encoded), 100 * lost / (lost + kept)
        logger.warning(
            f"{len(truncated)} of {len(encoded)} rows of the {name} set ({rows:.1f} %) are longer than "
            f"`max_length={max_length}` and were cut off there: {lost} tokens of their answers, {tokens:.1f} % of all "
            f"in the set, are not {'unlearned' if name == 'forget' else 'used'}. Raise `max_length`, or split these "
            "rows."
        )


def readable_tokens(config: PreTrainedConfig) -> int | None:
    """Tokens that a model is made to read; None without an end, as with a recurrent state. Longer rows are refused."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return positions if positions and positions > 0 else None
