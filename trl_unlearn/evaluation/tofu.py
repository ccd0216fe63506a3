# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The TOFU suite: target, unlearned and retrained model side by side."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean
from typing import Any, TypeVar

import numpy as np
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import continuation_row, without_end
from ..generation import Completion
from ..metrics import (
    ExactMemorization,
    ExtractionStrength,
    FluencyStandin,
    ForgetQuality,
    NormalizedProbability,
    Probability,
    RougeRecall,
    Squeezing,
    StrangersAUC,
    TruthRatio,
    harmonic_mean,
    memorization_score,
)
from ..metrics.text import is_refusal
from ..records import portable_name
from ..results import MEASURED_ROLES, SuiteOutcome
from ..subjects import MovedAnswers, moved_answers
from ..token_scores import RowScore, answer_matches
from .elicitation import LEAST_KNOWN
from .facts import FactPlaces, NearFacts, fact_recall, forget_facts, near_facts, rows_with_fact
from .judge_models import FluencyClassifier
from .rows import EncodedSet, EvaluationRows, Loaders, rows_protocol
from .squeezing import sample_beside
from .together import SuiteSetting, free_memory, score_rows_together
from .uncertainty import (
    Drawn,
    People,
    drawn_by_people,
    drawn_counts,
    drawn_means,
    row_counts,
    summarise,
    where_measured,
)


# With fewer forget rows, a comparison with answers about others would be one of a few names.
LEAST_COMPARED = 5
# One model has mean log-probs of all rows that differ less, in nats per token. A copy in 16 bits differs by up to .02
# (.07 if it computes in 16 bits), a retrained model of another seed by .9 to 1.3 in some row of 24.
EQUAL_SCORES = 0.1
# Answers are cut here before their fluency is judged, as for published numbers.
FLUENCY_LENGTH = 32
UTILITY_METRICS = ("probability", "rougeL_recall", "truth_ratio")
UTILITY_SETS = ("retain", "real_authors", "world_facts")
# Terms of other metrics: in `per_row`, but no line of the table.
_TERMS = ("forget/log_ratio", "real_authors/", "world_facts/")
# A mean over rows, or its values on resamples of the rows.
Number = TypeVar("Number", float, np.ndarray)


@dataclass(kw_only=True)
class TofuSetting(SuiteSetting):
    sets: dict[str, EncodedSet]
    parity: str
    max_completion_length: int
    num_squeezing_beliefs: int
    moved: MovedAnswers = field(default_factory=dict)
    near: NearFacts = field(default_factory=dict)
    facts: FactPlaces = field(default_factory=dict)


def _fact_values(near: NearFacts, scores: Sequence[RowScore]) -> dict[str, list[float]]:
    """Probability and accuracy of the retain facts that lie near the forget rows."""
    values = {}
    for kind, marked in near.items():
        if not marked:
            continue
        logps = [[scores[index].logps[i] for i in part] for index, part in marked.items()]
        right = [float(all(scores[index].is_top1[i] for i in part)) for index, part in marked.items()]
        values[f"retain/{kind}_probability"] = Probability().compute(logps=logps)["per_row"]
        values[f"retain/{kind}_accuracy"] = where_measured(right, [scores[index] for index in marked])
    return values


def score_set(
    model: nn.Module,
    encoded: EncodedSet,
    *,
    parity: str,
    pad_token_id: int,
    batch_size: int = 32,
    near: NearFacts | None = None,
    facts: FactPlaces | None = None,
) -> dict[str, list[float]]:
    """Metric -> value of each row (NaN where not finite), of the metrics that need no generation."""
    name = encoded.name
    # One pass for all metrics: true answers, then paraphrased ones, then the wrong ones of each row.
    flat = [*encoded.answers, *(encoded.paraphrases or []), *(row for rows in encoded.wrong or [] for row in rows)]
    scores = score_rows_together(
        model, flat, pad_token_id=pad_token_id, batch_size=batch_size, desc=f"Scoring the {name} set"
    )
    answers = scores[: len(encoded.answers)]
    means = iter([fmean(score.logps) for score in scores[len(answers) :]])
    paraphrase_logps = [next(means) for _ in encoded.paraphrases or []]
    wrong_logps = [[next(means) for _ in rows] for rows in encoded.wrong or []]
    logps = [score.logps for score in answers]

    values = {f"{name}/probability": Probability().compute(logps=logps)["per_row"]} | _fact_values(near or {}, answers)
    if name == "forget":
        is_top1 = answer_matches(answers, encoded.closed)
        memorized = ExactMemorization().compute(is_top1=is_top1)["per_row"]
        strengths = ExtractionStrength().compute(is_top1=is_top1, parity=parity)["per_row"]
        values["forget/exact_memorization"] = where_measured(memorized, answers)
        values["forget/extraction_strength"] = where_measured(strengths, answers)
        if facts:
            parts = [[answers[index].is_top1[i] for i in places] for index, places in facts.items()]
            memorized = ExactMemorization().compute(is_top1=parts)["per_row"]
            values["forget/fact_memorization"] = where_measured(memorized, [answers[index] for index in facts])
        if paraphrase_logps:
            paraphrase = Probability().compute(logps=[[logp] for logp in paraphrase_logps])
            values["forget/paraphrase_probability"] = paraphrase["per_row"]

    # General facts have no paraphrase: their answer is a name, and wrong answers are other names.
    is_general = name not in ("forget", "retain")
    true_logps = [fmean(row) for row in logps] if is_general else paraphrase_logps
    if not (wrong_logps and true_logps):
        return values
    ratio = TruthRatio().compute(true_logps=true_logps, wrong_logps=wrong_logps, parity=parity)["per_row"]
    if name == "forget":
        values |= {f"forget/{key}": ratio[key] for key in ("truth_ratio", "truth_ratio_knowledge", "log_ratio")}
    else:
        values[f"{name}/truth_ratio"] = ratio["truth_ratio_utility"]
    if is_general:
        choices = NormalizedProbability().compute(true_logps=true_logps, wrong_logps=wrong_logps)
        values[f"{name}/probability"] = choices["per_row"]
    return values


def compare_with_strangers(
    model: nn.Module,
    moved: MovedAnswers,
    probabilities: Sequence[float],
    *,
    pad_token_id: int,
    batch_size: int = 32,
) -> dict[str, Any]:
    """[`~metrics.StrangersAUC`] of a model whose true answers have these probabilities."""
    scores = score_rows_together(
        model,
        [row for rows in moved.values() for row in rows],
        pad_token_id=pad_token_id,
        batch_size=batch_size,
        desc="Scoring answers about others",
    )
    # As probabilities, like the true answers: to take their logarithms again would part ties.
    others = iter(Probability().compute(logps=[score.logps for score in scores])["per_row"])
    moved_probabilities = [[next(others) for _ in rows] for rows in moved.values()]
    true = [probabilities[index] for index in moved]
    sources = [[row["source"] for row in rows] for rows in moved.values()]
    return StrangersAUC().compute(true=true, others=moved_probabilities, sources=sources)


def _text_ids(answer: Completion) -> list[int]:
    return without_end(answer.ids, answer.ended)[:FLUENCY_LENGTH]


def measure_rows(
    model: PreTrainedModel, setting: TofuSetting, load: Callable[[], PreTrainedModel] | None = None
) -> tuple[dict[str, list[float]], list[Completion]]:
    """Values of each row of every set, and the greedy answers to the forget set (none for raw text)."""
    values, forget_answers = {}, []
    sizes = {"pad_token_id": setting.pad_token_id, "batch_size": setting.score_batch_size}
    for name, encoded in setting.sets.items():
        near, facts = setting.near if name == "retain" else None, setting.facts if name == "forget" else None
        values |= score_set(model, encoded, parity=setting.parity, near=near, facts=facts, **sizes)
        if encoded.texts is None:
            continue
        answers = setting.answers(model, encoded, max_new_tokens=setting.max_completion_length, load=load)
        values[f"{name}/rougeL_recall"] = setting.overlap(RougeRecall(), answers, encoded.texts)
        if name == "forget":
            forget_answers = answers
            if facts := fact_recall(answers, encoded, setting.tokenizer):
                values["forget/fact_recall"] = facts
    if setting.moved:
        compared = compare_with_strangers(model, setting.moved, values["forget/probability"], **sizes)
        values["forget/strangers_auc"] = compared["per_row"]
    return values, forget_answers


def _answer_logps(
    judge: PreTrainedModel, role: str, answers: list[Completion], setting: TofuSetting
) -> list[list[float]]:
    """Log-probs under the target of the tokens of a model's answers to the forget set, with their end."""
    prompts = setting.sets["forget"].prompts()
    texts = [_text_ids(answer) for answer in answers]
    # A text that was cut has no end to judge.
    ends = [
        answer.ids[-1:] if answer.ended and len(answer.ids) == len(text) + 1 else []
        for answer, text in zip(answers, texts, strict=True)
    ]
    rows = [
        continuation_row(prompt, text + end) for prompt, text, end in zip(prompts, texts, ends, strict=True) if text
    ]
    scores = iter(setting.score(judge, rows, f"Judging the fluency of {role}"))
    return [next(scores).logps if text else [] for text in texts]


def _moved(sets: Mapping[str, EncodedSet], tokenizer: PreTrainedTokenizerBase, **options: Any) -> MovedAnswers:
    """The answers about others under the questions of the forget set; none for a few rows."""
    forget, retain = sets["forget"].answers, sets["retain"].answers if "retain" in sets else None
    return moved_answers(forget, retain, tokenizer, **options) if len(forget) >= LEAST_COMPARED else {}


class Suite:
    """The TOFU suite with a target and retrained models that are measured once, for any number of unlearned ones."""

    def __init__(
        self,
        models: Loaders,
        rows: EvaluationRows,
        setting: SuiteSetting,
        *,
        parity: str = "open-unlearning",
        max_completion_length: int = 200,
        num_squeezing_beliefs: int = 4,
        fluency_classifier: FluencyClassifier | None = None,
        answers_only: bool = False,
    ):
        tokenizer = setting.tokenizer
        options = {"seed": setting.seed, "subjects": setting.subjects, **({"most": 1} if answers_only else {})}
        # `answers_only`: true answers of two sets, no paraphrased or wrong ones, and nothing is generated.
        names = ("forget", "retain") if answers_only else ("forget", "retain", "real_authors", "world_facts")
        encoded = {name: rows.encoded(name, tokenizer) for name in names if getattr(rows, name) is not None}
        # Before the paraphrased and wrong answers go, which tell what the fact of a row is.
        retain = encoded.get("retain")
        facts = forget_facts(encoded["forget"], retain, tokenizer)
        near = {} if retain is None else near_facts(encoded["forget"], retain, tokenizer)
        if answers_only:
            encoded = {name: part.true_answers() for name, part in encoded.items()}
        # They stand in for a retrained model, and cost an evaluation of minutes as much as the forget set.
        compared = not answers_only or models.get("retrained") is None
        self.setting = TofuSetting(
            **vars(setting),
            sets=encoded,
            near=near,
            facts=facts,
            moved=_moved(encoded, tokenizer, **options) if compared else {},
            parity=parity,
            max_completion_length=max_completion_length,
            num_squeezing_beliefs=num_squeezing_beliefs,
        )
        self._load_target = models.get("target")
        self._classifier, self._answers_only = fluency_classifier, answers_only
        self.per_row: dict[str, dict[str, list[float]]] = {}
        # Of the target, for all: its frozen beliefs, their log-probs, and those of its answers to the forget set.
        self._beliefs: list[list[dict[str, list[int]]]] = []
        self._belief_logps: list[list[float]] = []
        self._own_logps: list[list[float]] = []
        for role in ("target", "retrained", "second_retrained"):
            if models.get(role) is not None:
                self.per_row[role] = self._measure(role, models[role])

    def _measure(self, role: str, load: Callable[[], PreTrainedModel]) -> dict[str, list[float]]:
        setting, model, is_target = self.setting, load(), role == "target"
        if is_target or self._load_target is None:
            self._dtype = str(model.dtype).removeprefix("torch.")
        if is_target and not self._answers_only:
            rows, count = setting.sets["forget"].answers, setting.num_squeezing_beliefs
            limit = {"max_new_tokens": setting.max_completion_length, "desc": "Sampling beliefs of the original model"}
            self._beliefs = sample_beside(model, setting, rows, count, stream=(0,), **limit)
        values, answers = measure_rows(model, setting, load)
        if any(self._beliefs):
            now = setting.mean_logps(model, [row for row in self._beliefs if row], "Scoring beliefs")
            self._belief_logps = now if is_target else self._belief_logps
            values["forget/squeezing"] = Squeezing().compute(now=now, before=self._belief_logps)["per_row"]
        logps = []
        if answers and self._classifier is None:
            # Loaded again rather than kept: only one model has to fit in memory.
            if not is_target:
                del model
                free_memory()
                model = self._load_target()
            logps = _answer_logps(model, role, answers, setting)
            if is_target:
                texts = map(_text_ids, answers)
                self._own_logps = [row[: len(text)] for row, text in zip(logps, texts, strict=True)]
        del model
        free_memory()
        return values | self._fluency(role, answers, logps)

    def _fluency(self, role: str, answers: list[Completion], logps: list[list[float]]) -> dict[str, list[float]]:
        """Fluency of a model's answers to the forget set; nothing where there are none."""
        ids, tokenizer = [_text_ids(answer) for answer in answers], self.setting.tokenizer
        if not answers:
            return {}
        texts = [tokenizer.decode(text, skip_special_tokens=True) for text in ids]
        if self._classifier is not None:
            desc = f"Judging the fluency of {role}"
            clean = self._classifier.probabilities(texts, batch_size=self.setting.score_batch_size, desc=desc)
            return {"utility/fluency": where_measured(clean, answers)}
        # A target that never refuses finds no refusal likely, and none is broken for it.
        logps = [[0.0] * len(row) if is_refusal(text) else row for text, row in zip(texts, logps, strict=True)]
        standin = FluencyStandin().compute(ids=ids, logps=logps, own_logps=self._own_logps, vocab_size=len(tokenizer))
        return {"utility/fluency_standin": where_measured(standin["per_row"], answers)}

    def _people(self, metric: str) -> list[str] | None:
        """Whom the rows of a metric are about."""
        name, _, key = metric.partition("/")
        encoded = self.setting.sets.get(name)
        if encoded is None:
            # `utility/` is of the answers to the forget set.
            return self.setting.sets["forget"].about() if name == "utility" else None
        if name == "retain":
            return encoded.about(self.setting.near.get(key.split("_")[0]))
        parts = {
            "fact_memorization": self.setting.facts,
            "strangers_auc": self.setting.moved,
            "squeezing": [index for index, sampled in enumerate(self._beliefs) if sampled],
        }
        if key == "fact_recall":
            parts[key] = rows_with_fact(encoded, self.setting.tokenizer)
        return encoded.about(parts.get(key))

    def _least_strength(self) -> float:
        """The mean extraction strength that any model has by the definition of open-unlearning: 1/T of T tokens."""
        forget = self.setting.sets["forget"]
        labels = (sum(label != -100 for label in row["labels"][1:]) for row in forget.answers)
        return fmean(1 / max(1, count - ends) for count, ends in zip(labels, forget.closed, strict=True))

    def evaluate(self, unlearned: Callable[[], PreTrainedModel] | None = None) -> SuiteOutcome:
        """Measure the unlearned model that a function loads, beside the others; without one, the others alone."""
        self.per_row.pop("unlearned", None)
        if unlearned is not None:
            self.per_row["unlearned"] = self._measure("unlearned", unlearned)
        setting = self.setting
        measured = {role: self.per_row[role] for role in MEASURED_ROLES if role in self.per_row}
        outcome = summarise_tofu(measured, seed=setting.seed, people=self._people)
        generated = {
            "max_completion_length": setting.max_completion_length,
            "num_squeezing_beliefs": setting.num_squeezing_beliefs,
            "fluency_source": "standin" if self._classifier is None else portable_name(self._classifier.name),
        }
        outcome.protocol = {
            **rows_protocol(*setting.sets.values(), seed=setting.seed),
            "near_facts": {kind: len(rows) for kind, rows in setting.near.items()},
            **kept_rows(self.per_row),
            **({"least_strength": self._least_strength()} if setting.parity == "open-unlearning" else {}),
            "equal_scores": equal_scores(self.per_row),
            **({} if self._answers_only else generated),
            "dtype": self._dtype,
        }
        return outcome


def evaluate_models(models: Loaders, rows: EvaluationRows, setting: SuiteSetting, **options: Any) -> SuiteOutcome:
    """Run the TOFU suite once, on a target, an unlearned and a retrained model; options as in [`Suite`]."""
    return Suite(models, rows, setting, **options).evaluate(models.get("unlearned"))


def kept_rows(per_row: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """
    Counts of forget rows: by role, those kept, with a p(answer) nearer to the target's than to the retrained model's
    (0 without one); those that the target knows beside that; those that it finds likely, and of these the ones that
    the retrained model has nearer to the target's than to 0.
    """
    p = {role: np.array(metrics["forget/probability"]) for role, metrics in per_row.items()}
    # Without a target, an answer that is likelier than not is kept.
    target = p.pop("target", np.ones(len(next(iter(p.values()), ()))))
    floor = np.nan_to_num(p.pop("retrained", np.zeros(len(target))))

    def count(own: np.ndarray, floor: np.ndarray | float) -> int:
        # Rows that the target hardly knows better tell nothing. A comparison with NaN is false.
        return int(((target - floor > LEAST_KNOWN) & (own - floor > (target - floor) / 2)).sum())

    return {
        "kept_rows": {role: count(own, floor) for role, own in p.items()},
        "known_rows": count(target, floor),
        "likely_rows": count(target, 0.0),
        "likely_to_retrained": count(floor, 0.0),
    }


def equal_scores(per_row: Mapping[str, Mapping[str, Sequence[float]]]) -> list[list[str]]:
    """Pairs of roles with the same p(answer) in every forget row, but for rounding: they are one model."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logps = {role: np.log(metrics["forget/probability"]) for role, metrics in per_row.items()}
        return [
            [one, other]
            for one, other in combinations(logps, 2)
            # A few rows may be alike by chance. A comparison with NaN is false.
            if len(logps[one]) >= LEAST_COMPARED and (np.abs(logps[one] - logps[other]) < EQUAL_SCORES).all()
        ]


def aggregate_values(means: Mapping[str, Number]) -> dict[str, Number]:
    """Model utility, Mem, Util and Agg, each where all of its terms were measured."""
    known = dict(means)
    # HM: harmonic mean. Model utility = HM of nine, Mem = HM of 1 - term, Util = HM(model utility, fluency),
    # Agg = HM(Mem, Util).
    for name, terms in _aggregate_terms(means):
        if not all(term in known for term in terms):
            continue
        if name == "aggregate/memorization":
            known[name] = memorization_score(**{term.removeprefix("forget/"): known[term] for term in terms})
        else:
            known[name] = harmonic_mean([known[term] for term in terms])
    return {name: value for name, value in known.items() if name not in means}


def _aggregate_terms(measured: Container[str]) -> Iterator[tuple[str, list[str]]]:
    """Aggregates with their terms, each behind those that it is made of."""
    remembered = ("extraction_strength", "exact_memorization", "paraphrase_probability", "truth_ratio_knowledge")
    fluency = "utility/fluency" if "utility/fluency" in measured else "utility/fluency_standin"
    model = "utility/model_utility"
    yield model, [f"{name}/{metric}" for name in UTILITY_SETS for metric in UTILITY_METRICS]
    yield (memory := "aggregate/memorization"), [f"forget/{term}" for term in remembered]
    yield (utility := "aggregate/utility"), [model, fluency]
    yield "aggregate/agg", [memory, utility]


def _fewest_rows(counts: Mapping[str, int]) -> dict[str, int]:
    """Aggregate -> the rows of the term that has the fewest."""
    known = dict(counts)
    for name, terms in _aggregate_terms(counts):
        if all(term in known for term in terms):
            known[name] = min(known[term] for term in terms)
    return {name: number for name, number in known.items() if name not in counts}


def _drawn_quality(ratios: np.ndarray, *, seed: int, people: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Forget quality on each resample of rows or people, from log R of each row under both models, `[2, rows]`."""
    rows = ratios.shape[1]
    if rows < 2:
        return {}
    # D = max |F1 - F2|, for all resamples at once: walk up the sorted values of both models, one step each time that a
    # row was drawn.
    counts = drawn_counts(rows, seed=seed, people=people)
    both = ratios.ravel()
    order = both.argsort()
    climb = np.concatenate([counts, -counts], axis=1)[:, order].cumsum(1)
    # The distribution functions are compared where both have passed all of several equal values.
    passed = np.append(both[order][1:] != both[order][:-1], True)
    # People have rows of different numbers: a distance is that of samples of the size of the set.
    walked = np.abs(climb * passed).max(1) * rows / counts.sum(1)
    distances, which = np.unique(walked.round(), return_inverse=True)
    # For samples of equal size the test depends on this distance alone, which has few values: one test for each.
    ranks = np.arange(float(rows))
    tests = [
        ForgetQuality().compute(unlearned=ranks.tolist(), retrained=(ranks + distance).tolist())
        for distance in distances
    ]
    return {f"forget_quality/{name}": np.array([test[name] for test in tests])[which] for name in tests[0]}


def summarise_tofu(
    per_row: Mapping[str, Mapping[str, Sequence[float]]], *, seed: int, people: People | None = None
) -> SuiteOutcome:
    """Means, aggregates and forget quality against the retrained model, from role -> metric -> value of each row."""
    # All are computed anew on the same resamples of each set: the error of an aggregate then knows that its terms
    # move together, and a difference that two models were measured on the same rows.
    counts, missing = row_counts(per_row)
    reference = per_row.get("retrained", {}).get("forget/log_ratio")
    values: dict[str, dict[str, float]] = {}
    draws: dict[str, dict[str, np.ndarray]] = {}
    by_people = drawn_by_people(per_row, people, seed=seed)
    num_people = dict(by_people.people)
    for role, metrics in per_row.items():
        means = {name: float(np.mean(row)) for name, row in metrics.items()}
        drawn = {name: drawn_means(row, seed=seed) for name, row in metrics.items()}
        values[role] = means | {name: float(value) for name, value in aggregate_values(means).items()}
        draws[role] = drawn | aggregate_values(drawn)
        # Of an aggregate, the terms about nobody are drawn by rows.
        by_people.draws[role] |= aggregate_values(drawn | by_people.draws[role])
        if reference is not None:
            ratios = np.array([metrics["forget/log_ratio"], reference])
            quality = ForgetQuality().compute(unlearned=ratios[0].tolist(), retrained=ratios[1].tolist())
            quality = {f"forget_quality/{name}": value for name, value in quality.items()}
            values[role] |= quality
            counts[role] |= dict.fromkeys(quality, len(reference))
            draws[role] |= _drawn_quality(ratios, seed=seed)
            if "forget/log_ratio" in num_people:
                labels = people("forget/log_ratio")
                by_people.draws[role] |= _drawn_quality(ratios, seed=seed, people=labels)
                num_people |= dict.fromkeys(quality, num_people["forget/log_ratio"])
    names = dict.fromkeys(name for metrics in values.values() for name in metrics if not name.startswith(_TERMS))
    values = {role: {name: metrics[name] for name in names if name in metrics} for role, metrics in values.items()}
    # All models have the same rows.
    counted = next(iter(counts.values()), {})
    num_people |= {
        name: few for name, few in _fewest_rows(counted | num_people).items() if few < _fewest_rows(counted)[name]
    }
    return summarise(values, draws, counts, missing, _fewest_rows(counted), Drawn(by_people.draws, num_people))
