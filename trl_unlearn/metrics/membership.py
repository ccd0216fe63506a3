# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Was a row trained on? Attacks that guess it, each higher for a member, and how well they tell members apart."""

import math
import zlib
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np
from datasets import Features, Value
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata

from ._base import NUMBER, NUMBERS, Rows, UnlearningMetric


# A model that is sure of a token has a standard deviation that float32 cannot tell from 0.
_SMALLEST_STD = 1e-6


def _lowest_mean(values: Sequence[float]) -> float:
    """Mean of the lowest 20 % of values: of n // 5 of them, and at least of one."""
    return fmean(sorted(values)[: max(1, len(values) // 5)])


class LossAttack(UnlearningMetric):
    """
    Loss attack on membership: the mean log-prob of an answer.

    Args:
        logps (`list[list[float]]`):
            log pi_y of each token of a row's answer, in nats, the end-of-turn token included.

    Returns:
        `dict`: `loss_attack` (`float`, mean over rows) and `per_row` (`list[float]`), in nats per token.

    Source: Yeom et al., Privacy Risk in Machine Learning (https://arxiv.org/abs/1709.01604).
    """

    inputs = Features({"logps": NUMBERS})

    def _compute(self, logps: Rows) -> dict[str, Any]:
        self._check_filled(logps, "log-probabilities")
        per_row = [fmean(row) for row in logps]
        return {"loss_attack": fmean(per_row), "per_row": per_row}


class ZlibAttack(UnlearningMetric):
    """
    Zlib attack on membership: the mean log-prob of an answer over the compressed length of its text.

    Args:
        logps (`list[list[float]]`):
            log pi_y of each token of a row's answer, in nats, the end-of-turn token included.
        texts (`list[str]`):
            Text of each answer; its length is that of the UTF-8 bytes after zlib's default compression.

    Returns:
        `dict`: `zlib_attack` (`float`, mean over rows) and `per_row` (`list[float]`), in nats per token and byte.

    Source: Extracting Training Data from Large Language Models (https://huggingface.co/papers/2012.07805).
    """

    inputs = Features({"logps": NUMBERS, "texts": Value("string")})

    def _compute(self, logps: Rows, texts: list[str]) -> dict[str, Any]:
        self._check_filled(logps, "log-probabilities")
        per_row = [
            fmean(row) / len(zlib.compress(text.encode("utf-8"))) for row, text in zip(logps, texts, strict=True)
        ]
        return {"zlib_attack": fmean(per_row), "per_row": per_row}


class MinKAttack(UnlearningMetric):
    """
    Min-K attack on membership: the mean log-prob of the 20 % least likely tokens of an answer.

    Args:
        logps (`list[list[float]]`):
            log pi_y of each token of a row's answer, in nats, the end-of-turn token included.

    Returns:
        `dict`: `min_k_attack` (`float`, mean over rows) and `per_row` (`list[float]`), in nats per token.

    Source: Detecting Pretraining Data from Large Language Models (https://huggingface.co/papers/2310.16789).
    """

    inputs = Features({"logps": NUMBERS})

    def _compute(self, logps: Rows) -> dict[str, Any]:
        self._check_filled(logps, "log-probabilities")
        per_row = [_lowest_mean(row) for row in logps]
        return {"min_k_attack": fmean(per_row), "per_row": per_row}


class MinKPlusPlusAttack(UnlearningMetric):
    r"""
    Min-K++ attack on membership: the mean of the lowest 20 % of the standardised log-probs of an answer's tokens.

    Standardised is \\((\log \pi_y - \mu) / \sigma\\), with mean and standard deviation of log pi under pi at the
    position; \\(\sigma\\) is at least 1e-6.

    Args:
        logps (`list[list[float]]`):
            log pi_y of each token of a row's answer, in nats, the end-of-turn token included.
        entropies (`list[list[float]]`):
            Entropy of pi at each of them, in nats: \\(-\mu\\).
        log_variances (`list[list[float]]`):
            Variance of log pi under pi at each of them: \\(\sigma^2\\).

    Returns:
        `dict`: `min_k_plus_plus_attack` (`float`, mean over rows) and `per_row` (`list[float]`), without a unit.

    Source: Zhang et al., Min-K%++ (https://huggingface.co/papers/2404.02936).
    """

    inputs = Features(dict.fromkeys(("logps", "entropies", "log_variances"), NUMBERS))

    def _compute(self, logps: Rows, entropies: Rows, log_variances: Rows) -> dict[str, Any]:
        self._check_filled(logps, "log-probabilities")
        per_row = []
        for index, row in enumerate(zip(logps, entropies, log_variances, strict=True)):
            lengths = [len(values) for values in row]
            if len(set(lengths)) > 1:
                raise ValueError(
                    f"`MinKPlusPlusAttack` got {lengths} values of {list(self.inputs)} in row {index}. Give one a "
                    "token in each."
                )
            standardised = [
                (logp + entropy) / max(math.sqrt(variance), _SMALLEST_STD)
                for logp, entropy, variance in zip(*row, strict=True)
            ]
            per_row.append(_lowest_mean(standardised))
        return {"min_k_plus_plus_attack": fmean(per_row), "per_row": per_row}


class ReferenceAttack(UnlearningMetric):
    """
    Reference attack on membership: the mean log-prob of an answer minus that of a reference model.

    Args:
        logps (`list[list[float]]`):
            log pi_y of each token of a row's answer, in nats, the end-of-turn token included.
        reference_logps (`list[list[float]]`):
            The same under a model that was not trained on the members.

    Returns:
        `dict`: `reference_attack` (`float`, mean over rows) and `per_row` (`list[float]`), in nats per token.

    Source: Extracting Training Data from Large Language Models (https://huggingface.co/papers/2012.07805).
    """

    inputs = Features({"logps": NUMBERS, "reference_logps": NUMBERS})

    def _compute(self, logps: Rows, reference_logps: Rows) -> dict[str, Any]:
        self._check_filled(logps, "log-probabilities")
        self._check_filled(reference_logps, "log-probabilities of the reference")
        per_row = [fmean(row) - fmean(before) for row, before in zip(logps, reference_logps, strict=True)]
        return {"reference_attack": fmean(per_row), "per_row": per_row}


class SpvAttack(UnlearningMetric):
    """
    SPV-MIA, membership from the self-calibrated probabilistic variation: the mean log-prob of a row minus that of its
    perturbed neighbours, minus the same difference under a reference model.

    The paper defines the variation with the opposite sign, in probabilities of whole texts.

    Args:
        logps (`list[float]`):
            Mean log pi_y a token of each row, in nats.
        neighbour_logps (`list[list[float]]`):
            The same of each neighbour of a row.
        reference_logps (`list[float]`):
            The rows under the reference model.
        reference_neighbour_logps (`list[list[float]]`):
            The same neighbours under the reference model.

    Returns:
        `dict`: `spv_attack` (`float`, mean over rows) and `per_row` (`list[float]`), in nats per token.

    Source: Fu et al., section 4 (https://huggingface.co/papers/2311.06062).
    """

    inputs = Features(
        {"logps": NUMBER, "neighbour_logps": NUMBERS, "reference_logps": NUMBER, "reference_neighbour_logps": NUMBERS}
    )

    def _compute(
        self, logps: list[float], neighbour_logps: Rows, reference_logps: list[float], reference_neighbour_logps: Rows
    ) -> dict[str, Any]:
        self._check_filled(neighbour_logps, "neighbours")
        self._check_filled(reference_neighbour_logps, "neighbours under the reference")
        columns = zip(logps, neighbour_logps, reference_logps, reference_neighbour_logps, strict=True)
        per_row = [
            (own - fmean(neighbours)) - (reference - fmean(reference_neighbours))
            for own, neighbours, reference, reference_neighbours in columns
        ]
        return {"spv_attack": fmean(per_row), "per_row": per_row}


def _logistic_weights(features: np.ndarray, is_member: np.ndarray) -> np.ndarray:
    """Bias and weights of the smallest sum over rows of -log p(kind) + |weights|^2 / 2; the bias is not penalised."""
    design = np.column_stack([np.ones(len(features)), features])
    signs = np.where(is_member, 1.0, -1.0)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margins, penalised = signs * (design @ weights), np.concatenate([[0.0], weights[1:]])
        value = np.logaddexp(0, -margins).sum() + penalised @ penalised / 2
        return value, penalised - (signs * expit(-margins)) @ design

    return minimize(loss, np.zeros(design.shape[1]), jac=True).x


class CombinedAttack(UnlearningMetric):
    """
    All that is seen of a row in one attack on membership: the log-odds of a logistic regression for being a member,
    beside those of the rows that it was fitted to.

    The regression is fitted to the rows themselves, so a row is scored by one that was fitted without it, and without
    the rows of its group: the groups of each kind are dealt out to five folds by a fixed seed, and a fold is scored by
    the regression of the other four, on features with mean 0 and standard deviation 1 there. (Where a fifth of the
    variance lies between people, folds that part the rows of one person give a model that knows nothing an AUC of .58
    to .67, simulated; these give it .5.) Of a kind with one group, the rows are dealt out. The regression finds the
    direction by itself: rows that were forgotten too well are told apart as those that are known. A row with a feature
    that is not finite has no score and is in no fit.

    Args:
        features (`list[list[float]]`):
            What is seen of each row, such as scores of other attacks, in the same order.
        is_member (`list[bool]`):
            Whether a row was trained on; at least five rows of each kind.
        groups (`list[str]`, *optional*):
            Group of each row, such as the person that it is about; without it each row is one.

    Returns:
        `dict`: `combined_attack` (`float`, mean over rows) and `per_row` (`list[float]`), in nats.

    Source: a linear model over many attacks, fitted to one part of the rows and used on another, is that of LLM
    Dataset Inference (https://huggingface.co/papers/2406.06443).
    """

    inputs = Features({"features": NUMBERS, "is_member": Value("bool")})
    num_folds = 5

    def _compute(self, features: Rows, is_member: list[bool], groups: Sequence[str] | None = None) -> dict[str, Any]:
        self._check_filled(features, "features")
        table, kinds = np.array(features, dtype=float), np.array(is_member)
        if min(kinds.sum(), (~kinds).sum()) < self.num_folds:
            raise ValueError(
                f"`CombinedAttack` got {kinds.sum()} members and {(~kinds).sum()} others. Give at least "
                f"{self.num_folds} of each, one a fold."
            )
        if groups is not None and len(groups) != len(kinds):
            raise ValueError(f"`CombinedAttack` got {len(groups)} `groups` of {len(kinds)} rows. Give one a row.")
        folds, generator = np.empty(len(kinds), dtype=int), np.random.default_rng(0)
        for kind in (True, False):
            rows = generator.permutation(np.flatnonzero(kinds == kind)).tolist()
            units = rows if groups is None else [groups[row] for row in rows]
            places = {unit: place for place, unit in enumerate(dict.fromkeys(units))}
            dealt = range(len(rows)) if len(places) == 1 else map(places.get, units)
            folds[rows] = np.fromiter(dealt, int) % self.num_folds
        scores, usable = np.full(len(kinds), np.nan), np.isfinite(table).all(1)
        for fold in range(self.num_folds):
            fitted, scored = usable & (folds != fold), usable & (folds == fold)
            if not 0 < kinds[fitted].sum() < fitted.sum():
                continue
            mean, std = table[fitted].mean(0), table[fitted].std(0)
            # A feature that is the same in all rows tells nothing, and has no standard deviation to divide by.
            standardised = (table - mean) / np.where(std > _SMALLEST_STD, std, np.inf)
            bias, *weights = _logistic_weights(standardised[fitted], kinds[fitted])
            # The share of members differs from fit to fit where few groups fill the folds: without this, the fit that
            # saw the fewest gives the members that it did not see the lowest scores.
            odds = kinds[fitted].sum() / (~kinds[fitted]).sum()
            scores[scored] = bias - math.log(odds) + standardised[scored] @ np.array(weights)
        return {"combined_attack": float(scores.mean()), "per_row": scores.tolist()}


def separation(members: np.ndarray, non_members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUC and true-positive rate of [`MembershipAUC`] from scores `[rows, ...attacks]`; NaN where a score is NaN."""
    n, m = len(members), len(non_members)
    # The area is U / nm with the statistic of Mann and Whitney, U = (sum of the members' ranks) - n (n + 1) / 2.
    ranks = rankdata(np.concatenate([members, non_members]), axis=0)
    auc = (ranks[:n].sum(0) - n * (n + 1) / 2) / (n * m)
    # Of rows with the same score all are accepted or none: beyond this one, one non-member too many would be.
    limit = np.sort(non_members, axis=0)[m - 1 - m // 100]
    rate = np.where(np.isnan(auc), np.nan, (members > limit).mean(0))
    return auc, rate


class MembershipAUC(UnlearningMetric):
    """
    Area under the ROC curve of a membership attack, and its true-positive rate at 1 % false positives.

    The area is the probability that a member scores higher than a non-member; a tie counts one half. The rate is the
    largest share of members above a threshold that at most 1 % of the non-members reach; rows with the same score are
    on the same side of it. With fewer than 100 non-members none may reach it.

    Args:
        members (`list[list[float]]`):
            One list an attack: the score of each row that was trained on, higher for a member.
        non_members (`list[list[float]]`):
            The same of rows that were not; their number may differ.

    Returns:
        `dict`: `auc` and `tpr_at_1_fpr` (`float`, means over attacks, in [0, 1]) and `per_row`, a `dict` of the lists
        under the same names.

    Source: Membership Inference Attacks From First Principles (https://huggingface.co/papers/2112.03570).
    """

    inputs = Features({"members": NUMBERS, "non_members": NUMBERS})

    def _compute(self, members: Rows, non_members: Rows) -> dict[str, Any]:
        self._check_filled(members, "members")
        self._check_filled(non_members, "non-members")
        separated = [separation(np.array(a), np.array(b)) for a, b in zip(members, non_members, strict=True)]
        auc, rate = ([float(value) for value in values] for values in zip(*separated, strict=True))
        return {
            "auc": float(np.mean(auc)),
            "tpr_at_1_fpr": float(np.mean(rate)),
            "per_row": {"auc": auc, "tpr_at_1_fpr": rate},
        }


class StrangersAUC(UnlearningMetric):
    """
    How often a model finds a true answer likelier than an answer about somebody else under the same name, ties a half.

    0.5 = the true answers say nothing to the model, as to one that never knew them; 1 = each is likelier than all of
    the others; far below 0.5 they are less familiar than what nobody ever said.

    Args:
        true (`list[float]`):
            Probability of each row's true answer, or any score that rises with it.
        others (`list[list[float]]`):
            The same of the answers about others that were moved to that row; their number may differ.
        sources (`list[list[int]]`, *optional*):
            What each of these answers was made of, where one was moved to several rows.

    Returns:
        `dict`: `strangers_auc` (`float`, in [0, 1]) and `per_row` (`list[float]`). The area compares all true answers
        with all others. A row's part of it is how it does on either side, so that the mean over rows is the area, and
        its error counts the true answers as well as the others. What answers of one source have in common stands in
        the part of one row (in 24 rows' own parts, with 8 of 24 answers each, intervals of 95 % held .5 in 86 %).

    Source: the components are those of DeLong et al., Comparing the Areas under Two or More Correlated Receiver
    Operating Characteristic Curves (https://doi.org/10.2307/2531595).
    """

    inputs = Features({"true": NUMBER, "others": NUMBERS})

    def _compute(
        self, true: list[float], others: Rows, sources: Sequence[Sequence[int]] | None = None
    ) -> dict[str, Any]:
        self._check_filled(others, "answers about others")
        if sources is not None and [len(row) for row in sources] != [len(row) for row in others]:
            raise ValueError("`StrangersAUC` got other numbers of `sources` than of `others`. Give one an answer.")
        known, moved = np.array(true), np.concatenate([np.array(row) for row in others])
        wins = (known[:, None] > moved) + 0.5 * (known[:, None] == moved)
        area = wins.mean()
        # wins[i, j]: row i against answer j. v_i = mean_j wins[i, j] + (w_i - area), w_i: the mean over all true
        # answers against the row's own others, weighed by how many these are.
        row_of = np.repeat(np.arange(len(others)), [len(row) for row in others])
        lost, size = wins.mean(0), len(others)
        parts = np.bincount(row_of, weights=lost)
        if sources is not None:
            # What an answer has beyond the mean of its row counts with the other answers of its source, in one row; of
            # a row with one answer, all of it. Sources of several are dealt out, so that no row has many.
            counts = np.bincount(row_of)
            apart = lost - np.where(counts > 1, parts / counts, area)[row_of]
            _, source_of, times = np.unique(np.concatenate(sources), return_inverse=True, return_counts=True)
            dealt = (np.cumsum(times > 1) - 1) % size
            holders = np.where(times[source_of] > 1, dealt[source_of], row_of)
            parts += np.bincount(holders, weights=apart, minlength=size) - np.bincount(row_of, weights=apart)
        per_row = wins.mean(1) + parts * size / len(moved) - area
        # A comparison with what is no number is false, which looks like a number.
        broken = ~np.isfinite(known) | (np.bincount(row_of, weights=~np.isfinite(moved)) > 0)
        per_row[broken] = np.nan
        return {"strangers_auc": float(np.nan if broken.any() else area), "per_row": per_row.tolist()}


def relative_leak(unlearned: Any, retrained: Any) -> Any:
    """[`PrivLeak`] in percent, from AUCs that are numbers or arrays."""
    return 100 * ((1 - unlearned) - (1 - retrained)) / (1 - retrained)


class PrivLeak(UnlearningMetric):
    r"""
    PrivLeak: \\(100 ((1 - A_u) - (1 - A_r)) / (1 - A_r)\\), with the AUC of an attack on the unlearned (u) and on the
    retrained model (r).

    0 = the attack comes as far as against the retrained model; below 0 the forget rows can still be told from rows
    that were never seen (-100: with certainty); above 0 they are less likely than such rows, which gives them away
    too. The published numbers are those of the Min-K attack, as are those of the privacy suite.

    Args:
        unlearned (`list[float]`):
            AUC of each attack on the model that unlearned, see [`MembershipAUC`].
        retrained (`list[float]`):
            The same on the model that was trained without the forget rows, below 1.

    Returns:
        `dict`: `privleak` (`float`, mean over attacks) and `per_row` (`list[float]`), in percent.

    Source: MUSE (https://huggingface.co/papers/2407.06460).
    """

    inputs = Features({"unlearned": NUMBER, "retrained": NUMBER})

    def _compute(self, unlearned: list[float], retrained: list[float]) -> dict[str, Any]:
        for index, auc in enumerate(retrained):
            if auc == 1:
                raise ValueError(
                    f"`PrivLeak` got an AUC of 1 for the retrained model in row {index}: the attack tells forget rows "
                    "from others, of which the model saw neither. Give non-members that are like the forget rows."
                )
        per_row = [relative_leak(u, r) for u, r in zip(unlearned, retrained, strict=True)]
        return {"privleak": fmean(per_row), "per_row": per_row}
