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

"""SPV-MIA: a membership attack that calibrates itself on what the model under attack says."""

import random
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import ends_turn, padding_token_id
from ..generation import eos_token_ids, key_seed
from ..metrics import SpvAttack
from ..token_scores import continuation_row, pad_rows, score_batch
from .sharing import generate_together, score_rows_together
from .suite import free_memory


# The paper takes ten pairs. On 24 + 24 rows of the archive the AUC is 0.93, 0.96 and 0.97 with 1, 2 and 4.
NUM_NEIGHBOURS = 2
# Share of the tokens of an answer that a neighbour has other ones for; at 0.1 the AUC there is 0.71, 0.85 and 0.91.
REPLACED_SHARE = 0.3
NUM_SAMPLES = 32
REFERENCE_STEPS = 4
REFERENCE_RATE = 1e-4


def _places(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Where a row has a token that is scored and does not close the answer."""
    return [
        index
        for index, label in enumerate(row["labels"])
        if index > 0 and label != -100 and not ends_turn(label, tokenizer)
    ]


def neighbours(
    rows: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> list[list[dict[str, list[int]]]]:
    """
    Rows with some tokens of the answer replaced.

    Args:
        rows (`Sequence[dict[str, Any]]`):
            Encoded rows (`input_ids` and `labels`).
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Their tokenizer.
        seed (`int`):
            Seed of the draws, which depend on it and on the row's index only, given the rows.

    Returns:
        `list[list[dict]]`: `NUM_NEIGHBOURS` encoded rows for each row, of the same length: `REPLACED_SHARE` of the
        label tokens that do not close the answer (at least one) are others, drawn from all answers as often as they
        stand there.

    Raises:
        `ValueError`: If a row has no such token, or all rows have the same one.
    """
    places = [_places(row, tokenizer) for row in rows]
    empty = next((index for index, found in enumerate(places) if not found), None)
    if empty is not None:
        raise ValueError(
            f"Row {empty} of a membership attack has an answer without a token to replace. Give every row an answer "
            "of at least one token besides its end-of-turn token."
        )
    pool = [row["input_ids"][place] for row, found in zip(rows, places, strict=True) for place in found]
    if len(set(pool)) < 2:
        raise ValueError(
            "All answers of a membership attack repeat one and the same token, which leaves none to replace it with. "
            "Give rows with different answers."
        )

    def neighbour(index: int, j: int) -> dict[str, list[int]]:
        generator = random.Random(key_seed((seed, index, j)))
        ids, labels = list(rows[index]["input_ids"]), list(rows[index]["labels"])
        for place in generator.sample(places[index], max(1, round(REPLACED_SHARE * len(places[index])))):
            before = ids[place]
            while ids[place] == before:
                ids[place] = labels[place] = generator.choice(pool)
        return {"input_ids": ids, "labels": labels}

    return [[neighbour(index, j) for j in range(NUM_NEIGHBOURS)] for index in range(len(rows))]


def _load(load: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """Merged weights in float32: updates of the reference's size would be lost in the rounding of half precision."""
    model = load()
    return (model.merge_and_unload() if isinstance(model, PeftModel) else model).float().eval()


def _self_prompted(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    rows: Sequence[dict[str, Any]],
    *,
    batch_size: int | None,
    seed: int,
) -> list[dict[str, list[int]]]:
    """What the model says at temperature 1 after `NUM_SAMPLES` prompts, evenly spread, or after all of fewer."""
    count = min(NUM_SAMPLES, len(prompts))
    chosen = [list(prompts[i * len(prompts) // count]) for i in range(count)]
    samples = generate_together(
        model,
        chosen,
        pad_token_id=padding_token_id(tokenizer),
        eos_token_ids=eos_token_ids(model, tokenizer, rows),
        max_new_tokens=max(sum(label != -100 for label in row["labels"]) for row in rows),
        batch_size=batch_size,
        keys=[(seed, index) for index in range(count)],
        desc="Sampling texts for a reference",
    )
    return [continuation_row(prompt, sample.ids) for prompt, sample in zip(chosen, samples, strict=True)]


def _fine_tune(
    model: PreTrainedModel, rows: Sequence[dict[str, list[int]]], *, pad_token_id: int, batch_size: int
) -> None:
    """AdamW on all weights at a constant rate, half of the rows a step in turn, without dropout."""
    model.requires_grad_(True)
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(model.parameters(), lr=REFERENCE_RATE, weight_decay=0.0)
    halves = [half for half in (rows[::2], rows[1::2]) if half]
    for step in range(REFERENCE_STEPS):
        half = halves[step % len(halves)]
        tokens = sum(label != -100 for row in half for label in row["labels"][1:])
        for start in range(0, len(half), batch_size):
            batch = pad_rows(half[start : start + batch_size], pad_token_id)
            scores = score_batch(model, {key: value.to(device) for key, value in batch.items()})
            (-scores.logps.sum() / tokens).backward()
        optimizer.step()
        optimizer.zero_grad()


def spv_scores(
    load: Callable[[], PreTrainedModel],
    load_start: Callable[[], PreTrainedModel],
    rows: Sequence[dict[str, Any]],
    prompts: Sequence[list[int]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int | None,
    seed: int,
    desc: str | None = None,
) -> list[float]:
    """
    Scores of SPV-MIA on a model (see [`~metrics.SpvAttack`]): how much likelier a row is than its neighbours, minus
    the same for a reference that was trained on what the model says ("self-prompt").

    What is ours, and differs from the paper:

    - Neighbours have `REPLACED_SHARE` of the answer's tokens replaced by draws from the answers of all rows. The
      paper fills a masked share with T5, or adds symmetric noise to the embeddings. The latter was tried: on the
      archive it tells the members of the target with an AUC of no more than 0.73.
    - The reference sees few samples (`NUM_SAMPLES`, `REFERENCE_STEPS` of AdamW at 1e-4 on all weights), all answers
      to the given prompts; the paper samples thousands of texts.
    - The reference starts from a model that never saw the members, such as the retrained one; the paper's start is the
      pretrained model that the one under attack was fine-tuned from. The model under attack itself will not do: on its
      own samples the expected gradient is zero, so the reference keeps what the model remembers, and both variations
      cancel. On the archive's target that gives an AUC of 0.36 to 0.49 (three seeds), where the retrained model as
      start gives 0.94 to 0.99. So this is an auditor's attack, like `reference`.

    Args:
        load (`Callable`):
            Function without arguments that loads the model under attack; it is cast to float32.
        load_start (`Callable`):
            Function without arguments that loads the model that the reference is trained from, anew: it is changed.
        rows (`Sequence[dict[str, Any]]`):
            Encoded rows (`input_ids` and `labels`) to be told apart.
        prompts (`Sequence[list[int]]`):
            Token ids of prompts that the model is asked, best neither those of members nor of non-members: the retain
            rows' ones. `NUM_SAMPLES` of them are used.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of both models.
        batch_size (`int`, *optional*):
            Rows a forward pass and a `generate` call take. `None`: 32, and chosen from memory.
        seed (`int`):
            Seed of the neighbours and the samples.
        desc (`str`, *optional*):
            Label of the progress bar of the scoring. `None` shows none.

    Returns:
        `list[float]`: Score of each row in nats per token, higher for a member. One model is in memory at a time, in
        float32.

    Raises:
        `ValueError`: If there is no prompt, or an answer has no token to replace.

    Source: Fu et al., Membership Inference Attacks against Fine-tuned Large Language Models via Self-prompt
    Calibration (https://huggingface.co/papers/2311.06062), Section 4.
    """
    if not prompts:
        raise ValueError(
            "The attack `spv` has no prompts to sample answers to. Give at least one, of the retain rows."
        )
    perturbed = neighbours(rows, tokenizer, seed=seed)
    flat = [text for row, near in zip(rows, perturbed, strict=True) for text in (row, *near)]
    pad_token_id, score_batch_size = padding_token_id(tokenizer), batch_size or 32

    def variations(model: PreTrainedModel) -> tuple[list[float], list[list[float]]]:
        scores = score_rows_together(model, flat, pad_token_id=pad_token_id, batch_size=score_batch_size, desc=desc)
        means = [fmean(score.logps) for score in scores]
        groups = [means[start : start + NUM_NEIGHBOURS + 1] for start in range(0, len(means), NUM_NEIGHBOURS + 1)]
        return [group[0] for group in groups], [group[1:] for group in groups]

    model = _load(load)
    own, near = variations(model)
    samples = _self_prompted(model, tokenizer, prompts, rows, batch_size=batch_size, seed=seed)
    del model
    free_memory()
    reference = _load(load_start)
    _fine_tune(reference, samples, pad_token_id=pad_token_id, batch_size=score_batch_size)
    reference_own, reference_near = variations(reference)
    del reference
    free_memory()
    return SpvAttack().compute(
        logps=own,
        neighbour_logps=near,
        reference_logps=reference_own,
        reference_neighbour_logps=reference_near,
    )["per_row"]
