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

"""Whole distributions instead of single answers: distance to the retrained model, and forgetting at equal utility."""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import continuation_row
from ..metrics import FADE
from ..results import MODEL_ROLES, Measurement, SuiteOutcome, Unmeasured
from .rows import EncodedSet, EvaluationRows, SuiteSetting, encode_set
from .together import free_memory, sample_responses, score_rows_together, strict_extraction_strengths
from .uncertainty import summarise_rows


logger = logging.getLogger(__name__)

NUM_SAMPLES = 4
MAX_SAMPLE_LENGTH = 64
# Share of the original's retain extraction strength that a mix has to keep.
KEPT_SHARE = 0.95
# How closely the largest share of the unlearned model is found.
MIX_STEP = 1 / 64

# Role -> function without arguments that loads the model.
_Loaders = Mapping[str, Callable[[], PreTrainedModel] | None]
# Set -> encoded samples, `NUM_SAMPLES` a prompt.
_Samples = dict[str, list[dict[str, Any]]]
# Set -> mean log-prob a token of each sample of each prompt.
_MeanLogps = dict[str, list[list[float]]]


@dataclass(kw_only=True)
class _Setting(SuiteSetting):
    """What is the same for every model."""

    sets: dict[str, EncodedSet]


def _sample(model: PreTrainedModel, role: str, setting: _Setting) -> _Samples:
    found = {}
    for name, encoded in setting.sets.items():
        answered = sample_responses(
            model,
            setting.tokenizer,
            encoded.answers,
            [[(setting.seed, index, j) for j in range(NUM_SAMPLES)] for index in range(len(encoded.answers))],
            max_new_tokens=MAX_SAMPLE_LENGTH,
            pad_token_id=setting.pad_token_id,
            batch_size=setting.batch_size,
            desc=f"Sampling {role} on the {name} set",
        )
        found[name] = [continuation_row(prompt, sample.ids) for prompt, _, samples in answered for sample in samples]
    return found


def _mean_logps(model: nn.Module, samples: _Samples, setting: _Setting, desc: str) -> _MeanLogps:
    found = {}
    for name, rows in samples.items():
        scores = score_rows_together(
            model,
            rows,
            pad_token_id=setting.pad_token_id,
            batch_size=setting.score_batch_size,
            desc=f"Scoring {desc} on the {name} set",
        )
        means = [fmean(score.logps) for score in scores]
        found[name] = [means[i : i + NUM_SAMPLES] for i in range(0, len(means), NUM_SAMPLES)]
    return found


def _fade(models: _Loaders, setting: _Setting) -> dict[str, dict[str, list[float]]]:
    """
    FADE of every model against the retrained one: role -> name -> value of each row.

    The log-probs of sampling are not used: those of a forward pass over the same batch are the same numbers for the
    same weights, so that a model is at a distance of exactly 0 from itself.
    """
    model = models["retrained"]()
    samples = {"retrained": _sample(model, "retrained", setting)}
    u_of_u, u_of_r = {}, {}
    for role in MODEL_ROLES:
        if role == "retrained" or models.get(role) is None:
            continue
        del model
        free_memory()
        model = models[role]()
        samples[role] = _sample(model, role, setting)
        u_of_u[role] = _mean_logps(model, samples[role], setting, role)
        u_of_r[role] = _mean_logps(model, samples["retrained"], setting, f"retrained under {role}")
    del model
    free_memory()
    # Loaded again rather than kept: only one model has to fit in memory.
    model = models["retrained"]()
    under_r = {role: _mean_logps(model, rows, setting, f"{role} under retrained") for role, rows in samples.items()}
    del model
    free_memory()
    u_of_u["retrained"] = u_of_r["retrained"] = under_r["retrained"]
    return {
        role: {
            f"distribution/fade_{name}": FADE().compute(
                u_of_u=u_of_u[role][name],
                r_of_u=under_r[role][name],
                u_of_r=u_of_r[role][name],
                r_of_r=under_r["retrained"][name],
            )["per_row"]
            for name in setting.sets
        }
        for role in MODEL_ROLES
        if role in under_r
    }


def _strength(model: nn.Module, encoded: EncodedSet, setting: _Setting, desc: str) -> list[float]:
    return strict_extraction_strengths(
        model, encoded, pad_token_id=setting.pad_token_id, batch_size=setting.score_batch_size, desc=desc
    )


def _load_merged(load: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    # Before merging: what an adapter adds to a weight may be less than its rounding in half precision.
    model = load().float()
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


class _Mix:
    """
    The original, whose weights become those of a mix.

    A rounding of what was mixed before must not stay, so that both ends of every weight that differs are kept, in
    main memory.
    """

    def __init__(self, models: _Loaders):
        model = _load_merged(models["unlearned"])
        unlearned = {name: weight.detach().cpu() for name, weight in model.named_parameters()}
        del model
        free_memory()
        self.model = _load_merged(models["target"]).eval()
        original = dict(self.model.named_parameters())
        self.is_possible = {name: weight.shape for name, weight in original.items()} == {
            name: weight.shape for name, weight in unlearned.items()
        }
        self._changed = []
        for name, weight in original.items() if self.is_possible else ():
            start = weight.detach().to("cpu", copy=True)
            if not torch.equal(start, unlearned[name]):
                self._changed.append((weight, start, unlearned[name]))

    @torch.no_grad()
    def set_share(self, share: float) -> None:
        """Make the weights (1 - share) * original + share * unlearned."""
        for weight, start, end in self._changed:
            # 0 * NaN is NaN.
            weight.copy_(start.lerp(end, share) if share > 0 else start)


def _largest_kept_share(keeps: Callable[[float], bool]) -> float:
    """1 if it keeps, otherwise by bisection a share that keeps, where `MIX_STEP` more does not; 0 is taken to keep."""
    if keeps(1.0):
        return 1.0
    low, high = 0.0, 1.0
    while high - low > MIX_STEP:
        middle = (low + high) / 2
        low, high = (middle, high) if keeps(middle) else (low, middle)
    return low


def _control(models: _Loaders, setting: _Setting) -> tuple[float, list[float]] | None:
    """
    Largest share of the unlearned model that keeps the retain rows, and each forget row's extraction strength; NaN
    where either model has none on the retain rows.
    """
    mix = _Mix(models)
    if not mix.is_possible:
        logger.warning(
            "Unlearning with control is left out: the unlearned model has weights of other names or shapes than the "
            "target, which cannot be mixed."
        )
        return None

    @cache
    def kept(share: float) -> float:
        mix.set_share(share)
        return fmean(_strength(mix.model, setting.sets["retain"], setting, f"Keeping with {share:.3f} unlearned"))

    original = kept(0.0)
    if original == 0:
        logger.warning(
            "Unlearning with control is left out: the target has an extraction strength of 0 on the retain set, of "
            "which nothing can be kept."
        )
        return None
    # A mix with weights that are not finite keeps nothing: the search would end at the target itself.
    if not (math.isfinite(original) and math.isfinite(kept(1.0))):
        return math.nan, [math.nan] * len(setting.sets["forget"].answers)
    share = _largest_kept_share(lambda share: kept(share) >= KEPT_SHARE * original)
    mix.set_share(share)
    return share, _strength(mix.model, setting.sets["forget"], setting, f"Forgetting with {share:.3f} unlearned")


def measure_distribution(
    models: _Loaders,
    rows: EvaluationRows,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int | None,
    seed: int,
) -> SuiteOutcome:
    """
    How far a model is from the retrained one, and what it forgets at equal utility.

    | name, after `distribution/` | what it is |
    |---|---|
    | `fade_forget`, `fade_retain` | [`~metrics.FADE`] against the retrained model, in nats per token, from 4 samples |
    | `control_mix` | largest a at which (1 - a) * target + a * unlearned keeps the retain set |
    | `control_forget_es` | strict extraction strength of that mix on the forget set |

    FADE is a mean over the prompts of a set. Samples are drawn at temperature 1, with the same draws for every model,
    and have at most 64 tokens and as many as the longest true answer of the set; the end-of-turn token counts. The
    retrained model is at 0 from itself, and so is any with its weights.

    A mix keeps the retain set if its mean strict extraction strength there is at least 95 % of the target's. a is 1 if
    the unlearned model itself does; otherwise bisection finds an a to 1/64 that keeps it, where 1/64 more does not.
    The strength need not fall steadily: of several such points it is one, not always the largest. It has no standard
    error, and that of `control_forget_es` is for this a. Merged weights are mixed in float32: those of both models are
    in main memory at once, beside the mix.

    Args:
        models (`Mapping[str, Callable]`):
            `"target"`, `"unlearned"` and `"retrained"` -> function without arguments that loads the model anew: twice
            each. `None` leaves a model out: without `"retrained"` there is no FADE, without `"target"` or
            `"unlearned"` no mix.
        rows ([`~evaluation.rows.EvaluationRows`]):
            Row sets, of which `forget` and `retain` are used; without `retain` there is no mix.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of all models.
        batch_size (`int`, *optional*):
            Rows a forward pass and a `generate` call take. `None`: 32, and chosen from memory.
        seed (`int`):
            Seed of the samples, which depend on it and on the row only, and of the bootstrap.

    Returns:
        [`~results.SuiteOutcome`]: Role -> name -> value with number of rows and, but for `control_mix`,
        standard error, and the paired differences. Absent too, with a warning: the mix of models with other weights,
        and that with a target which has no extraction strength on the retain set.

    Raises:
        `ValueError`: If there is nothing to measure for want of a model or of the retain set, a set is empty, or a row
            cannot be encoded.

    Source: Reference-Specific Unlearning Metrics Can Hide the Truth (https://huggingface.co/papers/2510.12981);
    Towards Effective Evaluations and Comparisons for LLM Unlearning Methods (https://huggingface.co/papers/2406.09179).
    """
    can_mix = rows.retain is not None and all(models.get(role) is not None for role in ("target", "unlearned"))
    if models.get("retrained") is None and not can_mix:
        raise ValueError(
            "The suite `distribution` has nothing to measure: FADE needs a retrained model, and unlearning with "
            "control an unlearned one and a retain set. Give `--retrained_model_name_or_path`, or both of the others."
        )
    given = {"forget": rows.forget, "retain": rows.retain}
    sets = {name: encode_set(found, tokenizer, name=name) for name, found in given.items() if found is not None}
    setting = _Setting(tokenizer=tokenizer, sets=sets, batch_size=batch_size, seed=seed)
    per_row: dict[str, dict[str, list[float]]] = {role: {} for role in MODEL_ROLES if models.get(role) is not None}
    if "retrained" in per_row:
        per_row |= _fade(models, setting)
    controlled = _control(models, setting) if can_mix else None
    free_memory()
    if controlled is not None:
        share, per_row["unlearned"]["distribution/control_forget_es"] = controlled
    outcome = summarise_rows(per_row, seed=seed)
    outcome.protocol = {"rows": {name: len(encoded.answers) for name, encoded in sets.items()}, "seed": seed}
    if controlled is None:
        return outcome
    if math.isfinite(share):
        mix = Measurement(value=share, n=len(sets["retain"].answers))
        outcome.models["unlearned"]["distribution/control_mix"] = mix
    else:
        outcome.not_measured["unlearned"]["distribution/control_mix"] = Unmeasured()
    return outcome
