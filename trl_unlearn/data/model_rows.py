# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Rows that a model writes: its answers to given prompts, and prompts of its own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import encode_row, padding_token_id, prompt_ids
from ..generation import eos_token_ids, generate, rows_that_fit
from ..token_scores import score_rows
from .files import asked


# Messages, or plain text.
Prompt = list[dict[str, Any]] | str
# Stands where a user writes; no chat template has it.
_PROBE = "0f3a9c"
# Any answer: the prompt of a row is the same for all.
_ANSWER = "1"
# Bytes that are no character, as a tokenizer decodes them: encoded again, the text would have other tokens.
_PART_OF_A_LETTER = "\ufffd"


@dataclass(frozen=True)
class Written:
    """A text that a model wrote, without white space around it."""

    text: str
    # Mean log-prob of its tokens at temperature 1, in nats.
    logp: float
    # Whether it ended by itself.
    is_whole: bool = True


class RowWriter:
    """A model that answers prompts and writes them, as turns with `is_chat`, else as `Question:`, `Answer:`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        is_chat: bool,
        seed: int,
        max_new_tokens: int,
    ):
        self._model, self._tokenizer, self._seed = model, tokenizer, seed
        self._most, self.is_chat = max_new_tokens, is_chat
        self._ends = eos_token_ids(model, tokenizer)

    def prompt(self, question: str) -> Prompt:
        """A question as the prompt of a row."""
        return asked(question, "", self.is_chat)["prompt"]

    def row(self, prompt: Prompt, answer: str) -> dict[str, Any]:
        """A prompt and its answer as a row of the prompt's form."""
        completion = f" {answer}" if isinstance(prompt, str) else [{"role": "assistant", "content": answer}]
        return {"prompt": prompt, "completion": completion}

    def answers(
        self,
        prompts: Sequence[Prompt],
        kind: str,
        *,
        temperature: float | None = None,
        desc: str | None = None,
        cut: int | None = None,
    ) -> list[Written | None]:
        """Answers to prompts, greedy without `temperature`; None for empty, broken, and without `cut` endless ones."""
        rows = [encode_row(self.row(prompt, _ANSWER), self._tokenizer) for prompt in prompts]
        return self._write([prompt_ids(row) for row in rows], kind, temperature, desc, cut)

    def questions(self, count: int, kind: str, *, temperature: float, desc: str | None = None) -> list[Written | None]:
        """Questions that the model writes itself, where a user's first turn begins, as in Magpie (2406.08464)."""
        if self.is_chat:
            messages = [{"role": "user", "content": _PROBE}]
            text = self._tokenizer.apply_chat_template(messages, tokenize=False).partition(_PROBE)[0]
            ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            text = self.prompt(_PROBE).partition(_PROBE)[0]
            ids = self._tokenizer(text.rstrip())["input_ids"]
        return self._write([ids] * count, kind, temperature, desc)

    def texts(self, beginnings: Sequence[str], kind: str, *, desc: str | None = None) -> list[Written | None]:
        """Each text with a continuation at temperature 1, cut at `max_new_tokens`."""
        ids = [self._tokenizer(text)["input_ids"] for text in beginnings]
        written = self._write(ids, kind, 1.0, desc, self._most)
        return [
            None if one is None else Written(f"{text} {one.text}", one.logp)
            for text, one in zip(beginnings, written, strict=True)
        ]

    def logps(self, rows: Sequence[Mapping[str, Any]]) -> list[float]:
        """Mean log-prob of a token of each row's answer, its end of turn included, in nats."""
        encoded = [encode_row(row, self._tokenizer) for row in rows]
        width = max((len(row["input_ids"]) for row in encoded), default=1)
        batch_size = rows_that_fit(self._model, width)
        pad_token_id = padding_token_id(self._tokenizer)
        scores = score_rows(self._model, encoded, pad_token_id=pad_token_id, batch_size=batch_size)
        return [fmean(score.logps) for score in scores]

    def _write(
        self,
        prompts: Sequence[list[int]],
        kind: str,
        temperature: float | None,
        desc: str | None,
        cut: int | None = None,
    ) -> list[Written | None]:
        is_greedy = temperature is None
        completions = generate(
            self._model,
            prompts,
            pad_token_id=padding_token_id(self._tokenizer),
            eos_token_ids=self._ends,
            max_new_tokens=self._most if cut is None else cut,
            keys=None if is_greedy else [(self._seed, kind, index) for index in range(len(prompts))],
            temperature=1.0 if is_greedy else temperature,
            desc=desc,
        )
        written = []
        for completion in completions:
            text = self._tokenizer.decode(completion.ids, skip_special_tokens=True).strip()
            is_whole = completion.ended
            if not self.is_chat:
                # A model that was never told when to end goes on in the next line.
                text, line_end, _ = text.partition("\n")
                is_whole = is_whole or bool(line_end)
            text = text.strip()
            if not is_whole:
                # The limit may part the bytes of a letter.
                text = text.rstrip(_PART_OF_A_LETTER)
            is_text = bool(text) and _PART_OF_A_LETTER not in text and completion.is_finite
            is_kept = is_text and (is_whole or cut is not None)
            written.append(Written(text, fmean(completion.logps), is_whole) if is_kept else None)
        return written
