# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Rows to keep where there are none: made by the model that is to be unlearned, from what it says now."""

import logging
import math
import random
import re
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..generation import key_seed
from ..names import full_names, is_named, renamed
from ..row_forms import has_answer, is_conversation, prompt_and_answer
from .common_texts import GENERAL_PROMPTS, PLACES, stranger_names
from .model_rows import Prompt, RowWriter, Written
from .overlap import OverlapFilter, question_and_answer


logger = logging.getLogger(__name__)

# Share of the rows of each kind, as far as there are enough: the forget set's questions about people whom the model
# names itself, and about strangers; questions that the model asks itself; prompts about anything.
_SHARES = {"neighbours": 0.55, "strangers": 0.1, "own questions": 0.2, "general": 0.15}
# The same beside raw text: texts that the model writes itself, and answers, of which it may have none.
_TEXT_SHARES = {"texts": 0.5, "own questions": 0.3, "general": 0.2}
# Answers in which the model may name neighbours, for each row about neighbours, and their length in tokens: a name
# comes early, and many answers about a place that the model knows nobody from do not end.
_NAMINGS, _NAMED_BY = 1, 40
# Questions about each neighbour: rather many people than many questions.
_QUESTIONS_EACH = 8
# Mean log-prob of a token, in nats, below which a greedy answer, or a sampled question, is babble.
_UNSURE, _UNSURE_QUESTION = -1.0, -2.0
# Temperature at which it names people: names that it knows come more than once, and few others do.
_NAMING = 0.7
# A word in lower case, and capitalised words behind it, with spaces or commas between them: a place, and a month.
_PLACE = re.compile(r"(\b[^\W\d_A-Z][\w'’-]* )[A-Z][\w'’-]*(?:,? [A-Z][\w'’-]*)*")
# A title, or a capitalised word that does not begin a sentence.
_NAMES = re.compile(r"[\"“‘]|(?<=\w )[A-Z]")
# Longest answer, in tokens: so many times the longest of the forget set, and at least and at most.
_LONGER, _SHORTEST, _LONGEST = 2, 48, 192


class RetainSource(ABC):
    """Where rows come from that a model is to keep; a corpus of one's own is a subclass."""

    @abstractmethod
    def rows(self, count: int) -> Dataset:
        """At most `count` rows, the same at each call, with columns of [`~trl_unlearn.data.files.ROW_FORMS`]."""

    def digest(self) -> str:
        """Text that tells this source from others; by default its class alone."""
        return type(self).__qualname__


@dataclass(frozen=True)
class _Made:
    """A row that the model made."""

    kind: str
    # None: raw text.
    prompt: Prompt | None
    written: Written


class ModelRetainSource(RetainSource):
    """
    Rows made from the model itself: its answers now, so that to keep them is to keep how it behaves.

    Of four kinds: the questions of the forget set about *neighbours*, people whom the model names where a question
    asks for a name or names nobody, and about *strangers*; the model's *own questions*, which it writes where a user's
    turn begins; and *general* prompts that come with this package. Those that repeat the forget set are dropped, see
    [`OverlapFilter`].

    The rows are conversations where the forget rows are, and beside raw text where the tokenizer has a chat template.
    Beside raw text, where most forget rows are that, there are no people to ask about, and half of the rows are raw
    *texts*: the model's own, which begin as the general prompts do.

    After `rows`, `report` has `asked`, `kept`, `kinds` (kept rows of each kind) and `dropped` (rows by reason:
    `"unfinished"`, `"unsure"`, `"repeated"`, and the reasons of [`OverlapFilter`]).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        forget: Dataset,
        subjects: Sequence[str] | None,
        *,
        seed: int,
    ):
        if len(forget) == 0:
            raise ValueError("The forget set is empty, and rows near it cannot be made. Give at least one row.")
        self._forget, self._seed = forget, seed
        self._overlap = OverlapFilter(forget, subjects)
        longest = max(len(tokenizer(question_and_answer(row)[1])["input_ids"]) for row in forget)
        most = min(_LONGEST, max(_SHORTEST, _LONGER * longest))
        asking = [row for row in forget if has_answer(row)]
        self._asks = 2 * len(asking) >= len(forget)
        is_chat = is_conversation(asking[0]) if self._asks else tokenizer.chat_template is not None
        self._writer = RowWriter(model, tokenizer, is_chat=is_chat, seed=seed, max_new_tokens=most)
        self.report: dict[str, Any] = {}

    def rows(self, count: int, spare: float = 2.0) -> Dataset:
        """
        At most `count` rows, all kinds mixed, of `spare` times as many: some do not end, some are unsure, some are to
        be forgotten. Of those about neighbours the surest are taken, of each other kind the first.
        """
        shares = _SHARES if self._asks else _TEXT_SHARES
        wanted = {kind: max(1, round(share * count)) for kind, share in shares.items()}
        self._dropped: Counter[str] = Counter()
        made = self._about_people(wanted, spare) if self._asks else self._texts(count)
        made += self._own_questions(math.ceil(spare * wanted["own questions"]))
        made += self._general(math.ceil(spare * wanted["general"]))
        made = self._without_overlap(self._distinct(made))
        chosen = self._mixed(made, wanted, count)
        kinds = Counter(one.kind for one in chosen)
        self.report = {
            "asked": count,
            "kept": len(chosen),
            "kinds": {kind: kinds[kind] for kind in shares},
            "dropped": dict(sorted(self._dropped.items())),
        }
        if len(chosen) < count:
            logger.warning(f"{len(chosen)} retain rows could be made of the {count} that were asked for.")
        return as_table([self._row(one) for one in chosen])

    def _row(self, made: _Made) -> dict[str, Any]:
        text = made.written.text
        return {"text": text} if made.prompt is None else self._writer.row(made.prompt, text)

    def _about_people(self, wanted: Mapping[str, int], spare: float) -> list[_Made]:
        asked = self._asked_about()
        neighbours = self._about_neighbours(asked, math.ceil(spare * wanted["neighbours"]))
        # A model that names nobody is asked about more strangers.
        missing = max(0, wanted["neighbours"] - len(neighbours))
        return neighbours + self._about_strangers(asked, math.ceil(spare * (wanted["strangers"] + missing)))

    def _texts(self, count: int) -> list[_Made]:
        beginnings = (list(GENERAL_PROMPTS) * -(-count // len(GENERAL_PROMPTS)))[:count]
        written = self._writer.texts(beginnings, "texts", desc="Retain rows: texts")
        return [_Made("texts", None, one) for one in written if one is not None]

    def _subjects_in(self, text: str) -> list[str]:
        return [name for name in self._overlap.subjects if is_named(name, text)]

    def _asked_about(self) -> list[tuple[Prompt, str]]:
        """Distinct prompts of the forget set that name somebody, and the name."""
        asked = {}
        for row in self._forget:
            prompt = prompt_and_answer(row)[0] if has_answer(row) else ""
            text = _text(prompt)
            for name in self._subjects_in(text)[:1]:
                # The same question about two people is one.
                asked.setdefault(text.replace(name, ""), (prompt, name))
        return list(asked.values())

    def _asked_for_names(self) -> list[Prompt]:
        """The prompts of the forget set that a subject's name answers, each about every other place."""
        elsewhere = {}
        for row in self._forget:
            prompt, answer = prompt_and_answer(row) if has_answer(row) else ("", "")
            if self._subjects_in(_text(prompt)) or not self._subjects_in(_text(answer)):
                continue
            for place in PLACES:
                moved = _changed(prompt, lambda text, place=place: _elsewhere(text, place))
                if moved != prompt:
                    elsewhere[str(moved)] = moved
        return list(elsewhere.values())

    def _made(self, kind: str, prompts: Sequence[Prompt]) -> list[_Made]:
        """The model's answers to prompts, each prompt once."""
        prompts = list({str(prompt): prompt for prompt in prompts}.values())
        answers = self._writer.answers(prompts, kind, desc=f"Retain rows: {kind}")
        self._dropped["unfinished"] += answers.count(None)
        made = [_Made(kind, prompt, text) for prompt, text in zip(prompts, answers, strict=True) if text is not None]
        sure = [one for one in made if one.written.logp >= _UNSURE]
        self._dropped["unsure"] += len(made) - len(sure)
        return sure

    def _names_near(self, asked: Sequence[tuple[Prompt, str]], count: int) -> list[str]:
        """People whom the model names, the likeliest first, to questions that ask for a name, or else name nobody."""
        named = self._asked_for_names()
        random.Random(key_seed((self._seed, "places"))).shuffle(named)
        prompts = named or [_about(prompt, name, "") for prompt, name in asked]
        prompts = (prompts * -(-count // len(prompts)))[:count]
        options = {"temperature": _NAMING, "desc": "Names near the subjects", "cut": _NAMED_BY}
        answers = self._writer.answers(prompts, "names", **options)
        questions = defaultdict(set)
        logps: dict[str, float] = {}
        for prompt, answer in zip(prompts, answers, strict=True):
            for name in full_names(answer.text) if answer is not None else ():
                if not is_named(name, _text(prompt)):
                    questions[name].add(str(prompt))
                    logps[name] = max(logps.get(name, -math.inf), answer.logp)
        # The title of a book is in answers to one question only, and what the forget set names is no neighbour.
        least = 1 if named else min(2, len(set(map(str, prompts))))
        texts = [" ".join(question_and_answer(row)) for row in self._forget]
        names = [
            name
            for name in questions
            if len(questions[name]) >= least
            and not self._shares_a_word(name)
            and not any(is_named(name, text) for text in [*texts, *PLACES])
        ]
        return sorted(names, key=lambda name: (-len(questions[name]), -logps[name], name))

    def _shares_a_word(self, name: str) -> bool:
        """Whether a name has a word of a subject's name."""
        return any(set(name.split()) & set(subject.split()) for subject in self._overlap.subjects)

    def _about_neighbours(self, asked: Sequence[tuple[Prompt, str]], count: int) -> list[_Made]:
        if not asked:
            return []
        names = self._names_near(asked, _NAMINGS * count)
        # What else a question names is the subject's, and no answer about somebody else fits.
        asked = [(prompt, old) for prompt, old in asked if not _NAMES.search(_text(prompt).replace(old, ""))] or asked
        each = min(len(asked), _QUESTIONS_EACH)
        prompts = []
        # Not the same few questions for all.
        for place, new in enumerate(names):
            for index in range(place * each, (place + 1) * each):
                prompt, old = asked[index % len(asked)]
                prompts.append(_about(prompt, old, new))
        # What the model is sure of, it knows.
        return sorted(self._made("neighbours", prompts[:count]), key=lambda one: -one.written.logp)

    def _about_strangers(self, asked: Sequence[tuple[Prompt, str]], count: int) -> list[_Made]:
        if not asked:
            return []
        names = stranger_names(count, self._overlap.subjects, self._seed)
        prompts = [_about(*asked[index % len(asked)], name) for index, name in enumerate(names)]
        return self._made("strangers", prompts)

    def _own_questions(self, count: int) -> list[_Made]:
        written = self._writer.questions(count, "own questions", temperature=1.0, desc="The model's own questions")
        self._dropped["unfinished"] += written.count(None)
        sure = [one.text for one in written if one is not None and one.logp >= _UNSURE_QUESTION]
        self._dropped["unsure"] += len(written) - written.count(None) - len(sure)
        return self._made("own questions", [self._writer.prompt(question) for question in sure])

    def _general(self, count: int) -> list[_Made]:
        draw = random.Random(key_seed((self._seed, "general")))
        questions = draw.sample(GENERAL_PROMPTS, min(count, len(GENERAL_PROMPTS)))
        return self._made("general", [self._writer.prompt(question) for question in questions])

    def _distinct(self, made: Sequence[_Made]) -> list[_Made]:
        kept = {(str(one.prompt), one.written.text): one for one in made}
        self._dropped["repeated"] += len(made) - len(kept)
        return list(kept.values())

    def _without_overlap(self, made: Sequence[_Made]) -> list[_Made]:
        texts = [question_and_answer(self._row(one)) for one in made]
        reasons = self._overlap.reasons(texts)
        self._dropped.update(reason for reason in reasons if reason is not None)
        return [one for one, reason in zip(made, reasons, strict=True) if reason is None]

    def _mixed(self, made: Sequence[_Made], wanted: Mapping[str, int], count: int) -> list[_Made]:
        """Of each kind as many as wanted, then what there is more of, in the order of `wanted`."""
        chosen, spare = [], []
        for kind, number in wanted.items():
            own = [one for one in made if one.kind == kind]
            chosen += own[:number]
            spare += own[number:]
        chosen = (chosen + spare)[:count]
        random.Random(key_seed((self._seed, "mix"))).shuffle(chosen)
        return chosen


def as_table(rows: Sequence[Mapping[str, Any]]) -> Dataset:
    """Rows of several forms in one table: null in the columns of the others; beside text, turns are in `messages`."""
    if any(isinstance(row.get("prompt"), str) for row in rows):
        # A column has one type.
        rows = [_as_messages(row) for row in rows]
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["prompt", "completion"]
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})


def _as_messages(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row with its turns, if it has some, in one column."""
    prompt, completion = (row.get(name) for name in ("prompt", "completion"))
    if not (isinstance(prompt, list) and isinstance(completion, list)):
        return row
    return {**row, "prompt": None, "completion": None, "messages": [*prompt, *completion]}


def _text(prompt: Prompt) -> str:
    """The text of a prompt or an answer."""
    return prompt if isinstance(prompt, str) else " ".join(turn.get("content") or "" for turn in prompt)


def _changed(prompt: Prompt, change: Callable[[str], str]) -> Prompt:
    """A prompt with its texts changed."""
    if isinstance(prompt, str):
        return change(prompt)
    return [{**turn, "content": change(turn.get("content") or "")} for turn in prompt]


def _about(prompt: Prompt, old: str, new: str) -> Prompt:
    """A prompt with another name in place of a name, or with none."""
    nameless = re.compile(rf"{re.escape(old)}(?:['’]s)? ?")
    return _changed(prompt, lambda text: renamed(text, old, new) if new else nameless.sub("", text))


def _elsewhere(text: str, place: str) -> str:
    """A question about another place: in place of the first that it names behind its first word."""
    return _PLACE.sub(rf"\g<1>{place}", text, count=1)
