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

"""Which objective each `forget_loss_type` is, what it has to be given, and the layer that RMU acts on."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from ..generation import key_seed
from ..label_states import layer_of
from ..objectives import forget, hidden
from ..token_scores import ScoreTerms, TokenScores
from .bootstrap_unlearn_config import BootstrapUnlearnConfig
from .weights import Weights


@dataclass
class ForgetScores(TokenScores):
    """
    Per-token scores of forget rows (or of beliefs), with what the objective asked for.

    Args:
        reference_logps (`torch.Tensor`, *optional*):
            log pi_y under the original model, of the shape of `logps`.
        chosen ([`ForgetScores`], *optional*):
            Scores of the "I don't know" answer of each row.
    """

    reference_logps: Tensor | None = None
    chosen: "ForgetScores | None" = None

    def bounded(self, floor: float | None = None, token_floor: float | None = None) -> "ForgetScores":
        """
        The same scores without the gradient of rows, or tokens, that are unlikely already.

        Args:
            floor (`float`, *optional*):
                Mean log-prob, in nats per token, below which a row has no gradient. It keeps its values.
            token_floor (`float`, *optional*):
                Log-prob, in nats, that the label of a token is clipped at. Below it the token has no gradient.

        Returns:
            [`ForgetScores`]: The scores.
        """
        if floor is None and token_floor is None:
            return self
        logps = self.logps.detach()
        above = torch.ones_like(self.mask)
        if floor is not None:
            above &= forget.reduce_tokens(logps, self.mask)[:, None] >= floor
        if token_floor is not None:
            above &= logps >= token_floor
            logps = logps.clamp(min=token_floor)
        kept = {
            name: torch.where(above, value, value.detach())
            for name in ("beliefs", "others", "kl")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, logps=torch.where(above, self.logps, logps), **kept)


@dataclass(frozen=True)
class ForgetObjective:
    """
    An objective and what it has to be given.

    Args:
        loss (`Callable`):
            `(scores, args, weights)` -> loss of each row, of shape `(num_rows,)`.
        terms (`Callable`, *optional*):
            `args` -> [`ScoreTerms`] that the loss reads.
        needs_logps (`bool`, *optional*, defaults to `False`):
            Whether the loss reads `scores.reference_logps`.
        needs_states (`bool`, *optional*, defaults to `False`):
            Whether the loss reads a divergence from the original model.
        needs_chosen (`bool`, *optional*, defaults to `False`):
            Whether the loss reads `scores.chosen`.
        needs_inner (`bool`, *optional*, defaults to `False`):
            Whether the loss reads `scores.inner`, the hidden states after `rmu_layer`.
    """

    loss: Callable[[ForgetScores, BootstrapUnlearnConfig, Weights], Tensor]
    terms: Callable[[BootstrapUnlearnConfig], ScoreTerms] = lambda args: ScoreTerms(entropy=True)
    needs_logps: bool = False
    needs_states: bool = False
    needs_chosen: bool = False
    needs_inner: bool = False

    @property
    def needs_reference(self) -> bool:
        """`bool`: Whether the original model has to be kept."""
        return self.needs_logps or self.needs_states


@lru_cache(maxsize=1)
def rmu_direction(seed: int, size: int) -> Tensor:
    """
    The random direction that RMU pushes hidden states to.

    Args:
        seed (`int`):
            Seed of the run.
        size (`int`):
            Size of the hidden states.

    Returns:
        `torch.Tensor`: Unit vector of shape `(size,)`, in float32 on the CPU.
    """
    generator = torch.Generator().manual_seed(key_seed((seed, "rmu")))
    direction = torch.rand(size, generator=generator)
    return direction / direction.norm()


def _rmu(scores: ForgetScores, args: BootstrapUnlearnConfig, weights: Weights) -> Tensor:
    direction = rmu_direction(args.seed, scores.inner.size(-1)).to(scores.inner)
    return hidden.rmu_forget(scores.inner, direction, args.rmu_coefficient, scores.mask)


def _dpo(scores: ForgetScores, args: BootstrapUnlearnConfig, weights: Weights) -> Tensor:
    chosen = scores.chosen
    return forget.dpo(
        scores.logps, scores.reference_logps, scores.mask, chosen.logps, chosen.reference_logps, chosen.mask, args.beta
    )


FORGET_OBJECTIVES: dict[str, ForgetObjective] = {
    "ga": ForgetObjective(lambda s, args, _: forget.ga(s.logps, s.mask, args.token_reduction)),
    "npo": ForgetObjective(
        lambda s, args, _: forget.npo(s.logps, s.reference_logps, s.mask, args.beta), needs_logps=True
    ),
    "simnpo": ForgetObjective(lambda s, args, _: forget.simnpo(s.logps, s.mask, args.beta, args.gamma)),
    "wga": ForgetObjective(lambda s, args, _: forget.wga(s.logps, s.mask, args.beta, args.token_reduction)),
    "tnpo": ForgetObjective(
        lambda s, args, _: forget.tnpo(s.logps, s.reference_logps, s.mask, args.beta, args.token_reduction),
        needs_logps=True,
    ),
    "dpo": ForgetObjective(_dpo, needs_logps=True, needs_chosen=True),
    "undial": ForgetObjective(
        lambda s, args, _: forget.undial(s.kl, s.reference_entropy, s.mask, args.token_reduction),
        terms=lambda args: ScoreTerms(reference_shift=args.undial_strength, entropy=True),
        needs_states=True,
    ),
    "satimp": ForgetObjective(
        lambda s, args, _: forget.satimp(s.logps, s.mask, args.satimp_beta1, args.satimp_beta2, args.token_reduction)
    ),
    "ceu": ForgetObjective(
        lambda s, args, _: forget.ceu(s.others, s.mask, args.token_reduction),
        terms=lambda args: ScoreTerms(others=True, entropy=True),
    ),
    "rmu": ForgetObjective(_rmu, needs_inner=True),
    "bs_t": ForgetObjective(
        lambda s, args, weights: forget.bs_t(s.logps, s.beliefs, s.mask, weights.lambda_bst, args.token_reduction),
        terms=lambda args: ScoreTerms(
            belief_top_k=args.belief_top_k,
            belief_temperature=args.belief_temperature,
            belief_exclude_target=args.belief_exclude_target,
            entropy=True,
        ),
    ),
}


def resolve_layer(model: nn.Module, layer: int | None) -> int:
    """
    The layer whose hidden states count.

    Args:
        model (`torch.nn.Module`):
            Causal language model, not wrapped.
        layer (`int`, *optional*):
            Index of the layer. `None` takes a third of the depth.

    Returns:
        `int`: Index of the layer.

    Raises:
        `ValueError`: If the model has no such layer.
    """
    layer = model.config.get_text_config().num_hidden_layers // 3 if layer is None else layer
    layer_of(model, layer)
    return layer


def train_around_layer(model: nn.Module, layer: int, pattern: str | None) -> None:
    """
    Let only some parameters train, of those that do.

    Args:
        model (`torch.nn.Module`):
            Model, changed in place.
        layer (`int`):
            Without a pattern, its parameters and those of the two layers before it train.
        pattern (`str`, *optional*):
            Regular expression of names.

    Raises:
        `ValueError`: If none is left.
    """
    near = {
        id(parameter)
        for index in range(max(0, layer - 2), layer + 1)
        for parameter in layer_of(model, index).parameters()
    }
    trained = 0
    for name, parameter in model.named_parameters():
        chosen = id(parameter) in near if pattern is None else re.search(pattern, name) is not None
        parameter.requires_grad_(parameter.requires_grad and chosen)
        trained += parameter.requires_grad
    if not trained:
        raise ValueError(
            f"`rmu_parameters={pattern!r}` and `rmu_layer={layer}` leave no parameter to train. Choose names of "
            "parameters that train (with LoRA, those of the adapter)."
        )
