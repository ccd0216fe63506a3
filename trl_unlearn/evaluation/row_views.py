# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Each forget row, as the models score and answer it: what `trl-unlearn show` shows. It holds forget text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import answer_ids, continuation_row, prompt_ids, repeats
from ..generation import eos_token_ids
from ..metrics import ExtractionStrength, Probability, RougeRecall
from ..results import LABELS, LEAK_ATTEMPTS, MODEL_ROLES, NOISE_PERCENT
from ..row_forms import has_answer, prompt_and_answer
from ..token_scores import answer_matches
from .elicitation import FREE_PROBES
from .relearning import ATTACKS
from .robustness import QUANTIZATIONS, prefix_prompts
from .rows import EncodedSet, Loaders, encode_set, row_key
from .squeezing import distinct_beside
from .together import SuiteSetting, free_memory
from .uncertainty import where_measured


# New tokens of a greedy answer and of a sample, as in the suites `tofu` and `robustness`: the same answers come out.
_MAX_ANSWER, _MAX_SAMPLE = 200, 64


@dataclass
class Said:
    """A text that a model wrote after the prompt of a row."""

    text: str
    # Whether it is the true answer, token for token, and the share of the answer's words in it (ROUGE-L recall).
    is_answer: bool
    recall: float | None
    # Whether the model ended it, rather than a limit of tokens.
    ended: bool


@dataclass
class Belief:
    """A likely answer of one model beside the true one, and how likely each model finds it, in nats a token."""

    text: str
    logps: dict[str, float] = field(default_factory=dict)


@dataclass
class Attacked:
    """The effect of an attack of an evaluation on a row: role -> a value in [0, 1], and its measure."""

    name: str
    measure: str
    values: dict[str, float]


@dataclass
class RowView:
    """A forget row. Dictionaries have the roles of the models as keys; a model that was not loaded is absent."""

    index: int
    prompt: str
    answer: str
    # Text of each scored token; "" for a part of a character whose last part comes later.
    tokens: list[str]
    # log pi_y of each of them.
    logps: dict[str, list[float]] = field(default_factory=dict)
    # Length-normalised probability of the answer, and strict extraction strength.
    probability: dict[str, float] = field(default_factory=dict)
    strength: dict[str, float] = field(default_factory=dict)
    greedy: dict[str, Said] = field(default_factory=dict)
    samples: dict[str, list[Said]] = field(default_factory=dict)
    # The rest of the answer, when its first quarter is given.
    completed: dict[str, Said] = field(default_factory=dict)
    # Of the target and of the unlearned model.
    beliefs: dict[str, list[Belief]] = field(default_factory=dict)
    # Under the attacks of an evaluation.
    attacked: list[Attacked] = field(default_factory=list)

    @property
    def kept(self) -> float | None:
        """The probability of the answer: above that of the retrained model if there is one."""
        if (own := self.probability.get("unlearned")) is None:
            return None
        return own - self.probability.get("retrained", 0.0)

    def attacks(self) -> dict[str, dict[str, Said]]:
        """Name of an attack -> the best that each model says under it."""
        best = {role: max(said, key=lambda one: one.recall or 0.0) for role, said in self.samples.items() if said}
        most = max(map(len, self.samples.values()), default=0)
        named = {
            "asked": self.greedy,
            f"best of {most} samples": best,
            "a quarter of the answer given": self.completed,
        }
        return {name: said for name, said in named.items() if said}


def _attacks() -> dict[str, tuple[str, str]]:
    """Attack of an evaluation -> its words and its measure."""
    # Without those that this page makes itself, maxima over others, closed questions, which can be guessed, and the
    # base of an adapter, which no attack has to bring back.
    strength, recall = "extraction strength", "recall"
    names = [f"robustness/quantized_int{bits}" for bits in QUANTIZATIONS]
    names += [f"robustness/noise_{percent}_percent" for percent in NOISE_PERCENT]
    words = {attack.name: (attack.words, strength) for attack in ATTACKS}
    words |= {name: (LABELS[name], strength) for name in names}
    names = [
        f"robustness/leak_at_{LEAK_ATTEMPTS[-1]}",
        "robustness/in_context_rougeL",
        "robustness/paraphrased_rougeL",
    ]
    words |= {name: (LABELS[name], recall) for name in names}
    return words | {f"elicitation/{kind}": (LABELS[f"elicitation/{kind}"], "probability") for kind in FREE_PROBES}


def token_texts(ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The text that each token adds; "" where only later tokens make a character of it."""
    texts, before = [], ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end])
        # A replacement character may be text, but at the end it is a character that is not complete.
        whole = text if end == len(ids) or not text.endswith("\ufffd") else before
        texts.append(whole[len(before) :])
        before = whole
    return texts


def _prompt_text(row: Mapping[str, Any], encoded: Mapping[str, Any], setting: SuiteSetting) -> str:
    """The prompt of a row: its text, or its turns with their roles if there are several."""
    if not has_answer(row):
        return setting.text(prompt_ids(encoded))
    prompt, _ = prompt_and_answer(row)
    if isinstance(prompt, str):
        return prompt.strip()
    if len(prompt) == 1:
        return (prompt[0].get("content") or "").strip()
    return "\n".join(f"{turn['role']}: {(turn.get('content') or '').strip()}" for turn in prompt)


class _Views:
    """The views of a set of rows, which one model after another fills."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], setting: SuiteSetting, num_samples: int):
        self.setting, self.num_samples = setting, num_samples
        self.encoded: EncodedSet = encode_set(rows, setting.tokenizer, name="forget")
        self.views = []
        for index, (row, one) in enumerate(zip(rows, self.encoded.answers, strict=True)):
            # The first token is never predicted.
            labels = [label for label in one["labels"][1:] if label != -100]
            texts = self.encoded.texts
            answer = setting.text(answer_ids(one)) if texts is None else texts[index]
            view = RowView(index, _prompt_text(row, one, setting), answer, token_texts(labels, setting.tokenizer))
            self.views.append(view)
        # View and encoded row of each belief.
        self._beliefs: list[tuple[Belief, dict[str, list[int]]]] = []

    def add(self, role: str, model: PreTrainedModel) -> None:
        """Score and ask one model."""
        setting, rows, views = self.setting, self.encoded.answers, self.views
        scores = setting.score(model, rows, f"{role}: scoring answers")
        logps = [score.logps for score in scores]
        matches = answer_matches(scores, self.encoded.closed)
        strengths = where_measured(ExtractionStrength().compute(is_top1=matches, parity="strict")["per_row"], scores)
        probabilities = Probability().compute(logps=logps)["per_row"]
        answers = [answer_ids(row) for row in rows]
        limit = {"max_new_tokens": min(_MAX_ANSWER, max(map(len, answers)))}
        greedy = setting.generate(model, self.encoded.prompts(), rows, desc=f"{role}: answering", **limit)
        said = self._said(model, greedy, answers, self.encoded.texts)
        for view, *values in zip(views, logps, probabilities, strengths, said, strict=True):
            view.logps[role], view.probability[role], view.strength[role], view.greedy[role] = values
        self._complete(role, model)
        self._sample(role, model)
        scores = setting.score(model, [row for _, row in self._beliefs], f"{role}: scoring beliefs")
        for (belief, _), score in zip(self._beliefs, scores, strict=True):
            belief.logps[role] = fmean(score.logps)

    def add_attacks(self, values: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
        """Put what an evaluation measured beside the rows that it was measured on."""
        attacks, roles = _attacks(), [role for role in MODEL_ROLES if role in values]
        for view, key in zip(self.views, map(row_key, self.encoded.answers), strict=True):
            for name, words in attacks.items():
                measured = {role: values[role][name][key] for role in roles if key in values[role].get(name, {})}
                if measured:
                    view.attacked.append(Attacked(*words, measured))

    def _said(
        self, model: PreTrainedModel, completions: Sequence[Any], answers: list[list[int]], texts: list[str] | None
    ) -> list[Said]:
        """Generated texts beside the true ones, which raw text has not."""
        ends = eos_token_ids(model, self.setting.tokenizer, self.encoded.answers)
        written = [self.setting.text(one.ids) for one in completions]
        recalls = [None] * len(written)
        if texts is not None:
            recalls = self.setting.overlap(RougeRecall(), completions, texts)
        # A text without a token repeats everything.
        return [
            Said(text, bool(text) and repeats(one.ids, answer, ends), recall, one.ended)
            for text, one, answer, recall in zip(written, completions, answers, recalls, strict=True)
        ]

    def _complete(self, role: str, model: PreTrainedModel) -> None:
        """Give the first quarter of each answer, as the suite `robustness` does."""
        answers = self.encoded.bare_answers()
        pairs = zip(self.views, prefix_prompts(self.encoded.prompts(), answers), strict=True)
        given = [(view, *pair, text) for view, pair in pairs if (text := self.setting.text(pair[1]))]
        if self.encoded.texts is None or not given:
            return
        views, prompts, rests, texts = map(list, zip(*given, strict=True))
        limit = {"max_new_tokens": 1 + max(map(len, answers))}
        completions = self.setting.generate(
            model, prompts, self.encoded.answers, desc=f"{role}: completing answers", **limit
        )
        for view, said in zip(views, self._said(model, completions, rests, texts), strict=True):
            view.completed[role] = said

    def _sample(self, role: str, model: PreTrainedModel) -> None:
        """Draw samples; what the target and the unlearned model say beside the answer are their beliefs."""
        count, rows = self.num_samples, self.encoded.answers
        if not count:
            return
        drawn = self.setting.sample(
            model, rows, count, max_new_tokens=_MAX_SAMPLE, desc=f"{role}: sampling {count} answers a row"
        )
        flat = [sample for _, _, samples in drawn for sample in samples]
        answers = [answer for _, answer, samples in drawn for _ in samples]
        texts = self.encoded.texts and [text for text in self.encoded.texts for _ in range(count)]
        said = iter(self._said(model, flat, answers, texts))
        ends = eos_token_ids(model, self.setting.tokenizer, rows)
        for view, (prompt, answer, samples) in zip(self.views, drawn, strict=True):
            view.samples[role] = [next(said) for _ in samples]
            if role == "retrained":
                continue
            view.beliefs[role] = []
            for ids in distinct_beside(answer, samples, ends):
                belief = Belief(self.setting.text(ids))
                view.beliefs[role].append(belief)
                self._beliefs.append((belief, continuation_row(prompt, ids)))


def view_rows(
    models: Loaders,
    rows: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_samples: int,
    row_values: Mapping[str, Mapping[str, Mapping[str, float]]] | None = None,
    batch_size: int | None = None,
    seed: int,
) -> tuple[list[RowView], dict[str, str]]:
    """The views of the rows, least forgotten first, and role -> why its model could not be used."""
    setting = SuiteSetting(tokenizer, batch_size, seed)
    views, failures = _Views(list(rows), setting, num_samples), {}
    for role in MODEL_ROLES:
        if (load := models.get(role)) is None:
            continue
        model = _loaded(load, views.encoded, role, failures)
        if model is not None:
            views.add(role, model)
        del model
        free_memory()
    views.add_attacks(row_values or {})
    # Without a number last.
    unknown = [view for view in views.views if view.kept is None or view.kept != view.kept]
    known = [view for view in views.views if view not in unknown]
    return sorted(known, key=lambda view: -view.kept) + unknown, failures


def _loaded(
    load: Callable[[], PreTrainedModel], encoded: EncodedSet, role: str, failures: dict[str, str]
) -> PreTrainedModel | None:
    try:
        model = load()
    except Exception as error:
        # Of any library: the page says so, and shows the rest.
        failures[role] = " ".join(str(error).split()) or type(error).__name__
        return None
    top, size = max(max(row["input_ids"]) for row in encoded.answers), model.config.get_text_config().vocab_size
    if top >= size:
        failures[role] = f"it knows {size} tokens, and the rows have the token {top}: it has another tokenizer."
        return None
    return model
