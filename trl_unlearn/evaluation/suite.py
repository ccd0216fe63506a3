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
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..generation import Completion
from ..metrics import FluencyStandin, Squeezing
from ..results import MODEL_ROLES, PARITIES, EvaluationResult
from ..token_scores import continuation_row
from .fluency import FluencyClassifier
from .sharing import score_rows_together
from .squeezing import belief_logps, freeze_beliefs
from .tofu import (
    EncodedSet,
    EvaluationRows,
    SuiteSetting,
    encode_set,
    generate_answers,
    rouge_values,
    score_set,
)
from .tofu_summary import summarise_tofu
from .uncertainty import where_measured


FLUENCY_LENGTH = 32
_LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets")


@dataclass
class EvaluationOutcome:
    """
    What an evaluation measured, and the numbers behind the means.

    Args:
        result ([`EvaluationResult`]):
            The record that is written to `eval_results.json`.
        per_row (`dict[str, dict[str, list[float]]]`):
            Model -> metric -> value of each row, NaN where scores are not finite. Besides the metrics of the result:
            `forget/log_ratio` (log R, in nats) and the terms of model utility on real authors and world facts.
    """

    result: EvaluationResult
    per_row: dict[str, dict[str, list[float]]]


@dataclass(kw_only=True)
class _Setting(SuiteSetting):
    """What is the same for every model of an evaluation."""

    sets: dict[str, EncodedSet]
    parity: str
    max_completion_length: int
    num_squeezing_beliefs: int


def library_versions() -> dict[str, str]:
    """
    What an evaluation ran on.

    Returns:
        `dict[str, str]`: Library -> version.
    """
    return {"python": platform.python_version(), **{library: version(library) for library in _LIBRARIES}}


def free_memory() -> None:
    """Give back what a model took that was dropped."""
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


def _answer_logps(
    judge: PreTrainedModel, role: str, answers: list[Completion], setting: _Setting
) -> list[list[float]]:
    """Log-probs of the tokens of a model's answers to the forget set under the target, their ends included."""
    prompts = [row["input_ids"][: row["prompt_length"]] for row in setting.sets["forget"].answers]
    texts = [_text_ids(answer) for answer in answers]
    # A text that was cut has no end to judge.
    ends = [
        answer.ids[-1:] if answer.ended and len(answer.ids) == len(text) + 1 else []
        for answer, text in zip(answers, texts, strict=True)
    ]
    rows = [
        continuation_row(prompt, text + end) for prompt, text, end in zip(prompts, texts, ends, strict=True) if text
    ]
    scores = iter(
        score_rows_together(
            judge,
            rows,
            pad_token_id=setting.pad_token_id,
            batch_size=setting.score_batch_size,
            desc=f"Judging the fluency of {role}",
        )
    )
    return [next(scores).logps if text else [] for text in texts]


@dataclass
class _Target:
    """What every other model is measured against."""

    beliefs: list[list[dict[str, list[int]]]]
    belief_logps: list[list[float]]
    answer_logps: list[list[float]]


def _with_squeezing(
    model: PreTrainedModel, setting: _Setting, beliefs: list[list[dict[str, list[int]]]], before: list[list[float]]
) -> tuple[dict[str, list[float]], list[Completion], list[list[float]]]:
    """Values of each row, the answers to the forget set, and the log-probs of the frozen beliefs."""
    values, answers = _run_model(model, setting)
    if not any(beliefs):
        return values, answers, []
    now = belief_logps(model, beliefs, pad_token_id=setting.pad_token_id, batch_size=setting.score_batch_size)
    values["forget/squeezing"] = Squeezing().compute(now=now, before=before or now)["per_row"]
    return values, answers, now


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


class Suite:
    """
    The TOFU suite with a target and a retrained model that are measured once, for any number of unlearned ones.

    What a row set has no columns for is left out of the result: paraphrase probability needs `paraphrased_answer`,
    truth ratios, forget quality and Mem `perturbed_answer` too, model utility and Util `real_authors` and
    `world_facts`, generated answers a prompt. Fluency, which Util uses, is `utility/fluency` with a classifier, and
    [`~metrics.FluencyStandin`] (`utility/fluency_standin`) without.

    Args:
        models (`Mapping[str, Callable]`):
            `"target"` (required) and `"retrained"` -> function without arguments that loads the model. They are loaded
            one after another and dropped after use; the target again where fluency is judged. `None` leaves a model
            out.
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
        fluency_classifier ([`~evaluation.fluency.FluencyClassifier`], *optional*):
            Who judges the fluency; see [`~evaluation.fluency.load_fluency_classifier`].
        seed (`int`, *optional*, defaults to `42`):
            Seed of these samples, and of the bootstrap.

    Raises:
        `ValueError`: If `target` is missing, a name or option is unknown, or a row cannot be encoded.
    """

    def __init__(
        self,
        models: Mapping[str, Callable[[], PreTrainedModel] | None],
        rows: EvaluationRows,
        tokenizer: PreTrainedTokenizerBase,
        *,
        parity: str = "open-unlearning",
        batch_size: int | None = None,
        max_completion_length: int = 200,
        num_squeezing_beliefs: int = 4,
        fluency_classifier: FluencyClassifier | None = None,
        seed: int = 42,
    ):
        _check(models, parity, num_squeezing_beliefs)
        given = {name: getattr(rows, name) for name in ("forget", "retain", "real_authors", "world_facts")}
        self.setting = _Setting(
            tokenizer=tokenizer,
            sets={name: encode_set(found, tokenizer, name=name) for name, found in given.items() if found is not None},
            parity=parity,
            batch_size=batch_size,
            max_completion_length=max_completion_length,
            num_squeezing_beliefs=num_squeezing_beliefs,
            seed=seed,
        )
        self._load_target = models["target"]
        self._classifier = fluency_classifier
        self._per_row: dict[str, dict[str, list[float]]] = {}
        self._measure_target()
        if models.get("retrained") is not None:
            self._per_row["retrained"] = self._measure("retrained", models["retrained"])

    def _measure_target(self) -> None:
        setting = self.setting
        model = self._load_target()
        self._dtype, self._device = str(model.dtype).removeprefix("torch."), model.device.type
        beliefs = freeze_beliefs(
            model,
            setting.tokenizer,
            setting.sets["forget"].answers,
            num_beliefs=setting.num_squeezing_beliefs,
            max_new_tokens=setting.max_completion_length,
            pad_token_id=setting.pad_token_id,
            seed=setting.seed,
            batch_size=setting.batch_size,
        )
        values, answers, logps = _with_squeezing(model, setting, beliefs, [])
        judged = answers and self._classifier is None
        own = _answer_logps(model, "target", answers, setting) if judged else []
        lengths = [len(_text_ids(answer)) for answer in answers]
        self._target = _Target(beliefs, logps, [row[:length] for row, length in zip(own, lengths, strict=False)])
        del model
        free_memory()
        self._per_row["target"] = values | self._fluency("target", answers, own)

    def _measure(self, role: str, load: Callable[[], PreTrainedModel]) -> dict[str, list[float]]:
        model = load()
        values, answers, _ = _with_squeezing(model, self.setting, self._target.beliefs, self._target.belief_logps)
        del model
        free_memory()
        logps = []
        if answers and self._classifier is None:
            # Loaded again rather than kept: only one model has to fit in memory.
            logps = _answer_logps(self._load_target(), role, answers, self.setting)
            free_memory()
        return values | self._fluency(role, answers, logps)

    def _fluency(self, role: str, answers: list[Completion], logps: list[list[float]]) -> dict[str, list[float]]:
        """Fluency of a model's answers to the forget set, of which there may be none."""
        ids, tokenizer = [_text_ids(answer) for answer in answers], self.setting.tokenizer
        if not answers:
            return {}
        if self._classifier is not None:
            texts = [tokenizer.decode(text, skip_special_tokens=True) for text in ids]
            desc = f"Judging the fluency of {role}"
            found = self._classifier.probabilities(texts, batch_size=self.setting.score_batch_size, desc=desc)
            return {"utility/fluency": where_measured(found, answers)}
        standin = FluencyStandin().compute(
            ids=ids, logps=logps, own_logps=self._target.answer_logps, vocab_size=len(tokenizer)
        )
        return {"utility/fluency_standin": where_measured(standin["per_row"], answers)}

    def evaluate(self, unlearned: Callable[[], PreTrainedModel] | None = None) -> EvaluationOutcome:
        """
        Results of an unlearned model beside the others'.

        Args:
            unlearned (`Callable`, *optional*):
                Function without arguments that loads the model. `None` leaves it out.

        Returns:
            [`EvaluationOutcome`]: The result, with number of rows and standard error of each number and paired
            differences, and the values of each row.
        """
        per_row = dict(self._per_row)
        if unlearned is not None:
            per_row["unlearned"] = self._measure("unlearned", unlearned)
        per_row = {role: per_row[role] for role in MODEL_ROLES if role in per_row}
        setting = self.setting
        protocol = {
            "parity": setting.parity,
            "rows": {name: len(encoded.answers) for name, encoded in setting.sets.items()},
            "max_completion_length": setting.max_completion_length,
            "num_squeezing_beliefs": setting.num_squeezing_beliefs,
            "fluency_source": "standin" if self._classifier is None else self._classifier.name,
            "seed": setting.seed,
            "dtype": self._dtype,
        }
        summary = summarise_tofu(per_row, seed=setting.seed)
        result = EvaluationResult(
            parity=setting.parity,
            suites=["tofu"],
            models=summary.models,
            differences=summary.differences,
            not_measured=summary.not_measured,
            protocol=protocol,
            environment=library_versions() | {"device": self._device},
        )
        return EvaluationOutcome(result=result, per_row=per_row)


def evaluate_models(
    models: Mapping[str, Callable[[], PreTrainedModel] | None],
    rows: EvaluationRows,
    tokenizer: PreTrainedTokenizerBase,
    **options: Any,
) -> EvaluationOutcome:
    """
    Run the TOFU suite once, on a target, an unlearned and a retrained model.

    Args:
        models (`Mapping[str, Callable]`):
            `"target"` (required), `"unlearned"` and `"retrained"` -> function without arguments that loads the model.
        rows, tokenizer, options:
            See [`Suite`].

    Returns:
        [`EvaluationOutcome`]: See [`Suite.evaluate`].

    Raises:
        `ValueError`: See [`Suite`].
    """
    suite = Suite(models, rows, tokenizer, **options)
    return suite.evaluate(models.get("unlearned"))
