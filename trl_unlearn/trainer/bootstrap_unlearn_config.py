# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Configuration of [`BootstrapUnlearnTrainer`]."""

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.trainer_pt_utils import AcceleratorConfig
from trl import SFTConfig

from ..beliefs import BeliefSampling
from ..row_forms import configured_template_kwargs
from .forget_objectives import BETAS, FORGET_OBJECTIVES
from .options import read_numbers, refuse_options


# Learning rates where `learning_rate` is not set: an adapter needs one 10 to 50 times higher.
_LEARNING_RATE, _ADAPTER_LEARNING_RATE = 1e-5, 2e-4
# `forget_floor` with the adaptive schedule: weights that follow an ascent without end do not settle.
_ADAPTIVE_FLOOR = -2.5


def option(default: Any, text: str) -> Any:
    """A field of options with the help that `--help` prints. A default that is a list is copied for each instance."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


# No file that others may read has them.
SECRETS = ("hub_token", "forget_subjects")


@dataclass
class BootstrapUnlearnConfig(SFTConfig):
    r"""
    Configuration class for the [`BootstrapUnlearnTrainer`].

    This class includes only the parameters that are specific to unlearning. For a full list of training arguments,
    please refer to [`~trl.SFTConfig`] and [`~transformers.TrainingArguments`]. It runs without any flag on a machine
    that has no accelerator: there `use_cpu` is set, and `bf16` is off unless it is set.

    Parameters:
        > Parameters that control the two terms

        forget_loss_type (`str`, *optional*, defaults to `"bs_t"`):
            What is minimised on the forget set: `"bs_t"` (bootstrapping on tokens), `"ga"` (gradient ascent), `"npo"`
            (negative preference optimisation), `"simnpo"` (without a reference), `"wga"`, `"tnpo"`, `"satimp"` (token
            weights), `"dpo"` (prefers "I don't know" answers), `"undial"` (self-distillation with a lowered label),
            `"ceu"` (cross-entropy without the label), `"rmu"` (hidden states to a random direction) or `"ignorance"`
            (distils a model that never knew, see `ignorant_model_name_or_path`).
        forget_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the forget term.
        forget_floor (`float`, *optional*):
            Mean log-prob of an answer or a belief, in nats per token, below which it is left alone: it bounds an
            ascent that has no end. If not set: -2.5 (a probability of 0.08, as of a model that never saw the
            row) with `lambda_schedule="adaptive"` and an objective without an end of its own (all but `"ignorance"`,
            `"undial"` and `"rmu"`), otherwise no bound.
        forget_token_floor (`float`, *optional*):
            Log-prob, in nats, that each token of an answer or a belief is clipped at: a token below it is left alone.
            `forget_floor` takes a row as a whole; this one lets the likely tokens of a row fall further. No bound if
            not set. Neither goes with `"rmu"`.
        retain_loss_type (`str`, *optional*, defaults to `"nll"`):
            What is minimised on the retain set: `"nll"`, `"kl"` (divergence from the original model), `"hidden"`
            (distance of hidden states from the original model's, for RMU) or `"none"` (no retain set is needed).
        retain_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the retain term.
        retain_max_drop (`float`, *optional*):
            Nats per token that the retain rows may become less likely. Where they fall further, `retain_weight` grows,
            to 20 times its value at most, see [`~trl_unlearn.trainer.weights.adapted_retain_weight`]. It stays as it
            is if not set.
        token_reduction (`str`, *optional*, defaults to `"mean"`):
            `"mean"` or `"sum"` over the label tokens of a row. NPO and DPO always sum; SimNPO, RMU and the
            retain loss `"hidden"` average.

        > Parameters of single objectives

        beta (`float`, *optional*):
            Inverse temperature of `"npo"` and `"dpo"` (0.1 if not set), `"simnpo"` (4.5) and `"tnpo"` (1), exponent of
            the weights of `"wga"` (1).
        forget_loss_kwargs (`dict[str, Any]`, *optional*):
            Parameters of single objectives; any other name is refused.

            - `"simnpo"`: `gamma` (0), its margin.
            - `"satimp"`: `beta1` (5) and `beta2` (1), exponents of the probability, and of one minus it, in the
              weights.
            - `"undial"`: `strength` (10), which is taken off the label's logit in the distribution that it distils.
            - `"rmu"`: `coefficient` (2), length of the vector that hidden states are pushed to; `layer` (a third of
              the depth) whose hidden states it and the retain loss `"hidden"` act on; `parameters`, a regular
              expression of the names of the parameters that train (those of `layer` and of the two layers before it).
            - `"ignorance"`: `penalty` (0.25) and `margin` (0, in nats) of an answer's tokens, see
              [`~trl_unlearn.objectives.forget.ignorance`].

        > Parameters that control the ignorant twin

        ignorant_model_name_or_path (`str`, *optional*):
            A model that never knew the forget set, with the target's tokenizer, such as the base that the target was
            tuned from. Default without names: the base that the target's adapter or card names, unless that base
            knows the forget set. Else the target itself is asked about strangers, whose names replace those in the
            forget rows. Where it recites the answers under any name, a copy of it is made to lose them, unless
            `forget_aliases` are set.
        ignorant_refresh_epochs (`float`, *optional*, defaults to `5.0`):
            Epochs after which the model in training is asked anew under other names. A target that has memorised an
            answer as a whole gives it under any name at first, and less so as it forgets. It is asked no more where
            it finds true answers hardly likelier than answers about others (`strangers_auc` up to 0.65). 0 asks once.
        ignorant_retain_rows (`int`, *optional*, defaults to `80`):
            Retain rows that give `ignorant_model_name_or_path`, or a copy of the target, the form of the answers, by
            LoRA, before training. 0 for a model that has it; then no copy is made.
        ignorant_epochs (`int`, *optional*, defaults to `6`):
            Passes over these rows.
        forget_subjects (`list[str]`, *optional*):
            Names that the forget rows are about. If not set, for each row a capitalised word or
            name of its prompt that no retain row has.
        forget_aliases (`list[str]`, *optional*):
            First and last names of strangers: people that the model does not know, under names of tokens as common as
            those of the forget set. They take the places of the names in the forget rows, mixed. If not set, the
            names of the retain rows: the model then answers with facts of theirs, and more sharply than a model does
            that never knew.

        > Parameters that control token beliefs (BS-T)

        lambda_bst (`float`, *optional*, defaults to `0.2`):
            Weight of the token beliefs, in [0, 1]. Up to the mass of the `belief_top_k` tokens they attenuate
            squeezing and do not reverse it.
        belief_top_k (`int`, *optional*, defaults to `20`):
            Number of most likely tokens that are a position's beliefs.
        belief_temperature (`float`, *optional*, defaults to `1.0`):
            Sharpens (below 1) or flattens the weights of these tokens.
        belief_exclude_target (`bool`, *optional*, defaults to `False`):
            Whether the label is left out of its own beliefs. It raises a target that is still dominant, as long as its
            probability is above `1 - lambda_bst`.

        > Parameters that control the weights of beliefs

        lambda_schedule (`str`, *optional*, defaults to `"constant"`):
            Course of `lambda_bst` and `lambda_bss` during training: `"constant"`, `"linear"` (from 0 to their
            values) or `"adaptive"` (from their values up while beliefs that were frozen before unlearning fall less
            than half as far as the target, else down, see [`~trl_unlearn.trainer.weights.adapted_share`]).

        > Parameters that control sequence beliefs (BS-S)

        lambda_bss (`float`, *optional*, defaults to `0.5`):
            Weight of the sequence beliefs, in [0, 1]. 0 turns them off.
        num_beliefs (`int`, *optional*, defaults to `3`):
            Beliefs kept for each forget row (N).
        num_belief_candidates (`int`, *optional*):
            Sequences sampled for each forget row. The `num_beliefs` with the highest mean log-prob are kept, repeats
            of the target among them. Defaults to `num_beliefs`.
        belief_refresh_epochs (`float`, *optional*, defaults to `2.0`):
            Epochs after which beliefs are sampled again from the current model (on-policy). 0 samples once, from the
            original model (off-policy).
        belief_batch_size (`int`, *optional*):
            Rows a `generate` call takes. Chosen from free memory by default, and halved where memory runs out all the
            same. It does not change the beliefs.
        max_completion_length (`int`, *optional*, defaults to `256`):
            Most tokens of a belief.
        temperature (`float`, *optional*, defaults to `1.0`):
            Temperature of the sampling of beliefs.
        top_p (`float`, *optional*, defaults to `1.0`):
            Probability mass of the most likely tokens that beliefs are sampled from.
        top_k (`int`, *optional*, defaults to `0`):
            Number of most likely tokens that beliefs are sampled from. 0 takes all.
        generation_kwargs (`dict[str, Any]`, *optional*):
            Further fields of [`~transformers.GenerationConfig`] for beliefs, such as `repetition_penalty`.
        chat_template_kwargs (`dict[str, Any]`, *optional*):
            Variables of the chat template, such as `enable_thinking`. A row's own `chat_template_kwargs` win.
        prompt_length (`int`, *optional*, defaults to `64`):
            Raw text only: number of first tokens of a row that are the prompt of its beliefs.

        > Parameters that control the model

        disable_dropout (`bool`, *optional*, defaults to `True`):
            Whether dropout is set to 0 in the model and its adapter, that of attention and of whole layers too. The
            model's config, which is saved with it, stays as it is.
        share_prompts (`bool`, *optional*, defaults to `True`):
            Whether a forget row and its beliefs have their prompt once in a pass, where the model computes the same
            numbers then: with attention (`sdpa` or `eager`) as the only way between tokens, and over whole rows. If
            not, a warning says why, and each row passes with its own prompt. So it does in a micro-batch where shared
            prompts would not be faster: with short prompts, or with long rows in narrow layers.
        stop_on_divergence (`bool`, *optional*, defaults to `True`):
            Whether training ends with a [`~trl_unlearn.trainer.guard.DivergenceError`] where a loss or gradient is not
            finite, or up to eight retain rows, measured every tenth step, become less likely than a uniform guess. The
            last good weights are put back from a copy in main memory (not with DeepSpeed). If `False`, training
            continues, and a step with a loss or gradient that is not finite changes nothing: there is a warning, and
            `skipped_steps` in the log counts it. It also counts the steps that the gradient scaler of fp16 leaves out
            because of an overflow, which never end training.

        > Parameters that control the logging

        verbose (`bool`, *optional*, defaults to `False`):
            Whether all numbers are printed at each entry of the log. If `False`, a line of the few that decide, 21
            times in a run at most; the log history and reporters have all.
        log_completions (`bool`, *optional*, defaults to `False`):
            Whether beliefs are printed each time they are sampled, beside their prompts and answers. This shows what
            is to be forgotten; it goes to the terminal, and to no reporter and no file.
        num_completions_to_print (`int`, *optional*, defaults to `6`):
            Most beliefs that are printed. `None` prints all.

        telemetry (`bool`, *optional*, defaults to `False`):
            Whether TRL may send its ping to the Hub when a trainer is built: versions, kinds of model, device and
            data, number of processes; no name and no data. Nothing is sent otherwise.

        > Parameters that control what is published

        hub_license (`str`, *optional*):
            License of the result, such as `"apache-2.0"`, for its card. If not set, that of the base's card, if any.

        > Parameters that control the checkpoints

        remove_belief_state (`bool`, *optional*, defaults to `False`):
            Whether to remove, when training is done, what the checkpoints hold of the beliefs and of the reference
            log-probs: text of what is to be forgotten. They then hold weights and the optimizer, and training cannot
            be resumed from them. With `save_only_model=True` none of it is written at all.

    > [!NOTE]
    > These parameters have default values different from [`~trl.SFTConfig`]:
    > - `learning_rate`: `None`, which means 2e-4 with a PEFT adapter and 1e-5 (as published) without one.
    > - `num_train_epochs`: 10 instead of 3, `warmup_steps`: 0.1 of all steps instead of 0, `weight_decay`: 0.01
    >   instead of 0 (all as published).
    > - `logging_nan_inf_filter`: `False` instead of `True`, because the filter hides a diverging ascent.
    > - `bf16`: `False` on a machine without an accelerator.
    > - `hub_private_repo`: `True` instead of `None`, and `None` means the same: what is pushed is private by default.
    """

    _VALID_DICT_FIELDS = [  # noqa: RUF012
        *SFTConfig._VALID_DICT_FIELDS,
        "forget_loss_kwargs",
        "generation_kwargs",
        "chat_template_kwargs",
    ]

    # Parameters whose default values are overridden from the parents
    learning_rate: float | None = option(
        None, "The initial learning rate for AdamW. If not set: 2e-4 with a PEFT adapter, 1e-5 without one."
    )
    num_train_epochs: float = option(10.0, "Number of passes over the forget set.")
    warmup_steps: float = option(
        0.1, "Steps of linear warm-up: a number of steps, or a share of all steps if it is below 1."
    )
    weight_decay: float = option(0.01, "Weight decay for AdamW.")
    logging_nan_inf_filter: bool = option(
        False, "Whether to hide NaN and inf losses in the log. Off, because they show a diverging ascent."
    )
    hub_private_repo: bool | None = option(
        True, "Whether a new repository is private. To push to a public one, set it to false."
    )

    # Parameters that control what is published
    hub_license: str | None = option(
        None, "License of the result, such as 'apache-2.0', for its card. If not set: that of the base's card, if any."
    )

    # Parameters that control the two terms
    forget_loss_type: str = option(
        "bs_t",
        "Objective on the forget set: 'bs_t' (bootstrapping on tokens), 'ga' (gradient ascent), 'npo', 'simnpo', "
        "'wga', 'tnpo', 'satimp', 'dpo', 'undial', 'ceu', 'rmu' or 'ignorance' (distils a model that never knew).",
    )
    forget_weight: float = option(1.0, "Weight of the forget term.")
    forget_floor: float | None = option(
        None,
        "Mean log-prob of an answer or a belief, in nats per token, below which it is left alone. If not set: -2.5 "
        "with the adaptive schedule and an objective without an end of its own, otherwise no bound.",
    )
    forget_token_floor: float | None = option(
        None,
        "Log-prob, in nats, that each token of an answer or a belief is clipped at: a token below it is left alone. "
        "If not set: no bound.",
    )
    retain_loss_type: str = option(
        "nll",
        "Objective on the retain set: 'nll', 'kl' (divergence from the original model), 'hidden' (distance of hidden "
        "states from the original model's, for 'rmu') or 'none' (no retain set is needed).",
    )
    retain_weight: float = option(1.0, "Weight of the retain term.")
    retain_max_drop: float | None = option(
        None,
        "Nats per token that the retain rows may become less likely before `retain_weight` grows. If not set, it "
        "stays as it is.",
    )
    beta: float | None = option(
        None,
        "Inverse temperature of 'npo', 'dpo' (both 0.1 if not set), 'simnpo' (4.5) and 'tnpo' (1), exponent of the "
        "weights of 'wga' (1).",
    )
    forget_loss_kwargs: dict[str, Any] | str | None = option(
        None,
        "Parameters of single objectives: `gamma` of 'simnpo' (0), `beta1` and `beta2` of 'satimp' (5 and 1), "
        "`strength` of 'undial' (10), `coefficient` (2), `layer` (a third of the depth) and `parameters` (a regular "
        "expression; the layer and the two before it) of 'rmu', `penalty` (0.25) and `margin` (0) of 'ignorance'. "
        "JSON on the command line: '{\"coefficient\": 5}'.",
    )
    token_reduction: str = option(
        "mean", "'mean' or 'sum' over the label tokens of a row. NPO and DPO always sum, RMU averages."
    )

    # Parameters that control the ignorant twin
    ignorant_model_name_or_path: str | None = option(
        None,
        "A model that never knew the forget set, such as the target's base, for 'ignorance'. If not set: the base "
        "that the target's adapter or card names, else the target, asked about somebody else, or a copy that lost the "
        "rows.",
    )
    ignorant_refresh_epochs: float = option(
        5.0,
        "Epochs after which the model is asked anew about somebody else, until it knows no more of the forget rows "
        "than of others. 0 asks once, before training.",
    )
    ignorant_retain_rows: int = option(
        80, "Retain rows for tuning `ignorant_model_name_or_path`, or a copy of the target, before the training."
    )
    ignorant_epochs: int = option(6, "Passes over these rows.")
    forget_subjects: list[str] | None = option(
        None, "Names that the forget rows are about. If not set: capitalised words of prompts that no retain row has."
    )
    forget_aliases: list[str] | None = option(
        None,
        "First and last names of people that the model does not know. If not set: names of the retain rows, mixed.",
    )

    # Parameters that control token beliefs
    lambda_bst: float = option(0.2, "Weight of the token beliefs (BS-T), in [0, 1].")
    belief_top_k: int = option(20, "Number of most likely tokens that are the beliefs at a position.")
    belief_temperature: float = option(1.0, "Sharpens (below 1) or flattens the weights of the token beliefs.")
    belief_exclude_target: bool = option(False, "Whether to leave the label out of its own token beliefs.")

    # Parameters that control the weights of beliefs
    lambda_schedule: str = option(
        "constant",
        "What `lambda_bst` and `lambda_bss` do: 'constant', 'linear' (grow from 0 to their values) or 'adaptive' "
        "(follow how far beliefs that were frozen before unlearning have fallen).",
    )

    # Parameters that control sequence beliefs
    lambda_bss: float = option(0.5, "Weight of the sequence beliefs (BS-S), in [0, 1]. 0 turns them off.")
    num_beliefs: int = option(3, "Sequence beliefs kept for each forget row.")
    num_belief_candidates: int | None = option(
        None,
        "Sequences sampled for each forget row; the `num_beliefs` most likely are kept. Defaults to `num_beliefs`.",
    )
    belief_refresh_epochs: float = option(
        2.0, "Epochs after which beliefs are sampled again. 0 samples once, from the original model."
    )
    belief_batch_size: int | None = option(None, "Rows a `generate` call takes. Chosen from free memory by default.")
    max_completion_length: int = option(256, "Most tokens of a belief.")
    temperature: float = option(1.0, "Temperature of the sampling of beliefs.")
    top_p: float = option(1.0, "Probability mass of the most likely tokens that beliefs are sampled from.")
    top_k: int = option(0, "Number of most likely tokens that beliefs are sampled from. 0 takes all.")
    generation_kwargs: dict[str, Any] | str | None = option(
        None, "Further fields of `GenerationConfig` for beliefs, such as `repetition_penalty`."
    )
    chat_template_kwargs: dict[str, Any] | str | None = option(
        None, "Variables of the chat template, such as `enable_thinking`. Those of a row win."
    )
    prompt_length: int = option(
        64, "Raw text only: number of first tokens of a row that are the prompt of its beliefs."
    )

    # Parameters that control the model
    disable_dropout: bool = option(True, "Whether to set dropout to 0 in the model and its adapter.")
    share_prompts: bool = option(
        True,
        "Whether a forget row and its beliefs have their prompt once in a pass, where the model computes the same "
        "numbers then and that is faster.",
    )
    stop_on_divergence: bool = option(
        True,
        "Whether to end with exit code 3 and the last good weights where a loss or gradient is not finite, or the "
        "retain rows become less likely than a uniform guess. If false, steps that are not finite are left out, with "
        "a warning.",
    )

    # Parameters that control the logging
    verbose: bool = option(
        False,
        "Whether to print all numbers of each entry of the log, the whole table at the end, and all warnings and bars "
        "of libraries.",
    )
    log_completions: bool = option(
        False,
        "Whether to print the beliefs each time they are sampled. This shows what is to be forgotten; it goes to the "
        "terminal only.",
    )
    num_completions_to_print: int | None = option(
        6, "Most beliefs that `log_completions` prints. 'null' in a file prints all."
    )

    telemetry: bool = option(
        False, "Whether TRL may send its ping to the Hub (versions, kinds of model and device; no data)."
    )

    # Parameters that control the checkpoints
    remove_belief_state: bool = option(
        False,
        "Whether to remove, when training is done, what the checkpoints hold of the beliefs and reference log-probs: "
        "text of what is to be forgotten. Training cannot be resumed from these checkpoints afterwards. With "
        "`save_only_model` none of it is written at all.",
    )

    def __post_init__(self):
        read_numbers(self)
        # TRL's configs raise without an accelerator unless `use_cpu` is set; this one just runs.
        if not torch.accelerator.is_available():
            self.use_cpu = True
        if self.use_cpu and self.bf16 is None:
            self.bf16 = False
        super().__post_init__()
        self._refuse()

    def _refuse(self) -> None:
        if self.hub_private_repo is None:
            self.hub_private_repo = True
        self.chat_template_kwargs = configured_template_kwargs(self.chat_template_kwargs)
        refuse_options(self)
        # As texts have it.
        self.forget_subjects = self.forget_subjects and [" ".join(name.split()) for name in self.forget_subjects]

    def to_dict(self) -> dict[str, Any]:
        """The arguments as trackers are sent them: how many people are forgotten, and not who."""
        arguments = super().to_dict()
        if self.forget_subjects is not None:
            arguments["forget_subjects"] = f"{len(self.forget_subjects)} given"
        return arguments

    def __repr__(self) -> str:
        # A config is logged as text, too.
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"

    __str__ = __repr__

    def belief_sampling(self, num_beliefs: int | None = None) -> BeliefSampling:
        """How beliefs are drawn; with a number, as many are drawn and kept."""
        return BeliefSampling(
            num_beliefs=num_beliefs or self.num_beliefs,
            num_candidates=num_beliefs or self.num_belief_candidates,
            max_completion_length=self.max_completion_length,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            generation_kwargs=self.generation_kwargs,
            batch_size=self.belief_batch_size,
            seed=self.seed,
        )

    def realised(self, trains_adapter: bool) -> "BootstrapUnlearnConfig":
        """A copy for one run that shares no list with this one: open values have defaults, all are checked."""
        # Attributes may have been set since `__post_init__`.
        self._refuse()
        args = copy.copy(self)
        for name, value in vars(args).items():
            if isinstance(value, dict | list | AcceleratorConfig):
                setattr(args, name, copy.deepcopy(value))
        if args.learning_rate is None:
            args.learning_rate = _ADAPTER_LEARNING_RATE if trains_adapter else _LEARNING_RATE
        if args.num_belief_candidates is None:
            args.num_belief_candidates = args.num_beliefs
        objective = FORGET_OBJECTIVES[args.forget_loss_type]
        if args.forget_floor is None and args.lambda_schedule == "adaptive" and not objective.has_end:
            args.forget_floor = _ADAPTIVE_FLOOR
        if args.beta is None:
            args.beta = BETAS.get(args.forget_loss_type)
        if objective.parameters:
            defaults = {name: one.default for name, one in objective.parameters.items()}
            args.forget_loss_kwargs = defaults | (args.forget_loss_kwargs or {})
        return args

    @property
    def uses_retain(self) -> bool:
        """Whether the retain term counts, so that a retain set is needed."""
        return self.retain_weight > 0 and self.retain_loss_type != "none"

    @property
    def compares_retain(self) -> bool:
        """Whether the retain loss reads the original model."""
        return self.uses_retain and self.retain_loss_type in ("kl", "hidden")
