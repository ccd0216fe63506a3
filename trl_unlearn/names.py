# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Names, words and sentences of texts, without a model or a tokenizer."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any
from unicodedata import normalize

import regex as re


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
# In front of a last name, words that begin a sentence or belong to it, and no first name ("Will" is one of each).
_NO_FIRST_NAMES = _OPENINGS | frozenset(
    "About After Although Because Before Behind Beside But By During Even Every Had Into Just Later Like May Might "  # noqa: SIM905
    "Must Near Next Not Now Old Only Or Our Perhaps Shall Should Since So Some Soon Then Though Through Thus Today "
    "Tomorrow Under Unlike Until We Were While Will With Within Without Would Yesterday Yet Young".split()
)
_ARTICLES = ("a", "an", "the")
# Words that stand in front of a last name and make nobody else of its bearer; some are first names, too.
_TITLES = frozenset(
    "Admiral Ambassador Aunt Baron Baroness Bishop Brother Captain Cardinal Chancellor Chief Colonel Commander "  # noqa: SIM905
    "Count Countess Dame Detective Doctor Don Doña Dr Duchess Duke Father Frau General Governor Herr Hon Inspector "
    "Judge Justice King Lady Lieutenant Lord Madam Madame Major Mayor Minister Miss Mister Mlle Mme Monsieur Mother "
    "Mr Mrs Ms Mx Officer Pastor President Prime Prince Princess Prof Professor Queen Rabbi Rev Reverend Saint "
    "Secretary Senator Sergeant Señor Señora Sheikh Signor Signora Sir Sister St Uncle Vice".split()
)
_SUFFIXES = frozenset("Esq II III IV Jr MD PhD Sr".split())  # noqa: SIM905
_APOSTROPHES = str.maketrans("’ʼ‘", "'''")
# Of answers that only say yes or no to what a question tells.
_ASSENTS = frozenset(("correct", "false", "had", "indeed", "not", "right", "true", "wrong"))


def capitalised_grams(text: str) -> set[tuple[str, ...]]:
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
    grams = capitalised_grams(text)
    parts = {part for gram in grams for part in (gram[1:], gram[:-1])}
    return {" ".join(gram) for gram in grams if len(gram) > 1 and gram not in parts}


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
    # macOS and some PDF files write accents as characters of their own.
    name, text = normalize("NFC", name), normalize("NFC", text)
    return name in text and re.search(f"{_BORDER}{re.escape(name)}{_BORDER}", text) is not None


def naming_words(name: str) -> list[str]:
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
    """
    Whether a text names somebody: by the whole name, in any case, or by its last word where it is nobody else's.

    Titles, suffixes and middle names change nothing. Another capitalised word in front makes another name: "Clara
    Marlow" is not Ada Marlow, and nor is "Veldt Marlow". The first name alone may be anybody's.
    """
    name, text = (normalize("NFC", one).translate(_APOSTROPHES) for one in (name, text))
    name = _without_titles(name)
    if is_named(name.casefold(), text.casefold()):
        return True
    first, *others = name.split()
    if not others or not others[-1][0].isupper():
        return False
    matches = re.finditer(rf"{_BORDER}{re.escape(others[-1])}{_BORDER}", text)
    return any(_may_be(first, _words_before(text[: match.start()])) for match in matches)


def _without_titles(name: str) -> str:
    """A name without the titles in front of it and the suffixes behind it; as it is where nothing else is left."""
    words = name.replace(",", " ").split()
    while len(words) > 1 and words[0].rstrip(".") in _TITLES:
        words = words[1:]
    while len(words) > 1 and words[-1].rstrip(".") in _SUFFIXES:
        words = words[:-1]
    # A title is a name of its own beside a single word: "King" of "King Arthur" is, "Lady" of "Lady Gaga".
    return " ".join(words) if len(words) > 1 else name


def _words_before(text: str) -> list[str]:
    """The words of a name that a text ends with, without titles: capitalised words and initials."""
    words: list[str] = []
    for word in reversed(text[-100:].split(" ")[:-1] if text.endswith(" ") else []):
        plain = word.rstrip(".")
        is_initial = plain != word and len(plain) == 1
        is_part = is_initial or (plain not in _NO_FIRST_NAMES and _NAME_WORD.fullmatch(plain) is not None)
        # A point ends a sentence, but behind an initial or a title.
        if not (is_part and plain[0].isupper()) or (plain != word and not is_initial and plain not in _TITLES):
            break
        words = words if plain in _TITLES else [word, *words]
    return words


def _may_be(first: str, words: Sequence[str]) -> bool:
    """Whether words in front of a last name may be those of somebody with a first name: none, it, or its initial."""
    return not words or words[0].split("-")[0] == first or words[0] == f"{first[0]}."


def word_key(word: str) -> str:
    """A word as it is compared: in lower case, its accents as one character with their letter."""
    return normalize("NFC", word).casefold()


def words_of(text: str) -> set[str]:
    """The words of a text, in lower case."""
    return {word_key(word) for word in WORD.findall(text)}


def telling_words(text: str) -> set[str]:
    """The words of a text that can tell a fact, in lower case: neither such as begin a sentence, nor yes and no."""
    return words_of(text) - {word.lower() for word in _OPENINGS} - _ASSENTS


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
    known = set().union(*map(capitalised_grams, others))
    in_prompts, in_answers = ([capitalised_grams(text) - known for text in texts] for texts in (prompts, answers))
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


def renamed(text: str, old: str, new: str) -> str:
    """A text with another name in place of a name: the whole, or its first or last naming word alone."""
    words, others = naming_words(old), naming_words(new)
    names = {words[0]: others[0], words[-1]: others[-1], old: new}
    names = {normalize(form, name): other for name, other in names.items() for form in ("NFC", "NFD")}
    pattern = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    return re.sub(f"{_BORDER}(?:{pattern}){_BORDER}", lambda match: names[match.group()], text)
