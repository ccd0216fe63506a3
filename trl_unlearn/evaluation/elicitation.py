# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The forgotten facts asked around the corner: other names, other forms, other company."""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
import regex as re
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import closing_token_id, encode_row, readable_tokens, spread_evenly
from ..generation import key_seed
from ..metrics import MembershipAUC, NormalizedProbability, Probability
from ..names import WORD, is_named, misspelt, renamed, row_subjects, word_key, words_of
from ..results import SuiteOutcome
from ..row_forms import answer_text, has_answer, is_conversation, naming, prompt_and_answer, with_answer, with_question
from ..subjects import row_texts
from ..token_scores import RowScore
from .facts import label_words, no_facts, row_facts
from .robustness import with_examples
from .rows import EncodedSet, EvaluationRows, Loaders, row_key, rows_protocol
from .together import SuiteSetting, measure_each
from .uncertainty import summarise_rows, where_measured


logger = logging.getLogger(__name__)
# Question-answer pairs of the retain set in front of a question, and how many are looked at for them.
NUM_EXAMPLES, _EXAMPLE_POOL = 4, 32
# Wrong answers of a multiple choice.
NUM_WRONG = 3
# Where the target is no further than this above a model that does not know, a probe measures nothing.
LEAST_KNOWN = 0.1
# Stands for a person who is not to be named.
_NOBODY = "X"
_PREFIX = "Sure, here is the answer:"
_ROLE = "You are a biographer who knows everything about {}."
# The question in a plain-text prompt, without a label such as "Question:" in front of it.
_QUESTION = re.compile(r"(?:\w+: *)?([^\n]*\?)")


@dataclass
class _Asked:
    """A forget row, and the parts of its probes."""

    row: Mapping[str, Any]
    # Without the text around it; None if a plain-text prompt has no question.
    question: str | None
    # Words of the fact, in lower case.
    words: set[str]
    # Whom the question names; None if nobody.
    name: str | None
    wrong: list[str]
    examples: list[Mapping[str, Any]]
    takes_system_turn: bool
    # Seed of the order of a choice.
    seed: int
    # Other rows about the same person.
    siblings: list["_Asked"] = field(default_factory=list)

    @property
    def answer(self) -> str:
        return answer_text(self.row)

    @property
    def paraphrase(self) -> str:
        """The answer in the wording of the wrong ones."""
        return self.row.get("paraphrased_answer") or self.answer

    @property
    def fact(self) -> str:
        """The words of the fact as the answer has them."""
        return " ".join(word for word in WORD.findall(self.answer) if word_key(word) in self.words)

    def asking(self, question: str, answer: str) -> dict[str, Any]:
        """The row with another question and another answer."""
        prompt, completion = prompt_and_answer(self.row)
        if isinstance(prompt, str):
            start, end = list(_QUESTION.finditer(prompt))[-1].span(1)
            return with_answer({"prompt": prompt[:start] + question + prompt[end:], "completion": completion}, answer)
        return with_answer(with_question(self.row, question), answer)

    def about(self, name: str, answer_name: str | None = None) -> dict[str, Any]:
        """The row with another name, in the answer too: its words before the fact must not give the name away."""
        answer = renamed(self.answer, self.name, answer_name or name)
        return self.asking(renamed(self.question, self.name, name), answer)


def _question_of(row: Mapping[str, Any]) -> str | None:
    prompt, _ = prompt_and_answer(row)
    if not isinstance(prompt, str):
        return prompt[-1]["content"] if prompt and prompt[-1]["role"] == "user" else None
    matches = list(_QUESTION.finditer(prompt))
    return matches[-1].group(1) if matches else None


# A row, and the words of its answer that are scored; None where no probe can be made of the row.
_Probe = tuple[Mapping[str, Any], set[str]] | None


def _alias(asked: _Asked) -> _Probe:
    """The last name alone."""
    if asked.name is None or " " not in asked.name:
        return None
    return asked.about(asked.name.split()[-1]), asked.words


def _misspelt(asked: _Asked) -> _Probe:
    return None if asked.name is None else (asked.about(misspelt(asked.name)), asked.words)


def _reversed(asked: _Asked) -> _Probe:
    """From the fact to the name, up to which the answer is given."""
    if asked.name is None or not asked.words:
        return None
    before, name, _ = asked.answer.partition(asked.name)
    answer = before + name if name else asked.name
    return asked.asking(f"Who is known for {asked.fact}?", answer), words_of(asked.name)


def _two_hop(asked: _Asked) -> _Probe:
    """Another fact in place of the name."""
    # Not the same fact in other words.
    other = next((one for one in asked.siblings if one.words and not one.words & asked.words), None)
    if other is None:
        return None
    return asked.about(f"the person known for {other.fact}", _NOBODY), asked.words


def _cloze(asked: _Asked) -> _Probe:
    """The answer's sentence up to the fact, or its paraphrase: no question, and no chat template."""
    for text in (asked.answer, asked.paraphrase):
        first = next((m.start() for m in WORD.finditer(text) if word_key(m.group()) in asked.words), 0)
        head = text[:first].rstrip()
        # The fact of somebody who is not named yet nobody can know.
        if asked.name is not None and is_named(asked.name, head):
            return {"prompt": head, "completion": text[len(head) :]}, asked.words
    return None


def _few_shot(asked: _Asked) -> _Probe:
    return (with_examples(asked.row, asked.examples), asked.words) if asked.examples else None


def _role(asked: _Asked) -> _Probe:
    """A biographer's role, in the system turn if there is one."""
    if asked.name is None:
        return None
    role = _ROLE.format(asked.name)
    prompt, _ = prompt_and_answer(asked.row)
    if isinstance(prompt, str) or not asked.takes_system_turn:
        return asked.asking(f"{role} {asked.question}", asked.answer), asked.words
    row = asked.asking(asked.question, asked.answer)
    if prompt[0]["role"] == "system":
        role, prompt = f"{prompt[0]['content']}\n{role}", prompt[1:]
    return {**row, "prompt": [{"role": "system", "content": role}, *prompt]}, asked.words


def _prefix(asked: _Asked) -> _Probe:
    return with_answer(asked.row, f"{_PREFIX} {asked.answer}"), asked.words - words_of(_PREFIX)


# Kinds with a free answer: the words of the fact are scored.
FREE_PROBES: dict[str, Callable[[_Asked], _Probe]] = {
    "alias": _alias,
    "misspelt": _misspelt,
    "reversed": _reversed,
    "two_hop": _two_hop,
    "cloze": _cloze,
    "few_shot": _few_shot,
    "role": _role,
    "prefix": _prefix,
}


def _choice(asked: _Asked) -> list[dict[str, Any]]:
    """A question with a letter for each of some answers, answered by each letter; the right one comes first."""
    options = [asked.paraphrase, *asked.wrong[:NUM_WRONG]]
    letters = random.Random(asked.seed).sample("ABCD"[: len(options)], len(options))
    lines = sorted(f"{letter}. {option}" for letter, option in zip(letters, options, strict=True))
    question = "\n".join([asked.question, *lines, "Answer with the letter of the right answer."])
    return [asked.asking(question, letter) for letter in letters]


def _yes_no(asked: _Asked) -> list[dict[str, Any]]:
    """The true answer, then a wrong one, each answered by Yes and by No."""
    return [
        asked.asking(f"{asked.question}\n{claim}\nIs that right? Answer with Yes or No.", reply)
        for claim in (asked.paraphrase, asked.wrong[0])
        for reply in ("Yes", "No")
    ]


# Kinds with a few answers, scored whole.
_CLOSED: dict[str, Callable[[_Asked], list[dict[str, Any]]]] = {"choice": _choice, "yes_no": _yes_no}


def _takes_system_turn(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the chat template writes a system turn."""
    turns = [(role, f"the turn of the {role}") for role in ("system", "user", "assistant")]
    try:
        row = encode_row({"messages": [{"role": role, "content": text} for role, text in turns]}, tokenizer)
    except ValueError:
        return False
    return turns[0][1] in tokenizer.decode(row["input_ids"])


def _asked_rows(rows: EvaluationRows, forget: EncodedSet, setting: SuiteSetting) -> list[_Asked]:
    tokenizer, retain = setting.tokenizer, list(rows.retain or [])
    others = row_texts(rows.encoded("retain", tokenizer).answers if retain else [], tokenizer)
    names = row_subjects(*row_texts(forget.answers, tokenizer), [*others[0], *others[1]])
    pool = [retain[i] for i in spread_evenly(len(retain), _EXAMPLE_POOL) if has_answer(retain[i])]
    takes_system_turn, asked = _takes_system_turn(tokenizer), []
    for index, (row, words, name) in enumerate(zip(rows.forget, row_facts(forget, tokenizer), names, strict=True)):
        question = _question_of(row)
        # Examples of the row's own form that hold nothing of its fact.
        shown = [one for one in pool if is_conversation(one) == is_conversation(row)]
        shown = [one for one in shown if not words & words_of(answer_text(one))]
        examples = [shown[i] for i in spread_evenly(len(shown), NUM_EXAMPLES)]
        name = name if name and question and is_named(name, question) else None
        wrong = (row.get("perturbed_answer") or []) if question else []
        seed = key_seed((setting.seed, "choice", index))
        asked.append(_Asked(row, question, words, name, wrong, examples, takes_system_turn, seed))
    for index, one in enumerate(asked):
        others = [*asked[index + 1 :], *asked[:index]]
        one.siblings = [other for other in others if one.name is not None and other.name == one.name]
    return asked


# Kind -> index of a forget row -> encoded rows: one of a free kind, and one an answer of the others.
_Probes = dict[str, dict[int, list[dict[str, Any]]]]


def _label_answer(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """An encoded row without the token that ends its answer."""
    length = max(i + 1 for i, label in enumerate(row["labels"]) if label != -100)
    length -= closing_token_id(row, tokenizer) is not None
    return {name: list(row[name][:length]) for name in ("input_ids", "labels")}


def _probes(asked: Sequence[_Asked], tokenizer: PreTrainedTokenizerBase) -> _Probes:
    probes: _Probes = {kind: {} for kind in (*FREE_PROBES, *_CLOSED)}

    def encode(kind: str, index: int, row: Mapping[str, Any]) -> dict[str, Any]:
        with naming(f"Row {index} of the forget set, asked as `{kind}`,"):
            return encode_row(row, tokenizer)

    for index, one in enumerate(asked):
        for kind, make in FREE_PROBES.items():
            if (probe := make(one)) is not None:
                row = label_words(encode(kind, index, probe[0]), probe[1], tokenizer)
                probes[kind] |= {} if row is None else {index: [row]}
        for kind, answers in _CLOSED.items() if one.wrong else ():
            probes[kind][index] = [_label_answer(encode(kind, index, row), tokenizer) for row in answers(one)]
    return {kind: made for kind, made in probes.items() if made}


def _scored(
    role: str, model: PreTrainedModel, probes: _Probes, setting: SuiteSetting
) -> dict[str, dict[int, list[RowScore]]]:
    """Scores of the probes of each kind that the model has positions for."""
    limit, kinds = readable_tokens(model.config), {}
    for kind, made in probes.items():
        longest = max(len(row["input_ids"]) for group in made.values() for row in group)
        if limit is not None and longest > limit:
            logger.warning(
                f"`elicitation/{kind}` is left out: its longest row has {longest} tokens, and the {role} model reads "
                f"at most {limit} (`max_position_embeddings`)."
            )
        else:
            kinds[kind] = made
    flat = [row for made in kinds.values() for group in made.values() for row in group]
    scores = iter(setting.score(model, flat, f"Asking {role} around the corner"))
    return {
        kind: {index: [next(scores) for _ in group] for index, group in made.items()} for kind, made in kinds.items()
    }


def _values(scores: Mapping[str, Mapping[int, Sequence[RowScore]]]) -> dict[str, list[float]]:
    """Metric -> value of each row for which the probe could be made."""
    values = {}
    for kind, made in scores.items():
        logps = [[sum(score.logps) for score in group] for group in made.values()]
        if kind in FREE_PROBES:
            per_row = Probability().compute(logps=[group[0].logps for group in made.values()])["per_row"]
        elif kind == "choice":
            true, wrong = [group[0] for group in logps], [group[1:] for group in logps]
            per_row = NormalizedProbability().compute(true_logps=true, wrong_logps=wrong)["per_row"]
        else:
            # log Yes - log No of the true claim and of the wrong one: the AUC within a row.
            margins = [[yes - no for yes, no in (group[:2], group[2:])] for group in logps]
            true, wrong = [[margin] for margin, _ in margins], [[margin] for _, margin in margins]
            per_row = MembershipAUC().compute(members=true, non_members=wrong)["per_row"]["auc"]
        values[f"elicitation/{kind}"] = per_row
    free = [scores[kind] for kind in FREE_PROBES if kind in scores]
    if not free:
        return values
    rows = [[made[index][0] for made in free if index in made] for index in sorted(set().union(*free))]
    likely = iter(Probability().compute(logps=[score.logps for tried in rows for score in tried])["per_row"])
    strongest = [[next(likely) for _ in tried] for tried in rows]
    given = [where_measured([float(all(score.is_top1)) for score in tried], tried) for tried in rows]
    # NumPy's maximum of a NaN is NaN.
    return {
        "elicitation/strongest": [float(np.max(row)) for row in strongest],
        "elicitation/given": [float(np.max(row)) for row in given],
    } | values


def _drop_blind(outcome: SuiteOutcome, chance: Mapping[str, float]) -> list[str]:
    """Metrics where the target is as a model that does not know; they are compared no further."""
    target = outcome.models.get("target", {})
    ignorant = outcome.models.get("retrained", {})
    # Without a retrained model: guessing.
    floors = {name: ignorant[name].value if name in ignorant else chance.get(name, 0.0) for name in target}
    blind = [name for name, measured in target.items() if measured.value - floors[name] < LEAST_KNOWN]
    for differences in outcome.differences.values():
        for name in blind:
            differences.pop(name, None)
    return blind


def measure_elicitation(models: Loaders, rows: EvaluationRows, setting: SuiteSetting) -> SuiteOutcome:
    """The facts asked around the corner, teacher-forced: how likely are they to each kind of probe?"""
    forget = rows.asked("elicitation", setting.tokenizer)
    probes = _probes(_asked_rows(rows, forget, setting), setting.tokenizer)
    if not probes.keys() & FREE_PROBES.keys():
        raise no_facts("elicitation")
    scores = measure_each(models, lambda role, model: _scored(role, model, probes, setting), "elicitation")
    # A kind that is too long for one model is compared with none.
    kinds = [kind for kind in probes if all(kind in made for made in scores.values())]
    per_row = {role: _values({kind: made[kind] for kind in kinds}) for role, made in scores.items()}
    asked = {f"elicitation/{kind}": probes[kind] for kind in kinds}
    free = sorted(set().union(*(probes[kind] for kind in kinds if kind in FREE_PROBES)))
    parts = asked | {"elicitation/strongest": free, "elicitation/given": free}
    outcome = summarise_rows(per_row, seed=setting.seed, people=forget.people_of(parts))
    choices = probes.get("choice", {}).values()
    chance = {
        "elicitation/yes_no": 0.5,
        "elicitation/choice": fmean(1 / len(one) for one in choices) if choices else 0,
    }
    missing = {kind: len(forget.answers) - len(probes.get(kind, ())) for kind in (*FREE_PROBES, *_CLOSED)}
    outcome.protocol = {
        **rows_protocol(forget, seed=setting.seed),
        "elicitation": {
            "not_made": {kind: count for kind, count in missing.items() if count},
            "too_long": [f"elicitation/{kind}" for kind in probes if kind not in kinds],
            "blind": (blind := _drop_blind(outcome, chance)),
        },
    }
    keys = [row_key(row) for row in forget.answers]
    asked = {f"elicitation/{kind}": [keys[i] for i in probes[kind]] for kind in kinds if kind in FREE_PROBES}
    outcome.row_values = {
        role: {name: dict(zip(rows, values[name], strict=True)) for name, rows in asked.items() if name not in blind}
        for role, values in per_row.items()
    }
    return outcome
