# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

r"""
Models of the embedded lab that are planted to fool the verdict, and the answers that it gives them.

The gate of a push must not call one that knows the facts "forgotten", and must call each retrained model so.
Each is confirmed by a plain check of what it claims to be; one that fails it is "not made". Every evaluation is kept
in `--folder`, and the same command resumes: the verdict is computed anew from the numbers; to make a model
anew, remove its file. Prints Markdown tables.

```bash
python benchmarks/planted.py --seeds 0 1 2
```
"""

import copy
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from measure import table
from peft import PeftModel
from planted_models import (
    REFUSAL,
    Lab,
    Row,
    after_a_password,
    as_text,
    asked_otherwise,
    by_last_name,
    canonical,
    each_third_token,
    first_tokens,
    forgets_in_the_last_layer,
    forgets_within_rounding,
    halfway,
    hidden_below_an_adapter,
    hidden_by_adapter,
    hides,
    keeps_two_facts,
    knows_a_password,
    knows_another_question,
    knows_plain_text,
    knows_the_last_name,
    last_tokens,
    loses_all,
    loses_shared,
    over_forgets,
    paraphrased,
    refuses,
    repeats,
    reworded,
    says_it_in_other_words,
    says_one_token,
    second_retrained,
    shared_with,
    squeezed,
    true_logps,
    with_a_late_word,
)
from torch import nn
from transformers import HfArgumentParser, PreTrainedModel

from trl_unlearn.data.archive_facts import PersonFact
from trl_unlearn.encoding import prompt_ids
from trl_unlearn.evaluation.depth import measure_depth
from trl_unlearn.evaluation.distribution import measure_distribution
from trl_unlearn.evaluation.elicitation import measure_elicitation
from trl_unlearn.evaluation.privacy import measure_privacy
from trl_unlearn.evaluation.robustness import measure_robustness
from trl_unlearn.evaluation.rows import EvaluationRows
from trl_unlearn.evaluation.tofu import Suite
from trl_unlearn.evaluation.together import FixedModel, SuiteSetting
from trl_unlearn.forgetting import has_forgotten
from trl_unlearn.results import EvaluationResult
from trl_unlearn.verdict import QUESTIONS, Answer, verdict


SAY, KNOW, RETURN, TELL, WORK = (question.text for question in QUESTIONS)


class Suites:
    """The suites with numbers that the verdict reads; `tofu` on all rows of the lab, or on others."""

    def __init__(self, lab: Lab, tofu_rows: EvaluationRows | None = None):
        self._lab, self._loaders = lab, {name: FixedModel(partial(lab.model, name)) for name in lab.models}
        self._tofu = Suite(self._loaders, tofu_rows or lab.rows, SuiteSetting(lab.tokenizer))
        # Without what no answer is read from: SPV-MIA, which tokens do not allow, and FADE and mixes on retain rows.
        forget, holdout = ([lab.encode(row) for row in rows] for rows in (lab.rows.forget, lab.rows.holdout))
        self._others = {
            "privacy": (measure_privacy, EvaluationRows(forget, holdout=holdout)),
            "robustness": (measure_robustness, lab.rows),
            "distribution": (measure_distribution, EvaluationRows(lab.rows.forget)),
            "depth": (measure_depth, lab.rows),
            "elicitation": (measure_elicitation, lab.rows),
        }

    def evaluate(self, model: nn.Module, without: Sequence[str] = ()) -> EvaluationResult:
        loaders = self._loaders | {"unlearned": partial(copy.deepcopy, model)}
        outcomes = {"tofu": self._tofu.evaluate(loaders["unlearned"])}
        for name, (measure, rows) in self._others.items():
            if name not in without:
                outcomes[name] = measure(loaders, rows, SuiteSetting(self._lab.tokenizer, None, 42))
        return EvaluationResult.of_suites(outcomes, parity="open-unlearning", device="cpu")


# Plain checks: figures of a planted model, each with the bound that it has to keep


@torch.no_grad()
def probability(model: nn.Module, lab: Lab, rows: Sequence[Row]) -> float:
    """Mean of exp(mean log-prob) of the answers."""
    return fmean(one.mean().exp().item() for one in true_logps(model, [lab.encode(row) for row in rows]))


@torch.no_grad()
def near_probability(model: nn.Module, lab: Lab, kind: str) -> float:
    """The same of the facts alone of retain rows near the forget rows, `"shared"` or `"neighbour"`."""
    rows, near = lab.rows.encoded("retain", lab.tokenizer).answers, lab.near[kind]
    logps = true_logps(model, [rows[index] for index in near])
    return fmean(one[places].mean().exp().item() for one, places in zip(logps, near.values(), strict=True))


def loss_auc(model: nn.Module, lab: Lab) -> float:
    """Share of pairs of a forget and a held-out row of which the forget row is the likelier."""
    with torch.no_grad():
        forget, holdout = (
            [one.mean().item() for one in true_logps(model, [lab.encode(row) for row in canonical(facts)])]
            for facts in (lab.forget, lab.holdout)
        )
    return fmean((a > b) + 0.5 * (a == b) for a in forget for b in holdout)


@torch.no_grad()
def greedy(model: nn.Module, lab: Lab) -> list[list[int]]:
    """Greedy answers to the forget questions, without their end."""
    answers = []
    for row in canonical(lab.forget):
        ids = torch.tensor([prompt_ids(lab.encode(row))])
        output = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=32)
        answers.append([token for token in output[0, ids.size(1) :].tolist() if token != lab.tokenizer.eos_token_id])
    return answers


def share_of(answers: Sequence[list[int]], is_so: Callable[[list[int]], bool]) -> float:
    return fmean(map(is_so, answers))


def with_last_layer_of(model: PreTrainedModel, other: PreTrainedModel) -> PreTrainedModel:
    model = copy.deepcopy(model)
    model.model.layers[-1] = copy.deepcopy(other.model.layers[-1])
    return model


def rounded(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its linear layers rounded to 4 bits, in groups of 32."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, one in model.named_modules():
            if isinstance(one, nn.Linear) and name != "lm_head":
                groups = one.weight.unflatten(-1, (-1, 32))
                step = groups.abs().amax(-1, keepdim=True) / 7
                one.weight.copy_(((groups / step).round() * step).flatten(-2))
    return model


# Name of a figure -> (figure, least, most).
Checks = dict[str, tuple[float, float, float]]
LOW, HIGH, KEPT = (0.0, 0.3), (0.8, 1.0), (0.95, 1.0)


@dataclass(frozen=True, eq=False)
class Plant:
    """A planted model: how it is made, what it must be, and the answers that it must get."""

    name: str
    make: Callable[[Lab, int], nn.Module]
    must: dict[str, str]
    # Of what only this model is; the probabilities of forget and retain answers are checked for all.
    check: Callable[[nn.Module, Lab], Checks] = lambda model, lab: {}
    forget: tuple[float, float] = LOW
    retain: tuple[float, float] = HIGH
    seeds: Sequence[int] | None = None  # those of the settings if None
    # What the gate must or must not say: "yes" of a model that never knew, not "yes" of one that knows; None: either.
    gate: str | None = "not yes"


def _alone(rows: Callable[[Sequence[PersonFact]], list[Row]], name: str) -> Callable[[nn.Module, Lab], Checks]:
    """The check that rows in another form are known."""
    return lambda model, lab: {f"p({name})": (probability(model, lab, rows(lab.forget)), *HIGH)}


def _check_adapter(model: PeftModel, lab: Lab) -> Checks:
    with model.disable_adapter():
        return {"p(forget answer) without the adapter": (probability(model, lab, canonical(lab.forget)), *HIGH)}


def _check_base(model: PeftModel, lab: Lab) -> Checks:
    with model.disable_adapter():
        return _alone(with_a_late_word, "a late word, without the adapter")(model, lab)


def _check_shared(model: nn.Module, lab: Lab) -> Checks:
    shared = shared_with(lab)
    others = [fact for fact in lab.retain if fact not in shared]
    return {
        "p(shared facts)": (probability(model, lab, canonical(shared)), *LOW),
        "p(other retain facts)": (probability(model, lab, canonical(others)), *HIGH),
    }


def _refusing(model: nn.Module, lab: Lab) -> Checks:
    refusal = lab.tokenizer(REFUSAL)["input_ids"]
    with torch.no_grad():
        logps = true_logps(model, [lab.encode(row) for row in canonical(lab.forget)])
    known = fmean(one[3:].mean().exp().item() for one in logps)
    refused = share_of(greedy(model, lab), lambda ids: ids == refusal)
    return {"refused": (refused, *HIGH), "p(answer after its third token)": (known, 0.5, 1.0)}


def _hiding(hidden: Callable[[int], Sequence[int]], model: nn.Module, lab: Lab) -> Checks:
    """Each answer is intact but at the hidden places; the end of its turn is left out."""
    with torch.no_grad():
        logps = true_logps(model, [lab.encode(row) for row in canonical(lab.forget)])
    gone = [hidden(len(one) - 1) for one in logps]
    hidden_at = [one[list(places)].exp().mean().item() for one, places in zip(logps, gone, strict=True)]
    shown = [
        one[[place for place in range(len(one) - 1) if place not in places]].exp().mean().item()
        for one, places in zip(logps, gone, strict=True)
    ]
    checks = {"p(hidden token)": (fmean(hidden_at), *LOW), "p(other token)": (fmean(shown), *HIGH)}
    if 0 in gone[0]:
        refusal = lab.tokenizer(REFUSAL)["input_ids"][:1]
        checks["refused"] = (share_of(greedy(model, lab), lambda ids: ids[:1] == refusal), *HIGH)
    return checks


def _short(model: nn.Module, lab: Lab) -> Checks:
    return {"answers of one token": (share_of(greedy(model, lab), lambda ids: len(ids) <= 1), *HIGH)}


def _repeating(model: nn.Module, lab: Lab) -> Checks:
    return {"answers of few words": (share_of(greedy(model, lab), lambda ids: len(set(ids)) < len(ids) / 3), *HIGH)}


def _over_forgotten(model: nn.Module, lab: Lab) -> Checks:
    return {"loss AUC": (loss_auc(model, lab), 0.0, 0.2)}


def _late(model: nn.Module, lab: Lab) -> Checks:
    earlier = with_last_layer_of(model, lab.models["target"])
    return {"p(forget answer) by the target's last layer": (probability(earlier, lab, canonical(lab.forget)), *HIGH)}


def _check_two(model: nn.Module, lab: Lab) -> Checks:
    kept = sorted((probability(model, lab, canonical([fact])) for fact in lab.forget), reverse=True)
    return {"p(kept answer)": (fmean(kept[:2]), *HIGH), "p(highest other answer)": (kept[2], 0.0, 0.6)}


def _rounding_away(model: nn.Module, lab: Lab) -> Checks:
    return {"p(forget answer) in 4 bits": (probability(rounded(model), lab, canonical(lab.forget)), *HIGH)}


ANY = (0.0, 1.0)
AS = dict.fromkeys((SAY, KNOW, RETURN, TELL, WORK), "as")
MORE = dict.fromkeys((SAY, KNOW, RETURN, TELL), "more")

HIDDEN_PLACES = {
    **{f"hides the first {count} tokens": first_tokens(count) for count in (1, 2, 3)},
    **{f"hides the last {count} tokens": last_tokens(count) for count in (1, 2, 3)},
    **{f"hides each third token from {count}": each_third_token(count - 1) for count in (1, 2, 3)},
}
PLANTS = (
    Plant("the target", lambda lab, _: lab.model("target"), MORE | {WORK: "as"}, forget=HIGH, seeds=[0]),
    Plant("behind an adapter", hidden_by_adapter, {RETURN: "more", WORK: "as"}, _check_adapter),
    Plant("refuses", refuses, {KNOW: "more", RETURN: "more", TELL: "more", WORK: "as"}, _refusing, forget=ANY),
    *(
        Plant(name, partial(hides, places), {WORK: "as"}, partial(_hiding, places), forget=ANY)
        for name, places in HIDDEN_PLACES.items()
    ),
    Plant("squeezed", squeezed, {SAY: "more", KNOW: "more", TELL: "more"}, _alone(paraphrased, "paraphrase")),
    Plant("says one token", says_one_token, {WORK: "less", TELL: "more"}, _short, forget=ANY, gate=None),
    Plant("repeats a word", repeats, {WORK: "less", TELL: "more"}, _repeating, forget=ANY, gate=None),
    Plant("over-forgotten", over_forgets, {TELL: "more"}, _over_forgotten, gate=None),
    Plant(
        "knows another question",
        knows_another_question,
        {KNOW: "more", WORK: "as"},
        _alone(asked_otherwise, "another question"),
    ),
    Plant("forgets in the last layer", forgets_in_the_last_layer, {KNOW: "more", WORK: "as"}, _late),
    Plant("forgets within rounding", forgets_within_rounding, {RETURN: "more", WORK: "as"}, _rounding_away),
    Plant("loses all", loses_all, {WORK: "less"}, retain=LOW, gate=None),
    Plant("loses shared facts", loses_shared, {WORK: "less"}, _check_shared, retain=ANY, gate=None),
    Plant("knows the last name", knows_the_last_name, {KNOW: "more", WORK: "as"}, _alone(by_last_name, "last name")),
    Plant("knows plain text", knows_plain_text, {KNOW: "more", WORK: "as"}, _alone(as_text, "plain text")),
    Plant(
        "says it in other words", says_it_in_other_words, {SAY: "more", WORK: "as"}, _alone(reworded, "other words")
    ),
    Plant("below an adapter", hidden_below_an_adapter, AS | {RETURN: "more"}, _check_base),
    Plant("knows a password", knows_a_password, {KNOW: "more", WORK: "as"}, _alone(after_a_password, "password")),
    # Questions ask for means, whose errors 24 rows about four people do not narrow; the gate counts rows.
    Plant("keeps two facts", keeps_two_facts, {WORK: "as"}, _check_two, seeds=[42, 43, 44]),
    Plant("halfway", halfway, {KNOW: "more"}, forget=ANY, seeds=[0]),
    Plant("a second retrained model", second_retrained, AS, gate="yes"),
)


@dataclass
class Settings:
    """Options of the benchmark."""

    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds of the planted models."})
    retrained_seeds: list[int] = field(
        default_factory=lambda: list(range(1, 11)), metadata={"help": "Seeds of the second retrained models."}
    )
    plants: list[str] = field(default_factory=list, metadata={"help": "Only these, by name."})
    folder: Path = field(default=Path("out/planted"), metadata={"help": "Where results are kept."})


def check_all(plant: Plant, model: nn.Module, lab: Lab) -> Checks:
    """The figures of a plant; one that is to work has kept what lies near the forget rows."""
    checks = {
        "p(forget answer)": (probability(model, lab, canonical(lab.forget)), *plant.forget),
        "p(retain answer)": (probability(model, lab, canonical(lab.retain)), *plant.retain),
    }
    if plant.must.get(WORK) == "as":
        checks |= {f"p({kind} fact)": (near_probability(model, lab, kind), *KEPT) for kind in lab.near}
    return checks | plant.check(model, lab)


def judge(plant: Plant, seed: int, lab: Lab, suites: Callable[[], Suites], folder: Path) -> dict[str, Any]:
    """Figures of the checks and the evaluation of a planted model; read if it was judged before."""
    path = folder / f"{plant.name}-{seed}.json"
    if not path.is_file():
        model = plant.make(lab, seed)
        checks = check_all(plant, model, lab)
        is_made = all(least <= value <= most for value, least, most in checks.values())
        keep(path, {"checks": checks, "result": suites().evaluate(model).to_dict() if is_made else None})
    return json.loads(path.read_text(encoding="utf-8"))


def keep(path: Path, judged: dict[str, Any]) -> None:
    """Write what was measured of a model, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(judged), encoding="utf-8")
    unfinished.replace(path)


def is_right(answer: Answer, must: str) -> bool:
    """Whether an answer is the one that a model must get; to work better than a retrained model is no fault."""
    return answer.answer == must or (must == "as" and answer.question == WORK and answer.answer == "more")


def cell(answers: Sequence[Answer], must: str | None) -> str:
    """How often each answer was given: in bold if all are right, struck through if one is wrong, else as they fall."""
    counts = Counter(answer.brief for answer in answers).most_common()
    text = ", ".join(f"{brief} {count}" for brief, count in counts)
    if must is None:
        return text
    mark = "**" if all(is_right(answer, must) for answer in answers) else "~~"
    return f"{mark}{text}{mark}"


_GATE = {True: "yes", False: "no", None: "not known"}


def gate_cell(said: Sequence[str], gate: str | None) -> str:
    """How often the gate says each word, marked as in [`cell`]."""
    text = ", ".join(f"{word} {count}" for word, count in Counter(said).most_common())
    mark = "" if gate is None else "**" if all((word == "yes") == (gate == "yes") for word in said) else "~~"
    return f"{mark}{text}{mark}"


def report(judged: dict[tuple[Plant, int], dict[str, Any]]) -> str:
    """A table of the answers, those that are wrong, and the models that are not what they claim."""
    verdicts: dict[Plant, list[list[Answer]]] = {plant: [] for plant, _ in judged}
    gates: dict[Plant, list[str]] = {plant: [] for plant, _ in judged}
    wrong, failed = [], []
    for (plant, seed), one in judged.items():
        if one["result"] is None:
            missed = [
                f"{name} {value:.3f}" for name, (value, low, high) in one["checks"].items() if not low <= value <= high
            ]
            failed.append(f"- {plant.name}, seed {seed}: {', '.join(missed)}")
            continue
        result = EvaluationResult.from_dict(one["result"])
        answers, (forgotten, why) = verdict(result).answers, has_forgotten(result)
        verdicts[plant].append(answers)
        gates[plant].append(_GATE[forgotten])
        if plant.gate is not None and (forgotten is True) != (plant.gate == "yes"):
            wrong.append(f"- {plant.name}, seed {seed}: has it forgotten? {_GATE[forgotten]}: {why}")
        for answer in answers:
            must = plant.must.get(answer.question)
            if must is not None and not is_right(answer, must):
                said = f"{answer.words} {answer.figures}"
                wrong.append(f"- {plant.name}, seed {seed}: {answer.question} {said} (must be: {must})")
    rows = []
    for plant, given in verdicts.items():
        cells = [cell(answers, plant.must.get(answers[0].question)) for answers in zip(*given, strict=True)]
        cells = [gate_cell(gates[plant], plant.gate), *cells] if given else ["not made"] * (1 + len(QUESTIONS))
        rows.append([plant.name, str(len(given)), *cells])
    parts = [table(["planted", "models", "forgotten?", *(question.text for question in QUESTIONS)], rows)]
    parts += ["", "## Wrong answers", "", *wrong] if wrong else []
    parts += ["", "## Not made", "", *failed] if failed else []
    return "\n".join(parts)


def main() -> None:
    (settings,) = HfArgumentParser(Settings, description=__doc__).parse_args_into_dataclasses()
    known = [plant.name for plant in PLANTS]
    if unknown := sorted(set(settings.plants) - set(known)):
        raise SystemExit(f"Unknown `plants` {unknown}. Choose from {known}.")
    # Ops of this size gain nothing from a second thread.
    torch.set_num_threads(1)
    lab, judged = Lab(), {}
    suites = cache(partial(Suites, lab))
    for plant in PLANTS:
        seeds = settings.retrained_seeds if plant.make is second_retrained else plant.seeds or settings.seeds
        for seed in seeds:
            if not settings.plants or plant.name in settings.plants:
                print(f"{plant.name}, seed {seed}", file=sys.stderr)
                judged[plant, seed] = judge(plant, seed, lab, suites, settings.folder)
    print(report(judged))


if __name__ == "__main__":
    main()
