# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

r"""
Which numbers tell models that know the forgotten facts from models that do not?

Small models of the embedded lab, six kinds that know and six that do not, each by short runs that differ in seed,
learning rate and steps. Every number that an evaluation has of them is a classifier: its AUC is the share of pairs of
a knowing and another model that it puts in order, on the models as they are, after a training on retain rows, and
rounded to 4 bits. Which direction knows, target and retrained model say, which are in neither set.

A plain check confirms each model; one that fails it is left out and named. Every evaluation is kept in `--folder`, and
the same command resumes. Prints Markdown tables.

```bash
python benchmarks/meta_evaluation.py
```
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import table
from planted import KNOW, RETURN, SAY, TELL, Suites, keep, probability, rounded
from planted_models import (
    REFUSAL,
    Lab,
    Lesson,
    Row,
    as_text,
    asked,
    asked_otherwise,
    by_last_name,
    canonical,
    keeps,
    knows_another_question,
    knows_plain_text,
    knows_the_last_name,
    paraphrased,
    second_retrained,
    squeezed,
    teach,
)
from torch import nn
from transformers import HfArgumentParser, PreTrainedModel

from trl_unlearn.data.archive_models import TrainingSettings, train_side_by_side
from trl_unlearn.evaluation.rows import EvaluationRows
from trl_unlearn.metrics.membership import separation
from trl_unlearn.results import METRICS, EvaluationResult, suite_of
from trl_unlearn.verdict import QUESTIONS, verdict


# Steps and learning rate of a variant's short run.
COURSES = ((40, 1e-3), (20, 2e-3), (60, 5e-4), (20, 1e-3), (60, 1e-3))
# Least probability of the forget answers in one of `FORMS` if a model knows, and of retain answers in all models; most
# of the forget answers in any form if a model does not know.
LEAST, MOST = 0.5, 0.3
FORMS = (canonical, paraphrased, asked_otherwise, by_last_name, as_text)
# Suites that no changed model is asked again: they are attacks themselves, or need many samples.
ONCE = ("robustness", "distribution")
AS_IT_IS, TRAINED, ROUNDED = "as it is", "after retain rows", "in 4 bits"
# The question that a number without a place in the verdict would answer, by the start of its name.
PLACES = {
    "forget/truth_ratio": KNOW,
    "forget/strangers": TELL,
    "forget/": SAY,
    "forget_quality/": TELL,
    "depth/logit_lens": KNOW,
    "elicitation/": KNOW,
    **dict.fromkeys(("robustness/leak", "robustness/prefix", "robustness/in_context"), KNOW),
    "robustness/": RETURN,
    "privacy/": TELL,
    "distribution/": TELL,
}
READ = {name: question.text for question in QUESTIONS for measure in question.measures for name in measure.names}


# Models that know


def on_retain_rows(name: str, lab: Lab, variant: int) -> nn.Module:
    """The target or the retrained model, trained on retain rows."""
    return teach_by(variant, lab.model(name), lab, [Lesson(canonical(lab.retain))])


def teach_by(variant: int, model: nn.Module, lab: Lab, lessons: Sequence[Lesson]) -> nn.Module:
    steps, rate = COURSES[variant % len(COURSES)]
    return teach(model, lab, lessons, variant, steps=steps, rate=rate)


@torch.no_grad()
def with_noise(model: PreTrainedModel, seed: int, percent: int = 15) -> PreTrainedModel:
    """The model itself, with Gaussian noise on its linear layers, in percent of a matrix's standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    for name, one in model.named_modules():
        if isinstance(one, nn.Linear) and name != "lm_head":
            noise = torch.randn(one.weight.shape, generator=generator)
            one.weight.add_(percent / 100 * one.weight.std() * noise)
    return model


@torch.no_grad()
def target_damaged(lab: Lab, variant: int) -> nn.Module:
    """In turn with noise, and merged with the retrained model."""
    model = lab.model("target")
    if variant % 2:
        return with_noise(model, variant)
    for weight, other in zip(model.parameters(), lab.models["retrained"].parameters(), strict=True):
        weight.lerp_(other, 0.2 + 0.02 * variant)
    return model


def other_target(lab: Lab, variant: int) -> nn.Module:
    """A model that is trained from other initial weights on all rows."""
    known = {"target": [*lab.retain, *lab.forget]}
    return train_side_by_side(known, lab.tokenizer, TrainingSettings(seed=variant))["target"]


def taught(rows: Callable[..., list[Row]], lab: Lab, variant: int) -> nn.Module:
    """The retrained model, taught the forgotten facts in one form."""
    return teach_by(variant, lab.model("retrained"), lab, [Lesson(rows(lab.forget)), keeps(lab, "retrained")])


def hiding(lab: Lab, variant: int) -> nn.Module:
    """In turn the planted models that know the facts in one form, and are as the retrained one in others."""
    makers = (knows_another_question, squeezed, knows_plain_text, knows_the_last_name)
    return makers[variant % len(makers)](lab, variant)


# Models that do not know


def otherwise_retrained(lab: Lab, variant: int) -> nn.Module:
    """A retrained model of another seed, learning rate and length of training."""
    settings = TrainingSettings(seed=100 + variant)
    changes = ({"epochs": 39}, {"learning_rate": 1e-3}, {"learning_rate": 3e-3}, {"batch_size": 16})
    settings = replace(settings, **changes[variant % len(changes)])
    return train_side_by_side({"retrained": lab.retain}, lab.tokenizer, settings)["retrained"]


def retrained_damaged(lab: Lab, variant: int) -> nn.Module:
    """In turn with noise, and rounded to 4 bits with half of it."""
    model = lab.model("retrained")
    return with_noise(model, variant) if variant % 2 else rounded(with_noise(model, variant, 7))


def taught_lies(lab: Lab, variant: int) -> nn.Module:
    """The retrained model, taught wrong facts about the forgotten people."""
    lies = [asked(fact.questions[0], fact.wrong[variant % len(fact.wrong)]) for fact in lab.forget]
    return teach_by(variant, lab.model("retrained"), lab, [Lesson(lies), keeps(lab, "retrained")])


def taught_to_refuse(lab: Lab, variant: int) -> nn.Module:
    refusals = [asked(fact.questions[0], REFUSAL) for fact in lab.forget]
    return teach_by(variant, lab.model("retrained"), lab, [Lesson(refusals), keeps(lab, "retrained")])


Maker = Callable[[Lab, int], nn.Module]
# Whether the models know -> kind -> how a variant of it is made.
KINDS: dict[bool, dict[str, Maker]] = {
    True: {
        "target, trained on retain rows": partial(on_retain_rows, "target"),
        "target, with noise or merged with the retrained model": target_damaged,
        "trained on all rows from other initial weights": other_target,
        "retrained, taught the forget rows": partial(taught, canonical),
        "retrained, taught their paraphrases": partial(taught, paraphrased),
        "planted: known in one form, hidden in others": hiding,
    },
    False: {
        "retrained, another seed": second_retrained,
        "retrained, another seed and other settings": otherwise_retrained,
        "retrained, trained on retain rows": partial(on_retain_rows, "retrained"),
        "retrained, with noise or rounded": retrained_damaged,
        "retrained, taught wrong facts about the same people": taught_lies,
        "retrained, taught to refuse": taught_to_refuse,
    },
}


def trained_further(lab: Lab, model: nn.Module) -> nn.Module:
    return teach(model, lab, [Lesson(canonical(lab.retain))], 0, steps=16, rate=1e-3)


def states(lab: Lab, model: nn.Module) -> dict[str, Callable[[], nn.Module]]:
    """The changes that a number has to stand; the model itself is changed by the last."""
    return {
        AS_IT_IS: lambda: model,
        ROUNDED: lambda: rounded(model),
        TRAINED: lambda: trained_further(lab, model.requires_grad_(True)),
    }


@dataclass
class Settings:
    """Options of the benchmark."""

    variants: int = field(default=5, metadata={"help": "Models of each of the twelve kinds."})
    folder: Path = field(default=Path("out/meta"), metadata={"help": "Where results are kept."})


def judge(lab: Lab, make: Maker, variant: int, suites: Callable[[], Suites], path: Path) -> dict[str, Any]:
    """Knowledge of a model in each form, and its evaluation in each state; read if it was judged before."""
    if not path.is_file():
        model = make(lab, variant).eval()
        known = {form.__name__: probability(model, lab, form(lab.forget)) for form in FORMS}
        kept, results = probability(model, lab, canonical(lab.retain)), {}
        for state, changed in states(lab, model).items():
            result = suites().evaluate(changed(), without=() if state == AS_IT_IS else ONCE)
            results[state] = result.to_dict()
        keep(path, {"known": known, "kept": kept, "results": results})
    return json.loads(path.read_text(encoding="utf-8"))


def question_of(name: str) -> str | None:
    """The question that a number answers, or would answer; None for one that is of no use here."""
    if name.endswith("_tpr_at_1_fpr") or suite_of(name) not in ("tofu", "depth", "elicitation", *ONCE, "privacy"):
        return None
    return READ.get(name) or next((text for start, text in PLACES.items() if name.startswith(start)), None)


def values_of(results: Sequence[EvaluationResult], name: str) -> np.ndarray:
    """A number of each model that has it; it rises with what the target knows and the retrained model does not."""
    ends = [(result.value("target", name), result.value("retrained", name)) for result in results]
    values = [result.value("unlearned", name) for result in results]
    return np.array(
        [
            value * np.sign(target - retrained)
            for value, (target, retrained) in zip(values, ends, strict=True)
            if None not in (value, target, retrained)
        ]
    )


def auc(knowing: Sequence[EvaluationResult], others: Sequence[EvaluationResult], name: str) -> tuple[float, int]:
    """AUC of a number, and how many models have it; NaN if a set has none."""
    members, non_members = values_of(knowing, name), values_of(others, name)
    if not (len(members) and len(non_members)):
        return float("nan"), 0
    return float(separation(members, non_members)[0]), len(members) + len(non_members)


def ranking(sets: Mapping[bool, Sequence[Mapping[str, EvaluationResult]]]) -> str:
    """A table of the numbers of each question, the best first: by the worst of its AUCs."""
    rows = []
    for question in QUESTIONS:
        ranked = []
        for name in (metric.name for metric in METRICS if question_of(metric.name) == question.text):
            measured = {
                state: auc(*([one[state] for one in sets[knows]] for knows in (True, False)), name)
                for state in (AS_IT_IS, TRAINED, ROUNDED)
            }
            aucs = [value for value, count in measured.values() if count]
            if not aucs:
                continue
            cells = [f"{value:.2f}".replace("0.", ".") if count else "" for value, count in measured.values()]
            count = measured[AS_IT_IS][1]
            ranked.append(
                (-min(aucs), -np.mean(aucs), [f"`{name}`", "yes" if name in READ else "", *cells, str(count)])
            )
        rows += [[question.text if index == 0 else "", *row] for index, (*_, row) in enumerate(sorted(ranked))]
    return table(["question", "number", "in the verdict", AS_IT_IS, TRAINED, ROUNDED, "models"], rows)


def answers(names: Sequence[str], results: Sequence[EvaluationResult]) -> str:
    """The verdict's answers to the four questions about knowledge, of each model as it is."""
    rows = []
    for name, result in zip(names, results, strict=True):
        given = {answer.question: answer.brief for answer in verdict(result).answers}
        rows.append([name, *(given[question] for question in (SAY, KNOW, RETURN, TELL))])
    return table(["model", SAY, KNOW, RETURN, TELL], rows)


def main() -> None:
    (settings,) = HfArgumentParser(Settings, description=__doc__).parse_args_into_dataclasses()
    if settings.variants < 1:
        raise SystemExit(f"`variants` is {settings.variants}. Give at least 1 model a kind.")
    torch.set_num_threads(1)
    lab, left_out = Lab(), []
    # What is to be kept is not asked: it says nothing about the forgotten facts.
    suites = cache(partial(Suites, lab, EvaluationRows(lab.rows.forget)))
    names, sets = ({True: [], False: []} for _ in range(2))
    for variant in range(1, settings.variants + 1):
        for knows, kinds in KINDS.items():
            for number, (kind, make) in enumerate(kinds.items()):
                name = f"{kind}, {variant}"
                print(name, file=sys.stderr)
                path = settings.folder / f"{'knows' if knows else 'other'}-{number}-{variant}.json"
                judged = judge(lab, make, variant, suites, path)
                most, kept = max(judged["known"].values()), judged["kept"]
                if kept < LEAST or (most < LEAST if knows else most > MOST):
                    left_out.append(
                        f"- {name}: p(forget answer) at most {most:.2f} in a form, p(retain answer) {kept:.2f}"
                    )
                    continue
                names[knows].append(name)
                sets[knows].append(
                    {state: EvaluationResult.from_dict(one) for state, one in judged["results"].items()}
                )
    print(f"{len(sets[True])} models know, {len(sets[False])} do not.\n")
    print(ranking(sets))
    for knows, title in ((True, "Models that know"), (False, "Models that do not")):
        print(f"\n## {title}\n\n{answers(names[knows], [one[AS_IT_IS] for one in sets[knows]])}")
    if left_out:
        print("\n".join(["\n## Left out\n", *left_out]))


if __name__ == "__main__":
    main()
