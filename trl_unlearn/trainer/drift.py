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

"""How far a model in training is from its start, on rows that were frozen then."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Self

from datasets import Dataset
from torch import nn

from ..beliefs import BeliefStore
from ..encoding import answer_row
from ..token_scores import score_rows


logger = logging.getLogger(__name__)

# Prompts that are followed, and samples of each, of which one is kept: the most likely one that is not the target.
MONITOR_PROMPTS, MONITOR_CANDIDATES = 16, 8


@dataclass
class Drift:
    """
    How far log-probs are from their start, in nats per token.

    Args:
        target (`float`):
            Of the answers to be forgotten.
        beliefs (`float`, *optional*):
            Of the frozen beliefs beside them; `None` if there are none.
        retain (`float`, *optional*):
            Of retain rows; `None` if there are none.
    """

    target: float
    beliefs: float | None
    retain: float | None


@dataclass
class DriftMonitor:
    """
    Rows that are frozen before unlearning, to follow how likely the model finds them.

    Args:
        target, beliefs, retain (`list[dict]`):
            Encoded rows; the last two may be empty.
        pad_token_id (`int`):
            Token of the padding.
    """

    target: list[dict[str, Any]]
    beliefs: list[dict[str, Any]]
    retain: list[dict[str, Any]]
    pad_token_id: int
    _start: list[float | None] | None = field(default=None, init=False)

    @classmethod
    def of(cls, forget: Dataset, retain: Dataset | None, pad_token_id: int) -> Self:
        """Rows spread over the sets, without beliefs yet: those are of the answers to the prompts of the targets."""
        target = [answer_row(row) for row in spread_rows(forget)]
        return cls(target, [], [] if retain is None else spread_rows(retain), pad_token_id)

    def measure(self, model: nn.Module) -> Drift:
        """
        Score every row. The first call is the start.

        Args:
            model (`torch.nn.Module`):
                Model in training, wrapped or not. Every process scores every row.

        Returns:
            [`Drift`]: Means over rows of the mean over tokens.
        """
        groups = (self.target, self.beliefs, self.retain)
        scores = iter(score_rows(model, [row for rows in groups for row in rows], pad_token_id=self.pad_token_id))
        means = [fmean([fmean(next(scores).logps) for _ in rows]) if rows else None for rows in groups]
        self._start = self._start or means
        return Drift(*[None if now is None else now - start for now, start in zip(means, self._start, strict=True)])

    def state_dict(self) -> dict[str, Any]:
        """
        The frozen beliefs, which no other model would give again, and the start.

        Returns:
            `dict[str, Any]`: Values.
        """
        return {"beliefs": self.beliefs, "start": self._start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from a checkpoint.

        Args:
            state (`Mapping[str, Any]`):
                See [`DriftMonitor.state_dict`].
        """
        self.beliefs, self._start = state["beliefs"], state["start"]


def spread_over(count: int, most: int = MONITOR_PROMPTS) -> list[int]:
    """
    Indices spread evenly over a set.

    Args:
        count (`int`):
            Size of the set.
        most (`int`, *optional*, defaults to `16`):
            Most indices.

    Returns:
        `list[int]`: In order.
    """
    taken = min(count, most)
    return [i * count // taken for i in range(taken)]


def spread_rows(rows: Dataset, most: int = MONITOR_PROMPTS) -> list[dict[str, Any]]:
    """Rows spread evenly over a set, see [`spread_over`]."""
    return [rows[index] for index in spread_over(len(rows), most)]


def frozen_beliefs(store: BeliefStore) -> list[dict[str, Any]]:
    """
    The most likely belief of each prompt that does not repeat the target, whose fall is wanted anyway. Warns if there
    is none.

    Args:
        store ([`BeliefStore`]):
            Store that has been sampled.

    Returns:
        `list[dict]`: Encoded rows, at most one of each prompt.
    """
    beside = [store.apart_from_target(index) for index in range(len(store))]
    if not any(beside):
        logger.warning(
            "All samples of the model repeat the answers that are to be forgotten: `lambda_schedule='adaptive'` has "
            "no beliefs to follow, and the weights stay as they are. Raise `temperature`."
        )
    return [row for row in beside if row is not None]
