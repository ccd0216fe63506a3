# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""A question of the demo's page, put to a model as its rows are."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import encode_row, prompt_ids
from ..row_forms import naming
from .demo_page import Question, Reply
from .row_views import token_texts
from .together import SuiteSetting


# Any answer: the prompt of a row is the same for all.
_ANSWER = "1"


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    question: Question,
    template_kwargs: Mapping[str, Any] | None = None,
) -> Reply:
    """
    What a model answers, and how likely it finds the answer of the question. A `ValueError` if it cannot be asked.

    `template_kwargs` are variables of the chat template, as in training. Samples have the same random numbers for
    every model.
    """
    setting = SuiteSetting(tokenizer=tokenizer, batch_size=None, seed=question.seed)
    with naming("The prompt with its candidate answer"):
        row = encode_row(_row(question, template_kwargs), tokenizer)
    top, size = max(row["input_ids"]), model.config.get_text_config().vocab_size
    if top >= size:
        raise ValueError(f"A model knows {size} tokens, and the prompt has the token {top}: it has another tokenizer.")
    # Without an answer the row has a stand-in for one.
    ends, prompt = [row], prompt_ids(row)
    limit = {"max_new_tokens": question.max_new_tokens, "desc": None}
    (greedy,) = setting.generate(model, [prompt], ends, **limit)
    keys = [(question.seed, j) for j in range(question.num_samples)]
    samples = setting.generate(model, [prompt] * len(keys), ends, keys=keys, temperature=question.temperature, **limit)
    tokens = []
    if question.answer:
        (score,) = setting.score(model, [row], None)
        labels = [label for label in row["labels"][1:] if label != -100]
        tokens = list(zip(token_texts(labels, tokenizer), score.logps, strict=True))
    return Reply(setting.text(greedy.ids), [setting.text(one.ids) for one in samples], tokens)


def _row(question: Question, template_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    prompt, answer = question.prompt, question.answer or _ANSWER
    if not question.is_chat:
        # A space belongs to the word behind it, as in rows to train on.
        return {"prompt": prompt, "completion": answer if prompt[-1:].isspace() else f" {answer}"}
    turns = {"user": prompt, "assistant": answer}
    prompt, completion = ([{"role": role, "content": text}] for role, text in turns.items())
    return {"prompt": prompt, "completion": completion, "chat_template_kwargs": dict(template_kwargs or {})}
