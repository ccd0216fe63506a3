# Copyright 2026 The trl-unlearn authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Can the forget rows still be told from rows that no model has seen? Membership attacks on every model."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import padding_token_id
from ..metrics import (
    LossAttack,
    MembershipAUC,
    MinKAttack,
    MinKPlusPlusAttack,
    PrivLeak,
    ReferenceAttack,
    ZlibAttack,
    relative_leak,
    separation,
)
from ..token_scores import RowScore
from .sharing import score_rows_together
from .spv_mia import spv_scores
from .suite import free_memory
from .tofu import EvaluationRows, encode_set
from .uncertainty import SuiteOutcome, bootstrap, row_counts, summarise


logger = logging.getLogger(__name__)

# The attack of published numbers of PrivLeak.
LEAK_ATTACK = "min_k"


def _answer_texts(rows: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts of the labels: rows that come as raw text or as tokens have no answer by itself."""
    labels = [[label for label in row["labels"][1:] if label != -100] for row in rows]
    return [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in labels]


def attack_scores(
    scores: list[RowScore], texts: list[str], reference: list[RowScore] | None = None
) -> dict[str, list[float]]:
    """
    Scores of every attack on a model.

    Args:
        scores (`list[RowScore]`):
            Of the answers, with moments.
        texts (`list[str]`):
            The answers.
        reference (`list[RowScore]`, *optional*):
            Of the same answers under a model that was not trained on them.

    Returns:
        `dict[str, list[float]]`: `loss`, `zlib`, `min_k`, `min_k_pp` and, with a reference, `reference` -> score of
        each row, higher for a member.
    """
    logps = [score.logps for score in scores]
    found = {
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
        found["reference"] = ReferenceAttack().compute(logps=logps, reference_logps=before)
    return {name: result["per_row"] for name, result in found.items()}


def measure_privacy(
    models: Mapping[str, Callable[[], PreTrainedModel] | None],
    rows: EvaluationRows,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int | None,
    seed: int,
) -> SuiteOutcome:
    """
    Membership attacks on the forget rows (members) against the held-out rows (non-members), for every model.

    Each attack scores the answers under teacher forcing, with the end-of-turn token: mean log-prob (`loss`), the same
    over the compressed length (`zlib`), the mean of the 20 % lowest log-probs (`min_k`) or of the standardised ones
    (`min_k_pp`), and the mean log-prob minus that of the retrained model (`reference`, where there is one; against
    itself it is a tie everywhere, and so 0.5). With a retrained model and rows that have prompts there is also SPV-MIA
    (`spv`, see [`~evaluation.spv_mia.spv_scores`]), whose reference starts from the retrained model and learns what
    the model under attack answers to the retain prompts, or without a retain set to those of the held-out rows.

    A model that never saw the forget rows is the one to compare with: its AUC need not be 0.5, because forget rows and
    held-out rows may differ by themselves. Where one kind has longer answers, `zlib` sees little else.

    Args:
        models (`Mapping[str, Callable]`):
            Role -> function without arguments that loads the model anew. `None` leaves a model out.
        rows ([`~evaluation.tofu.EvaluationRows`]):
            Row sets, with `holdout`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of all models.
        batch_size (`int`, *optional*):
            Rows a forward pass takes. `None`: 32.
        seed (`int`):
            Seed of what SPV-MIA draws, and of the bootstrap.

    Returns:
        [`~evaluation.uncertainty.SuiteOutcome`]: Role -> `privacy/<attack>_auc`, `privacy/<attack>_tpr_at_1_fpr` (see
        [`~metrics.MembershipAUC`]) and `privacy/privleak` (see [`~metrics.PrivLeak`]; of the Min-K attack, absent
        without a retrained model), with the number of rows of both kinds and a bootstrap standard error over them.

    Raises:
        `ValueError`: If there is no held-out row, or a row cannot be encoded.
    """
    if rows.holdout is None:
        raise ValueError(
            "The suite `privacy` has no non-members. Give rows that no model was trained on: `--holdout_config` with "
            "`--dataset_name`, or `--holdout_dataset`."
        )
    members, non_members = (encode_set(getattr(rows, name), tokenizer, name=name) for name in ("forget", "holdout"))
    answers = [*members.answers, *non_members.answers]
    texts = _answer_texts(answers, tokenizer)
    scored: dict[str, list[RowScore]] = {}
    for role, load in models.items():
        if load is None:
            continue
        model = load()
        scored[role] = score_rows_together(
            model,
            answers,
            pad_token_id=padding_token_id(tokenizer),
            batch_size=batch_size or 32,
            moments=True,
            desc=f"Attacking {role}",
        )
        del model
        free_memory()
    retrained = scored.get("retrained")
    found = {role: attack_scores(scores, texts, retrained) for role, scores in scored.items()}
    if retrained is not None and None not in (members.texts, non_members.texts):
        asked = non_members if rows.retain is None else encode_set(rows.retain, tokenizer, name="retain")
        prompts = [list(row["input_ids"][: row["prompt_length"]]) for row in asked.answers]
        for role, scores in found.items():
            scores["spv"] = spv_scores(
                models[role],
                models["retrained"],
                answers,
                prompts,
                tokenizer,
                batch_size=batch_size,
                seed=seed,
                desc=f"Attacking {role} beside its neighbours",
            )
    return _summarise(found, len(members.answers), seed)


def _summarise(found: Mapping[str, Mapping[str, list[float]]], num_members: int, seed: int) -> SuiteOutcome:
    """Rates of every attack with their errors, from role -> attack -> score of each row, the members' first."""
    columns = [(role, attack) for role, scores in found.items() for attack in scores]
    table = np.array([found[role][attack] for role, attack in columns]).T
    members, non_members = table[:num_members], table[num_members:]
    measured = MembershipAUC().compute(members=members.T.tolist(), non_members=non_members.T.tolist())["per_row"]
    aucs = dict(zip(columns, measured["auc"], strict=True))
    reference = aucs.get(("retrained", LEAK_ATTACK))
    if reference == 1:
        logger.warning(
            "PrivLeak is left out: an attack tells the forget rows from the held-out rows with certainty under the "
            "retrained model, which saw neither. Give held-out rows of the same kind."
        )
        reference = None
    leaking = [columns.index((role, LEAK_ATTACK)) for role in found]

    def statistic(members: np.ndarray, non_members: np.ndarray) -> np.ndarray:
        auc, rate = separation(members, non_members)
        if reference is None:
            return np.concatenate([auc, rate])
        with np.errstate(divide="ignore", invalid="ignore"):
            leak = relative_leak(auc[leaking], auc[columns.index(("retrained", LEAK_ATTACK))])
        return np.concatenate([auc, rate, leak])

    names = [(role, f"privacy/{attack}_auc") for role, attack in columns]
    names += [(role, f"privacy/{attack}_tpr_at_1_fpr") for role, attack in columns]
    rates = [*measured["auc"], *measured["tpr_at_1_fpr"]]
    if reference is not None:
        names += [(role, "privacy/privleak") for role in found]
        rates += PrivLeak().compute(
            unlearned=[aucs[role, LEAK_ATTACK] for role in found], retrained=[reference] * len(found)
        )["per_row"]
    values: dict[str, dict[str, float]] = {role: {} for role in found}
    draws: dict[str, dict[str, np.ndarray]] = {role: {} for role in found}
    drawn = bootstrap(statistic, members, non_members, seed=seed).T
    for (role, name), value, resampled in zip(names, rates, drawn, strict=True):
        values[role][name], draws[role][name] = value, resampled
    scored = {role: {name: found[role][_attack_of(name)] for name in values[role]} for role in found}
    return summarise(values, draws, *row_counts(scored))


def _attack_of(name: str) -> str:
    """The attack whose scores a metric is computed from."""
    part = name.removeprefix("privacy/")
    return LEAK_ATTACK if part == "privleak" else part.removesuffix("_auc").removesuffix("_tpr_at_1_fpr")
