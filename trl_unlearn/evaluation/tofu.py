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

"""TOFU's metrics of one model: what is scored, what is generated, and the values of each row."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import closing_token_id, encode_dataset, encode_row, padding_token_id, warn_of_other_prompt
from ..generation import Completion, eos_token_ids
from ..metrics import (
    ExactMemorization,
    ExtractionStrength,
    NormalizedProbability,
    Probability,
    RougeRecall,
    TruthRatio,
)
from ..row_forms import answer_text, has_answer, with_answer, with_template_kwargs
from ..token_scores import RowScore
from .sharing import generate_together, score_rows_together
from .uncertainty import where_measured


@dataclass
class EvaluationRows:
    """
    The rows to evaluate on, of any of the four dataset forms.

    Rows may carry `paraphrased_answer` (`str`) and `perturbed_answer` (`list[str]`, wrong answers of the same form).
    What cannot be computed without them, or without a set, is left out of the result.

    Args:
        forget ([`~datasets.Dataset`] or `list[dict]`):
            What was to be forgotten.
        retain ([`~datasets.Dataset`] or `list[dict]`, *optional*):
            What was to be kept.
        real_authors, world_facts ([`~datasets.Dataset`] or `list[dict]`, *optional*):
            General knowledge, for model utility.
        holdout ([`~datasets.Dataset`] or `list[dict]`, *optional*):
            Rows like those of the forget set that no model was trained on, for membership attacks.
    """

    forget: Dataset | list[dict[str, Any]]
    retain: Dataset | list[dict[str, Any]] | None = None
    real_authors: Dataset | list[dict[str, Any]] | None = None
    world_facts: Dataset | list[dict[str, Any]] | None = None
    holdout: Dataset | list[dict[str, Any]] | None = None


@dataclass(kw_only=True)
class SuiteSetting:
    """
    What is the same for every model that a suite measures.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of all models.
        batch_size (`int`, *optional*):
            Rows a forward pass and a `generate` call take. `None`: 32, and chosen from memory.
        seed (`int`):
            Seed of what is drawn.
    """

    tokenizer: PreTrainedTokenizerBase
    batch_size: int | None
    seed: int

    @property
    def pad_token_id(self) -> int:
        """`int`: Token of the padding."""
        return padding_token_id(self.tokenizer)

    @property
    def score_batch_size(self) -> int:
        """`int`: Rows a forward pass takes."""
        return self.batch_size or 32


@dataclass
class EncodedSet:
    """
    One row set, encoded once for all models.

    Args:
        name (`str`):
            `"forget"`, `"retain"`, `"real_authors"`, `"world_facts"` or `"holdout"`.
        answers (`list[dict]`):
            Encoded rows with the true answer.
        closed (`list[bool]`):
            Whether the last label of a row is an end-of-turn token.
        texts (`list[str]`, *optional*):
            Text of the answers; `None` for raw text and tokenised rows, which have no answer to generate.
        paraphrases (`list[dict]`, *optional*):
            Encoded rows with the paraphrased answer.
        wrong (`list[list[dict]]`, *optional*):
            Encoded rows with each wrong answer.
    """

    name: str
    answers: list[dict[str, Any]]
    closed: list[bool]
    texts: list[str] | None = None
    paraphrases: list[dict[str, Any]] | None = None
    wrong: list[list[dict[str, Any]]] | None = None


def _column(rows: list[dict[str, Any]], column: str, name: str) -> list[Any] | None:
    missing = [index for index, row in enumerate(rows) if not row.get(column)]
    if len(missing) == len(rows):
        return None
    if missing:
        raise ValueError(
            f"Row {missing[0]} of the {name} set has no `{column}`, but other rows have one ({len(missing)} of "
            f"{len(rows)} lack it). Give every row one, or remove the column."
        )
    return [row[column] for row in rows]


def _refuse_types(column: str, values: list[Any], expected: type, name: str) -> None:
    wrong = next((type(value).__name__ for value in values if not isinstance(value, expected)), None)
    if wrong is not None:
        raise ValueError(
            f"The {name} set has `{column}` with a value of type `{wrong}`, expected `{expected.__name__}`: "
            "`paraphrased_answer` is a string, `perturbed_answer` a list of strings. Convert the column."
        )


def rows_as_trained(rows: Dataset, tokenizer: PreTrainedTokenizerBase, args: Any, *, name: str) -> Dataset:
    """
    Rows of an evaluation with what a run made of its own: whoever encodes them gets the tokens of the training.

    Args:
        rows ([`~datasets.Dataset`]):
            Rows of one of the four forms.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the models.
        args ([`BootstrapUnlearnConfig`] or [`~trl_unlearn.scripts.suites.SuiteArguments`]):
            Where `chat_template_kwargs`, `prompt_length` and `dataset_text_field` are. `None` is the default.
        name (`str`):
            What the rows are, for messages.

    Returns:
        [`~datasets.Dataset`]: The rows with `chat_template_kwargs`. Those of a set without answers (raw text,
        tokenised rows) are encoded, whole.

    Raises:
        `ValueError`: If a row cannot be encoded.
    """
    rows = with_template_kwargs(rows, args.chat_template_kwargs)
    if all(map(has_answer, rows)):
        return rows
    given = {"prompt_length": args.prompt_length, "text_field": args.dataset_text_field}
    given = {option: value for option, value in given.items() if value is not None}
    return encode_dataset(rows, tokenizer, name=name, **given)


def encode_set(rows: Iterable[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, *, name: str) -> EncodedSet:
    """
    Encode a row set with its paraphrased and wrong answers.

    Args:
        rows (`Iterable[Mapping[str, Any]]`):
            Rows of one of the four forms.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the models.
        name (`str`):
            What the rows are, for messages and metric names.

    Returns:
        [`EncodedSet`]: The encoded rows.

    Raises:
        `ValueError`: If the set is empty, a row cannot be encoded, or only some rows have paraphrased or wrong
        answers;
            names the row by index.
    """
    rows = [{key: value for key, value in row.items() if value is not None} for row in rows]
    if not rows:
        raise ValueError(f"The {name} set is empty. Give at least one row; check the split and the config name.")

    def encode(index: int, row: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return encode_row(row, tokenizer)
        except ValueError as error:
            raise ValueError(f"Row {index} of the {name} set {error}") from None

    answers = [encode(index, row) for index, row in enumerate(rows)]
    warn_of_other_prompt(rows[0], tokenizer, name)
    closed = [closing_token_id(row, tokenizer) is not None for row in answers]
    encoded = EncodedSet(name=name, answers=answers, closed=closed)
    if not all(map(has_answer, rows)):
        return encoded
    encoded.texts = [answer_text(row) for row in rows]
    paraphrases, wrong = _column(rows, "paraphrased_answer", name), _column(rows, "perturbed_answer", name)
    _refuse_types("paraphrased_answer", paraphrases or [], str, name)
    # A string is a sequence of strings, too: each of its characters would be a wrong answer.
    _refuse_types("perturbed_answer", wrong or [], list, name)
    for texts in wrong or []:
        _refuse_types("perturbed_answer", texts, str, name)
    if paraphrases is not None:
        encoded.paraphrases = [
            encode(index, with_answer(row, text))
            for index, (row, text) in enumerate(zip(rows, paraphrases, strict=True))
        ]
    if wrong is not None:
        encoded.wrong = [
            [encode(index, with_answer(row, text)) for text in texts]
            for index, (row, texts) in enumerate(zip(rows, wrong, strict=True))
        ]
    return encoded


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    encoded: EncodedSet,
    *,
    pad_token_id: int,
    max_new_tokens: int,
    batch_size: int | None = None,
) -> list[Completion]:
    """
    Greedy answers of a model to the prompts of a set.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model in question.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        encoded ([`EncodedSet`]):
            Row set.
        pad_token_id (`int`):
            Token of the padding.
        max_new_tokens (`int`):
            Longest answer, in tokens.
        batch_size (`int`, *optional*):
            Rows a `generate` call takes. `None` chooses.

    Returns:
        `list[Completion]`: One answer a row.
    """
    return generate_together(
        model,
        [list(row["input_ids"][: row["prompt_length"]]) for row in encoded.answers],
        pad_token_id=pad_token_id,
        eos_token_ids=eos_token_ids(model, tokenizer, encoded.answers),
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        desc=f"Answering the {encoded.name} set",
    )


def strict_extraction_strengths(
    model: nn.Module,
    encoded: EncodedSet,
    *,
    pad_token_id: int,
    batch_size: int = 32,
    desc: str | None = None,
    chosen: Sequence[int] | None = None,
) -> list[float]:
    """
    Strict extraction strength of each row, the end-of-turn token left out.

    Args:
        model (`torch.nn.Module`):
            Model in question.
        encoded ([`EncodedSet`]):
            Row set.
        pad_token_id (`int`):
            Token of the padding.
        batch_size (`int`, *optional*, defaults to `32`):
            Rows a forward pass takes.
        desc (`str`, *optional*):
            Label of the progress bar. `None` shows none.
        chosen (`Sequence[int]`, *optional*):
            Indices of the rows that count. `None`: all.

    Returns:
        `list[float]`: In [0, 1], see [`~metrics.ExtractionStrength`]; NaN where scores are not finite.
    """
    chosen = range(len(encoded.answers)) if chosen is None else chosen
    scores = score_rows_together(
        model, [encoded.answers[i] for i in chosen], pad_token_id=pad_token_id, batch_size=batch_size, desc=desc
    )
    is_top1 = _answer_matches(scores, [encoded.closed[i] for i in chosen])
    return where_measured(ExtractionStrength().compute(is_top1=is_top1, parity="strict")["per_row"], scores)


def _answer_matches(scores: Sequence[RowScore], closed: Sequence[bool]) -> list[list[bool]]:
    """Whether each token of each answer is the most likely one, the end-of-turn token left out."""
    return [score.is_top1[:-1] if ends else score.is_top1 for score, ends in zip(scores, closed, strict=True)]


def score_set(
    model: nn.Module, encoded: EncodedSet, *, parity: str, pad_token_id: int, batch_size: int = 32
) -> dict[str, list[float]]:
    """
    Teacher-forced metrics of a set, from one pass over true, paraphrased and wrong answers.

    Args:
        model (`torch.nn.Module`):
            Model in question.
        encoded ([`EncodedSet`]):
            Row set.
        parity (`str`):
            `"open-unlearning"` or `"strict"`.
        pad_token_id (`int`):
            Token of the padding.
        batch_size (`int`, *optional*, defaults to `32`):
            Rows a forward pass takes.

    Returns:
        `dict[str, list[float]]`: Metric name -> value of each row, NaN where scores are not finite.
        `<set>/log_ratio` is the log R of forget quality.
    """
    name = encoded.name
    flat = [*encoded.answers, *(encoded.paraphrases or []), *(row for rows in encoded.wrong or [] for row in rows)]
    scores = score_rows_together(
        model, flat, pad_token_id=pad_token_id, batch_size=batch_size, desc=f"Scoring the {name} set"
    )
    answers = scores[: len(encoded.answers)]
    means = iter([fmean(score.logps) for score in scores[len(answers) :]])
    paraphrase_logps = [next(means) for _ in encoded.paraphrases or []]
    wrong_logps = [[next(means) for _ in rows] for rows in encoded.wrong or []]
    logps = [score.logps for score in answers]

    values = {f"{name}/probability": Probability().compute(logps=logps)["per_row"]}
    if name == "forget":
        is_top1 = _answer_matches(answers, encoded.closed)
        memorized = ExactMemorization().compute(is_top1=is_top1)["per_row"]
        strengths = ExtractionStrength().compute(is_top1=is_top1, parity=parity)["per_row"]
        values["forget/exact_memorization"] = where_measured(memorized, answers)
        values["forget/extraction_strength"] = where_measured(strengths, answers)
        if paraphrase_logps:
            paraphrase = Probability().compute(logps=[[logp] for logp in paraphrase_logps])
            values["forget/paraphrase_probability"] = paraphrase["per_row"]

    # General facts have no paraphrase: their answer is a name, and wrong answers are other names.
    general = name not in ("forget", "retain")
    true_logps = [fmean(row) for row in logps] if general else paraphrase_logps
    if not (wrong_logps and true_logps):
        return values
    ratio = TruthRatio().compute(true_logps=true_logps, wrong_logps=wrong_logps, parity=parity)["per_row"]
    if name == "forget":
        values["forget/truth_ratio"] = ratio["truth_ratio"]
        values["forget/truth_ratio_knowledge"] = ratio["truth_ratio_knowledge"]
        values["forget/log_ratio"] = ratio["log_ratio"]
    else:
        values[f"{name}/truth_ratio"] = ratio["truth_ratio_utility"]
    if general:
        choices = NormalizedProbability().compute(true_logps=true_logps, wrong_logps=wrong_logps)
        values[f"{name}/probability"] = choices["per_row"]
    return values


def rouge_values(
    answers: Sequence[Completion], encoded: EncodedSet, tokenizer: PreTrainedTokenizerBase
) -> dict[str, list[float]]:
    """
    ROUGE-L recall of generated answers.

    Args:
        answers (`Sequence[Completion]`):
            Greedy answers, one a row.
        encoded ([`EncodedSet`]):
            Row set with the text of the true answers.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer to decode with.

    Returns:
        `dict[str, list[float]]`: `<set>/rougeL_recall` -> value of each row, NaN where scores are not finite.
    """
    texts = [tokenizer.decode(answer.ids, skip_special_tokens=True).strip() for answer in answers]
    recall = RougeRecall().compute(predictions=texts, references=encoded.texts)
    return {f"{encoded.name}/rougeL_recall": where_measured(recall["per_row"], answers)}
