# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The objective of each `forget_loss_type`: its loss, scores and parameters, and the layer that RMU acts on."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..generation import key_seed
from ..label_states import layer_of
from ..objectives import forget, hidden
from ..token_scores import ScoreTerms, TokenScores


if TYPE_CHECKING:
    # The config refuses what an objective does not take, and so imports this module.
    from .bootstrap_unlearn_config import BootstrapUnlearnConfig
    from .weights import Weights


@dataclass
class ForgetScores(TokenScores):
    """
    Per-token scores of forget rows (or of beliefs), with what the objective reads of the original model.

    Args:
        taught (`torch.Tensor`, *optional*):
            Where the ignorant twin has a distribution, of the shape of `logps`.
        chosen ([`ForgetScores`], *optional*):
            Scores of the "I don't know" answer of each row.
    """

    taught: Tensor | None = None
    chosen: "ForgetScores | None" = None

    def bounded(self, floor: float | None = None, token_floor: float | None = None) -> "ForgetScores":
        """The same scores without the gradient of rows below `floor`, or tokens that `token_floor` clips."""
        if floor is None and token_floor is None:
            return self
        logps = self.logps.detach()
        above = torch.ones_like(self.mask)
        if floor is not None:
            above &= forget.reduce_tokens(logps, self.mask)[:, None] >= floor
        if token_floor is not None:
            above &= logps >= token_floor
            logps = logps.clamp(min=token_floor)
        # Every score that a loss may read, or the token would still be pushed through the others.
        kept = {
            name: torch.where(above, value, value.detach())
            for name in ("beliefs", "others", "kl")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, logps=torch.where(above, self.logps, logps), **kept)


@dataclass(frozen=True)
class ForgetObjective:
    """An objective: `loss(scores, args, weights, **forget_loss_kwargs)`, one loss a row, and what it reads."""

    loss: Callable[..., Tensor]
    terms: "Callable[[BootstrapUnlearnConfig], ScoreTerms]" = lambda args: ScoreTerms(entropy=True)
    needs_logps: bool = False
    needs_states: bool = False
    needs_chosen: bool = False
    needs_inner: bool = False
    needs_twin: bool = False

    @property
    def needs_reference(self) -> bool:
        """Whether the original model has to be kept."""
        return self.needs_logps or self.needs_states

    @property
    def has_end(self) -> bool:
        """Whether it pulls to what another model has (or RMU to a vector) from either side, and so ends by itself."""
        return self.needs_twin or self.needs_states or self.needs_inner

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Name -> type and default of each key of `forget_loss_kwargs`."""
        parameters = inspect.signature(self.loss).parameters
        return {name: one for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY}


@lru_cache(maxsize=1)
def rmu_direction(seed: int, size: int) -> Tensor:
    """The random unit vector `[size]` that RMU pushes hidden states to, in float32 on the CPU."""
    generator = torch.Generator().manual_seed(key_seed((seed, "rmu")))
    direction = torch.rand(size, generator=generator)
    return direction / direction.norm()


def _dpo(scores: ForgetScores, args: "BootstrapUnlearnConfig", weights: "Weights") -> Tensor:
    chosen = scores.chosen
    return forget.dpo(
        scores.logps, scores.reference_logps, scores.mask, chosen.logps, chosen.reference_logps, chosen.mask, args.beta
    )


def _simnpo(scores: ForgetScores, args: "BootstrapUnlearnConfig", weights: "Weights", *, gamma: float = 0.0) -> Tensor:
    return forget.simnpo(scores.logps, scores.mask, args.beta, gamma)


def _ignorance(
    scores: ForgetScores,
    args: "BootstrapUnlearnConfig",
    weights: "Weights",
    *,
    penalty: float = 0.25,
    margin: float = 0.0,
) -> Tensor:
    taught = scores.mask & scores.taught
    return forget.ignorance(
        scores.logps, scores.kl, scores.reference_logps, taught, penalty, margin, args.token_reduction
    )


def _satimp(
    scores: ForgetScores,
    args: "BootstrapUnlearnConfig",
    weights: "Weights",
    *,
    beta1: float = 5.0,
    beta2: float = 1.0,
) -> Tensor:
    return forget.satimp(scores.logps, scores.mask, beta1, beta2, args.token_reduction)


def _undial(
    scores: ForgetScores, args: "BootstrapUnlearnConfig", weights: "Weights", *, strength: float = 10.0
) -> Tensor:
    # `strength` is in the reference already: its terms take it off the label's logit.
    return forget.undial(scores.kl, scores.reference_entropy, scores.mask, args.token_reduction)


def _rmu(
    scores: ForgetScores,
    args: "BootstrapUnlearnConfig",
    weights: "Weights",
    *,
    coefficient: float = 2.0,
    layer: int | None = None,
    parameters: str | None = None,
) -> Tensor:
    # The trainer has read `layer` and `parameters`: `scores.inner` is of that layer, and only those weights train.
    direction = rmu_direction(args.seed, scores.inner.size(-1)).to(scores.inner)
    return hidden.rmu_forget(scores.inner, direction, coefficient, scores.mask)


# `beta` where it is not set, of the objectives that have one: the published settings.
BETAS = {"npo": 0.1, "dpo": 0.1, "simnpo": 4.5, "wga": 1.0, "tnpo": 1.0}
# Readers of the flags: step.py (`terms`, `needs_logps`, `needs_states`, `needs_chosen`), bootstrap_unlearn_trainer.py
# (`needs_reference` keeps the original model, `needs_chosen` adds refusals), `inner_layer` (`needs_inner`),
# bootstrap_unlearn_config.py (`has_end`: no floor), and ignorance.py and options.py (`needs_twin`).
FORGET_OBJECTIVES: dict[str, ForgetObjective] = {
    "ga": ForgetObjective(lambda s, args, _: forget.ga(s.logps, s.mask, args.token_reduction)),
    "npo": ForgetObjective(
        lambda s, args, _: forget.npo(s.logps, s.reference_logps, s.mask, args.beta), needs_logps=True
    ),
    "simnpo": ForgetObjective(_simnpo),
    "wga": ForgetObjective(lambda s, args, _: forget.wga(s.logps, s.mask, args.beta, args.token_reduction)),
    "tnpo": ForgetObjective(
        lambda s, args, _: forget.tnpo(s.logps, s.reference_logps, s.mask, args.beta, args.token_reduction),
        needs_logps=True,
    ),
    "dpo": ForgetObjective(_dpo, needs_logps=True, needs_chosen=True),
    "undial": ForgetObjective(
        _undial,
        terms=lambda args: ScoreTerms(reference_shift=args.forget_loss_kwargs["strength"], entropy=True),
        needs_states=True,
    ),
    "satimp": ForgetObjective(_satimp),
    "ceu": ForgetObjective(
        lambda s, args, _: forget.ceu(s.others, s.mask, args.token_reduction),
        terms=lambda args: ScoreTerms(others=True, entropy=True),
    ),
    "ignorance": ForgetObjective(_ignorance, needs_twin=True),
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


def inner_layer(model: nn.Module, objective: ForgetObjective, args: "BootstrapUnlearnConfig") -> int | None:
    """Index of the layer whose states an objective reads, or None; RMU leaves only parameters near it to train."""
    if not (objective.needs_inner or (args.uses_retain and args.retain_loss_type == "hidden")):
        return None
    parameters = args.forget_loss_kwargs or {}
    layer = parameters.get("layer")
    if layer is None:
        layer = model.config.get_text_config().num_hidden_layers // 3
    layer_of(model, layer)
    if objective.needs_inner:
        # Into the config of the run, so that its record names the layer.
        parameters["layer"] = layer
        _train_around_layer(model, layer, parameters["parameters"])
    return layer


def _train_around_layer(model: nn.Module, layer: int, pattern: str | None) -> None:
    """Let only the parameters train whose names match, or without a pattern those of a layer and of two before it."""
    near = {
        id(parameter)
        for index in range(max(0, layer - 2), layer + 1)
        for parameter in layer_of(model, index).parameters()
    }
    trained = 0
    for name, parameter in model.named_parameters():
        is_chosen = id(parameter) in near if pattern is None else re.search(pattern, name) is not None
        # Never more than trained before: with an adapter, the layer's own weights stay frozen.
        parameter.requires_grad_(parameter.requires_grad and is_chosen)
        trained += parameter.requires_grad
    if not trained:
        raise ValueError(
            f"RMU's `parameters` ({pattern!r}) and `layer` ({layer}) leave no parameter to train. Choose names of "
            "parameters that train (with LoRA, those of the adapter) in `forget_loss_kwargs`."
        )
