# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Rows that repeat what is to be forgotten, among rows that are to be kept."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from datasets import Dataset

from ..names import is_meant, row_subjects, sentences_of, words_of
from ..row_forms import has_answer, prompt_and_answer


# A word that more of the rows have is common language and weighs nothing; fewer rows than this count as so many.
_COMMON, _FEWEST_ROWS = 0.05, 200
# Share of the weight of a passage's fact that a row has when it repeats the fact.
_REPEATED = 0.5
# Words of a passage at most: a part of a long answer already has its fact.
_PASSAGE = 40


def question_and_answer(row: Mapping[str, Any]) -> tuple[str, str]:
    """Prompt and answer of a row as text: the turns of a conversation that are not the system's, or raw text alone."""
    if row.get("text") is not None:
        return "", row["text"]
    if not has_answer(row):
        raise ValueError(
            f"A row has the columns {sorted(row)}, and its overlap with the forget set cannot be read. Give `prompt` "
            "and `completion`, `messages` or `text`."
        )
    prompt, answer = prompt_and_answer(row)
    if isinstance(prompt, str):
        return prompt, answer
    turns = [_text_of(turn) for turn in prompt if turn["role"] != "system"]
    return "\n".join(turns), answer[0]["content"] or ""


def _text_of(turn: Mapping[str, Any]) -> str:
    """What a turn says, and the tool calls of it, which a chat template writes out."""
    calls = turn.get("tool_calls")
    return "\n".join([turn.get("content") or "", *([json.dumps(calls, ensure_ascii=False)] if calls else [])])


def _passages(text: str) -> Iterable[str]:
    """Sentences, and of a long one pieces of at most `_PASSAGE` words."""
    for sentence in sentences_of(text):
        words = sentence.split()
        for start in range(0, len(words), _PASSAGE):
            yield " ".join(words[start : start + _PASSAGE])


class OverlapFilter:
    """
    Tells rows that may be kept from rows that repeat the forget set.

    A row is dropped for the first of these reasons: `"name"`, it names a subject; `"question"`, it asks a question of
    the forget set; `"answer"`, it has at least half of the fact of a passage of an answer. The fact is the words that
    are neither in the question nor in more than a twentieth of all rows, and a word of n out of N rows weighs
    log(N / 20 n); a fact of a single word counts with the words of its question only.

    `subjects` are names that the forget set is about, by default those that [`~trl_unlearn.names.row_subjects`]
    finds.
    """

    def __init__(self, forget: Iterable[Mapping[str, Any]], subjects: Sequence[str] | None = None):
        texts = [question_and_answer(row) for row in forget]
        if subjects is None:
            named = row_subjects([question for question, _ in texts], [answer for _, answer in texts])
            subjects = sorted({name for name in named if name is not None})
        self.subjects = list(subjects)
        names = set().union(*map(words_of, self.subjects))
        self._documents = [words_of(f"{question} {answer}") for question, answer in texts]
        self._questions = {frozenset(words_of(question)) for question, _ in texts if question.strip()}
        # Words of the fact of each passage, and of the question that it answers.
        self._facts: list[tuple[set[str], set[str]]] = []
        for question, answer in texts:
            asked = words_of(question) - names
            for passage in _passages(answer):
                if fact := words_of(passage) - asked - names:
                    self._facts.append((fact, asked))

    def split(self, rows: Dataset) -> tuple[Dataset, Dataset]:
        """The rows that may be kept, and the others with a column `reason`, each in their order."""
        texts = [question_and_answer(row) for row in rows]
        reasons = self.reasons(texts)
        kept = [index for index, reason in enumerate(reasons) if reason is None]
        dropped = [index for index, reason in enumerate(reasons) if reason is not None]
        column = [reasons[index] for index in dropped]
        # A column of the user's by that name is not read.
        others = rows.remove_columns("reason") if "reason" in rows.column_names else rows
        return rows.select(kept), others.select(dropped).add_column("reason", column)

    def reasons(self, texts: Sequence[tuple[str, str]]) -> list[str | None]:
        """Why each question and answer is dropped; None for one that may be kept."""
        documents = [words_of(f"{question} {answer}") for question, answer in texts]
        # A text that comes again and again must not make its words common.
        distinct = {frozenset(document) for document in (*self._documents, *documents)}
        counts = Counter(word for document in distinct for word in document)
        most = _COMMON * max(len(distinct), _FEWEST_ROWS)
        passages = defaultdict(list)
        weights, totals = [], []
        for index, (fact, _) in enumerate(self._facts):
            weights.append({word: math.log(most / counts[word]) for word in fact if counts[word] < most})
            totals.append(math.fsum(weights[-1].values()))
            for word in weights[-1]:
                passages[word].append(index)

        def repeats_answer(document: set[str]) -> bool:
            shared = defaultdict(list)
            for word in document & passages.keys():
                for index in passages[word]:
                    shared[index].append(weights[index][word])
            for index, parts in shared.items():
                is_enough = math.fsum(parts) >= _REPEATED * totals[index]
                if is_enough and (len(parts) > 1 or self._facts[index][1] <= document):
                    return True
            return False

        reasons: list[str | None] = []
        for (question, answer), document in zip(texts, documents, strict=True):
            if any(is_meant(subject, f"{question}\n{answer}") for subject in self.subjects):
                reasons.append("name")
            elif frozenset(words_of(question)) in self._questions:
                reasons.append("question")
            else:
                reasons.append("answer" if repeats_answer(document) else None)
        return reasons
