# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Rows before tokenisation: their prompts, their answers, and what they give to a chat template."""

import functools
import inspect
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase


logger = logging.getLogger(__name__)

# What a conversational row gives to the chat template beside its messages.
TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")
# Arguments of `apply_chat_template` that are set here, or that would make it return other things than token ids.
_RESERVED_TEMPLATE_KWARGS = frozenset(
    inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters.keys() - {"self", "documents", "kwargs"}
)


@functools.cache
def warn_once(sentence: str) -> None:
    """Warn about rows; a process may encode the same rows many times."""
    logger.warning(sentence)


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Name what a `ValueError` of the block is about: those of rows begin with a verb."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what} {error}") from None


def is_conversation(row: Mapping[str, Any]) -> bool:
    """Whether a row goes through a chat template."""
    return row.get("messages") is not None or isinstance(row.get("completion"), list)


def has_answer(row: Mapping[str, Any]) -> bool:
    """Whether a row has a prompt and an answer; raw text and tokenised rows have none."""
    return row.get("messages") is not None or not (row.get("prompt") is None or row.get("completion") is None)


def prompt_and_answer(row: Mapping[str, Any]) -> tuple[Any, Any]:
    """Prompt and answer of a row: two strings, or two lists of messages, the second with the last turn alone."""
    # Rows of several forms in one table hold null in the columns of the others.
    if row.get("messages") is None and isinstance(row["completion"], str):
        return row["prompt"], row["completion"]
    turns = [*row["prompt"], *row["completion"]] if row.get("messages") is None else row["messages"]
    turns = [_without_gaps(turn) for turn in turns]
    return turns[:-1], turns[-1:]


def answer_text(row: Mapping[str, Any]) -> str:
    """Text of a row's completion, without surrounding white space."""
    _, answer = prompt_and_answer(row)
    return (answer if isinstance(answer, str) else answer[0]["content"]).strip()


def with_answer(row: Mapping[str, Any], answer: str) -> dict[str, Any]:
    """A row's prompt with another answer of the same form; leading white space of a plain-text completion is kept."""
    message, kept = {"role": "assistant", "content": answer}, template_columns(row)
    if row.get("messages") is not None:
        return {"messages": [*row["messages"][:-1], message], **kept}
    completion = row["completion"]
    if isinstance(completion, str):
        lead = completion[: len(completion) - len(completion.lstrip())]
        return {"prompt": row["prompt"], "completion": lead + answer, **kept}
    return {"prompt": row["prompt"], "completion": [*completion[:-1], message], **kept}


def with_question(row: Mapping[str, Any], question: str) -> dict[str, Any]:
    """A conversational row with another last turn of its prompt."""
    prompt, completion = prompt_and_answer(row)
    prompt = [*prompt[:-1], {**prompt[-1], "content": question}]
    return {"prompt": prompt, "completion": completion, **template_columns(row)}


def template_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """The `TEMPLATE_COLUMNS` of a row, which a row made from it needs for the same chat template."""
    return {column: row[column] for column in TEMPLATE_COLUMNS if row.get(column) is not None}


def check_messages(column: str, messages: Any) -> None:
    """Refuse messages that a chat template or the scoring of the answer would fail on; errors name types only."""
    if not isinstance(messages, list):
        raise ValueError(
            f"has `{column}` of type `{type(messages).__name__}`, expected a list of messages (`role` and `content`). "
            "Convert the column."
        )
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            problem = f"is a `{type(message).__name__}`"
        elif not isinstance(message.get("role"), str):
            problem = f"has a `role` of type `{type(message.get('role')).__name__}`"
        # A turn that calls a tool may have no text, but an answer needs it.
        elif not isinstance(message.get("content"), str) and not (
            message.get("tool_calls") and messages[-1] != message
        ):
            problem = f"has a `content` of type `{type(message.get('content')).__name__}`"
        else:
            continue
        raise ValueError(
            f"has `{column}` whose message {index} {problem}, expected `role` and `content`, both strings. Correct "
            "the message, or remove the row."
        )


def _without_null(value: Any) -> Any:
    """A value without the nulls that a table fills rows of several forms up with."""
    if isinstance(value, Mapping):
        return {key: _without_null(one) for key, one in value.items() if one is not None}
    return [_without_null(one) for one in value if one is not None] if isinstance(value, list) else value


def _without_gaps(message: Any) -> Any:
    """A message without such nulls, as in the arguments of a tool call; a turn that calls a tool may have no text."""
    if not isinstance(message, Mapping):
        return message
    text = {"content": message["content"]} if "content" in message else {}
    return {**_without_null(message), **text}


def _template_value(row: Mapping[str, Any], column: str, expected: type) -> Any:
    """One of `TEMPLATE_COLUMNS`, which may be JSON, for instance in a table of rows with different keys."""
    value, form = row.get(column), "list" if expected is list else "mapping"
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"has `{column}` that are no JSON ({error}). Correct them, or give a {form}.") from None
    if value is None:
        return expected()
    if not isinstance(value, expected):
        raise ValueError(f"has `{column}` of type `{type(value).__name__}`, expected a {form}. Convert the column.")
    return _without_null(value)


def _template_kwargs(row: Mapping[str, Any]) -> dict[str, Any]:
    kwargs = _template_value(row, "chat_template_kwargs", dict)
    clashes = sorted(_RESERVED_TEMPLATE_KWARGS & kwargs.keys())
    if clashes:
        raise ValueError(
            f"has `chat_template_kwargs` that hold {', '.join(f'`{name}`' for name in clashes)}. Give variables of "
            "the chat template only, such as `enable_thinking`; `tools` are a column of the rows."
        )
    return kwargs


def template_arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    """Tools and variables of a conversational row, as `apply_chat_template` takes them."""
    return {"tools": _template_value(row, "tools", list) or None, **_template_kwargs(row)}


def configured_template_kwargs(value: Mapping[str, Any] | str | None) -> dict[str, Any] | None:
    """The option `chat_template_kwargs`, which is JSON on the command line, checked."""
    with naming("The configuration"):
        return None if value is None else _template_kwargs({"chat_template_kwargs": value})


def with_template_kwargs(dataset: Dataset, kwargs: Mapping[str, Any] | None) -> Dataset:
    """Rows with variables of the chat template in `chat_template_kwargs` (as JSON); those of a row's own win."""
    if not kwargs:
        return dataset
    if not any(map(is_conversation, dataset)):
        warn_once(
            f"`chat_template_kwargs` ({', '.join(f'`{name}`' for name in kwargs)}) change nothing in sets without a "
            f"conversation: such rows, with the columns {dataset.column_names}, go through no chat template. Give "
            "`messages`, or `prompt` and `completion` as messages, or leave the option out."
        )
    column = "chat_template_kwargs"
    own = dataset[column] if column in dataset.column_names else [None] * len(dataset)
    merged = []
    for index, value in enumerate(own):
        with naming(f"Row {index}"):
            merged.append(json.dumps({**kwargs, **_template_value({column: value}, column, dict)}))
    return dataset.remove_columns([column] if column in dataset.column_names else []).add_column(column, merged)
