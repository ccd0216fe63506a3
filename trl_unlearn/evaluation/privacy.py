# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Membership attacks on every model: do the forget rows still differ from rows that no model has seen?"""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from statistics import fmean
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import continuation_row, ends_turn, spread_evenly
from ..generation import key_seed
from ..metrics import (
    CombinedAttack,
    LossAttack,
    MembershipAUC,
    MinKAttack,
    MinKPlusPlusAttack,
    PrivLeak,
    ReferenceAttack,
    SpvAttack,
    ZlibAttack,
    relative_leak,
    separation,
)
from ..results import SuiteOutcome, join_outcomes
from ..token_scores import RowScore
from .rows import EvaluationRows, Loaders, row_key, row_names, rows_protocol
from .together import SuiteSetting, free_memory, load_merged, measure_each, measured_once
from .uncertainty import Drawn, bootstrap, row_counts, summarise


logger = logging.getLogger(__name__)
# The attack of published numbers of PrivLeak.
LEAK_ATTACK = "min_k"
_RATES = ("auc", "tpr_at_1_fpr")
# Whom the rows of the two sets are about, or None.
_People = Sequence[Sequence[str] | None]
# Name -> factor of its error: draws are of scores under one fit, and other rows give another. Simulated with seven
# features of two models that know nothing: of 24, 40 and 80 rows of each kind the interval of their difference holds 0
# in 95, 95 and 97 %, and without it in 85 to 87 %. The rate at 1 % needs none.
_OTHER_FITS = {"privacy/combined_auc": 1.4}
# The paper takes ten pairs. On 24 + 24 rows of the archive the AUC is 0.93, 0.96 and 0.97 with 1, 2 and 4.
NUM_NEIGHBOURS = 2
# Share of an answer's tokens that are replaced in a neighbour; at 0.1 the AUC there is 0.71, 0.85 and 0.91.
REPLACED_SHARE = 0.3
# The paper samples thousands of texts for its reference.
NUM_SAMPLES = 32
REFERENCE_STEPS = 4
REFERENCE_RATE = 1e-4


def attack_scores(
    scores: list[RowScore], texts: list[str], reference: list[RowScore] | None = None
) -> dict[str, list[float]]:
    """Attack -> score of each answer, higher for a member; `reference` scores are those of the retrained model."""
    logps = [score.logps for score in scores]
    results = {
        "loss": LossAttack().compute(logps=logps),
        "zlib": ZlibAttack().compute(logps=logps, texts=texts),
        "min_k": MinKAttack().compute(logps=logps),
        "min_k_pp": MinKPlusPlusAttack().compute(
            logps=logps,
            entropies=[score.entropy for score in scores],
            log_variances=[score.log_variance for score in scores],
        ),
    }
    if reference is not None:
        before = [score.logps for score in reference]
        results["reference"] = ReferenceAttack().compute(logps=logps, reference_logps=before)
    return {name: result["per_row"] for name, result in results.items()}


def combined_scores(
    attacks: Mapping[str, list[float]], scores: Sequence[RowScore], num_members: int, groups: Sequence[str]
) -> list[float]:
    """[`~metrics.CombinedAttack`] on the scores of other attacks, entropy and length; the members come first."""
    seen = [
        *attacks.values(),
        [fmean(score.entropy) for score in scores],
        [float(len(score.logps)) for score in scores],
    ]
    features = [list(row) for row in zip(*seen, strict=True)]
    is_member = [index < num_members for index in range(len(scores))]
    return CombinedAttack().compute(features=features, is_member=is_member, groups=groups)["per_row"]


def measure_privacy(
    models: Loaders, rows: EvaluationRows, setting: SuiteSetting, *, scores_only: bool = False
) -> SuiteOutcome:
    """Membership attacks on forget rows against held-out rows; `scores_only`: without `spv`, which trains."""
    tokenizer, seed = setting.tokenizer, setting.seed
    members, non_members = (rows.encoded(name, tokenizer) for name in ("forget", "holdout"))
    answers = [*members.answers, *non_members.answers]
    # Texts of the labels: rows that come as raw text or as tokens have no answer by itself.
    texts = [setting.text([label for label in row["labels"][1:] if label != -100]) for row in answers]
    row_scores = measure_each(
        models, lambda role, model: setting.score(model, answers, f"Attacking {role}", moments=True), "privacy"
    )
    # Against itself the reference attack is a tie everywhere, and so 0.5.
    retrained = row_scores.get("retrained")
    attacks = {role: attack_scores(scores, texts, retrained) for role, scores in row_scores.items()}
    fewest = min(len(members.answers), len(non_members.answers))
    if fewest < CombinedAttack.num_folds:
        logger.warning(
            f"The attack `combined` is left out: it needs {CombinedAttack.num_folds} forget rows and as many held-out "
            f"rows, and one of the two sets has {fewest}."
        )
    else:
        # The folds of an attack do not part the rows of one person.
        names = chain.from_iterable(row_names(members, non_members, tokenizer=tokenizer))
        groups = [name or row_key(row) for name, row in zip(names, answers, strict=True)]
        for role, scores in attacks.items():
            scores["combined"] = combined_scores(scores, row_scores[role], len(members.answers), groups)
    has_texts = None not in (members.texts, non_members.texts)
    if not scores_only and retrained is not None and has_texts and rows.retain is None:
        # Prompts of one side would make that side differ by the attack itself.
        logger.warning(
            "The attack `spv` is left out: its reference learns answers to prompts of a retain set. Give retain rows."
        )
    elif not scores_only and retrained is not None and has_texts:
        prompts = rows.encoded("retain", tokenizer).prompts()
        for role, scores in attacks.items():
            desc, pair = f"Attacking {role} beside its neighbours", (models[role], models["retrained"])
            scores["spv"] = measured_once(pair[0], "spv", partial(spv_scores, *pair, answers, prompts, setting, desc))
    leaking = {role: scores[LEAK_ATTACK] for role, scores in attacks.items()}
    people = [members.about(), non_members.about()]
    leak = summarise_leak(leaking, len(members.answers), name="privacy/privleak", seed=seed, people=people)
    outcome = join_outcomes([_summarise(attacks, len(members.answers), seed, people), leak])
    outcome.protocol = rows_protocol(members, non_members, seed=seed)
    trained_on = [members] if rows.retain is None else [members, rows.encoded("retain", tokenizer)]
    known = {row_key(row) for encoded in trained_on for row in encoded.answers}
    if count := sum(row_key(row) in known for row in non_members.answers):
        outcome.protocol["members_in_holdout"] = count
    return outcome


def _draws(
    statistic: Callable[..., np.ndarray], members: np.ndarray, non_members: np.ndarray, seed: int, people: _People
) -> tuple[np.ndarray, np.ndarray | None, int]:
    """A statistic of two sets on resamples of rows, and of people if these are fewer: so many in the smaller set."""
    by_rows = bootstrap(statistic, members, non_members, seed=seed)
    counts = [len(rows if one is None else set(one)) for rows, one in zip((members, non_members), people, strict=True)]
    if counts == [len(members), len(non_members)] or min(counts) < 2:
        return by_rows, None, 0
    return by_rows, bootstrap(statistic, members, non_members, seed=seed, people=people), min(counts)


def _summarise(
    attacks: Mapping[str, Mapping[str, list[float]]], num_members: int, seed: int, people: _People = (None, None)
) -> SuiteOutcome:
    """Rates of every attack with their errors, from role -> attack -> score of each row, the members' first."""
    # All models and attacks are columns of one table, so that the same rows are drawn for all.
    columns = [(role, attack) for role, scores in attacks.items() for attack in scores]
    table = np.array([attacks[role][attack] for role, attack in columns]).T
    members, non_members = table[:num_members], table[num_members:]
    rates = MembershipAUC().compute(members=members.T.tolist(), non_members=non_members.T.tolist())["per_row"]
    by_rows, by_people, num_people = _draws(
        lambda *rows: np.concatenate(separation(*rows)), members, non_members, seed, people
    )
    values, scores = ({role: {} for role in attacks} for _ in range(2))
    places = [(rate, i) for rate in _RATES for i in range(len(columns))]
    for rate, i in places:
        role, attack = columns[i]
        name = f"privacy/{attack}_{rate}"
        values[role][name], scores[role][name] = rates[rate][i], attacks[role][attack]

    def of_roles(resampled: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        draws: dict[str, dict[str, np.ndarray]] = {role: {} for role in attacks}
        for (rate, i), draw in zip(places, resampled.T, strict=True):
            role, attack = columns[i]
            name = f"privacy/{attack}_{rate}"
            draws[role][name] = values[role][name] + _OTHER_FITS.get(name, 1.0) * (draw - values[role][name])
        return draws

    names = dict.fromkeys(name for metrics in values.values() for name in metrics)
    by_people = None if by_people is None else Drawn(of_roles(by_people), dict.fromkeys(names, num_people))
    fewest = dict.fromkeys(names, min(map(len, (members, non_members))))
    return summarise(values, of_roles(by_rows), *row_counts(scores), fewest, by_people)


def summarise_leak(
    attacks: Mapping[str, list[float]], num_members: int, *, name: str, seed: int, people: _People = (None, None)
) -> SuiteOutcome:
    """PrivLeak of every model under a name, from role -> score of each row in one attack, the members' first."""
    if "retrained" not in attacks:
        return SuiteOutcome({})
    roles, reference = list(attacks), list(attacks).index("retrained")
    table = np.array([attacks[role] for role in roles]).T
    members, non_members = table[:num_members], table[num_members:]
    aucs = MembershipAUC().compute(members=members.T.tolist(), non_members=non_members.T.tolist())["per_row"]["auc"]
    if aucs[reference] == 1:
        # PrivLeak = ((1 - AUC) - (1 - AUC_r)) / (1 - AUC_r): divides by 0.
        logger.warning(
            f"`{name}` is left out: an attack tells the forget rows from the held-out rows with certainty under the "
            "retrained model, which saw neither. Give held-out rows of the same kind."
        )
        return SuiteOutcome({})

    def statistic(members: np.ndarray, non_members: np.ndarray) -> np.ndarray:
        auc, _ = separation(members, non_members)
        # In a resample the retrained model may have an AUC of 1: what is not finite counts in no error.
        with np.errstate(divide="ignore", invalid="ignore"):
            return relative_leak(auc, auc[reference])

    leaks = PrivLeak().compute(unlearned=aucs, retrained=[aucs[reference]] * len(aucs))["per_row"]
    by_rows, by_people, num_people = _draws(statistic, members, non_members, seed, people)

    def of_roles(resampled: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        return {role: {name: draw} for role, draw in zip(roles, resampled.T, strict=True)}

    return summarise(
        {role: {name: value} for role, value in zip(roles, leaks, strict=True)},
        of_roles(by_rows),
        *row_counts({role: {name: attacks[role]} for role in roles}),
        {name: min(map(len, (members, non_members)))},
        None if by_people is None else Drawn(of_roles(by_people), {name: num_people}),
    )


def neighbours(
    rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> list[list[dict[str, list[int]]]]:
    """Copies of each encoded row with a share of its answer's tokens replaced by tokens of all answers."""
    places = [
        [i for i, label in enumerate(row["labels"]) if i > 0 and label != -100 and not ends_turn(label, tokenizer)]
        for row in rows
    ]
    empty = next((index for index, row_places in enumerate(places) if not row_places), None)
    if empty is not None:
        raise ValueError(
            f"Row {empty} of a membership attack has an answer without a token to replace. Give every row an answer "
            "of at least one token besides its end-of-turn token."
        )
    pool = [row["input_ids"][place] for row, row_places in zip(rows, places, strict=True) for place in row_places]
    if len(set(pool)) < 2:
        raise ValueError(
            "All answers of a membership attack repeat one and the same token, which leaves none to replace it with. "
            "Give rows with different answers."
        )

    def neighbour(index: int, j: int) -> dict[str, list[int]]:
        generator = random.Random(key_seed((seed, index, j)))
        ids, labels = list(rows[index]["input_ids"]), list(rows[index]["labels"])
        for place in generator.sample(places[index], max(1, round(REPLACED_SHARE * len(places[index])))):
            before = ids[place]
            while ids[place] == before:
                ids[place] = labels[place] = generator.choice(pool)
        return {"input_ids": ids, "labels": labels}

    return [[neighbour(index, j) for j in range(NUM_NEIGHBOURS)] for index in range(len(rows))]


def _sample_own_texts(
    model: PreTrainedModel, prompts: Sequence[list[int]], rows: Sequence[dict[str, Any]], setting: SuiteSetting
) -> list[dict[str, list[int]]]:
    """Encoded samples of a model at temperature 1 after at most `NUM_SAMPLES` prompts, evenly spread."""
    chosen = [list(prompts[i]) for i in spread_evenly(len(prompts), NUM_SAMPLES)]
    samples = setting.generate(
        model,
        chosen,
        rows,
        max_new_tokens=max(sum(label != -100 for label in row["labels"]) for row in rows),
        keys=[(setting.seed, index) for index in range(len(chosen))],
        desc="Sampling texts for a reference",
    )
    return [continuation_row(prompt, sample.ids) for prompt, sample in zip(chosen, samples, strict=True)]


def _train_reference(model: PreTrainedModel, rows: Sequence[dict[str, list[int]]], setting: SuiteSetting) -> None:
    """AdamW on all weights at a constant rate, half of the rows a step in turn, without dropout."""
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=REFERENCE_RATE, weight_decay=0.0)
    halves = [half for half in (rows[::2], rows[1::2]) if half]
    for step in range(REFERENCE_STEPS):
        setting.train_step(model, optimizer, halves[step % len(halves)])


def spv_scores(
    load: Callable[[], PreTrainedModel],
    load_start: Callable[[], PreTrainedModel],
    rows: Sequence[dict[str, Any]],
    prompts: Sequence[list[int]],
    setting: SuiteSetting,
    desc: str | None = None,
) -> list[float]:
    """Scores of SPV-MIA (see [`~metrics.SpvAttack`]), whose reference learns what the model answers to the prompts."""
    perturbed = neighbours(rows, setting.tokenizer, seed=setting.seed)
    texts = [[row, *near] for row, near in zip(rows, perturbed, strict=True)]

    def variations(model: PreTrainedModel) -> tuple[list[float], list[list[float]]]:
        groups = setting.mean_logps(model, texts, desc)
        return [group[0] for group in groups], [group[1:] for group in groups]

    model = load_merged(load)
    own, near = variations(model)
    samples = _sample_own_texts(model, prompts, rows, setting)
    del model
    free_memory()
    # Not the attacked model as the start: on its own samples the expected gradient is 0, so the reference would keep
    # what the model remembers, and both variations would cancel. On the archive's target that gives an AUC of 0.36 to
    # 0.49 (three seeds), the retrained model 0.94 to 0.99. So this is an auditor's attack, like `reference`; the paper
    # starts from the pretrained model.
    reference = load_merged(load_start)
    _train_reference(reference, samples, setting)
    reference_own, reference_near = variations(reference)
    del reference
    free_memory()
    return SpvAttack().compute(
        logps=own, neighbour_logps=near, reference_logps=reference_own, reference_neighbour_logps=reference_near
    )["per_row"]
