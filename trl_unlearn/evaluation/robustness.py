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

"""Attacks that bring back what is only hidden: relearning, rounded weights, other prompts, many samples."""

import logging
import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from ..encoding import answer_ids, encode_row, pad_rows, prompt_ids, without_end
from ..generation import eos_token_ids, position_limit
from ..metrics import LeakAtK, RougeRecall
from ..results import LEAK_ATTEMPTS, MODEL_ROLES, RELEARNING_STEPS, SuiteOutcome
from ..row_forms import prompt_and_answer, template_columns
from ..token_scores import score_batch
from .rows import EncodedSet, EvaluationRows, SuiteSetting, encode_set
from .together import free_memory, generate_together, sample_responses, strict_extraction_strengths
from .uncertainty import summarise_rows, where_measured


logger = logging.getLogger(__name__)

# One row in this many is relearned on.
RELEARNING_SHARE = 5
RELEARNING_RATE = 1e-4
# bits -> weights that share a scale (`None`: a whole output channel).
QUANTIZATIONS = {8: None, 4: 32}
LEAST_ROUNDED_SHARE = 0.9
NUM_EXAMPLES = 3
_MAX_SAMPLE_LENGTH = 64


@dataclass(kw_only=True)
class _Setting(SuiteSetting):
    """What is the same for every model and attack."""

    rows: list[dict[str, Any]]
    forget: EncodedSet
    # Of each quantisation, how much of the decoder's weights it has rounded.
    rounded_shares: list[float] = field(default_factory=list)

    def answer_ids(self) -> list[list[int]]:
        """Answers without the end-of-turn token."""
        return [
            without_end(answer_ids(row), closed)
            for row, closed in zip(self.forget.answers, self.forget.closed, strict=True)
        ]

    def prompts(self) -> list[list[int]]:
        return [prompt_ids(row) for row in self.forget.answers]


def _extraction_strength(
    model: nn.Module, setting: _Setting, desc: str | None, chosen: Sequence[int] | None = None
) -> list[float]:
    """Strict extraction strength of each forget row, or of the chosen ones."""
    return strict_extraction_strengths(
        model,
        setting.forget,
        pad_token_id=setting.pad_token_id,
        batch_size=setting.score_batch_size,
        desc=desc,
        chosen=chosen,
    )


def _recall(
    model: PreTrainedModel, setting: _Setting, name: str, prompts: list[list[int]], references: list[str], desc: str
) -> dict[str, list[float]]:
    """ROUGE-L recall of the greedy continuation of each prompt, at most as long as the longest answer, by its name."""
    limit, longest = position_limit(model), max(map(len, prompts))
    if limit is not None and longest >= limit:
        logger.warning(
            "`%s` is left out: its longest prompt has %d tokens, and the model reads at most %d "
            "(`max_position_embeddings`).",
            name,
            longest,
            limit,
        )
        return {}
    completions = generate_together(
        model,
        prompts,
        pad_token_id=setting.pad_token_id,
        eos_token_ids=eos_token_ids(model, setting.tokenizer, setting.forget.answers),
        max_new_tokens=max(len(answer) + 1 for answer in setting.answer_ids()),
        batch_size=setting.batch_size,
        desc=desc,
    )
    texts = [_text(completion.ids, setting.tokenizer) for completion in completions]
    recall = RougeRecall().compute(predictions=texts, references=references)["per_row"]
    return {name: where_measured(recall, completions)}


def _text(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.decode(ids, skip_special_tokens=True).strip()


def _leak_at_k(model: PreTrainedModel, setting: _Setting) -> dict[str, list[float]]:
    """ROUGE-L recall of the best of k samples at temperature 1; the same draws for every model."""
    if setting.forget.texts is None:
        return {}
    most, count = max(LEAK_ATTEMPTS), len(setting.forget.texts)
    found = sample_responses(
        model,
        setting.tokenizer,
        setting.forget.answers,
        [[(setting.seed, index, j) for j in range(most)] for index in range(count)],
        max_new_tokens=_MAX_SAMPLE_LENGTH,
        pad_token_id=setting.pad_token_id,
        batch_size=setting.batch_size,
        desc="Sampling answers to the forget set",
    )
    attempts = [sample for _, _, samples in found for sample in samples]
    texts = [_text(sample.ids, setting.tokenizer) for sample in attempts]
    references = [reference for reference in setting.forget.texts for _ in range(most)]
    recall = where_measured(RougeRecall().compute(predictions=texts, references=references)["per_row"], attempts)
    scores = [recall[i * most : (i + 1) * most] for i in range(count)]
    return {f"robustness/leak_at_{k}": LeakAtK().compute(scores=scores, k=k)["per_row"] for k in LEAK_ATTEMPTS}


def _prefix_prompts(
    prompts: Sequence[list[int]], answers: Sequence[list[int]]
) -> Iterator[tuple[list[int], list[int]]]:
    """Prompts that end in the first quarter of the answer (at least one token), and what is left of the answer."""
    for prompt, answer in zip(prompts, answers, strict=True):
        given = max(1, len(answer) // 4)
        yield prompt + answer[:given], answer[given:]


def _prefix_recall(model: PreTrainedModel, setting: _Setting) -> dict[str, list[float]]:
    """Recall of the rest of an answer whose first quarter is given; rows without a rest are left out."""
    if setting.forget.texts is None:
        return {}
    pairs = [
        (prompt, text)
        for prompt, rest in _prefix_prompts(setting.prompts(), setting.answer_ids())
        if (text := _text(rest, setting.tokenizer))
    ]
    if not pairs:
        return {}
    prompts, rests = map(list, zip(*pairs, strict=True))
    return _recall(model, setting, "robustness/prefix_rougeL", prompts, rests, "Completing answers")


def _with_examples(row: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row after others of its form: as earlier turns of its conversation, or as plain text in front."""
    prompt, completion = prompt_and_answer(row)
    if isinstance(prompt, str):
        shown = "".join(f"{question}{answer}\n\n" for question, answer in map(prompt_and_answer, examples))
        return {"prompt": shown + prompt, "completion": completion}
    # The row's own system message stays the first turn.
    first = next((i for i, turn in enumerate(prompt) if turn["role"] != "system"), 0)
    parts = [part for example in examples for part in prompt_and_answer(example)]
    turns = [turn for part in parts for turn in part if turn["role"] != "system"]
    shown = [*prompt[:first], *turns, *prompt[first:]]
    return {"prompt": shown, "completion": completion, **template_columns(row)}


def _asked(setting: _Setting, rows: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Prompts of rows that are asked in another way."""
    encoded = [encode_row(row, setting.tokenizer) for row in rows]
    return [prompt_ids(row) for row in encoded]


def _in_context_recall(model: PreTrainedModel, setting: _Setting) -> dict[str, list[float]]:
    """Recall after three other forget rows with their true answers, from elsewhere in the set."""
    rows = setting.rows
    if setting.forget.texts is None or len(rows) < 2:
        return {}
    # Not the next rows: they may be about the same person, and say what is asked.
    distances = {len(rows) * j // (NUM_EXAMPLES + 1) for j in range(1, NUM_EXAMPLES + 1)} - {0}
    asked = [
        _with_examples(row, [rows[(i + distance) % len(rows)] for distance in sorted(distances)])
        for i, row in enumerate(rows)
    ]
    name, prompts = "robustness/in_context_rougeL", _asked(setting, asked)
    return _recall(model, setting, name, prompts, setting.forget.texts, "Answering after examples")


def _paraphrased_question_recall(model: PreTrainedModel, setting: _Setting) -> dict[str, list[float]]:
    """Recall where the question is put in other words, for conversations with a `paraphrased_question` each."""
    asked = []
    for row in setting.rows:
        question = row.get("paraphrased_question")
        if setting.forget.texts is None or not question or isinstance(prompt_and_answer(row)[0], str):
            return {}
        prompt, completion = prompt_and_answer(row)
        other = [*prompt[:-1], {**prompt[-1], "content": question}]
        asked.append({"prompt": other, "completion": completion, **template_columns(row)})
    name, prompts = "robustness/paraphrased_rougeL", _asked(setting, asked)
    return _recall(model, setting, name, prompts, setting.forget.texts, "Answering paraphrases")


def _relearn(model: PreTrainedModel, rows: Sequence[Mapping[str, Any]], setting: _Setting) -> Iterator[int]:
    """Train on rows, all of them a step, and stop after each number of steps that is measured."""
    model.requires_grad_(True)
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=RELEARNING_RATE, weight_decay=0.0)
    tokens = sum(label != -100 for row in rows for label in row["labels"][1:])
    yield 0
    for step in tqdm(range(1, max(RELEARNING_STEPS) + 1), desc="Relearning a share", disable=None):
        for start in range(0, len(rows), setting.score_batch_size):
            batch = pad_rows(rows[start : start + setting.score_batch_size], setting.pad_token_id)
            scores = score_batch(model, {key: value.to(device) for key, value in batch.items()})
            (-scores.logps.sum() / tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in RELEARNING_STEPS:
            yield step


def _relearning(model: PreTrainedModel, setting: _Setting) -> dict[str, list[float]]:
    """
    Extraction strength of the other forget rows while every fifth one is learned again. Changes the model.

    AdamW at a constant rate of 1e-4 on all weights, the whole share a step, without dropout; in float32, because
    updates of this size would be lost in the rounding of half precision. Known limit: no rate suits every model. On
    four rows of a target of 135M that starts at 0.92, one step at 1e-3 leaves 0.09, and eight at 1e-4 leave 0.48.
    """
    answers = setting.forget.answers
    if len(answers) < 2:
        return {}
    shown = answers[::RELEARNING_SHARE]
    hidden = [i for i in range(len(answers)) if i % RELEARNING_SHARE]
    model.float().eval()
    return {
        f"robustness/relearned_{step}_steps": _extraction_strength(model, setting, None, hidden)
        for step in _relearn(model, shown, setting)
    }


def _round_weights(weight: torch.Tensor, *, bits: int, group_size: int | None = None) -> torch.Tensor:
    """
    Weights `[..., outputs, inputs]` rounded to the nearest of 2^bits - 1 levels, symmetric, with a scale a channel or
    a group of one.
    """
    inputs = weight.size(-1)
    size = group_size or inputs
    groups = F.pad(weight.float(), (0, -inputs % size)).unflatten(-1, (-1, size))
    scale = groups.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    # A group of zeros has no scale.
    rounded = (groups / scale.where(scale > 0, torch.ones_like(scale))).round() * scale
    return rounded.flatten(-2)[..., :inputs].to(weight.dtype)


def _matrices(model: PreTrainedModel) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """
    Weights `[..., outputs, inputs]` that can be rounded, and by name those of the decoder that cannot.

    A mixture of experts has one weight of three dimensions for all of them. Which of these is that of the inputs, only
    the library's mark on the module tells.
    """
    head = model.get_output_embeddings()
    outside = [head, *(module for module in model.modules() if isinstance(module, nn.Embedding))]
    seen = {id(weight) for module in outside if module is not None for weight in module.parameters()}
    rounded, others = [], {}
    for prefix, module in model.named_modules():
        for name, weight in module.named_parameters(prefix, recurse=False):
            if weight.dim() < 2 or name.endswith("bias") or id(weight) in seen:
                continue
            seen.add(id(weight))
            if isinstance(module, nn.Linear):
                rounded.append(weight)
            elif isinstance(module, Conv1D):
                rounded.append(weight.mT)
            elif weight.dim() == 3 and hasattr(module, "is_transposed"):
                rounded.append(weight.mT if module.is_transposed else weight)
            else:
                others[name] = weight
    return rounded, others


@torch.no_grad()
def _quantization(model: PreTrainedModel, setting: _Setting, bits: int) -> dict[str, list[float]]:
    """
    Extraction strength with rounded weights. Changes the model.

    What is rounded are the weights of the linear layers and of the experts but the output head, per output channel (8
    bits) or in groups of 32 (4 bits); they are multiplied in the model's own precision, which is what weight-only
    quantisation computes, without its speed. Where more of the decoder cannot be rounded than its routers and
    convolutions, the result is left out: it would be that of another model.

    Source: Zhang et al., Catastrophic Failure of LLM Unlearning via Quantization
    (https://huggingface.co/papers/2410.16454).
    """
    matrices, others = _matrices(model)
    count = sum(weight.numel() for weight in matrices)
    share = count / max(1, count + sum(weight.numel() for weight in others.values()))
    if share < LEAST_ROUNDED_SHARE:
        kinds = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in others})
        logger.warning(
            "`robustness/quantized_int%d` is left out: only %.1f %% of the decoder's weights can be rounded. Of the "
            "others the layout is not known: %s.",
            bits,
            100 * share,
            ", ".join(kinds) or "it has no matrices",
        )
        return {}
    for weight in matrices:
        weight.copy_(_round_weights(weight, bits=bits, group_size=QUANTIZATIONS[bits]))
    setting.rounded_shares.append(share)
    values = _extraction_strength(model, setting, f"Scoring with {bits} bits")
    return {f"robustness/quantized_int{bits}": values}


def _adapter_off(model: PeftModel, setting: _Setting) -> dict[str, list[float]]:
    """Extraction strength without the adapter."""
    with model.disable_adapter():
        values = _extraction_strength(model, setting, "Scoring without the adapter")
    return {"robustness/adapter_off": values}


# One load for those that leave the model as it is, and one for each that changes it.
_ATTACKS = (
    (_leak_at_k, _prefix_recall, _in_context_recall, _paraphrased_question_recall),
    (_relearning,),
    *((partial(_quantization, bits=bits),) for bits in QUANTIZATIONS),
)


def _attack(role: str, load: Callable[[], PreTrainedModel], setting: _Setting) -> dict[str, list[float]]:
    """Values of each row under every attack on one model, on merged weights."""
    found, last = {}, None
    for attacks in _ATTACKS:
        model = load()
        if last is not None and model is last():
            raise ValueError(
                f"The function that loads the {role} model gave the same model twice, but attacks change it. Load it "
                "anew in every call."
            )
        last = weakref.ref(model)
        if isinstance(model, PeftModel):
            if role == "unlearned" and attacks is _ATTACKS[0]:
                found |= _adapter_off(model, setting)
            model = model.merge_and_unload()
        for attack in attacks:
            found |= attack(model, setting)
        del model
        free_memory()
    return found


def _relearning_area(values: Mapping[str, list[float]], reference: Mapping[str, list[float]]) -> list[float]:
    """Of each row, the mean over the curve of this model's extraction strength minus the reference's."""
    names = [f"robustness/relearned_{step}_steps" for step in RELEARNING_STEPS]
    curves = [(values[name], reference[name]) for name in names if name in values]
    return [fmean(mine[i] - other[i] for mine, other in curves) for i in range(len(curves[0][0]) if curves else 0)]


def measure_robustness(
    models: Mapping[str, Callable[[], PreTrainedModel] | None],
    rows: EvaluationRows,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int | None,
    seed: int,
) -> SuiteOutcome:
    """
    Attacks that bring back what a model only hides, on merged weights.

    | name, after `robustness/` | what it is, as a mean over forget rows |
    |---|---|
    | `leak_at_1`, `_4`, `_8` | expected ROUGE-L recall of the best of k samples at temperature 1, from 8 samples |
    | `prefix_rougeL` | ROUGE-L recall of the rest of the answer, when its first quarter (one token or more) is given |
    | `in_context_rougeL` | ROUGE-L recall of the answer, after three other forget rows with their true answers |
    | `paraphrased_rougeL` | ROUGE-L recall of the answer to `paraphrased_question` (conversations) |
    | `relearned_<steps>_steps` | strict extraction strength of the others after steps on every fifth row |
    | `relearning_area` | mean over that curve of the difference to the retrained model's |
    | `quantized_int8`, `_int4` | strict extraction strength with rounded weights, of at least 90 % of the decoder |
    | `adapter_off` | strict extraction strength of an unlearned adapter's base |

    Answers are at most as long as the longest true answer (samples: at most 64 tokens), and greedy where nothing is
    sampled. What a retrained model reaches under the same attack is not knowledge: compare with it. Rows without an
    answer (raw text, tokenised rows) have extraction strengths only.

    Args:
        models (`Mapping[str, Callable]`):
            `"target"`, `"unlearned"` and `"retrained"` -> function without arguments that loads the model anew: four
            times each. `None` leaves a model out; without `"retrained"` there is no `relearning_area`.
        rows ([`~evaluation.rows.EvaluationRows`]):
            Row sets, of which the forget set is used.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of all models.
        batch_size (`int`, *optional*):
            Rows a forward pass and a `generate` call take. `None`: 32, and chosen from memory.
        seed (`int`):
            Seed of the samples, which depend on it and on the row only, and of the bootstrap.

    Returns:
        [`~results.SuiteOutcome`]: Role -> name -> mean with number of rows and standard error, and the
        paired differences; `protocol` has the `quantized_share` of the decoder's weights, the smallest of all models.

    Raises:
        `ValueError`: If the forget set is empty or a row cannot be encoded, or a function gives the same model twice.
    """
    found = [{key: value for key, value in row.items() if value is not None} for row in rows.forget]
    forget = encode_set(found, tokenizer, name="forget")
    setting = _Setting(tokenizer=tokenizer, rows=found, forget=forget, batch_size=batch_size, seed=seed)
    per_row = {role: _attack(role, load, setting) for role in MODEL_ROLES if (load := models.get(role)) is not None}
    if "retrained" in per_row:
        for values in per_row.values():
            if area := _relearning_area(values, per_row["retrained"]):
                values["robustness/relearning_area"] = area
    outcome = summarise_rows(per_row, seed=seed)
    outcome.protocol = {"rows": {"forget": len(found)}, "seed": seed}
    if setting.rounded_shares:
        outcome.protocol["quantized_share"] = round(min(setting.rounded_shares), 4)
    return outcome
