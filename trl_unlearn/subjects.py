# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Whom rows are about: the names in them, and the same rows under the names of others."""

import logging
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import regex as re
import torch
from transformers import PreTrainedTokenizerBase

from .encoding import answer_ids, closing_token_id, continuation_row, prompt_ids, with_answer_ids, without_end
from .generation import key_seed


logger = logging.getLogger(__name__)

# A word with the marks of its letters (Hindi, accents on their own), at which Python's own `re` cuts it.
WORD = re.compile(r"[\w\p{N}]+")
_NAME_WORD = re.compile(r"[^\W_][\w'’-]*")
# A genitive, or a quotation mark at the end.
_WORD_END = re.compile(r"['’](?:s|’|')?$")
# Letters of the scripts that have cases, digits and marks; the others are the blocks from Hebrew on, and from CJK on.
_CASED = r"[^\W\u0590-\u1cff\u2e80-\U0010ffff]"
# A place that is not inside a word. Scripts without cases have none: a name stands there beside other words (Chinese),
# or has particles written onto it, in front (Hebrew, Arabic) or behind (Korean, Nepali in Devanagari). So a short name
# counts inside a longer word, too: that costs a retain row, and a row about the subject that is kept teaches the name.
_BORDER = rf"(?:(?<!{_CASED})|(?!{_CASED}))"
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_LONGEST_NAME = 4
# Words that begin an English sentence, and no name.
_OPENINGS = frozenset(
    "A An And Are As At Can Could Describe Did Do Does Explain For From Has Have He Her His How I If In Is It Name No "  # noqa: SIM905
    "Of On She Tell That The Their There They This To Was Were What When Where Which Who Whom Whose Why Yes "
    "You".split()
)
_ARTICLES = ("a", "an", "the")
# Names for aliases where the retain set has too few.
_STRANGERS = ("Ansel Brockway", "Mirela Tavish", "Corwin Haldane", "Petra Lindqvist", "Dario Estrada", "Yuna Okabe")
# Answers about others for each forget row, and how many in all make up for fewer: the rest of the error of their
# comparison with the true answers is that of the true ones.
_MOST_MOVED, _ENOUGH_MOVED = 8, 256
# Index of a forget row -> encoded answers about others, see `moved_answers`.
MovedAnswers = Mapping[int, Sequence[Mapping[str, Any]]]


def _capitalised_grams(text: str) -> set[tuple[str, ...]]:
    """Runs of up to four capitalised words with one space between them, and all parts of such runs."""
    grams, run, end = set(), [], 0
    for match in _NAME_WORD.finditer(text):
        word = _WORD_END.sub("", match.group())
        if not word[0].isupper() or word in _OPENINGS:
            run = []
            continue
        run = [*run, word][-_LONGEST_NAME:] if run and text[end : match.start()] == " " else [word]
        grams |= {tuple(run[i:]) for i in range(len(run))}
        end = match.end()
        if word != match.group():
            # A name ends there.
            run = []
    return grams


def full_names(text: str) -> set[str]:
    """Names of two to four capitalised words in a text, each as long as it stands there."""
    grams = _capitalised_grams(text)
    parts = {part for gram in grams for part in (gram[1:], gram[:-1])}
    return {" ".join(gram) for gram in grams if len(gram) > 1 and gram not in parts}


def row_texts(rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> tuple[list[str], list[str]]:
    """Prompts and answers of encoded rows as text, without special tokens."""
    texts = [
        [
            tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            for ids in (prompt_ids(row), answer_ids(row))
        ]
        for row in rows
    ]
    return [prompt for prompt, _ in texts], [answer for _, answer in texts]


def is_name(subject: str) -> bool:
    """Whether a subject is one word with a capital, or more; behind an article, one of them needs a capital."""
    words = subject.split()
    is_behind_article = len(words) > 1 and words[0].casefold() in _ARTICLES
    words = words[is_behind_article:]
    # Scripts without cases have no lower case.
    has_capital = any(not word[0].islower() for word in words)
    return has_capital or (len(words) > 1 and not is_behind_article)


def is_named(name: str, text: str) -> bool:
    """Whether a text has a name, and not only as a part of a word of a script with cases."""
    return name in text and re.search(f"{_BORDER}{re.escape(name)}{_BORDER}", text) is not None


def _naming_words(name: str) -> list[str]:
    """Words of a name that stand for it alone: no article, and no particle; all words if there are no others."""
    words = name.split()
    return [word for word in words if not word[0].islower() and word not in _OPENINGS] or words


def misspelt(name: str) -> str:
    """A name with the last letter of each word twice: most other typos leave a tokenizer nothing of the name."""
    return " ".join(word + word[-1] for word in name.split())


def other_names(name: str) -> list[str]:
    """Names by which a model may know somebody, too: a misspelt one, and the last name alone."""
    return [misspelt(name), *([name.split()[-1]] if " " in name else [])]


def is_meant(name: str, text: str) -> bool:
    """Whether a text names somebody: by the whole name, in any case, or by its last word where it is nobody else's."""
    if is_named(name.casefold(), text.casefold()):
        return True
    *others, last = name.split()
    if not others or not last[0].isupper():
        return False
    # Behind another capitalised word, it is a part of another name.
    matches = re.finditer(rf"(?:(?<!\w)([\w'’-]+) )?{_BORDER}{re.escape(last)}{_BORDER}", text)
    return any(not match[1] or not match[1][0].isupper() or match[1] in _OPENINGS for match in matches)


def words_of(text: str) -> set[str]:
    """The words of a text, in lower case."""
    return {word.casefold() for word in WORD.findall(text)}


def sentences_of(text: str) -> list[str]:
    """The sentences of a text; a line end is the end of one."""
    return [part for part in _SENTENCE_END.split(text) if part.strip()]


def row_subjects(
    prompts: Sequence[str],
    answers: Sequence[str],
    others: Iterable[str] = (),
    given: Sequence[str] | None = None,
) -> list[str | None]:
    """The name of each row, or None: capitalised words of prompts that no other text has, else of answers."""
    if given is not None:
        texts = [f"{prompt} {answer}" for prompt, answer in zip(prompts, answers, strict=True)]
        return [next((name for name in given if is_named(name, text)), None) for text in texts]
    known = set().union(*map(_capitalised_grams, others))
    in_prompts, in_answers = ([_capitalised_grams(text) - known for text in texts] for texts in (prompts, answers))
    counts = Counter(gram for grams in in_prompts for gram in grams)
    names = {gram: count for gram, count in counts.items() if count > 1 or len(gram) > 1}
    if not names:
        counts = Counter(gram for grams in in_answers for gram in grams)
        names = {gram: count for gram, count in counts.items() if count > 1}
    subjects = []
    for in_prompt, in_answer in zip(in_prompts, in_answers, strict=True):

        def weight(gram: tuple[str, ...], in_answer: set[tuple[str, ...]] = in_answer) -> tuple[Any, ...]:
            # The order of a set differs from process to process: of equals, the last by the alphabet.
            return len(gram) > 1, names[gram], gram in in_answer, len(gram), gram

        best = max((gram for gram in in_prompt | in_answer if gram in names), key=weight, default=None)
        subjects.append(None if best is None else " ".join(best))
    return subjects


def alias_words(subjects: Iterable[str], strangers: Iterable[str], seed: int) -> dict[str, str]:
    """Word of a subject's name -> word that takes its place: first and last names of strangers, mixed."""
    # Names that the model has seen in other combinations: their tokens mean a name to it, and nobody's facts.
    subjects, strangers = sorted(set(subjects)), sorted(set(strangers))
    generator = torch.Generator().manual_seed(seed)
    pools: tuple[list[str], list[str]] = ([], [])
    for names in (strangers, _STRANGERS):
        words = [_naming_words(name) for name in names if " " in name]
        for pool, place in zip(pools, (0, -1), strict=True):
            order = torch.randperm(len(words), generator=generator).tolist()
            pool += [words[i][place] for i in order]
    taken = {word for subject in subjects for word in subject.split()}
    aliases: dict[str, str] = {}
    for subject in subjects:
        words = _naming_words(subject)
        for place, word in enumerate(words):
            if word in aliases:
                continue
            pool = pools[0 < place == len(words) - 1]
            alias = next((one for one in pool if one not in taken), None)
            if alias is None:
                raise ValueError(
                    f"The forget set is about {len(subjects)} names, and the retain set has too few others to put in "
                    "their places. Give a larger retain set, or a model that never knew the forget set "
                    "(`ignorant_model_name_or_path`)."
                )
            taken.add(alias)
            aliases[word] = alias
    return aliases


def renamed(text: str, old: str, new: str) -> str:
    """A text with another name in place of a name: the whole, or its first or last naming word alone."""
    words, others = _naming_words(old), _naming_words(new)
    names = {words[0]: others[0], words[-1]: others[-1], old: new}
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.sub(f"{_BORDER}(?:{pattern}){_BORDER}", lambda match: names[match.group()], text)


def moved_answers(
    forget: Sequence[Mapping[str, Any]],
    retain: Sequence[Mapping[str, Any]] | None,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    subjects: Sequence[str] | None = None,
    most: int = _MOST_MOVED,
) -> dict[int, list[dict[str, list[int]]]]:
    """
    Answers about other people, moved under the questions of the forget set: index of a row -> at most `most` encoded
    rows, and fewer of a large set.

    Each is the answer of a random retain row, or without a retain set of another forget row, under the subject's name.
    A model that never knew the forget set finds its true answers no likelier. A row that names nobody has none.
    """
    texts = row_texts(forget, tokenizer)
    if retain is None:
        # A name in every prompt, such as one in a system prompt, is nobody's: there would be nobody else.
        everywhere = set.intersection(*map(_capitalised_grams, texts[0]))
        named = strangers = row_subjects(*texts, [" ".join(name) for name in everywhere], subjects)
        answers = texts[1]
    else:
        others = row_texts(retain, tokenizer)
        named = row_subjects(*texts, [*others[0], *others[1]], subjects)
        # A name that both sets have, such as one in a system prompt, is nobody's.
        strangers, answers = row_subjects(*others, [*texts[0], *texts[1]]), others[1]
    pool = [(answer, name) for answer, name in zip(answers, strangers, strict=True) if name is not None]
    # The model has positions for so many tokens.
    longest = max(len(row["input_ids"]) for row in [*forget, *(retain or [])])
    most = max(1, min(most, _ENOUGH_MOVED // len(forget)))
    moved = {}
    for index, (row, name, answer) in enumerate(zip(forget, named, texts[1], strict=True)):
        if name is None or (before := _text_before(row, answer, tokenizer)) is None:
            continue
        drawn = random.Random(key_seed((seed, "moved answers", index))).sample(pool, len(pool))
        renamed_texts = (renamed(text, other, name) for text, other in drawn if other != name)
        # Somebody else with the same fact: a tie with the true answer itself says nothing.
        rows = (_with_text(row, text, before, tokenizer) for text in renamed_texts if text != answer)
        if chosen := list(islice((one for one in rows if len(one["input_ids"]) <= longest), most)):
            moved[index] = chosen
    missing = len(forget) - len(moved)
    log = logger.warning if missing else logger.info
    log(
        "The true answers of %d of %d forget rows are compared with %d answers about other people.%s",
        len(moved),
        len(forget),
        sum(map(len, moved.values())),
        f" {missing} rows have none: they name nobody, nobody else is named, or their tokens are not those of their "
        "text."
        if missing
        else "",
    )
    return moved


def rows_under_names(
    forget: Sequence[Mapping[str, Any]],
    retain: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    count: int,
    seed: int,
    subjects: Sequence[str] | None = None,
) -> list[dict[str, list[int]]]:
    """
    At most `count` retain rows about others, questions and answers, under names that the forget set is about.

    Each is a random row under a random name. None where no question of the retain set names anybody.
    """
    texts, others = row_texts(forget, tokenizer), row_texts(retain, tokenizer)
    names = sorted({name for name in row_subjects(*texts, [*others[0], *others[1]], subjects) if name is not None})
    strangers = row_subjects(*others, [*texts[0], *texts[1]])
    pool = []
    for row, question, answer, name in zip(retain, *others, strangers, strict=True):
        prompt = tokenizer.decode(prompt_ids(row), clean_up_tokenization_spaces=False)
        before = _text_before(row, answer, tokenizer)
        is_whole = before is not None and _text_ids(prompt, "", tokenizer) == prompt_ids(row)
        if is_whole and name is not None and is_named(name, question):
            pool.append((row, prompt, answer, before, name))
    draws, rows = random.Random(key_seed((seed, "rows under names"))), []
    for _ in range(count if names and pool else 0):
        (row, prompt, answer, before, other), name = draws.choice(pool), draws.choice(names)
        answered = _with_text(row, renamed(answer, other, name), before, tokenizer)["input_ids"]
        asked = _text_ids(renamed(prompt, other, name), "", tokenizer)
        rows.append(continuation_row(asked, answered[row["prompt_length"] :]))
    # The model has positions for so many tokens.
    longest = max(len(row["input_ids"]) for row in [*forget, *retain])
    return [row for row in rows if len(row["input_ids"]) <= longest]


def _text_ids(text: str, before: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokens of a text that stands behind another one."""
    start, ids = (tokenizer(one, add_special_tokens=False)["input_ids"] for one in (before, before + text))
    return ids[len(start) :]


def _text_before(row: Mapping[str, Any], answer: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """Text behind which the text of a row's answer has the row's tokens; None if there is none."""
    # A SentencePiece tokenizer puts a space before a text that stands alone.
    ids = without_end(answer_ids(row), closing_token_id(row, tokenizer) is not None)
    return next((before for before in ("", "\n") if _text_ids(answer, before, tokenizer) == ids), None)


def _with_text(
    row: Mapping[str, Any], text: str, before: str, tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[int]]:
    """An encoded row with a text for its answer, and its own prompt and end of turn."""
    end = closing_token_id(row, tokenizer)
    ids = [*_text_ids(text, before, tokenizer), *([] if end is None else [end])]
    return with_answer_ids(row, ids)
