# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Squeezing, the shift of probability to other answers: frozen beliefs, and a panel of responses in bands."""

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Self

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import answer_row, continuation_row, padding_token_id, repeats, spread_evenly, without_end
from ..generation import Completion, eos_token_ids
from .rows import encode_set
from .together import SuiteSetting, score_rows_together


logger = logging.getLogger(__name__)


def distinct_beside(answer: list[int], samples: Sequence[Completion], end_ids: Collection[int]) -> list[list[int]]:
    """Distinct samples with a token of text that do not repeat the answer."""
    kept: dict[tuple[int, ...], list[int]] = {}
    for sample in samples:
        text = tuple(without_end(sample.ids, sample.ended))
        # That the answer itself becomes less likely is forgetting, not squeezing.
        if text and not repeats(sample.ids, answer, end_ids):
            kept.setdefault(text, sample.ids)
    return list(kept.values())


def sample_beside(
    model: PreTrainedModel, setting: SuiteSetting, rows: Sequence[Mapping[str, Any]], count: int, **options: Any
) -> list[list[dict[str, list[int]]]]:
    """Encoded responses to the prompt of each row that are distinct and do not repeat its answer."""
    end_ids = eos_token_ids(model, setting.tokenizer, rows)
    return [
        [continuation_row(prompt, ids) for ids in distinct_beside(answer, samples, end_ids)]
        for prompt, answer, samples in setting.sample(model, rows, count, **options)
    ]


def _thirds(rows: Sequence[Any], logps: Sequence[float]) -> dict[str, list[Any]]:
    """Rows by falling log-probability; `high` and `low` are of one size where the number is no multiple of 3."""
    ranked = [rows[i] for i in sorted(range(len(rows)), key=lambda i: -logps[i])]
    first, second = round(len(rows) / 3), round(2 * len(rows) / 3)
    return {"high": ranked[:first], "middle": ranked[first:second], "low": ranked[second:]}


@dataclass
class SqueezingPanel:
    """
    Responses to some forget prompts, frozen before training, to follow how likely a model finds them.

    The bands are `target` (the true answer), `high`, `middle` and `low` (thirds of the original model's own responses
    beside it, by their mean log-probability), and, where the rows have them, `paraphrase` and `wrong` answers. All
    bands are of the same prompts: of those with three distinct responses.
    """

    # Band -> encoded rows of each prompt, at least one.
    bands: dict[str, list[list[dict[str, Any]]]]
    pad_token_id: int
    batch_size: int = 32

    @classmethod
    def freeze(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Mapping[str, Any]],
        *,
        num_prompts: int = 16,
        num_candidates: int = 12,
        max_new_tokens: int,
        seed: int,
        batch_size: int | None = None,
    ) -> Self:
        """Sample responses of a model before unlearning, rank each prompt's by log-prob, and cut them into thirds."""
        if num_prompts < 1 or num_candidates < 3:
            raise ValueError(
                f"`num_prompts` is {num_prompts} and `num_candidates` is {num_candidates}. Give at least 1 prompt and "
                "3 candidates, to cut into thirds."
            )
        encoded = encode_set(rows, tokenizer, name="forget")
        chosen = spread_evenly(len(encoded.answers), num_prompts)
        asked = [encoded.answers[index] for index in chosen]
        setting = SuiteSetting(tokenizer, batch_size, seed)
        options = {"max_new_tokens": max_new_tokens, "desc": "Sampling responses of the original model"}
        sampled = sample_beside(model, setting, asked, num_candidates, stream=(1,), indices=chosen, **options)
        # What the original model knows by heart has too few: means over other prompts could not be compared.
        kept = {index: responses for index, responses in zip(chosen, sampled, strict=True) if len(responses) >= 3}
        if not kept:
            raise ValueError(
                f"None of {len(chosen)} forget prompts has three distinct responses beside its answer among "
                f"{num_candidates} samples: the model knows the answers too well. Give more prompts, or leave the "
                "panel out."
            )
        log = logger.warning if len(kept) < len(chosen) else logger.info
        log(
            "The squeezing panel has %d of %d forget prompts: those with three distinct responses beside the answer.",
            len(kept),
            len(chosen),
        )
        candidates = list(kept.values())
        panel = cls(bands={}, pad_token_id=padding_token_id(tokenizer), batch_size=batch_size or 32)
        logps = iter(panel._mean_logps(model, [row for responses in candidates for row in responses]))
        thirds = [_thirds(responses, [next(logps) for _ in responses]) for responses in candidates]
        panel.bands["target"] = [[answer_row(encoded.answers[index])] for index in kept]
        for name in ("high", "middle", "low"):
            panel.bands[name] = [third[name] for third in thirds]
        if encoded.paraphrases is not None:
            panel.bands["paraphrase"] = [[encoded.paraphrases[index]] for index in kept]
        if encoded.wrong is not None:
            panel.bands["wrong"] = [encoded.wrong[index] for index in kept]
        return panel

    def _mean_logps(self, model: nn.Module, rows: list[dict[str, Any]]) -> list[float]:
        sizes = {"pad_token_id": self.pad_token_id, "batch_size": self.batch_size}
        return [fmean(score.logps) for score in score_rows_together(model, rows, desc="Scoring responses", **sizes)]

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Band -> mean over prompts of the mean log pi_y of the prompt's rows, in nats per token."""
        flat = [row for band in self.bands.values() for rows in band for row in rows]
        logps = iter(self._mean_logps(model, flat))
        # A mean of means: a prompt with many responses must not count more than others.
        means = {name: [fmean([next(logps) for _ in rows]) for rows in band] for name, band in self.bands.items()}
        return {name: fmean(prompt_means) for name, prompt_means in means.items()}


def squeezing_index(history: Sequence[Mapping[str, float | None]]) -> float:
    """The largest rise of the band `high` while the true answer is less likely than at first, in nats a token."""
    known = [{name: math.nan if value is None else value for name, value in entry.items()} for entry in history]
    # A comparison with NaN is false.
    rises = [entry["high"] - known[0]["high"] for entry in known if entry["target"] < known[0]["target"]]
    return max((rise for rise in rises if rise > 0), default=0.0)
