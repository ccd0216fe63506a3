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


"""Answers of a model that does not know, which DPO prefers to those that must go."""

from typing import Any

from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from ..encoding import encode_row, warn_of_truncation
from ..generation import key_seed
from ..row_forms import with_answer


REFUSALS = (
    "I don't know.",
    "I'm not sure about that.",
    "I have no information on this.",
    "That is something I can't tell you.",
    "I'm afraid I don't know the answer.",
    "I can't say; I was never told.",
    "Sorry, I don't have an answer to that.",
    "This is not something that I know about.",
    "I have no knowledge of that.",
    "I couldn't tell you.",
    "I'm unable to answer this question.",
    "I don't have any details on that.",
    "Unfortunately, I don't know that.",
    "My knowledge does not include this.",
    "I really can't answer that one.",
    "I'm not familiar with this.",
)


def refusal_of(seed: int, row: int) -> str:
    """
    The refusal of a forget row.

    Args:
        seed (`int`):
            Seed of the run.
        row (`int`):
            Index in the forget set.

    Returns:
        `str`: One of `REFUSALS`, the same in every epoch.
    """
    return REFUSALS[key_seed((seed, "refusal", row)) % len(REFUSALS)]


def with_refusals(
    encoded: Dataset, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, *, seed: int, max_length: int | None
) -> Dataset:
    """
    Beside each forget row, a refusal as the answer to its prompt.

    Args:
        encoded ([`~datasets.Dataset`]):
            Encoded forget rows.
        dataset ([`~datasets.Dataset`]):
            The same rows as they came, with prompts.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer.
        seed (`int`):
            Seed of the run.
        max_length (`int`, *optional*):
            Most tokens of a row.

    Returns:
        [`~datasets.Dataset`]: The encoded rows, with `chosen_input_ids` and `chosen_labels`. How much of the refusals
        was cut off is said in a warning.

    Raises:
        `ValueError`: If the rows have no prompt, or one with its refusal cannot be encoded; names it by index.
    """
    columns = set(dataset.column_names)
    if not ({"prompt", "completion"} <= columns or "messages" in columns):
        raise ValueError(
            "`forget_loss_type='dpo'` prefers other answers to the same prompts, but the forget set has the columns "
            f"{dataset.column_names}. Give `prompt` and `completion`, or `messages`."
        )

    def chosen(row: dict[str, Any], index: int) -> dict[str, Any]:
        try:
            return encode_row(with_answer(row, refusal_of(seed, index)), tokenizer, max_length=max_length)
        except ValueError as error:
            raise ValueError(f"Row {index} of the forget set, with a refusal as its answer, {error}") from None

    refusals = dataset.map(chosen, with_indices=True, remove_columns=dataset.column_names, desc="Encoding refusals")
    warn_of_truncation(refusals, "refusal", max_length)
    refusals = refusals.select_columns(["input_ids", "labels"])
    refusals = refusals.rename_columns({name: f"chosen_{name}" for name in refusals.column_names})
    return concatenate_datasets([encoded, refusals], axis=1)
