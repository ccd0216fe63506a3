# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Attacks that bring back what is only hidden: relearning, changed weights, other prompts, many samples."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from statistics import fmean
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..encoding import encode_row, prompt_ids, readable_tokens
from ..metrics import LeakAtK, RougeRecall
from ..results import LEAK_ATTEMPTS, MEASURED_ROLES, NOISE_PERCENT, SuiteOutcome
from ..row_forms import prompt_and_answer, template_columns, with_question
from .facts import fact_recall, rows_with_fact
from .relearning import (
    AttackSetting,
    Curves,
    attack_batches,
    blunt_attacks,
    curves_of,
    excess_areas,
    hidden_rows,
    relearn,
)
from .rows import EvaluationRows, Loaders, row_key, rows_protocol
from .together import SuiteSetting, measure_each
from .uncertainty import summarise_rows


logger = logging.getLogger(__name__)

# bits -> weights that share a scale (`None`: a whole output channel).
QUANTIZATIONS = {8: None, 4: 32}
LEAST_CHANGED_SHARE = 0.9
NUM_EXAMPLES = 3
_MAX_SAMPLE_LENGTH = 64


@dataclass(kw_only=True)
class _Setting(AttackSetting):
    rows: list[dict[str, Any]]
    # For each quantisation of a model, the share of the decoder's weights that it rounded.
    rounded_shares: list[float] = field(default_factory=list)


def _longest_answer(setting: _Setting) -> int:
    return max(len(answer) + 1 for answer in setting.forget.bare_answers())


def _recall(
    model: PreTrainedModel, setting: _Setting, name: str, prompts: list[list[int]], references: list[str], desc: str
) -> dict[str, list[float]]:
    """`name` -> ROUGE-L recall of the greedy continuation of each prompt, at most as long as the longest answer."""
    limit, longest = readable_tokens(model.config), max(map(len, prompts))
    if limit is not None and longest >= limit:
        logger.warning(
            f"`{name}` is left out: its longest prompt has {longest} tokens, and the model reads at most {limit} "
            "(`max_position_embeddings`)."
        )
        return {}
    options = {"max_new_tokens": _longest_answer(setting), "desc": desc}
    completions = setting.generate(model, prompts, setting.forget.answers, **options)
    return {name: setting.overlap(RougeRecall(), completions, references)}


def _leak_at_k(model: PreTrainedModel, setting: _Setting) -> dict[str, list[float]]:
    """ROUGE-L recall of the best of k samples at temperature 1; the same draws for every model."""
    if setting.forget.texts is None:
        return {}
    most, desc = max(LEAK_ATTEMPTS), "Sampling answers to the forget set"
    responses = setting.sample(model, setting.forget.answers, most, max_new_tokens=_MAX_SAMPLE_LENGTH, desc=desc)
    attempts = [sample for _, _, samples in responses for sample in samples]
    references = [reference for reference in setting.forget.texts for _ in range(most)]
    recall = setting.overlap(RougeRecall(), attempts, references)
    scores = [recall[start : start + most] for start in range(0, len(recall), most)]
    return {f"robustness/leak_at_{k}": LeakAtK().compute(scores=scores, k=k)["per_row"] for k in LEAK_ATTEMPTS}


def prefix_prompts(
    prompts: Sequence[list[int]], answers: Sequence[list[int]]
) -> Iterator[tuple[list[int], list[int]]]:
    """Prompts with the first quarter of the answer (at least one token), and the rest of the answer."""
    for prompt, answer in zip(prompts, answers, strict=True):
        given = max(1, len(answer) // 4)
        yield prompt + answer[:given], answer[given:]


def _prefix_recall(model: PreTrainedModel, setting: _Setting) -> dict[str, list[float]]:
    """Recall of the rest of an answer whose first quarter is given, over the rows with a rest."""
    if setting.forget.texts is None:
        return {}
    given = prefix_prompts(setting.forget.prompts(), setting.forget.bare_answers())
    pairs = [(prompt, text) for prompt, rest in given if (text := setting.text(rest))]
    if not pairs:
        return {}
    prompts, rests = map(list, zip(*pairs, strict=True))
    return _recall(model, setting, "robustness/prefix_rougeL", prompts, rests, "Completing answers")


def with_examples(row: Mapping[str, Any], examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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


def _prompts(setting: _Setting, rows: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    encoded = [encode_row(row, setting.tokenizer) for row in rows]
    return [prompt_ids(row) for row in encoded]


def _in_context_recall(model: PreTrainedModel, setting: _Setting) -> dict[str, list[float]]:
    """Recall after three other forget rows with their true answers, from elsewhere in the set."""
    rows = setting.rows
    if setting.forget.texts is None or len(rows) < 2:
        return {}
    # Examples have the form of the row, and are not the next rows: these may be about the same person, and hold the
    # answer.
    forms = [isinstance(prompt_and_answer(row)[0], str) for row in rows]
    shown = {}
    for form in set(forms):
        own = [row for row, one in zip(rows, forms, strict=True) if one == form]
        if len(own) < 2:
            return {}
        distances = sorted({len(own) * j // (NUM_EXAMPLES + 1) for j in range(1, NUM_EXAMPLES + 1)} - {0})
        places = [place for place, one in enumerate(forms) if one == form]
        for i, place in enumerate(places):
            shown[place] = with_examples(own[i], [own[(i + distance) % len(own)] for distance in distances])
    name, prompts = "robustness/in_context_rougeL", _prompts(setting, [shown[place] for place in range(len(rows))])
    return _recall(model, setting, name, prompts, setting.forget.texts, "Answering after examples")


def _paraphrased_question_recall(model: PreTrainedModel, setting: _Setting) -> dict[str, list[float]]:
    """Recall for the question in other words, of conversations that all have a `paraphrased_question`."""
    rephrased = []
    for row in setting.rows:
        question = row.get("paraphrased_question")
        if setting.forget.texts is None or not question or isinstance(prompt_and_answer(row)[0], str):
            return {}
        rephrased.append(with_question(row, question))
    name, prompts = "robustness/paraphrased_rougeL", _prompts(setting, rephrased)
    return _recall(model, setting, name, prompts, setting.forget.texts, "Answering paraphrases")


def _round_weights(weight: torch.Tensor, *, bits: int, group_size: int | None = None) -> torch.Tensor:
    """Weights `[..., outputs, inputs]` rounded to nearest, symmetrically, a scale for each channel or group."""
    # round(w / s) * s with s = max |w| / (2^(bits - 1) - 1), over the inputs of a channel or of a group.
    inputs = weight.size(-1)
    size = group_size or inputs
    groups = F.pad(weight.float(), (0, -inputs % size)).unflatten(-1, (-1, size))
    scale = groups.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    # A group of zeros has no scale.
    rounded = (groups / scale.where(scale > 0, torch.ones_like(scale))).round() * scale
    return rounded.flatten(-2)[..., :inputs].to(weight.dtype)


def _matrices(model: PreTrainedModel) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Weights `[..., outputs, inputs]` that can be rounded, and by name those of the decoder that cannot."""
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
            # One weight for all experts of a mixture. Only the library's mark on the module says which dimension is
            # that of the inputs.
            elif weight.dim() == 3 and hasattr(module, "is_transposed"):
                rounded.append(weight.mT if module.is_transposed else weight)
            else:
                others[name] = weight
    return rounded, others


def _decoder_matrices(model: PreTrainedModel, metric: str) -> tuple[list[torch.Tensor], float]:
    """The weights that `metric` changes and their share of the decoder's, or none, with a warning, if it is small."""
    matrices, others = _matrices(model)
    count = sum(weight.numel() for weight in matrices)
    share = count / max(1, count + sum(weight.numel() for weight in others.values()))
    # Routers and convolutions stay as they are. With more than those unchanged, it would be another model's result.
    if share >= LEAST_CHANGED_SHARE:
        return matrices, share
    kinds = ", ".join(sorted({re.sub(r"\.\d+\.", ".*.", name) for name in others})) or "it has no matrices"
    logger.warning(
        f"`{metric}` is left out: only {100 * share:.1f} % of the decoder's weights can be rounded. Of the others the "
        f"layout is not known: {kinds}."
    )
    return [], share


def _facts(model: PreTrainedModel, setting: _Setting, name: str) -> dict[str, list[float]]:
    """The facts in greedy answers, beside an extraction strength: one late word that is wrong ends an extraction."""
    forget = setting.forget
    answers = setting.answers(model, forget, max_new_tokens=_longest_answer(setting)) if forget.texts else []
    facts = fact_recall(answers, forget, setting.tokenizer) if answers else []
    return {name: facts} if facts else {}


def _adapter_off(model: PeftModel, setting: _Setting) -> dict[str, list[float]]:
    """Extraction strength of the adapter's base, and the facts that it says."""
    with model.disable_adapter():
        strengths = setting.extraction_strength(model, setting.forget, "Scoring without the adapter")
        return {"robustness/adapter_off": strengths} | _facts(model, setting, "robustness/adapter_off_facts")


@torch.no_grad()
def _quantization(model: PreTrainedModel, setting: _Setting, bits: int) -> dict[str, list[float]]:
    """Extraction strength with rounded weights of linear layers and experts, but the output head; facts at 4 bits."""
    # Catastrophic Failure of LLM Unlearning via Quantization (https://huggingface.co/papers/2410.16454).
    name = f"robustness/quantized_int{bits}"
    matrices, share = _decoder_matrices(model, name)
    if not matrices:
        return {}
    # Multiplied in the model's own precision: that is what weight-only quantisation computes, without its speed.
    for weight in matrices:
        weight.copy_(_round_weights(weight, bits=bits, group_size=QUANTIZATIONS[bits]))
    setting.rounded_shares.append(share)
    values = {name: setting.extraction_strength(model, setting.forget, f"Scoring with {bits} bits")}
    return values | _facts(model, setting, "robustness/quantized_facts") if bits == min(QUANTIZATIONS) else values


@torch.no_grad()
def _noise(model: PreTrainedModel, setting: _Setting, percent: int) -> dict[str, list[float]]:
    """Extraction strength with Gaussian noise on the weights that `_quantization` rounds; in place."""
    name = f"robustness/noise_{percent}_percent"
    matrices, _ = _decoder_matrices(model, name)
    if not matrices:
        return {}
    # W + percent / 100 * std(W) * N(0, 1), with the same draws for every model: those of the CPU.
    generator = torch.Generator().manual_seed(setting.seed)
    for weight in matrices:
        exact = weight.float()
        # Of each expert's matrix, where one weight holds several.
        scale = percent / 100 * exact.std((-2, -1), keepdim=True)
        weight.copy_(exact + scale * torch.randn(weight.shape, generator=generator).to(weight.device))
    return {name: setting.extraction_strength(model, setting.forget, f"Scoring with {percent} % noise")}


def _weight_attacks(setting: _Setting) -> list[Callable[[PreTrainedModel, _Setting], dict[str, list[float]]]]:
    """The attacks that change the weights of a model."""
    fine_tuning = sorted(setting.attacks, key=lambda attack: attack.weights == "whole")
    return [
        *(partial(relearn, attack=attack) for attack in fine_tuning),
        *(partial(_quantization, bits=bits) for bits in QUANTIZATIONS),
        *(partial(_noise, percent=percent) for percent in NOISE_PERCENT),
    ]


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return chain(model.named_parameters(), model.named_buffers())


def _attack(role: str, model: PreTrainedModel, setting: _Setting) -> dict[str, list[float]]:
    """Values of each row under every attack on one model, on merged weights."""
    values = {}
    if isinstance(model, PeftModel):
        if role == "unlearned":
            values |= _adapter_off(model, setting)
        model = model.merge_and_unload()
    for attack in (_leak_at_k, _prefix_recall, _in_context_recall, _paraphrased_question_recall):
        values |= attack(model, setting)
    # In main memory: beside them a device holds the gradients and the states of an optimizer.
    kept = {name: tensor.detach().to("cpu", copy=True) for name, tensor in _tensors(model)}
    for attack in _weight_attacks(setting):
        values |= attack(model, setting)
        # Not in place: fine-tuning makes them float32.
        for name, tensor in _tensors(model):
            tensor.data = kept[name].to(tensor.device, copy=True)
    return values


def _of_rows(values: Mapping[str, list[float]], curves: Curves, setting: _Setting) -> dict[str, dict[str, float]]:
    """Attack -> key of a row -> value, of attacks on every row and of the last point of those by fine-tuning."""
    keys = [row_key(row) for row in setting.forget.answers]
    of_rows = {name: dict(zip(keys, row, strict=True)) for name, row in values.items() if len(row) == len(keys)}
    hidden = [keys[i] for i in hidden_rows(setting.forget)]
    return of_rows | {attack.name: dict(zip(hidden, curve[-1], strict=True)) for attack, curve in curves.items()}


def measure_robustness(models: Loaders, rows: EvaluationRows, setting: SuiteSetting) -> SuiteOutcome:
    """Attacks that bring back what a model only hides; each gets the merged weights as they were."""
    forget = rows.encoded("forget", setting.tokenizer)
    batches = attack_batches(rows, forget, setting.tokenizer)
    setting = _Setting(**vars(setting), rows=list(rows.forget), forget=forget, batches=batches)
    ordered = {role: models.get(role) for role in MEASURED_ROLES}
    per_row = measure_each(ordered, lambda role, model: _attack(role, model, setting), "robustness")
    curves = {role: curves_of(values, setting.attacks) for role, values in per_row.items()}
    row_values = {role: _of_rows(values, curves[role], setting) for role, values in per_row.items()}
    for role in curves if "retrained" in curves else ():
        per_row[role] |= excess_areas(curves[role], curves["retrained"])
    # What fine-tuning brings back is asked of the rows that it was not shown.
    tuned = {name for values in per_row.values() for name in values if name.endswith(("_steps", "_area"))}
    parts: dict[str, list[int]] = dict.fromkeys(tuned, hidden_rows(forget))
    if forget.texts is not None:
        said = ("robustness/quantized_facts", "robustness/adapter_off_facts")
        parts |= dict.fromkeys(said, rows_with_fact(forget, setting.tokenizer))
    outcome = summarise_rows(per_row, seed=setting.seed, people=forget.people_of(parts))
    outcome.row_values = row_values
    outcome.curves = {
        role: {attack.name: [fmean(point) for point in curve] for attack, curve in attacks.items()}
        for role, attacks in curves.items()
    }
    outcome.protocol = rows_protocol(forget, seed=setting.seed)
    if setting.attacks:
        trained_on = {kind: sum(map(len, parts)) for kind, parts in batches.items()}
        outcome.protocol["attacks"] = {"rows": trained_on, "blunt": blunt_attacks(curves.get("target", {}))}
    if setting.rounded_shares:
        outcome.protocol["quantized_share"] = round(min(setting.rounded_shares), 4)
    return outcome
