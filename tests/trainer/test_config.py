# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import dataclasses
import math
import re

import pytest
import torch
from transformers import HfArgumentParser
from trl import TrlParser

from trl_unlearn import BootstrapUnlearnConfig
from trl_unlearn.trainer import options
from trl_unlearn.trainer.forget_objectives import FORGET_OBJECTIVES


RMU, SATIMP = {"forget_loss_type": "rmu"}, {"forget_loss_type": "satimp"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"forget_loss_type": "gd"}, "Unknown `forget_loss_type`: 'gd'. Set it to one of 'ga'"),
        ({"retain_loss_type": "mse"}, "Unknown `retain_loss_type`: 'mse'"),
        ({"token_reduction": "max"}, "Unknown `token_reduction`: 'max'"),
        ({"lambda_bst": 1.2}, r"`lambda_bst` must be in \[0, 1\], got 1.2"),
        ({"lambda_bss": -0.1}, r"`lambda_bss` must be in \[0, 1\], got -0.1"),
        ({"num_beliefs": 0}, "`num_beliefs` is 0 while `lambda_bss` is 0.5"),
        ({"num_beliefs": 4, "num_belief_candidates": 2}, r"`num_belief_candidates` \(2\) must not be below"),
        ({"ignorant_epochs": -1}, "`ignorant_epochs` must be at least 0, got -1"),
        (
            {"forget_loss_type": "ignorance", "forget_aliases": ["Ada Marlow", "Dov"]},
            "`forget_aliases` has `Dov`, expected a first and a last name each",
        ),
        *(
            (
                {"forget_loss_type": "ignorance", name: value},
                f"`{name}` is {came}, expected a list of names. Correct it, or leave it out.",
            )
            for name in ("forget_subjects", "forget_aliases")
            for value, came in (("Ada Marlow", "a string"), (["Ada Marlow", " "], "a list with a blank name"))
        ),
        ({"forget_subjects": ["Ada"]}, "`forget_subjects` would be ignored: only `forget_loss_type='ignorance'`"),
        (
            {"forget_loss_type": "ignorance", "forget_subjects": ["Ada"], "ignorant_model_name_or_path": "org/base"},
            "`forget_subjects` are names to replace where the model is asked about somebody else",
        ),
        ({"belief_top_k": 0}, "`belief_top_k` must be at least 1, got 0"),
        ({"belief_temperature": 0}, "`belief_temperature` must be above 0"),
        ({"temperature": 0.0}, "`temperature` must be above 0"),
        ({"top_p": 1.5}, r"`top_p` must be in \(0, 1\], got 1.5"),
        ({"belief_batch_size": 0}, "`belief_batch_size` must be at least 1"),
        ({"belief_refresh_epochs": -1}, "`belief_refresh_epochs` must be at least 0"),
        ({"retain_weight": -1}, "`retain_weight` must be at least 0"),
        ({"beta": float("nan")}, "`beta` must be above 0"),
        ({"beta": 0.5}, "`beta` is 0.5, but `forget_loss_type='bs_t'` has none: only 'npo', 'dpo', "),
        (SATIMP | {"beta": 0.5}, "`beta` is 0.5, but `forget_loss_type='satimp'` has none"),
        *(
            (bare | {"lambda_schedule": "adaptive", "lambda_bss": 0.0}, "no beliefs whose weight would change")
            for bare in ({"forget_loss_type": "npo"}, {"lambda_bst": 0.0})
        ),
        ({"generation_kwargs": {"do_sample": True}}, "`generation_kwargs` must not hold `do_sample`"),
        ({"generation_kwargs": {"min_p": 0.1, "stop_strings": ["."]}}, "must not hold `min_p`, `stop_strings`"),
        ({"generation_kwargs": {"renormalize_logits": True, "min_length": 9}}, "hold `min_length`, `renormalize_log"),
        *(
            ({"generation_kwargs": {name: True}}, f"`generation_kwargs` must not hold `{name}`. Use the fields of")
            for name in ("output_scores", "output_hidden_states", "return_dict_in_generate", "length_penalty")
        ),
        (
            {"forget_loss_kwargs": {"gamma": 1}},
            "holds `gamma`, but `forget_loss_type='bs_t'` takes none.",
        ),
        (
            RMU | {"forget_loss_kwargs": {"gamma": 1}},
            "takes only `coefficient`, `layer`, `parameters`",
        ),
        (
            RMU | {"forget_loss_kwargs": {"layer": 1.5}},
            r"\['layer'\]` is 1.5, expected a `int \| None`",
        ),
        (RMU | {"forget_loss_kwargs": {"coefficient": "1e1"}}, "is '1e1', expected a `float`"),
        (RMU | {"forget_loss_kwargs": {"coefficient": 0}}, r"`forget_loss_kwargs\['coefficient'\]` must be above 0"),
        (RMU | {"forget_loss_kwargs": {"coefficient": math.inf}}, "is inf, expected a finite number"),
        (RMU | {"forget_loss_kwargs": "coefficient"}, "is 'coefficient', expected a mapping"),
        (SATIMP | {"forget_loss_kwargs": {"beta2": -1}}, r"`forget_loss_kwargs\['beta2'\]` must not be negative"),
        ({"packing": True}, "`packing=True` is not supported in unlearning"),
        ({"gradient_checkpointing_kwargs": {"every_n_layers": 2}}, "kwargs` holds `every_n_layers`, which is lost"),
        ({"padding_free": True}, "`padding_free=True` is not supported"),
        ({"loss_type": "dft"}, "`loss_type='dft'` is not supported"),
        ({"assistant_only_loss": True}, "`assistant_only_loss=True` is not supported"),
    ],
)
def test_a_bad_value_is_refused_with_what_came_and_what_is_allowed(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        BootstrapUnlearnConfig(str(tmp_path), **settings)


def test_parameters_of_an_objective_come_as_json_or_a_nested_mapping_and_get_its_defaults(tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("forget_loss_type: rmu\nforget_loss_kwargs:\n  coefficient: 20\n  parameters: mlp\n")
    parser = TrlParser(BootstrapUnlearnConfig)
    (args,) = parser.parse_args_and_config(["--config", str(config), "--output_dir", str(tmp_path)])
    assert args.forget_loss_kwargs == {"coefficient": 20, "parameters": "mlp"}
    flags = ["--forget_loss_type", "satimp", "--forget_loss_kwargs", '{"beta1": 0.5}', "--output_dir", str(tmp_path)]
    (args,) = parser.parse_args_and_config(flags)
    assert args.realised(trains_adapter=True).forget_loss_kwargs == {"beta1": 0.5, "beta2": 1.0}
    assert args.forget_loss_kwargs == {"beta1": 0.5}
    assert BootstrapUnlearnConfig(str(tmp_path)).realised(trains_adapter=True).forget_loss_kwargs is None


def test_bs_t_needs_no_number_of_beliefs(tmp_path):
    assert BootstrapUnlearnConfig(str(tmp_path), lambda_bss=0, num_beliefs=0).num_beliefs == 0


def realised(args):
    found = args.realised(trains_adapter=False)
    return found.beta, found.forget_floor, found.num_belief_candidates, found.learning_rate


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"forget_loss_type": "npo"}, {"forget_loss_type": "simnpo"}),
        ({}, {"forget_loss_type": "npo"}),
        ({"lambda_schedule": "adaptive"}, {"lambda_schedule": "constant"}),
        ({"num_beliefs": 5}, {"num_beliefs": 2}),
    ],
)
@pytest.mark.parametrize("by", ["replace", "attribute"])
def test_what_follows_from_other_values_follows_them_when_they_change(tmp_path, first, then, by):
    args = BootstrapUnlearnConfig(str(tmp_path), **first)
    realised(args)
    if by == "replace":
        args = dataclasses.replace(args, **then)
    else:
        for name, value in then.items():
            setattr(args, name, value)
    assert realised(args) == realised(BootstrapUnlearnConfig(str(tmp_path), **first | then))


def test_the_values_that_follow_are_the_documented_ones(tmp_path):
    betas = {"npo": 0.1, "dpo": 0.1, "simnpo": 4.5, "wga": 1.0, "tnpo": 1.0, "ga": None}
    for objective, beta in betas.items():
        args = BootstrapUnlearnConfig(str(tmp_path), forget_loss_type=objective, num_beliefs=5)
        assert realised(args) == (beta, None, 5, 1e-5)
        assert args.realised(trains_adapter=True).learning_rate == 2e-4
    given = {"beta": 2.0, "num_belief_candidates": 9, "learning_rate": 0.5, "forget_floor": -1.0}
    assert realised(BootstrapUnlearnConfig(str(tmp_path), forget_loss_type="npo", **given)) == (2.0, -1.0, 9, 0.5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lambda_bss", 1.5, r"`lambda_bss` must be in \[0, 1\], got 1.5"),
        ("forget_loss_type", "gd", "Unknown `forget_loss_type`: 'gd'"),
        ("packing", True, "`packing=True` is not supported"),
    ],
)
def test_an_attribute_is_checked_like_an_argument_before_a_run_begins(tmp_path, name, value, message):
    args = BootstrapUnlearnConfig(str(tmp_path))
    setattr(args, name, value)
    with pytest.raises(ValueError, match=message):
        args.realised(trains_adapter=False)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="needs a machine without an accelerator")
def test_it_runs_without_a_flag_on_a_machine_without_an_accelerator(tmp_path):
    args = BootstrapUnlearnConfig(str(tmp_path))
    assert args.use_cpu and not args.bf16


def test_mixed_precision_that_was_asked_for_stays(tmp_path):
    assert BootstrapUnlearnConfig(str(tmp_path), use_cpu=True, bf16=True).bf16


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_beliefs", 5),
        ("temperature", 0.7),
        ("top_p", 0.8),
        ("top_k", 9),
        ("max_completion_length", 33),
        ("generation_kwargs", {"repetition_penalty": 1.1}),
        ("seed", 7),
    ],
)
def test_an_option_of_sampling_reaches_the_sampler(tmp_path, field, value):
    args = BootstrapUnlearnConfig(str(tmp_path), **{field: value}).realised(trains_adapter=True)
    assert getattr(args.belief_sampling(), field) == value
    assert args.belief_sampling(2).num_beliefs == args.belief_sampling(2).num_candidates == 2


def test_options_of_token_beliefs_reach_the_scores(tmp_path):
    options = {"belief_top_k": 3, "belief_temperature": 0.5, "belief_exclude_target": True}
    terms = FORGET_OBJECTIVES["bs_t"].terms(BootstrapUnlearnConfig(str(tmp_path), **options))
    assert {name: getattr(terms, name) for name in options} == options


def test_a_tracker_that_is_unknown_or_not_installed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(options, "get_available_reporting_integrations", lambda: ["trackio"])
    for given in ("none", "trackio", ["trackio"]):
        BootstrapUnlearnConfig(str(tmp_path), report_to=given)
    for given, message in (
        ("wandb", "Not installed, but in `report_to`: `wandb`. Run `pip install wandb`, or leave them out."),
        (["trackio", "mlflow", "comet_ml"], "`report_to`: `comet_ml`, `mlflow`. Run `pip install comet_ml mlflow`"),
        ("wandbb", "Unknown trackers in `report_to`: `wandbb`. Set it to some of 'none', 'azure_ml'"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            BootstrapUnlearnConfig(str(tmp_path), report_to=given)


def test_a_config_of_ones_own_may_have_null_for_a_default_and_no_other_null(tmp_path):
    @dataclasses.dataclass
    class Own(BootstrapUnlearnConfig):
        floor: float = None
        ceiling: float = 1.0

    assert Own(str(tmp_path)).floor is None
    with pytest.raises(ValueError, match="`ceiling` is null, expected a `float`"):
        Own(str(tmp_path), ceiling=None)


def test_a_number_that_yaml_reads_as_a_string_is_one(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(f"output_dir: {tmp_path}\nlearning_rate: 1e-4\nforget_weight: 1e0\nrun_name: 1e-4\n")
    (args,) = HfArgumentParser(BootstrapUnlearnConfig).parse_yaml_file(path)
    assert (args.learning_rate, args.forget_weight, args.run_name) == (1e-4, 1.0, "1e-4")
    path.write_text(f"output_dir: {tmp_path}\nlearning_rate: fast\n")
    with pytest.raises(ValueError, match="`learning_rate` is 'fast', expected a number"):
        HfArgumentParser(BootstrapUnlearnConfig).parse_yaml_file(path)
