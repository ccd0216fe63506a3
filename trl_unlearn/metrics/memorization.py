# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Memory of the forget set, from log-probs of answers: a model's own, or beside another model's."""

import math
from statistics import fmean
from typing import Any

from datasets import Features, List, Value
from scipy.stats import ks_2samp

from ._base import NUMBER, NUMBERS, Rows, UnlearningMetric, check_parity


class Probability(UnlearningMetric):
    r"""
    Mean over rows of p(answer) = \\(\exp(\frac{1}{T} \sum_i \log \pi(y_i))\\), the end-of-turn token included.

    Args:
        logps (`list[list[float]]`):
            log pi_y of each token of a row's answer, in nats.

    Returns:
        `dict`: `probability` (`float`) and `per_row` (`list[float]`), both in [0, 1].

    Source: TOFU (https://huggingface.co/papers/2401.06121), section 2.2.
    """

    inputs = Features({"logps": NUMBERS})

    def _compute(self, logps: Rows) -> dict[str, Any]:
        self._check_filled(logps, "log-probabilities")
        per_row = [math.exp(fmean(row)) for row in logps]
        return {"probability": fmean(per_row), "per_row": per_row}


class NormalizedProbability(UnlearningMetric):
    """
    Mean over rows of p(answer) / (p(answer) + sum of p(wrong answer)), with length-normalised probabilities.

    Args:
        true_logps (`list[float]`):
            Mean log pi_y a token of each row's answer, in nats.
        wrong_logps (`list[list[float]]`):
            The same of each of the row's wrong answers.

    Returns:
        `dict`: `normalized_probability` (`float`) and `per_row` (`list[float]`), both in [0, 1].

    Source: TOFU (https://huggingface.co/papers/2401.06121), section 2.2.
    """

    inputs = Features({"true_logps": NUMBER, "wrong_logps": NUMBERS})

    def _compute(self, true_logps: list[float], wrong_logps: Rows) -> dict[str, Any]:
        self._check_filled(wrong_logps, "wrong answers")
        per_row = []
        for true, wrong in zip(true_logps, wrong_logps, strict=True):
            # Relative to the largest, which is then 1: a diverged model gives all of them a probability of 0.
            largest = max(true, *wrong)
            mass = math.exp(true - largest)
            per_row.append(mass / (mass + sum(math.exp(value - largest) for value in wrong)))
        return {"normalized_probability": fmean(per_row), "per_row": per_row}


class ExactMemorization(UnlearningMetric):
    """
    Mean share of answer tokens that are the model's most likely token under teacher forcing.

    Args:
        is_top1 (`list[list[bool]]`):
            Whether each token of a row's answer is the most likely one, the end-of-turn token left out.

    Returns:
        `dict`: `exact_memorization` (`float`) and `per_row` (`list[float]`), both in [0, 1].

    Source: Tirumala et al., Memorization Without Overfitting (https://huggingface.co/papers/2205.10770);
    OpenUnlearning (https://huggingface.co/papers/2506.12618).
    """

    inputs = Features({"is_top1": List(Value("bool"))})

    def _compute(self, is_top1: list[list[bool]]) -> dict[str, Any]:
        self._check_filled(is_top1, "tokens")
        per_row = [fmean(row) for row in is_top1]
        return {"exact_memorization": fmean(per_row), "per_row": per_row}


class ExtractionStrength(UnlearningMetric):
    r"""
    Mean \\(1 - k/T\\), k = number of first answer tokens after which the most likely token is right to the end.

    Args:
        is_top1 (`list[list[bool]]`):
            Whether each token of a row's answer is the most likely one, the end-of-turn token left out.
        parity (`str`, *optional*, defaults to `"open-unlearning"`):
            `"open-unlearning"`: k is at most T - 1, so a row is never below 1/T. `"strict"`: k = T, and so 0, where
            the last token is not the most likely one.

    Returns:
        `dict`: `extraction_strength` (`float`) and `per_row` (`list[float]`), both in [0, 1].

    Source: Carlini et al., Extracting Training Data from Large Language Models
    (https://huggingface.co/papers/2012.07805); OpenUnlearning (https://huggingface.co/papers/2506.12618).
    """

    inputs = Features({"is_top1": List(Value("bool"))})

    def _compute(self, is_top1: list[list[bool]], parity: str = "open-unlearning") -> dict[str, Any]:
        check_parity(parity)
        self._check_filled(is_top1, "tokens")
        per_row = []
        for row in is_top1:
            given = max((i + 1 for i, right in enumerate(row) if not right), default=0)
            if parity == "open-unlearning":
                given = min(given, len(row) - 1)
            per_row.append(1 - given / len(row))
        return {"extraction_strength": fmean(per_row), "per_row": per_row}


def _log_mean_exp(values: list[float]) -> float:
    largest = max(values)
    return largest + math.log(fmean(math.exp(value - largest) for value in values))


class TruthRatio(UnlearningMetric):
    r"""
    The ratio R = p(wrong) / p(true) of each row, and three means of it.

    Args:
        true_logps (`list[float]`):
            Mean log pi_y a token of each row's true (or paraphrased true) answer, in nats.
        wrong_logps (`list[list[float]]`):
            The same of each of the row's wrong answers.
        parity (`str`, *optional*, defaults to `"open-unlearning"`):
            How p(wrong) is made of the wrong answers. `"open-unlearning"`: \\(\exp\\) of the mean of their mean
            log-probabilities. `"strict"` (the paper): the mean of their length-normalised probabilities.

    Returns:
        `dict`: `truth_ratio` (mean min(R, 1/R)), `truth_ratio_utility` (mean max(0, 1 - R)), `truth_ratio_knowledge`
        (mean p(true) / (p(true) + p(wrong))), and `per_row`, a `dict` of the lists under the same names and of
        `log_ratio` (log R in nats).

    Source: TOFU (https://huggingface.co/papers/2401.06121), Eq. 1; OpenUnlearning
    (https://huggingface.co/papers/2506.12618).
    """

    inputs = Features({"true_logps": NUMBER, "wrong_logps": NUMBERS})

    def _compute(self, true_logps: list[float], wrong_logps: Rows, parity: str = "open-unlearning") -> dict[str, Any]:
        check_parity(parity)
        self._check_filled(wrong_logps, "wrong answers")
        combine = fmean if parity == "open-unlearning" else _log_mean_exp
        # In logarithms: R overflows or underflows where a diverged model gives every answer a probability of 0.
        ratios = [combine(wrong) - true for true, wrong in zip(true_logps, wrong_logps, strict=True)]
        per_row = {
            "truth_ratio": [math.exp(-abs(ratio)) for ratio in ratios],
            "truth_ratio_utility": [1 - math.exp(min(ratio, 0.0)) for ratio in ratios],
            # exp(710) overflows; 1 / (1 + exp(700)) is 0 already.
            "truth_ratio_knowledge": [1 / (1 + math.exp(min(ratio, 700.0))) for ratio in ratios],
        }
        means = {name: fmean(values) for name, values in per_row.items()}
        return {**means, "per_row": {**per_row, "log_ratio": ratios}}


class ForgetQuality(UnlearningMetric):
    """
    Two-sample Kolmogorov-Smirnov test of the truth ratios of two models on the same forget rows.

    The test sees ranks only, so log R serves as well as R and cannot overflow.

    Args:
        unlearned (`list[float]`):
            R or log R of each forget row under the model that unlearned.
        retrained (`list[float]`):
            The same under the model that was trained without the forget rows.

    Returns:
        `dict`: `p_value` (`float`; 1 = cannot be told apart), `log10_p_value` (`float`, at most 0, always finite), and
        `ks_statistic` (`float`, the largest distance of the two distribution functions, in [0, 1]).

    Source: TOFU (https://huggingface.co/papers/2401.06121), section 2.2.
    """

    inputs = Features({"unlearned": NUMBER, "retrained": NUMBER})

    def _compute(self, unlearned: list[float], retrained: list[float]) -> dict[str, Any]:
        test = ks_2samp(unlearned, retrained)
        p_value, statistic = float(test.pvalue), float(test.statistic)
        if p_value > 0:
            log10_p_value = math.log10(p_value)
        else:
            # The p-value underflows with more than 500 rows. Smirnov's asymptotic series: p ~ 2 exp(-2 nm/(n+m) D^2).
            effective = len(unlearned) * len(retrained) / (len(unlearned) + len(retrained))
            log10_p_value = (math.log(2) - 2 * effective * statistic**2) / math.log(10)
        return {"p_value": p_value, "log10_p_value": log10_p_value, "ks_statistic": statistic}


class Squeezing(UnlearningMetric):
    """
    Mean over rows of the mean change of the log-probability of beliefs: answers that the original model found likely
    beside the true one, frozen before unlearning. Above 0, they became likelier while the answer was pushed down.

    Args:
        now (`list[list[float]]`):
            Mean log pi_y a token of each of a row's beliefs, in nats, under the model in question.
        before (`list[list[float]]`):
            The same under the original model.

    Returns:
        `dict`: `squeezing` (`float`, in nats a token) and `per_row` (`list[float]`).

    Source: LLM Unlearning with LLM Beliefs (https://huggingface.co/papers/2510.19422), section 3.
    """

    inputs = Features({"now": NUMBERS, "before": NUMBERS})

    def _compute(self, now: Rows, before: Rows) -> dict[str, Any]:
        self._check_filled(now, "beliefs")
        per_row = []
        for index, (row_now, row_before) in enumerate(zip(now, before, strict=True)):
            if len(row_now) != len(row_before):
                raise ValueError(
                    f"`Squeezing` got {len(row_now)} beliefs now and {len(row_before)} before in row {index}. Score "
                    "the same frozen beliefs with both models."
                )
            per_row.append(fmean(a - b for a, b in zip(row_now, row_before, strict=True)))
        return {"squeezing": fmean(per_row), "per_row": per_row}


class FADE(UnlearningMetric):
    r"""
    Mean over prompts of how differently two models U and R answer, from samples of both at temperature 1.

    \\(\frac{1}{2} \left( E_{y \sim U}[\log U(y) - \log R(y)] + E_{y \sim R}[\log R(y) - \log U(y)] \right)\\) with
    log-probs per token. It is 0 for models that answer alike, and below 0 only by the luck of the samples.

    Args:
        u_of_u (`list[list[float]]`):
            Mean log-prob a token of each sample of U, in nats, under U: one list a prompt.
        r_of_u (`list[list[float]]`):
            The samples of U, under R.
        u_of_r (`list[list[float]]`):
            The samples of R, under U.
        r_of_r (`list[list[float]]`):
            The samples of R, under R.

    Returns:
        `dict`: `fade` (`float`) and `per_row` (`list[float]`), in nats per token.

    Source: Reference-Specific Unlearning Metrics Can Hide the Truth (https://huggingface.co/papers/2510.12981).
    """

    inputs = Features(dict.fromkeys(("u_of_u", "r_of_u", "u_of_r", "r_of_r"), NUMBERS))

    def _compute(self, u_of_u: Rows, r_of_u: Rows, u_of_r: Rows, r_of_r: Rows) -> dict[str, Any]:
        self._check_filled(u_of_u, "samples of U")
        self._check_filled(r_of_r, "samples of R")
        per_row = []
        for index, (own, across, back, home) in enumerate(zip(u_of_u, r_of_u, u_of_r, r_of_r, strict=True)):
            if len(own) != len(across) or len(home) != len(back):
                raise ValueError(
                    f"`FADE` got {len(own)} samples of U under U and {len(across)} under R, and {len(back)} samples "
                    f"of R under U and {len(home)} under R in row {index}. Score every sample with both models."
                )
            per_row.append((fmean(own) - fmean(across) + fmean(home) - fmean(back)) / 2)
        return {"fade": fmean(per_row), "per_row": per_row}


class UnlearningDepth(UnlearningMetric):
    r"""
    Unlearning Depth Score: the share of a fact that is missing in a model U's hidden states, layer by layer.

    Hidden states after layer l of a source (U, or R, which never knew) take the place of the original model's where it
    predicts the fact; \\(d_l\\) is how much less likely the fact becomes. Over the layers L with
    \\(d_l(R) > \\tau\\), a row's score is
    \\(\\sum_L d_l(R) \cdot clip(d_l(U) / d_l(R), 0, 1) / \\sum_L d_l(R)\\): 0 for the original model, 1 for R.

    Args:
        unlearned (`list[list[float]]`):
            \\(d_l(U)\\) of each layer, in nats a token: one list a row.
        retrained (`list[list[float]]`):
            The same of R.
        threshold (`float`, *optional*, defaults to 0.05):
            \\(\\tau\\), in nats a token.

    Returns:
        `dict`: `unlearning_depth` (`float`), the mean over rows with such a layer, in [0, 1], and `per_row`
        (`list[float]`). Both are NaN without such a layer, or where an input is not finite.

    Source: Measuring the Depth of LLM Unlearning via Activation Patching (https://huggingface.co/papers/2605.24614).
    """

    inputs = Features({"unlearned": NUMBERS, "retrained": NUMBERS})

    def _compute(self, unlearned: Rows, retrained: Rows, threshold: float = 0.05) -> dict[str, Any]:
        self._check_filled(retrained, "layers")
        per_row, counted = [], []
        for index, (own, reference) in enumerate(zip(unlearned, retrained, strict=True)):
            if len(own) != len(reference):
                raise ValueError(
                    f"`UnlearningDepth` got {len(own)} layers of U and {len(reference)} of R in row {index}. Patch "
                    "the same layers with both."
                )
            is_finite = all(map(math.isfinite, (*own, *reference)))
            pairs = [(u, r) for u, r in zip(own, reference, strict=True) if r > threshold] if is_finite else []
            # d(R) * clip(d(U) / d(R), 0, 1)
            missing = sum(min(max(u, 0.0), r) for u, r in pairs)
            per_row.append(missing / sum(r for _, r in pairs) if pairs else math.nan)
            if pairs or not is_finite:
                counted.append(per_row[-1])
        return {"unlearning_depth": fmean(counted) if counted else math.nan, "per_row": per_row}
