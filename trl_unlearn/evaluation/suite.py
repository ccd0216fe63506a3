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

"""Target, unlearned and retrained model side by side: one [`EvaluationResult`]."""

import gc
import math
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..generation import Completion
from ..metrics import FluencyStandin, ForgetQuality, Squeezing
from ..records import MODEL_ROLES, PARITIES, EvaluationResult, Measurement
from .sharing import score_rows_together
from .squeezing import belief_logps, continuation_row, freeze_beliefs
from .tofu import (
    EncodedSet,
    EvaluationRows,
    aggregate_values,
    encode_set,
    generate_answers,
    rouge_values,
    score_set,
)


FLUENCY_LENGTH = 32
# Terms of other metrics: in `per_row`, but no line of the table.
_TERMS = ("forget/log_ratio", "real_authors/", "world_facts/")
_LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets")


@dataclass
class EvaluationOutcome:
    """
    What an evaluation measured, and the numbers behind the means.

    Args:
        result ([`EvaluationResult`]):
            The record that is written to `eval_results.json`.
        per_row (`dict[str, dict[str, list[float]]]`):
            Model -> metric -> value of each row. Besides the metrics of the result: `forget/log_ratio` (log R, in
            nats) and the terms of model utility on real authors and world facts.
    """

    result: EvaluationResult
    per_row: dict[str, dict[str, list[float]]]


@dataclass
class _Setting:
    """What is the same for every model of an evaluation."""

    tokenizer: PreTrainedTokenizerBase
    sets: dict[str, EncodedSet]
    parity: str
    batch_size: int | None
    max_completion_length: int
    num_squeezing_beliefs: int
    seed: int

    @property
    def pad_token_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id if pad is None else pad

    @property
    def score_batch_size(self) -> int:
        return self.batch_size or 32


def _measure(values: list[float]) -> Measurement:
    stderr = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    return Measurement(value=float(np.mean(values)), n=len(values), stderr=stderr)


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _text_ids(answer: Completion) -> list[int]:
    return answer.ids[: -1 if answer.ended else None][:FLUENCY_LENGTH]


def _run_model(model: PreTrainedModel, setting: _Setting) -> tuple[dict[str, list[float]], list[Completion]]:
    """Values of each row of every set, and the greedy answers to the forget set (none for rows without an answer)."""
    values, forget_answers = {}, []
    for name, encoded in setting.sets.items():
        values |= score_set(
            model,
            encoded,
            parity=setting.parity,
            pad_token_id=setting.pad_token_id,
            batch_size=setting.score_batch_size,
        )
        if encoded.texts is None:
            continue
        answers = generate_answers(
            model,
            setting.tokenizer,
            encoded,
            pad_token_id=setting.pad_token_id,
            max_new_tokens=setting.max_completion_length,
            batch_size=setting.batch_size,
        )
        values |= rouge_values(answers, encoded, setting.tokenizer)
        if name == "forget":
            forget_answers = answers
    return values, forget_answers


def _fluency(
    target: PreTrainedModel, answers: dict[str, list[Completion]], setting: _Setting
) -> dict[str, list[float]]:
    """Fluency of each model's answers to the forget set, judged by the target."""
    prompts = [row["input_ids"][: row["prompt_length"]] for row in setting.sets["forget"].answers]
    ids = {role: [_text_ids(answer) for answer in found] for role, found in answers.items()}
    logps = {}
    for role, texts in ids.items():
        rows = [continuation_row(prompt, text) for prompt, text in zip(prompts, texts, strict=True) if text]
        scores = iter(
            score_rows_together(
                target,
                rows,
                pad_token_id=setting.pad_token_id,
                batch_size=setting.score_batch_size,
                desc=f"Judging the fluency of {role}",
            )
        )
        logps[role] = [next(scores).logps if text else [] for text in texts]
    metric, vocab_size = FluencyStandin(), len(setting.tokenizer)
    return {
        role: metric.compute(ids=ids[role], logps=logps[role], own_logps=logps["target"], vocab_size=vocab_size)[
            "per_row"
        ]
        for role in answers
    }


def _run_models(
    models: Mapping[str, Callable[[], PreTrainedModel]], setting: _Setting
) -> tuple[dict[str, dict[str, list[float]]], dict[str, str]]:
    """Values of each row, model by model, and what is to be known of the target: its dtype and device."""
    per_row, answers, frozen, info = {}, {}, [], {}
    before: list[list[float]] = []
    for role, load in models.items():
        model = load()
        if role == "target":
            info = {"dtype": str(model.dtype).removeprefix("torch."), "device": str(model.device.type)}
            frozen = freeze_beliefs(
                model,
                setting.tokenizer,
                setting.sets["forget"].answers,
                num_beliefs=setting.num_squeezing_beliefs,
                max_new_tokens=setting.max_completion_length,
                pad_token_id=setting.pad_token_id,
                seed=setting.seed,
                batch_size=setting.batch_size,
            )
        per_row[role], answers[role] = _run_model(model, setting)
        if any(frozen):
            now = belief_logps(model, frozen, pad_token_id=setting.pad_token_id, batch_size=setting.score_batch_size)
            before = before or now
            per_row[role]["forget/squeezing"] = Squeezing().compute(now=now, before=before)["per_row"]
        del model
        _free_memory()
    if answers["target"]:
        # Loaded a second time rather than kept: only one model has to fit in memory.
        for role, values in _fluency(models["target"](), answers, setting).items():
            per_row[role]["utility/fluency_standin"] = values
        _free_memory()
    return per_row, info


def _summarise(per_row: Mapping[str, Mapping[str, list[float]]]) -> dict[str, dict[str, Measurement]]:
    """Means with their standard errors, aggregates, and forget quality against the retrained model."""
    measured = {}
    reference = per_row.get("retrained", {}).get("forget/log_ratio")
    for role, values in per_row.items():
        found = {name: _measure(row_values) for name, row_values in values.items()}
        aggregates = aggregate_values({name: measurement.value for name, measurement in found.items()})
        found |= {name: Measurement(value=value) for name, value in aggregates.items()}
        if reference is not None:
            quality = ForgetQuality().compute(unlearned=values["forget/log_ratio"], retrained=reference)
            found |= {f"forget_quality/{name}": Measurement(value=value) for name, value in quality.items()}
        measured[role] = {name: value for name, value in found.items() if not name.startswith(_TERMS)}
    return measured


def _check(
    models: Mapping[str, Callable[[], PreTrainedModel] | None], parity: str, num_squeezing_beliefs: int
) -> None:
    if parity not in PARITIES:
        raise ValueError(f"`parity` is {parity!r}. Choose one of {list(PARITIES)}.")
    unknown = sorted(set(models) - set(MODEL_ROLES))
    if unknown:
        raise ValueError(
            f"`models` has the keys {unknown}. Expected some of {list(MODEL_ROLES)}: rename or remove them."
        )
    if models.get("target") is None:
        raise ValueError(
            f"`models` has no `target` (keys: {sorted(models)}). Give the model before unlearning: squeezing and "
            "fluency are measured against it."
        )
    if num_squeezing_beliefs < 1:
        raise ValueError(f"`num_squeezing_beliefs` is {num_squeezing_beliefs}. Give at least 1 sample a forget row.")


def evaluate_models(
    models: Mapping[str, Callable[[], PreTrainedModel] | None],
    rows: EvaluationRows,
    tokenizer: PreTrainedTokenizerBase,
    *,
    parity: str = "open-unlearning",
    batch_size: int | None = None,
    max_completion_length: int = 200,
    num_squeezing_beliefs: int = 4,
    seed: int = 42,
) -> EvaluationOutcome:
    """
    Run the TOFU suite on a target, an unlearned and a retrained model.

    What a row set has no columns for is left out of the result: paraphrase probability needs `paraphrased_answer`,
    truth ratios, forget quality and Mem `perturbed_answer` too, model utility and Util `real_authors` and
    `world_facts`, generated answers a prompt. Fluency is [`~metrics.FluencyStandin`] (`utility/fluency_standin`, which
    Util uses); the classifier of published numbers is not wired up yet.

    Args:
        models (`Mapping[str, Callable]`):
            `"target"` (required), `"unlearned"` and `"retrained"` -> function without arguments that loads the model.
            They are loaded one after another and dropped after use; the target a second time at the end, to judge
            fluency. `None` leaves a model out.
        rows ([`~evaluation.tofu.EvaluationRows`]):
            Row sets.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of all models.
        parity (`str`, *optional*, defaults to `"open-unlearning"`):
            `"open-unlearning"` for numbers to put beside published ones, or `"strict"`.
        batch_size (`int`, *optional*):
            Rows a forward pass and a `generate` call take. `None`: 32, and chosen from memory.
        max_completion_length (`int`, *optional*, defaults to `200`):
            Longest generated answer or belief, in tokens.
        num_squeezing_beliefs (`int`, *optional*, defaults to `4`):
            Samples of the target a forget row for `forget/squeezing`.
        seed (`int`, *optional*, defaults to `42`):
            Seed of these samples.

    Returns:
        [`EvaluationOutcome`]: The result with number of rows and standard error (standard deviation / sqrt(n)) of
        every mean, and the values of each row.

    Raises:
        `ValueError`: If `target` is missing, a name or option is unknown, or a row cannot be encoded.
    """
    _check(models, parity, num_squeezing_beliefs)
    given = {
        "forget": rows.forget,
        "retain": rows.retain,
        "real_authors": rows.real_authors,
        "world_facts": rows.world_facts,
    }
    setting = _Setting(
        tokenizer=tokenizer,
        sets={name: encode_set(found, tokenizer, name=name) for name, found in given.items() if found is not None},
        parity=parity,
        batch_size=batch_size,
        max_completion_length=max_completion_length,
        num_squeezing_beliefs=num_squeezing_beliefs,
        seed=seed,
    )
    per_row, info = _run_models({role: models[role] for role in MODEL_ROLES if models.get(role)}, setting)
    protocol = {
        "parity": parity,
        "rows": {name: len(encoded.answers) for name, encoded in setting.sets.items()},
        "max_completion_length": max_completion_length,
        "num_squeezing_beliefs": num_squeezing_beliefs,
        "fluency_source": "standin",
        "seed": seed,
        "dtype": info["dtype"],
    }
    environment = {
        "python": platform.python_version(),
        **{library: version(library) for library in _LIBRARIES},
        "device": info["device"],
    }
    result = EvaluationResult(
        parity=parity, suites=["tofu"], models=_summarise(per_row), protocol=protocol, environment=environment
    )
    return EvaluationOutcome(result=result, per_row=per_row)
