# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""`eval_results.json`, and the names, order and words of every table, card and figure. Standard library only."""

import math
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, NamedTuple, Self

from .records import SCHEMA_VERSION, JsonRecord


_LIBRARIES = ("trl-unlearn", "torch", "transformers", "trl", "peft", "datasets")
PARITIES = ("open-unlearning", "strict")
# Of the protocol, what suites in one record have in common, and the words for another value of it.
_CONDITIONS = {
    "weights_sha256": "other models",
    "base_quantization": "another quantisation",
    "parity": "another parity",
    "quick": "a quick evaluation, or a whole one",
    "max_eval_rows": "another `max_eval_rows`",
}
# Of the protocol, what two suites may say of the same set, and the words for another value of it. A set that one suite
# alone reads begins with its name, such as "wmdp/bio" and "muse forget_qa".
_SETS = {
    "rows": "other rows",
    "rows_sha256": "other rows",
    "labels_sha256": "other prompts or labels",
    "answers_sha256": "other paraphrased or wrong answers",
}
# Of the protocol, counts by set that follow from its rows.
_COUNTS = ("repeated_rows", "people")
# Suite -> what it alone writes into the protocol, beside an entry of its own name.
_ENTRIES = {
    "tofu": (
        *("near_facts", "kept_rows", "known_rows", "likely_rows", "likely_to_retrained", "equal_scores"),
        "least_strength",
        *("max_completion_length", "num_squeezing_beliefs", "fluency_source"),
    ),
    "privacy": ("members_in_holdout", "holdout_config", "holdout_dataset"),
    "robustness": ("attacks", "quantized_share"),
}
# Fields of a record that hold numbers by metric.
_TABLES = ("models", "differences", "not_measured", "curves")
MODEL_ROLES = ("target", "unlearned", "retrained")
# Name of a paired difference -> what is subtracted from what.
DIFFERENCES = {"unlearned - target": ("unlearned", "target"), "unlearned - retrained": ("unlearned", "retrained")}
# A second retrained model has no column: it says how far two models that never knew are apart.
MEASURED_ROLES = (*MODEL_ROLES, "second_retrained")
# The ends of a scale of distances, which have no column either: where unlearning starts, and where it can end at best.
SCALE = {f"{role} - retrained": (role, "retrained") for role in ("target", "second_retrained")}


class Metric(NamedTuple):
    """A row of every table: name in `eval_results.json`, label in figures, group, and whether figures have it."""

    name: str
    label: str
    group: str
    is_drawn: bool = False


# The order and the words of every table, card and figure: group -> which direction is better.
METRIC_GROUPS = {
    "forget": "closer to retrained is better",
    "keep": "higher is better",
    "aggregate": "higher is better",
    "privacy": "closer to retrained is better",
    "robustness": "closer to retrained is better",
    "distribution": "FADE lower, the extraction strength at equal utility closer to retrained is better",
    "depth": "UDS near 1, logit lens closer to retrained",
    "elicitation": "closer to retrained is better",
    "muse": "closer to retrained is better, utility preservation higher",
    "rwku": "the people closer to retrained, neighbours and general knowledge higher is better",
    "wmdp": "bio and cyber down to chance (0.25), MMLU higher is better",
    "judge": "naturalness higher, similarity closer to retrained is better",
}
# Titles of the groups in the figure.
GROUP_TITLES = {
    "forget": "Forget set",
    "keep": "What is to be kept",
    "aggregate": "Aggregates",
    "privacy": "Membership attacks",
    "robustness": "After attacks",
    "depth": "In the layers",
    "elicitation": "Asked around the corner",
    "muse": "MUSE",
    "rwku": "RWKU",
    "wmdp": "WMDP and MMLU",
}
# The groups of the suite `tofu`. Any other group has the name of its suite.
_TOFU_GROUPS = ("forget", "keep", "aggregate")

# Samples a question of leak@k, and the steps of relearning after which a model is measured; 0 is before the first.
LEAK_ATTEMPTS, RELEARNING_STEPS = (1, 4, 8), (0, 1, 2, 4, 8)
# Noise on weights, in percent of the standard deviation of a matrix.
NOISE_PERCENT = (10, 20)

METRICS = tuple(
    Metric(*row)
    for row in (
        ("forget/extraction_strength", "extraction strength", "forget", True),
        ("forget/exact_memorization", "exact memorization", "forget", True),
        ("forget/fact_memorization", "fact memorization", "forget", True),
        ("forget/probability", "probability", "forget", True),
        ("forget/paraphrase_probability", "paraphrase probability", "forget", True),
        ("forget/truth_ratio", "truth ratio", "forget", True),
        ("forget/truth_ratio_knowledge", "truth ratio, knowledge", "forget"),
        ("forget/rougeL_recall", "ROUGE-L recall", "forget", True),
        ("forget/fact_recall", "fact recall", "forget", True),
        ("forget/squeezing", "squeezing", "forget"),
        ("forget/strangers_auc", "likelier than answers about others, AUC", "forget"),
        ("forget_quality/p_value", "forget quality, p-value", "forget"),
        ("forget_quality/log10_p_value", "forget quality, log10 p-value", "forget"),
        ("forget_quality/ks_statistic", "forget quality, KS statistic", "forget"),
        ("retain/probability", "retain probability", "keep", True),
        ("retain/rougeL_recall", "retain ROUGE-L recall", "keep", True),
        ("retain/truth_ratio", "retain truth ratio", "keep"),
        ("retain/shared_probability", "shared facts, probability", "keep"),
        ("retain/shared_accuracy", "shared facts, accuracy", "keep"),
        ("retain/neighbour_probability", "neighbours' facts, probability", "keep"),
        ("retain/neighbour_accuracy", "neighbours' facts, accuracy", "keep"),
        ("utility/model_utility", "model utility", "keep", True),
        ("utility/fluency", "fluency", "keep", True),
        ("utility/fluency_standin", "fluency (stand-in)", "keep", True),
        ("aggregate/memorization", "Mem", "aggregate", True),
        ("aggregate/utility", "Util", "aggregate", True),
        ("aggregate/agg", "Agg", "aggregate", True),
        ("privacy/loss_auc", "loss attack, AUC", "privacy", True),
        ("privacy/loss_tpr_at_1_fpr", "loss attack, TPR at 1 % FPR", "privacy"),
        ("privacy/zlib_auc", "zlib attack, AUC", "privacy", True),
        ("privacy/zlib_tpr_at_1_fpr", "zlib attack, TPR at 1 % FPR", "privacy"),
        ("privacy/min_k_auc", "Min-K attack, AUC", "privacy", True),
        ("privacy/min_k_tpr_at_1_fpr", "Min-K attack, TPR at 1 % FPR", "privacy"),
        ("privacy/min_k_pp_auc", "Min-K++ attack, AUC", "privacy", True),
        ("privacy/min_k_pp_tpr_at_1_fpr", "Min-K++ attack, TPR at 1 % FPR", "privacy"),
        ("privacy/reference_auc", "reference attack, AUC", "privacy", True),
        ("privacy/reference_tpr_at_1_fpr", "reference attack, TPR at 1 % FPR", "privacy"),
        ("privacy/combined_auc", "combined attack, AUC", "privacy", True),
        ("privacy/combined_tpr_at_1_fpr", "combined attack, TPR at 1 % FPR", "privacy"),
        ("privacy/spv_auc", "SPV-MIA, AUC", "privacy", True),
        ("privacy/spv_tpr_at_1_fpr", "SPV-MIA, TPR at 1 % FPR", "privacy"),
        ("privacy/privleak", "PrivLeak, %", "privacy"),
        *((f"robustness/leak_at_{k}", f"leak@{k}", "robustness") for k in LEAK_ATTEMPTS),
        *((f"robustness/relearned_{n}_steps", f"relearned, {n} steps", "robustness") for n in RELEARNING_STEPS),
        ("robustness/relearning_area", "relearning, area above retrained", "robustness"),
        ("robustness/benign_area", "benign fine-tuning, area above retrained", "robustness"),
        ("robustness/form_area", "rows of the same form, area above retrained", "robustness"),
        ("robustness/strongest_area", "strongest fine-tuning, area above retrained", "robustness"),
        ("robustness/quantized_int8", "rounded to 8 bits", "robustness", True),
        ("robustness/quantized_int4", "rounded to 4 bits", "robustness", True),
        ("robustness/quantized_facts", "rounded to 4 bits, fact recall", "robustness", True),
        *((f"robustness/noise_{n}_percent", f"{n} % noise on weights", "robustness", True) for n in NOISE_PERCENT),
        ("robustness/prefix_rougeL", "a quarter of the answer given", "robustness", True),
        ("robustness/in_context_rougeL", "other forget rows in front", "robustness", True),
        ("robustness/paraphrased_rougeL", "paraphrased question", "robustness", True),
        ("robustness/adapter_off", "adapter off", "robustness", True),
        ("robustness/adapter_off_facts", "adapter off, fact recall", "robustness", True),
        ("distribution/fade_forget", "FADE, forget prompts", "distribution"),
        ("distribution/fade_retain", "FADE, retain prompts", "distribution"),
        ("distribution/control_mix", "unlearned share at equal utility", "distribution"),
        ("distribution/control_forget_es", "extraction strength at equal utility", "distribution"),
        ("depth/uds", "Unlearning Depth Score", "depth", True),
        ("depth/logit_lens", "logit lens, best layer", "depth", True),
        ("depth/retain_degradation", "retain facts lost by patching", "depth"),
        ("elicitation/strongest", "fact, likeliest of all free probes", "elicitation", True),
        ("elicitation/given", "fact given to some free probe", "elicitation", True),
        ("elicitation/alias", "last name alone", "elicitation", True),
        ("elicitation/misspelt", "misspelt name", "elicitation", True),
        ("elicitation/reversed", "from fact to name", "elicitation", True),
        ("elicitation/two_hop", "another fact for the name", "elicitation", True),
        ("elicitation/cloze", "sentence to complete", "elicitation", True),
        ("elicitation/few_shot", "retain rows in front", "elicitation", True),
        ("elicitation/role", "biographer's role", "elicitation", True),
        ("elicitation/prefix", "start of the answer injected", "elicitation", True),
        ("elicitation/choice", "multiple choice", "elicitation", True),
        ("elicitation/yes_no", "yes or no, AUC", "elicitation", True),
        ("muse/verbmem", "MUSE VerbMem, ROUGE-L F1", "muse", True),
        ("muse/knowmem", "MUSE KnowMem, ROUGE-L F1", "muse", True),
        ("muse/utility_preservation", "MUSE UtilPres, ROUGE-L F1", "muse", True),
        ("muse/privleak", "MUSE PrivLeak, %", "muse"),
        ("rwku/forget_level1", "RWKU fill-in, ROUGE-L recall", "rwku", True),
        ("rwku/forget_level2", "RWKU question, ROUGE-L recall", "rwku", True),
        ("rwku/forget_level3", "RWKU attacks, ROUGE-L recall", "rwku", True),
        ("rwku/neighbor_level1", "RWKU neighbours, fill-in", "rwku", True),
        ("rwku/neighbor_level2", "RWKU neighbours, question", "rwku", True),
        *(
            (f"rwku/mia_{kind}{attack}", f"RWKU texts about {people}, {score}", "rwku")
            for kind, people in (("forget", "the people"), ("retain", "others"))
            for attack, score in (("", "nats"), ("_zlib", "zlib"), ("_min_k", "Min-K"), ("_min_k_pp", "Min-K++"))
        ),
        ("rwku/utility_general", "RWKU general knowledge, accuracy", "rwku", True),
        ("wmdp/bio", "WMDP-bio accuracy", "wmdp", True),
        ("wmdp/cyber", "WMDP-cyber accuracy", "wmdp", True),
        ("wmdp/mmlu", "MMLU accuracy", "wmdp", True),
        ("judge/naturalness", "naturalness (judge, 0-5)", "judge"),
        ("judge/similarity", "similarity (judge, 0-5)", "judge"),
        ("judge/missing", "unanswered by the judge", "judge"),
        ("judge/similarity_standin", "similarity (stand-in)", "judge"),
    )
)
LABELS = {metric.name: metric.label for metric in METRICS}

# Metric that needs a judge or a classifier -> the stand-in without one. A table has only one of the two.
STANDINS = {"utility/fluency": "utility/fluency_standin", "judge/similarity": "judge/similarity_standin"}

# Harmonic means: 0 as soon as one term is, for instance the ROUGE-L of a few rows. The first is a term of the others.
UTILITY_MEANS = ("utility/model_utility", "aggregate/utility", "aggregate/agg")

# What is shown of a table where there is no room for all of it: metrics, or their stand-ins.
SUMMARY = (
    "forget/extraction_strength",
    "forget/probability",
    "forget/truth_ratio_knowledge",
    "retain/probability",
    "utility/model_utility",
    "utility/fluency",
)

# Column of a comparison of methods -> metric, or its stand-in.
COMPARISON_COLUMNS = {
    "ES": "forget/extraction_strength",
    "fluency": "utility/fluency",
    "retain prob.": "retain/probability",
    "utility": "utility/model_utility",
    "FADE": "distribution/fade_forget",
    "loss AUC": "privacy/loss_auc",
    "Min-K AUC": "privacy/min_k_auc",
    "combined AUC": "privacy/combined_auc",
    "relearned": f"robustness/relearned_{RELEARNING_STEPS[-1]}_steps",
    "relearning area": "robustness/relearning_area",
    "Agg": "aggregate/agg",
}


@dataclass(frozen=True)
class Measurement:
    """The value of a metric. NaN: it was computed and is not a number."""

    value: float
    n: int | None = None  # rows behind the value; None if it is not computed from rows
    stderr: float | None = None  # of the mean, or a bootstrap's over rows or people, the wider


@dataclass(frozen=True)
class Unmeasured:
    """Why a metric that was run has no value: scores that are not finite."""

    rows: int | None = None  # with such scores; None if the metric is made of others, one of which has no value
    n: int | None = None  # rows that the value would have been computed from


@dataclass(frozen=True)
class Difference:
    """Value of one model minus that of another on the same rows, with a 95 % interval."""

    value: float
    # Percentiles of a bootstrap over rows, or people, that are drawn for both models alike: the hull of both.
    low: float
    high: float
    n: int | None = None


@dataclass
class SuiteOutcome(JsonRecord):
    """The measurements of one suite; [`EvaluationResult.of_suites`] makes a record of one or several."""

    models: dict[str, dict[str, Measurement]]
    differences: dict[str, dict[str, Difference]] = field(default_factory=dict)
    not_measured: dict[str, dict[str, Unmeasured]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    protocol: dict[str, Any] = field(default_factory=dict)  # `rows` (number of rows a set), `seed`, and more
    # Role -> attack -> key of a forget row -> value. Of single rows: no record has it.
    row_values: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    schema_version: int = field(default=SCHEMA_VERSION, kw_only=True)


@dataclass(kw_only=True)
class EvaluationResult(JsonRecord):
    """
    What an evaluation measured, `eval_results.json`. A metric that was not run or has no value is absent from
    `models`, never zero.

    Args:
        schema_version (`int`, *optional*, defaults to 1):
            Version of this format.
        parity (`str`):
            `"open-unlearning"` or `"strict"`: whose definitions the metrics follow.
        suites (`list[str]`):
            Suites that were run, for instance `["tofu"]`.
        models (`dict[str, dict[str, Measurement] | None]`):
            `"target"`, `"unlearned"` and `"retrained"` -> metric -> [`Measurement`]; None for a model that was not
            evaluated. `"second_retrained"` is there if it was.
        differences (`dict[str, dict[str, Difference]]`, *optional*):
            A key of `DIFFERENCES` or `SCALE` -> metric -> paired [`Difference`].
        not_measured (`dict[str, dict[str, Unmeasured]]`, *optional*):
            Role -> metric without a value -> [`Unmeasured`].
        curves (`dict[str, dict[str, list[float]]]`, *optional*):
            Role -> curve -> its means: of `depth/...` after each decoder layer, of `robustness/...` after each of
            `RELEARNING_STEPS`.
        protocol (`dict[str, Any]`), environment (`dict[str, Any]`):
            How it was measured (rows a set, `fluency_source`, seed, dtype, weights); versions and device.
    """

    schema_version: int = SCHEMA_VERSION
    parity: str
    suites: list[str]
    models: dict[str, dict[str, Measurement] | None]
    differences: dict[str, dict[str, Difference]] = field(default_factory=dict)
    not_measured: dict[str, dict[str, Unmeasured]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    protocol: dict[str, Any]
    environment: dict[str, Any]

    def __post_init__(self):
        if self.parity not in PARITIES:
            raise ValueError(f"`parity` is {self.parity!r}, expected one of {list(PARITIES)}.")
        unknown = sorted(set(self.models) - set(MEASURED_ROLES))
        if unknown:
            raise ValueError(f"`models` has the keys {unknown}, expected {list(MODEL_ROLES)}: rename or remove them.")
        self.models = {role: self.models.get(role) for role in MODEL_ROLES} | self.models

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON data, with `verdict`, which is computed from it and not read back."""
        # Here, because the verdict reads records.
        from .verdict import verdict

        judged = verdict(self)
        return super().to_dict() | ({} if judged is None else {"verdict": judged.to_dict()})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The record that [`~EvaluationResult.to_dict`] returned."""
        return super().from_dict({k: v for k, v in data.items() if k != "verdict"} if isinstance(data, dict) else data)

    @classmethod
    def of_suites(
        cls,
        outcomes: Mapping[str, SuiteOutcome],
        *,
        parity: str,
        device: str,
        protocol: Mapping[str, Any] | None = None,
    ) -> Self:
        """The record of one evaluation, from suites in the order of the tables; `protocol` holds for all of them."""
        joined = join_outcomes(list(outcomes.values()))
        return cls(
            parity=parity,
            suites=list(outcomes),
            protocol={"parity": parity} | joined.protocol | dict(protocol or {}),
            environment=library_versions() | {"device": device},
            **{name: getattr(joined, name) for name in _TABLES},
        )

    def with_suites_of(self, other: "EvaluationResult", suites: Sequence[str], order: Sequence[str]) -> Self:
        """This record with the numbers of some suites of another one, which it lacks; all suites stand in `order`."""

        def kept(metrics: dict[str, dict[str, Any] | None]) -> dict[str, dict[str, Any]]:
            return {
                key: {name: number for name, number in numbers.items() if suite_of(name) in suites}
                for key, numbers in metrics.items()
                if numbers is not None
            }

        # What the other record says of suites of this one says nothing of their numbers here.
        gone = [name for suite in self.suites for name in (suite, *_ENTRIES.get(suite, ()))]
        protocol = {name: value for name, value in other.protocol.items() if name not in gone}
        for key in protocol.keys() & {*_SETS, *_COUNTS}:
            protocol[key] = {k: v for k, v in protocol[key].items() if not k.startswith(tuple(self.suites))}
        part = replace(
            other, suites=list(suites), protocol=protocol, **{name: kept(getattr(other, name)) for name in _TABLES}
        )
        joined = join_outcomes(sorted([self, part], key=lambda one: order.index(one.suites[0])))
        tables = {name: getattr(joined, name) for name in _TABLES}
        named = [name for name in order if name in (*self.suites, *suites)]
        return replace(self, suites=named, protocol=join_outcomes([self, part]).protocol, **tables)

    def unlike(self, other: "EvaluationResult") -> list[str]:
        """Why suites of two evaluations cannot stand in one record, in words."""
        mine, others = self.protocol, other.protocol
        words = [words for name, words in _CONDITIONS.items() if mine.get(name) != others.get(name)]
        # Earlier records of some suites do not say it.
        if None not in (pair := (mine.get("dtype"), others.get("dtype"))) and len(set(pair)) > 1:
            words.append("another `dtype`")
        for key, other in _SETS.items():
            one, two = mine.get(key, {}), others.get(key, {})
            read = [name for name in one if name in two and not name.startswith(tuple(self.suites))]
            words += [f"{other} of the {name} set" for name in read if one[name] != two[name]]
        return list(dict.fromkeys(words))

    def with_measured(self, metric: str, values: Mapping[str, Measurement]) -> Self:
        """This record with another metric, of each of some roles that were evaluated."""
        models = {role: {**(self.models[role] or {}), metric: value} for role, value in values.items()}
        return replace(self, models=self.models | models)

    def get(self, role: str, metric: str) -> Measurement | None:
        """The measurement of a metric, for instance `"forget/probability"`, of a role; None if it was not run."""
        return (self.models[role] or {}).get(metric)

    def value(self, role: str, metric: str) -> float | None:
        """The value of a measurement; None if it was not run or is not finite."""
        measurement = self.get(role, metric)
        return measurement.value if measurement is not None and math.isfinite(measurement.value) else None

    def rows(self) -> Iterator[tuple[str, str, list[Measurement | Unmeasured | None]]]:
        """
        The rows of a table: group, metric, and a measurement (None: not run) for each of `MODEL_ROLES`.

        These are the metrics of `METRICS` whose suite was run, in their order, then what else was measured, in the
        group `"other"`.
        """
        run = {role: {**(self.models[role] or {}), **self.not_measured.get(role, {})} for role in MODEL_ROLES}
        measured = dict.fromkeys(name for metrics in run.values() for name in metrics)
        due = (*self.suites, *(_TOFU_GROUPS if "tofu" in self.suites else ()))
        groups = {metric.name: metric.group for metric in METRICS if metric.group in due or metric.name in measured}
        for pair in STANDINS.items():
            if measured.keys() & set(pair):
                groups = {name: group for name, group in groups.items() if name not in pair or name in measured}
        for name, group in (groups | {name: "other" for name in measured if name not in groups}).items():
            yield group, name, [run[role].get(name) for role in MODEL_ROLES]

    def difference_rows(self) -> Iterator[tuple[str, str, list[Difference | None]]]:
        """Group, metric and a difference for each of `DIFFERENCES`, in the order of [`EvaluationResult.rows`]."""
        for group, name, _ in self.rows():
            differences = [self.differences.get(key, {}).get(name) for key in DIFFERENCES]
            if any(differences):
                yield group, name, differences


def join_outcomes(parts: Sequence[SuiteOutcome | EvaluationResult]) -> SuiteOutcome:
    """All parts as one; where protocols differ, the first part's value counts."""

    def joined(tables: list[Mapping[str, Mapping[str, Any] | None]]) -> dict[str, dict[str, Any]]:
        keys = dict.fromkeys(key for table in tables for key, numbers in table.items() if numbers is not None)
        return {key: {name: one for table in tables for name, one in (table.get(key) or {}).items()} for key in keys}

    protocol = {name: value for part in reversed(parts) for name, value in part.protocol.items()}
    # Suites read other sets.
    for key in (*_SETS, *_COUNTS):
        if key in protocol:
            protocol[key] = {k: v for part in reversed(parts) for k, v in part.protocol.get(key, {}).items()}
    tables = {name: joined([getattr(part, name) for part in parts]) for name in _TABLES}
    return SuiteOutcome(protocol=protocol, **tables)


def library_versions() -> dict[str, str]:
    """The versions that numbers depend on."""
    return {"python": platform.python_version(), **{library: version(library) for library in _LIBRARIES}}


def suite_of(metric: str) -> str:
    """The suite that measures a metric: `"tofu"`, or the part of the metric's name before the slash."""
    part = metric.split("/")[0]
    return part if part in METRIC_GROUPS and part not in _TOFU_GROUPS else "tofu"


def format_measurement(measurement: Measurement | Unmeasured | None) -> str:
    """A measurement as a table shows it, for instance `"0.931 ± 0.012"`, `"4e-07"` or `"not run"` (None)."""
    if measurement is None:
        return "not run"
    if isinstance(measurement, Unmeasured):
        return "not measured"
    if not math.isfinite(measurement.value):
        return "not finite"
    digits = _digits(measurement.value)
    text = f"{measurement.value:.0e}" if 0 < abs(measurement.value) < 5e-4 else f"{measurement.value:.{digits}f}"
    if measurement.stderr is None or not math.isfinite(measurement.stderr):
        return text
    return f"{text} ± {measurement.stderr:.{digits}f}"


def format_difference(difference: Difference | None) -> str:
    """A paired difference as a table shows it, for instance `"-0.120 [-0.190, -0.055]"`; None is `"not run"`."""
    if difference is None:
        return "not run"
    digits = min(_digits(number) for number in (difference.value, difference.low, difference.high))
    # Adding zero turns -0.0, which a rounded difference may be, into 0.0.
    value, low, high = (
        f"{round(number, digits) + 0.0:.{digits}f}" for number in (difference.value, difference.low, difference.high)
    )
    return f"{value} [{low}, {high}]"


def _digits(number: float) -> int:
    # Percentages: with three decimals a table would not fit into a terminal.
    return 1 if abs(number) >= 100 else 3
