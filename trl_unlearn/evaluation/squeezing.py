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

"""Where the probability of the answers goes: frozen beliefs, and a panel of responses in bands of likelihood."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Self

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import answer_row, continuation_row, repeats, spread_evenly, without_end
from ..generation import Completion, eos_token_ids
from .rows import encode_set
from .together import sample_responses, score_rows_together


def distinct_beside(answer: list[int], samples: Sequence[Completion], end_ids: Collection[int]) -> list[list[int]]:
    """Distinct samples with a token of text that do not repeat the answer: its fall is forgetting, not squeezing."""
    kept: dict[tuple[int, ...], list[int]] = {}
    for sample in samples:
        text = tuple(without_end(sample.ids, sample.ended))
        if text and not repeats(sample.ids, answer, end_ids):
            kept.setdefault(text, sample.ids)
    return list(kept.values())


def freeze_beliefs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Any]],
    *,
    num_beliefs: int,
    max_new_tokens: int,
    pad_token_id: int,
    seed: int,
    batch_size: int | None = None,
) -> list[list[dict[str, list[int]]]]:
    """
    Sample what a model believes beside the true answers, at temperature 1.

    Kept are distinct samples with at least one token. Those that repeat the answer are left out, see
    [`~trl_unlearn.encoding.repeats`]: that their probability falls is forgetting, not squeezing.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model before unlearning.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        rows (`Sequence[Mapping[str, Any]]`):
            Encoded forget rows (`input_ids`, `labels`, `prompt_length`).
        num_beliefs (`int`):
            Number of samples a row.
        max_new_tokens (`int`):
            Longest belief, in tokens; never more than the longest answer of the rows.
        pad_token_id (`int`):
            Token of the padding.
        seed (`int`):
            Seed of the samples; a row's samples depend on it and on the row's index only.
        batch_size (`int`, *optional*):
            Rows a `generate` call takes. `None` chooses.

    Returns:
        `list[list[dict[str, list[int]]]]`: Encoded beliefs of each row, of any number up to `num_beliefs`.
    """
    keys = [[(seed, 0, index, j) for j in range(num_beliefs)] for index in range(len(rows))]
    end_ids = eos_token_ids(model, tokenizer, rows)
    found = sample_responses(
        model,
        tokenizer,
        rows,
        keys,
        max_new_tokens=max_new_tokens,
        pad_token_id=pad_token_id,
        batch_size=batch_size,
        desc="Sampling beliefs of the original model",
    )
    return [
        [continuation_row(prompt, ids) for ids in distinct_beside(answer, samples, end_ids)]
        for prompt, answer, samples in found
    ]


def belief_logps(
    model: nn.Module,
    beliefs: Sequence[Sequence[Mapping[str, Any]]],
    *,
    pad_token_id: int,
    batch_size: int = 32,
) -> list[list[float]]:
    """
    Mean log-probability of frozen beliefs under a model.

    Args:
        model (`torch.nn.Module`):
            Model in question.
        beliefs (`Sequence[Sequence[Mapping[str, Any]]]`):
            Beliefs of each row, from [`freeze_beliefs`].
        pad_token_id (`int`):
            Token of the padding.
        batch_size (`int`, *optional*, defaults to `32`):
            Beliefs a forward pass takes.

    Returns:
        `list[list[float]]`: Mean log pi_y a token of each belief, in nats, of the rows that have one.
    """
    flat = [belief for row in beliefs for belief in row]
    scores = iter(
        score_rows_together(model, flat, pad_token_id=pad_token_id, batch_size=batch_size, desc="Scoring beliefs")
    )
    return [[fmean(next(scores).logps) for _ in row] for row in beliefs if row]


def _thirds(rows: Sequence[Any], logps: Sequence[float]) -> dict[str, list[Any]]:
    """Rows by falling log-probability; where their number has no third, `high` and `low` are of the same size."""
    ranked = [rows[i] for i in sorted(range(len(rows)), key=lambda i: -logps[i])]
    first, second = round(len(rows) / 3), round(2 * len(rows) / 3)
    return {"high": ranked[:first], "middle": ranked[first:second], "low": ranked[second:]}


@dataclass
class SqueezingPanel:
    """
    Responses to some forget prompts, frozen before training, to follow how likely a model finds them.

    The bands are `target` (the true answer), `high`, `middle` and `low` (thirds of the original model's own responses
    beside it, by their mean log-probability), and, where the rows have them, `paraphrase` and `wrong` answers.

    Args:
        bands (`dict[str, list[list[dict]]]`):
            Band -> encoded rows of each prompt, at least one.
        pad_token_id (`int`):
            Token of the padding.
        batch_size (`int`, *optional*, defaults to `32`):
            Rows a forward pass takes.
    """

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
        pad_token_id: int,
        seed: int,
        batch_size: int | None = None,
    ) -> Self:
        """
        Sample responses at temperature 1, rank each prompt's by mean log-probability, and cut them into thirds.

        Kept are distinct responses that do not repeat the answer: that its probability falls is forgetting, not
        squeezing. A prompt with fewer than three of them has no thirds and counts in the other bands only.

        Args:
            model ([`~transformers.PreTrainedModel`]):
                Model before unlearning, not wrapped.
            tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
                Its tokenizer.
            rows (`Sequence[Mapping[str, Any]]`):
                Forget rows of any of the four forms, with `paraphrased_answer` (`str`) and `perturbed_answer`
                (`list[str]`, wrong answers) if they have them.
            num_prompts (`int`, *optional*, defaults to `16`):
                Number of prompts, evenly spaced among the rows; all rows if there are fewer.
            num_candidates (`int`, *optional*, defaults to `12`):
                Number of samples a prompt, at least 3.
            max_new_tokens (`int`):
                Longest response, in tokens; never more than the longest answer of these prompts.
            pad_token_id (`int`):
                Token of the padding.
            seed (`int`):
                Seed of the samples; a prompt's samples depend on it and on the row's index only.
            batch_size (`int`, *optional*):
                Rows a forward pass and a `generate` call take. `None`: 32, and chosen from memory.

        Returns:
            [`SqueezingPanel`]: The panel, the same in every process.

        Raises:
            `ValueError`: If a number is too small, a row cannot be encoded, or no prompt has three responses.

        Source: LLM Unlearning with LLM Beliefs (https://huggingface.co/papers/2510.19422), section 3.
        """
        if num_prompts < 1 or num_candidates < 3:
            raise ValueError(
                f"`num_prompts` is {num_prompts} and `num_candidates` is {num_candidates}. Give at least 1 prompt and "
                "3 candidates, to cut into thirds."
            )
        encoded = encode_set(rows, tokenizer, name="forget")
        chosen = spread_evenly(len(encoded.answers), num_prompts)
        targets = [encoded.answers[index] for index in chosen]
        keys = [[(seed, 1, index, j) for j in range(num_candidates)] for index in chosen]
        end_ids, candidates = eos_token_ids(model, tokenizer, targets), []
        for prompt, answer, samples in sample_responses(
            model,
            tokenizer,
            targets,
            keys,
            max_new_tokens=max_new_tokens,
            pad_token_id=pad_token_id,
            batch_size=batch_size,
            desc="Sampling responses of the original model",
        ):
            found = distinct_beside(answer, samples, end_ids)
            if len(found) >= 3:
                candidates.append([continuation_row(prompt, ids) for ids in found])
        if not candidates:
            raise ValueError(
                f"None of {len(chosen)} forget prompts has three distinct responses beside its answer among "
                f"{num_candidates} samples: the model knows the answers too well. Raise `num_candidates`."
            )
        panel = cls(bands={}, pad_token_id=pad_token_id, batch_size=batch_size or 32)
        logps = iter(panel._mean_logps(model, [row for found in candidates for row in found]))
        thirds = [_thirds(found, [next(logps) for _ in found]) for found in candidates]
        panel.bands["target"] = [[answer_row(row)] for row in targets]
        for name in ("high", "middle", "low"):
            panel.bands[name] = [third[name] for third in thirds]
        if encoded.paraphrases is not None:
            panel.bands["paraphrase"] = [[encoded.paraphrases[index]] for index in chosen]
        if encoded.wrong is not None:
            panel.bands["wrong"] = [encoded.wrong[index] for index in chosen]
        return panel

    def _mean_logps(self, model: nn.Module, rows: list[dict[str, Any]]) -> list[float]:
        scores = score_rows_together(
            model, rows, pad_token_id=self.pad_token_id, batch_size=self.batch_size, desc="Scoring responses"
        )
        return [fmean(score.logps) for score in scores]

    def measure(self, model: nn.Module) -> dict[str, float]:
        """
        Mean log-probability of each band under a model, from one pass over all rows.

        Args:
            model (`torch.nn.Module`):
                Model in question; its training mode is put back afterwards.

        Returns:
            `dict[str, float]`: Band -> mean over prompts of the mean over the prompt's rows, in nats per token.
        """
        flat = [row for band in self.bands.values() for rows in band for row in rows]
        logps = iter(self._mean_logps(model, flat))
        means = {name: [fmean([next(logps) for _ in rows]) for rows in band] for name, band in self.bands.items()}
        return {name: fmean(of_prompts) for name, of_prompts in means.items()}


def squeezing_index(history: Sequence[Mapping[str, float | None]]) -> float:
    """
    How much likelier the model's own high-likelihood responses became while the true answer was pushed down.

    It is the largest rise of the high band's mean log-probability above its start, among the measurements at which the
    target's is below its start. A measurement that is not finite (`None` in JSON) does not count.

    Args:
        history (`Sequence[Mapping[str, float | None]]`):
            Measurements in order, with `target` and `high` in nats per token; the first is from before training.

    Returns:
        `float`: In nats per token; 0.0 where the target never fell, or the high band never rose meanwhile.
    """
    known = [{name: math.nan if value is None else value for name, value in entry.items()} for entry in history]
    # A comparison with NaN is false.
    rises = [entry["high"] - known[0]["high"] for entry in known if entry["target"] < known[0]["target"]]
    return max((rise for rise in rises if rise > 0), default=0.0)
