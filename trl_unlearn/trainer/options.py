# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Values that the config refuses: of its own fields, and of inherited ones that unlearning has no use for."""

import math
from collections import ChainMap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

from transformers import GenerationConfig
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)
from transformers.trainer_utils import HubStrategy
from trl import SFTConfig

from ..generation import RESERVED_GENERATION_KWARGS
from .forget_objectives import BETAS, FORGET_OBJECTIVES


if TYPE_CHECKING:
    from .bootstrap_unlearn_config import BootstrapUnlearnConfig


_CHOICES = {
    "forget_loss_type": tuple(FORGET_OBJECTIVES),
    "retain_loss_type": ("nll", "kl", "hidden", "none"),
    "lambda_schedule": ("constant", "linear", "adaptive"),
    "token_reduction": ("mean", "sum"),
}
# Keys of `forget_loss_kwargs` with a lower bound; the other numbers may have any value.
_NOT_NEGATIVE, _ABOVE_ZERO = ("beta1", "beta2", "strength", "penalty"), ("coefficient",)
# Inherited options that would be ignored, or that would change what is scored: (name, values allowed, why).
_FIXED_OPTIONS: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("packing", (False,), "a belief belongs to one row, and packing joins rows"),
    ("eval_packing", (None, False), "a belief belongs to one row, and packing joins rows"),
    ("padding_free", (False,), "beliefs and retain rows are joined to a batch after collation"),
    ("loss_type", ("nll",), "use `forget_loss_type` and `retain_loss_type`"),
    (
        "assistant_only_loss",
        (False,),
        "the completion, or the last assistant turn, is what is scored, and no other turn",
    ),
    ("completion_only_loss", (None, True), "the completion, or the last assistant turn, is always what is scored"),
    ("truncation_mode", ("keep_start",), "the start of a row is its prompt"),
    ("label_smoothing_factor", (0.0,), "it belongs to another loss"),
    ("router_aux_loss_coef", (None, 0.0), "the balance of the experts of a mixture is no term of these objectives"),
    ("auto_find_batch_size", (False,), "where memory runs out, it starts anew from weights that have changed"),
    (
        "include_num_input_tokens_seen",
        ("no",),
        "it counts forget rows only. `throughput/tokens_per_second` counts all",
    ),
    ("ddp_static_graph", (None, False), "the number of passes differs from step to step"),
)
# The same of `accelerator_config`.
_FIXED_LOADING: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("split_batches", (False,), "a batch has `per_device_train_batch_size` rows for each process"),
    ("dispatch_batches", (None, False), "each process reads its own rows"),
    ("even_batches", (True,), "every process takes part in every step"),
)


def refuse_options(args: "BootstrapUnlearnConfig") -> None:
    """Raise `ValueError` for a value that is not allowed, or that does not go with another one."""
    _refuse_nulls(args)
    _refuse_choices(args)
    _refuse_ranges(args)
    _refuse_floors(args)
    _refuse_loss_kwargs(args)
    _refuse_twin(args)
    _refuse_beliefs(args)
    if args.retain_max_drop is not None and not args.uses_retain:
        raise ValueError(
            f"`retain_max_drop` is {args.retain_max_drop}, but there is no retain term (`retain_loss_type` is "
            f"{args.retain_loss_type!r}, `retain_weight` {args.retain_weight}). Leave it out, or use one."
        )
    _refuse_generation_kwargs(args)
    _refuse_reporters(args)
    _refuse_inherited(args)


def refuse_below(least: int, args: Any, *names: str) -> None:
    """Refuse numbers below a least one, by the names of their options; None is no number."""
    for name in names:
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(
                f"`{name}` must be at least {least}, got {value}. Correct it, or leave it out for the default."
            )


def _names(names) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _hints(args: "BootstrapUnlearnConfig") -> Mapping[str, Any]:
    """The type of each field."""
    # Annotations, not the types of the fields: a parser overwrites those.
    return ChainMap(*(vars(one).get("__annotations__", {}) for one in type(args).__mro__))


def read_numbers(args: "BootstrapUnlearnConfig") -> None:
    """Make numbers of the strings in fields that are numbers: to YAML, `1e-4` is a string."""
    for name, hint in _hints(args).items():
        kinds, value = (hint, *get_args(hint)), getattr(args, name, None)
        if float in kinds and str not in kinds and isinstance(value, str):
            try:
                setattr(args, name, float(value))
            except ValueError:
                raise ValueError(f"`{name}` is {value!r}, expected a number. Correct it, or leave it out.") from None


def _refuse_nulls(args: "BootstrapUnlearnConfig") -> None:
    """Refuse a key that a recipe leaves empty after its colon, where null means nothing."""
    for name, hint in _hints(args).items():
        # A subclass may leave the null out of the type of its default.
        if isinstance(hint, type) and getattr(args, name) is None and getattr(type(args), name, hint) is not None:
            raise ValueError(f"`{name}` is null, expected a `{hint.__name__}`. Give one, or leave the key out.")


def _refuse_choices(args: "BootstrapUnlearnConfig") -> None:
    for name, allowed in _CHOICES.items():
        if getattr(args, name) not in allowed:
            raise ValueError(
                f"Unknown `{name}`: {getattr(args, name)!r}. Set it to one of {', '.join(map(repr, allowed))}."
            )


def _refuse_ranges(args: "BootstrapUnlearnConfig") -> None:
    for name in ("lambda_bst", "lambda_bss"):
        if not 0 <= getattr(args, name) <= 1:
            raise ValueError(
                f"`{name}` must be in [0, 1], got {getattr(args, name)}. It is the share of the loss that goes to "
                "the beliefs; the rest stays on the target."
            )
    refuse_below(0, args, "forget_weight", "retain_weight", "belief_refresh_epochs", "top_k")
    refuse_below(0, args, "ignorant_refresh_epochs", "ignorant_retain_rows", "ignorant_epochs")
    refuse_below(1, args, "belief_top_k", "max_completion_length", "prompt_length", "belief_batch_size")
    refuse_below(1, args, "num_completions_to_print", "pad_to_multiple_of")
    for name in ("beta", "belief_temperature", "temperature", "retain_max_drop"):
        # `wga` with exponent 0 is gradient ascent.
        if getattr(args, name) is None or (name == "beta" and args.forget_loss_type == "wga" and args.beta == 0):
            continue
        # Not `<=`, which is false for NaN.
        if not getattr(args, name) > 0:
            raise ValueError(f"`{name}` must be above 0, got {getattr(args, name)}.")
    if not 0 < args.top_p <= 1:
        raise ValueError(f"`top_p` must be in (0, 1], got {args.top_p}.")


def _refuse_floors(args: "BootstrapUnlearnConfig") -> None:
    for name, example in (("forget_floor", -2.5), ("forget_token_floor", -5)):
        floor = getattr(args, name)
        if floor is not None and not floor < 0:
            raise ValueError(
                f"`{name}` is a log-prob, in nats per token, and must be below 0, got {floor}. Try {example}, or "
                "leave it out."
            )
        if floor is not None and args.forget_loss_type == "rmu":
            raise ValueError(
                f"`{name}` is {floor}, but `forget_loss_type='rmu'` acts on hidden states, whatever the log-prob. "
                "Leave it out; `coefficient` in `forget_loss_kwargs` bounds how far it goes."
            )


def _refuse_loss_kwargs(args: "BootstrapUnlearnConfig") -> None:
    """Refuse parameters of the forget objective by the signature of its loss, and `beta` where it has none."""
    if args.beta is not None and args.forget_loss_type not in BETAS:
        raise ValueError(
            f"`beta` is {args.beta}, but `forget_loss_type={args.forget_loss_type!r}` has none: only "
            f"{', '.join(map(repr, BETAS))} do. Leave it out, or choose one of these."
        )
    parameters, given = FORGET_OBJECTIVES[args.forget_loss_type].parameters, args.forget_loss_kwargs
    if given is not None and not isinstance(given, dict):
        raise ValueError(
            f"`forget_loss_kwargs` is {given!r}, expected a mapping (on the command line in JSON, such as "
            "'{\"coefficient\": 5}'). Give one, or leave it out."
        )
    unknown = [name for name in given or {} if name not in parameters]
    if unknown:
        takes = f"only {_names(parameters)}. Correct the name, or leave it out" if parameters else "none. Leave it out"
        raise ValueError(
            f"`forget_loss_kwargs` holds {_names(unknown)}, but `forget_loss_type={args.forget_loss_type!r}` takes "
            f"{takes}."
        )
    for name, value in (given or {}).items():
        hint, key = parameters[name].annotation, f"`forget_loss_kwargs[{name!r}]`"
        # A whole number is a float to Python's annotations, and `True` is a number to `isinstance`.
        if isinstance(value, bool) or not isinstance(value, float | int if hint is float else hint):
            expected = hint.__name__ if isinstance(hint, type) else hint
            raise ValueError(f"{key} is {value!r}, expected a `{expected}`. Correct it, or leave it out.")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key} is {value}, expected a finite number. Correct it, or leave it out.")
        if name in _NOT_NEGATIVE and value < 0:
            raise ValueError(f"{key} must not be negative, got {value}.")
        if name in _ABOVE_ZERO and not value > 0:
            raise ValueError(f"{key} must be above 0, got {value}.")


def _refuse_twin(args: "BootstrapUnlearnConfig") -> None:
    names = ("forget_subjects", "forget_aliases")
    given = [name for name in ("ignorant_model_name_or_path", *names) if getattr(args, name) not in (None, [])]
    if given and not FORGET_OBJECTIVES[args.forget_loss_type].needs_twin:
        raise ValueError(
            f"{_names(given)} would be ignored: only `forget_loss_type='ignorance'` distils a model that never knew, "
            f"and it is {args.forget_loss_type!r}. Set it, or leave them out."
        )
    if args.ignorant_model_name_or_path is not None and len(given) > 1:
        raise ValueError(
            f"{_names(given[1:])} are names to replace where the model is asked about somebody else, but "
            "`ignorant_model_name_or_path` is asked about the rows as they are. Keep one."
        )
    for name in names:
        value = getattr(args, name) or []
        # Of a string, each character would be a name.
        if isinstance(value, str) or not all(one.strip() for one in value):
            came = "a string" if isinstance(value, str) else "a list with a blank name"
            raise ValueError(f"`{name}` is {came}, expected a list of names. Correct it, or leave it out.")
    if single := [name for name in args.forget_aliases or () if len(name.split()) < 2]:
        raise ValueError(
            f"`forget_aliases` has {_names(single)}, expected a first and a last name each: they are mixed. Add the "
            "other name, or leave it out."
        )


def _refuse_beliefs(args: "BootstrapUnlearnConfig") -> None:
    if args.lambda_bss > 0 and args.num_beliefs < 1:
        raise ValueError(
            f"`num_beliefs` is {args.num_beliefs} while `lambda_bss` is {args.lambda_bss}: there would be no "
            "belief to weigh. Raise `num_beliefs`, or set `lambda_bss=0` for BS-T or the bare objective."
        )
    is_weighed = args.lambda_bss > 0 or (args.forget_loss_type == "bs_t" and args.lambda_bst > 0)
    if args.lambda_schedule != "constant" and not is_weighed:
        raise ValueError(
            f"`lambda_schedule` is {args.lambda_schedule!r}, but there are no beliefs whose weight would change "
            "(`lambda_bss` is 0, and so are the token beliefs of `forget_loss_type='bs_t'`). Leave it out, or raise "
            "`lambda_bss`."
        )
    if args.log_completions and args.lambda_bss == 0:
        raise ValueError(
            "`log_completions` prints the sequence beliefs, but `lambda_bss` is 0 and none are sampled. Leave it "
            "out, or raise `lambda_bss`."
        )
    if args.num_belief_candidates is not None and args.num_belief_candidates < args.num_beliefs:
        raise ValueError(
            f"`num_belief_candidates` ({args.num_belief_candidates}) must not be below `num_beliefs` "
            f"({args.num_beliefs}): the beliefs are the best of the candidates."
        )


def _refuse_generation_kwargs(args: "BootstrapUnlearnConfig") -> None:
    clashes = sorted(RESERVED_GENERATION_KWARGS & set(args.generation_kwargs or {}))
    if clashes:
        raise ValueError(
            f"`generation_kwargs` must not hold {_names(clashes)}. Use the fields of "
            "the config (`temperature`, `top_p`, `top_k`, `max_completion_length`); the trainer sets the rest, or has "
            "no use for it."
        )
    unknown = sorted(set(args.generation_kwargs or {}) - GenerationConfig().to_dict().keys())
    if unknown:
        raise ValueError(
            f"`generation_kwargs` holds {_names(unknown)}, which `GenerationConfig` does not have. Check the spelling."
        )


def _refuse_reporters(args: SFTConfig) -> None:
    """Refuse trackers that are not installed: their callbacks raise when all else is prepared."""
    names = [args.report_to] if isinstance(args.report_to, str) else args.report_to or []
    if unknown := sorted(set(names) - {"none", "all", *INTEGRATION_TO_CALLBACK}):
        known = ", ".join(map(repr, ("none", *INTEGRATION_TO_CALLBACK)))
        raise ValueError(f"Unknown trackers in `report_to`: {_names(unknown)}. Set it to some of {known}.")
    # Whether the other two are installed, Transformers does not say.
    missing = sorted({*names} - {"none", "all", "azure_ml", "flyte", *get_available_reporting_integrations()})
    if missing:
        raise ValueError(
            f"Not installed, but in `report_to`: {_names(missing)}. Run `pip install {' '.join(missing)}`, or leave "
            "them out."
        )


def _refuse_inherited(args: SFTConfig) -> None:
    """Refuse inherited options that would be ignored, or that would change what is scored."""
    if args.push_to_hub and args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
        raise ValueError(
            f"`hub_strategy={args.hub_strategy.value!r}` would push checkpoints, with the state of the optimizer. "
            "Set it to 'every_save' or 'end', which push the model and its card."
        )
    for owner, prefix, options in (
        (args, "", _FIXED_OPTIONS),
        (args.accelerator_config, "accelerator_config.", _FIXED_LOADING),
    ):
        for name, allowed, why in options:
            value = getattr(owner, name)
            if value not in allowed:
                raise ValueError(
                    f"`{prefix}{name}={value!r}` is not supported in unlearning: {why}. Leave it at {allowed[0]!r}."
                )
    # The old name of `activation_checkpointing_kwargs`, which every version has.
    if parts := sorted({"every_n_layers", "offload"} & (args.gradient_checkpointing_kwargs or {}).keys()):
        raise ValueError(
            f"`activation_checkpointing_kwargs` holds {_names(parts)}, which is lost where the model generates or is "
            "measured in between. Leave it out: all layers are checkpointed."
        )
    parallel = args.parallelism_config
    if parallel is not None and max(parallel.tp_size, parallel.cp_size, parallel.sp_size) > 1:
        raise ValueError(
            "`parallelism_config` shares rows or layers among processes (`tp_size`, `cp_size` or `sp_size` above 1), "
            "but here each process has rows of its own. Leave these at 1; `dp_shard_size` shards the model."
        )
    if "layerwise" in args.optim or "lomo" in args.optim:
        raise ValueError(
            f"`optim={args.optim.value!r}` changes weights in each backward pass, and a step has several. Choose "
            "another one, such as 'adafactor', which needs little memory too."
        )
    if args.shuffle_dataset and args.train_sampling_strategy == "sequential":
        raise ValueError(
            "`shuffle_dataset=True` and `train_sampling_strategy='sequential'` contradict each other: rows are known "
            "by their index, and only their order in an epoch is shuffled. Leave one of them out."
        )
    unknown = sorted((args.dataset_kwargs or {}).keys() - {"skip_prepare_dataset"})
    if unknown:
        raise ValueError(
            f"`dataset_kwargs` holds {_names(unknown)}, but only `skip_prepare_dataset` is known. Leave the rest out."
        )
    if args.activation_offloading and args.device.type == "cpu":
        raise ValueError(
            "`activation_offloading=True` moves activations from an accelerator to the CPU, and there is no "
            "accelerator. Leave it out."
        )
