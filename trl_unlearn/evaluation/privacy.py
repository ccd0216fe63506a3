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
import random
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import continuation_row, ends_turn, pad_rows, padding_token_id, prompt_ids, spread_evenly
from ..generation import eos_token_ids, key_seed
from ..metrics import (
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
from ..results import SuiteOutcome
from ..token_scores import RowScore, score_batch
from .rows import EvaluationRows, encode_set
from .together import free_memory, generate_together, score_rows_together
from .uncertainty import bootstrap, row_counts, summarise


logger = logging.getLogger(__name__)
# The attack of published numbers of PrivLeak.
LEAK_ATTACK = "min_k"
# The paper takes ten pairs. On 24 + 24 rows of the archive the AUC is 0.93, 0.96 and 0.97 with 1, 2 and 4.
NUM_NEIGHBOURS = 2
# Share of the tokens of an answer that a neighbour has other ones for; at 0.1 the AUC there is 0.71, 0.85 and 0.91.
REPLACED_SHARE = 0.3
NUM_SAMPLES = 32
REFERENCE_STEPS = 4
REFERENCE_RATE = 1e-4


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
    (`spv`, see [`~evaluation.privacy.spv_scores`]), whose reference starts from the retrained model and learns what
    the model under attack answers to the retain prompts, or without a retain set to those of the held-out rows.

    A model that never saw the forget rows is the one to compare with: its AUC need not be 0.5, because forget rows and
    held-out rows may differ by themselves. Where one kind has longer answers, `zlib` sees little else.

    Args:
        models (`Mapping[str, Callable]`):
            Role -> function without arguments that loads the model anew. `None` leaves a model out.
        rows ([`~evaluation.rows.EvaluationRows`]):
            Row sets, with `holdout`.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of all models.
        batch_size (`int`, *optional*):
            Rows a forward pass takes. `None`: 32.
        seed (`int`):
            Seed of what SPV-MIA draws, and of the bootstrap.

    Returns:
        [`~results.SuiteOutcome`]: Role -> `privacy/<attack>_auc`, `privacy/<attack>_tpr_at_1_fpr` (see
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
        prompts = [prompt_ids(row) for row in asked.answers]
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
    outcome = _summarise(found, len(members.answers), seed)
    outcome.protocol = {"rows": {"forget": len(members.answers), "holdout": len(non_members.answers)}, "seed": seed}
    return outcome


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


def _places(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Where a row has a token that is scored and does not close the answer."""
    return [
        index
        for index, label in enumerate(row["labels"])
        if index > 0 and label != -100 and not ends_turn(label, tokenizer)
    ]


def neighbours(
    rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> list[list[dict[str, list[int]]]]:
    """
    Rows with some tokens of the answer replaced.

    Args:
        rows (`Sequence[dict[str, Any]]`):
            Encoded rows (`input_ids` and `labels`).
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Their tokenizer.
        seed (`int`):
            Seed of the draws, which depend on it and on the row's index only, given the rows.

    Returns:
        `list[list[dict]]`: `NUM_NEIGHBOURS` encoded rows for each row, of the same length: `REPLACED_SHARE` of the
        label tokens that do not close the answer (at least one) are others, drawn from all answers as often as they
        stand there.

    Raises:
        `ValueError`: If a row has no such token, or all rows have the same one.
    """
    places = [_places(row, tokenizer) for row in rows]
    empty = next((index for index, found in enumerate(places) if not found), None)
    if empty is not None:
        raise ValueError(
            f"Row {empty} of a membership attack has an answer without a token to replace. Give every row an answer "
            "of at least one token besides its end-of-turn token."
        )
    pool = [row["input_ids"][place] for row, found in zip(rows, places, strict=True) for place in found]
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


def _load(load: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """Merged weights in float32: updates of the reference's size would be lost in the rounding of half precision."""
    model = load()
    return (model.merge_and_unload() if isinstance(model, PeftModel) else model).float().eval()


def _self_prompted(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    rows: Sequence[dict[str, Any]],
    *,
    batch_size: int | None,
    seed: int,
) -> list[dict[str, list[int]]]:
    """What the model says at temperature 1 after `NUM_SAMPLES` prompts, evenly spread, or after all of fewer."""
    chosen = [list(prompts[index]) for index in spread_evenly(len(prompts), NUM_SAMPLES)]
    samples = generate_together(
        model,
        chosen,
        pad_token_id=padding_token_id(tokenizer),
        eos_token_ids=eos_token_ids(model, tokenizer, rows),
        max_new_tokens=max(sum(label != -100 for label in row["labels"]) for row in rows),
        batch_size=batch_size,
        keys=[(seed, index) for index in range(len(chosen))],
        desc="Sampling texts for a reference",
    )
    return [continuation_row(prompt, sample.ids) for prompt, sample in zip(chosen, samples, strict=True)]


def _fine_tune(
    model: PreTrainedModel, rows: Sequence[dict[str, list[int]]], *, pad_token_id: int, batch_size: int
) -> None:
    """AdamW on all weights at a constant rate, half of the rows a step in turn, without dropout."""
    model.requires_grad_(True)
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=REFERENCE_RATE, weight_decay=0.0)
    halves = [half for half in (rows[::2], rows[1::2]) if half]
    for step in range(REFERENCE_STEPS):
        half = halves[step % len(halves)]
        tokens = sum(label != -100 for row in half for label in row["labels"][1:])
        for start in range(0, len(half), batch_size):
            batch = pad_rows(half[start : start + batch_size], pad_token_id)
            scores = score_batch(model, {key: value.to(device) for key, value in batch.items()})
            (-scores.logps.sum() / tokens).backward()
        optimizer.step()
        optimizer.zero_grad()


def spv_scores(
    load: Callable[[], PreTrainedModel],
    load_start: Callable[[], PreTrainedModel],
    rows: Sequence[dict[str, Any]],
    prompts: Sequence[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int | None,
    seed: int,
    desc: str | None = None,
) -> list[float]:
    """
    Scores of SPV-MIA on a model (see [`~metrics.SpvAttack`]): how much likelier a row is than its neighbours, minus
    the same for a reference that was trained on what the model says ("self-prompt").

    What is ours, and differs from the paper:

    - Neighbours have `REPLACED_SHARE` of the answer's tokens replaced by draws from the answers of all rows. The
      paper fills a masked share with T5, or adds symmetric noise to the embeddings. The latter was tried: on the
      archive it tells the members of the target with an AUC of no more than 0.73.
    - The reference sees few samples (`NUM_SAMPLES`, `REFERENCE_STEPS` of AdamW at 1e-4 on all weights), all answers
      to the given prompts; the paper samples thousands of texts.
    - The reference starts from a model that never saw the members, such as the retrained one; the paper's start is the
      pretrained model that the one under attack was fine-tuned from. The model under attack itself will not do: on its
      own samples the expected gradient is zero, so the reference keeps what the model remembers, and both variations
      cancel. On the archive's target that gives an AUC of 0.36 to 0.49 (three seeds), where the retrained model as
      start gives 0.94 to 0.99. So this is an auditor's attack, like `reference`.

    Args:
        load (`Callable`):
            Function without arguments that loads the model under attack; it is cast to float32.
        load_start (`Callable`):
            Function without arguments that loads the model that the reference is trained from, anew: it is changed.
        rows (`Sequence[dict[str, Any]]`):
            Encoded rows (`input_ids` and `labels`) to be told apart.
        prompts (`Sequence[list[int]]`):
            Token ids of prompts that the model is asked, best neither those of members nor of non-members: the retain
            rows' ones. `NUM_SAMPLES` of them are used.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of both models.
        batch_size (`int`, *optional*):
            Rows a forward pass and a `generate` call take. `None`: 32, and chosen from memory.
        seed (`int`):
            Seed of the neighbours and the samples.
        desc (`str`, *optional*):
            Label of the progress bar of the scoring. `None` shows none.

    Returns:
        `list[float]`: Score of each row in nats per token, higher for a member. One model is in memory at a time, in
        float32.

    Raises:
        `ValueError`: If there is no prompt, or an answer has no token to replace.

    Source: Fu et al., Membership Inference Attacks against Fine-tuned Large Language Models via Self-prompt
    Calibration (https://huggingface.co/papers/2311.06062), Section 4.
    """
    if not prompts:
        raise ValueError(
            "The attack `spv` has no prompts to sample answers to. Give at least one, of the retain rows."
        )
    perturbed = neighbours(rows, tokenizer, seed=seed)
    flat = [text for row, near in zip(rows, perturbed, strict=True) for text in (row, *near)]
    pad_token_id, score_batch_size = padding_token_id(tokenizer), batch_size or 32

    def variations(model: PreTrainedModel) -> tuple[list[float], list[list[float]]]:
        scores = score_rows_together(model, flat, pad_token_id=pad_token_id, batch_size=score_batch_size, desc=desc)
        means = [fmean(score.logps) for score in scores]
        groups = [means[start : start + NUM_NEIGHBOURS + 1] for start in range(0, len(means), NUM_NEIGHBOURS + 1)]
        return [group[0] for group in groups], [group[1:] for group in groups]

    model = _load(load)
    own, near = variations(model)
    samples = _self_prompted(model, tokenizer, prompts, rows, batch_size=batch_size, seed=seed)
    del model
    free_memory()
    reference = _load(load_start)
    _fine_tune(reference, samples, pad_token_id=pad_token_id, batch_size=score_batch_size)
    reference_own, reference_near = variations(reference)
    del reference
    free_memory()
    return SpvAttack().compute(
        logps=own,
        neighbour_logps=near,
        reference_logps=reference_own,
        reference_neighbour_logps=reference_near,
    )["per_row"]
