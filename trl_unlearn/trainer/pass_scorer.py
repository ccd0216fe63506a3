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


"""Scores of the rows of one pass, with what their objectives ask of the original model."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..label_states import LabelStates
from ..token_scores import RowGroup, ScoreTerms, TokenScores, score_batch, score_groups, states_inside
from .bootstrap_unlearn_config import BootstrapUnlearnConfig
from .forget_objectives import ForgetObjective, ForgetScores


# Bytes of the digest of a row.
_DIGEST = 16


class PassScorer:
    """
    Scores forget rows with their beliefs, the answers that DPO prefers, and retain rows, from one forward pass.

    Args:
        args ([`BootstrapUnlearnConfig`]):
            Configuration.
        objective ([`ForgetObjective`]):
            Objective on the forget rows.
        reference (`Callable`):
            Function that gives a context in which the original model can be used.
        is_sharded (`bool`):
            Whether parameters are sharded over processes, so that each has to take part in every pass.
    """

    def __init__(
        self,
        args: BootstrapUnlearnConfig,
        objective: ForgetObjective,
        reference: Callable[[], AbstractContextManager[nn.Module]],
        is_sharded: bool,
    ):
        self.args, self.objective = args, objective
        self._reference, self._is_sharded = reference, is_sharded
        self._known_logps: dict[str, dict[bytes, Tensor]] = {"forget": {}, "beliefs": {}, "chosen": {}}
        retain_acts_inside = args.uses_retain and args.retain_loss_type == "hidden"
        self._layer = args.rmu_layer if objective.needs_inner or retain_acts_inside else None

    def forget_beliefs(self) -> None:
        """Drop what is known of beliefs, which are about to be replaced."""
        self._known_logps["beliefs"].clear()

    def state_dict(self) -> dict[str, Any]:
        """
        The log-probs under the original model that are known. In other passes their last bits would be others.

        Returns:
            `dict[str, Any]`: Tensors: of each kind, digests of rows, lengths, and log-probs one after another.
        """
        state = {}
        for kind, known in self._known_logps.items():
            digests = b"".join(known)
            state[f"{kind}_rows"] = (
                torch.frombuffer(bytearray(digests), dtype=torch.uint8) if known else torch.empty(0)
            )
            state[f"{kind}_lengths"] = torch.tensor([len(logps) for logps in known.values()], dtype=torch.long)
            state[f"{kind}_logps"] = torch.cat(list(known.values())) if known else torch.empty(0)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """
        Go on from a checkpoint.

        Args:
            state (`Mapping[str, Any]`):
                See [`PassScorer.state_dict`].
        """
        for kind in self._known_logps:
            digests = bytes(state[f"{kind}_rows"].tolist())
            lengths = state[f"{kind}_lengths"].tolist()
            rows = [digests[i * _DIGEST : (i + 1) * _DIGEST] for i in range(len(lengths))]
            # Copies, not views: beliefs come and go one by one.
            logps = [part.clone() for part in state[f"{kind}_logps"].split(lengths)] if rows else []
            self._known_logps[kind] = dict(zip(rows, logps, strict=True))

    def score(
        self, model: nn.Module, inputs: Mapping[str, Any]
    ) -> tuple[tuple[list[int], ForgetScores] | None, tuple[list[int], TokenScores, LabelStates | None] | None]:
        """
        Score one pass.

        Args:
            model (`torch.nn.Module`):
                Model in training, wrapped or not.
            inputs (`Mapping[str, Any]`):
                Inputs from [`~trl_unlearn.trainer.passes.collate_rows`].

        Returns:
            `tuple`: Of forget rows and beliefs, their indices and scores, and of retain rows, theirs and the states of
            the original model if the retain loss reads them; `None` where the pass has no such rows.
        """
        kinds = inputs["kind"]
        forget = [i for i, kind in enumerate(kinds) if kind not in ("retain", "chosen")]
        chosen = [i for i, kind in enumerate(kinds) if kind == "chosen"]
        retain = [i for i, kind in enumerate(kinds) if kind == "retain"]
        forget_states = self._states(inputs, forget) if self.objective.needs_states else None
        retain_states = self._states(inputs, retain) if self.args.compares_retain else None

        # Before the pass of the model itself, whose weights must stay as they are until its gradients are computed.
        known = {}
        if self.objective.needs_logps:
            answers = {"forget": forget} | ({"chosen": chosen} if self.objective.needs_chosen else {})
            known = {name: self._reference_logps(inputs, rows) for name, rows in answers.items()}

        groups = {"forget": RowGroup(forget, self.objective.terms(self.args), forget_states)}
        if self.objective.needs_chosen:
            groups["chosen"] = RowGroup(chosen)
        if self.args.uses_retain:
            compared = retain_states if self.args.retain_loss_type == "kl" else None
            groups["retain"] = RowGroup(retain, ScoreTerms(entropy=True), compared)
        # Where parameters are sharded, all processes gather the head for each group, with or without rows of it.
        groups = {name: group for name, group in groups.items() if group.rows or self._is_sharded}
        found = dict(zip(groups, score_groups(model, inputs, list(groups.values()), self._layer), strict=True))

        def with_reference(name: str) -> ForgetScores:
            return ForgetScores(**vars(found[name]), reference_logps=known.get(name))

        scored = None
        if forget:
            scores = with_reference("forget")
            if chosen:
                scores = replace(scores, chosen=with_reference("chosen"))
            scored = forget, scores
        return scored, (retain, found["retain"], retain_states) if retain else None

    def _states(self, inputs: Mapping[str, Any], rows: list[int]) -> LabelStates | None:
        if not rows and not self._is_sharded:
            return None
        with self._reference() as reference:
            states = states_inside(reference, _rows_of(inputs, rows or [0]), self._layer)
        return states.rows(range(len(rows)))

    def _reference_logps(self, inputs: Mapping[str, Any], rows: list[int]) -> Tensor | None:
        """Log-probs under the original model, which are computed once for each row."""
        if not rows:
            if self._is_sharded:
                # Other processes have such rows, and each takes part in every pass.
                with self._reference() as reference:
                    score_batch(reference, _rows_of(inputs, [0]))
            return None
        # A belief may repeat its target, and is forgotten earlier.
        keys = [(inputs["kind"][row] or "forget", _digest(inputs, row)) for row in rows]
        unknown = {
            (kind, digest): row
            for row, (kind, digest) in zip(rows, keys, strict=True)
            if digest not in self._known_logps[kind] or self._is_sharded
        }
        if unknown:
            with self._reference() as reference:
                scores = score_batch(reference, _rows_of(inputs, list(unknown.values())))
            for (kind, digest), logps, mask in zip(unknown, scores.logps, scores.mask, strict=True):
                self._known_logps[kind][digest] = logps[mask].cpu()
        found = [self._known_logps[kind][digest] for kind, digest in keys]
        return pad_sequence(found, batch_first=True).to(inputs["labels"].device)


def _rows_of(inputs: Mapping[str, Any], rows: list[int]) -> dict[str, Tensor]:
    return {name: inputs[name][rows] for name in ("input_ids", "attention_mask", "labels")}


def _digest(inputs: Mapping[str, Any], row: int) -> bytes:
    length = int(inputs["attention_mask"][row].sum())
    values = torch.stack([inputs["input_ids"][row, :length], inputs["labels"][row, :length]]).cpu()
    return hashlib.blake2b(values.numpy().tobytes(), digest_size=_DIGEST).digest()
