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

from ..generation import key_seed


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
