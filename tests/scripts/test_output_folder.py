# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""A second run in the same output folder."""

import copy
import errno
import json
from dataclasses import fields
from pathlib import Path

import pytest
from safetensors.torch import load_file

from trl_unlearn.evaluation.squeezing import SqueezingPanel
from trl_unlearn.records import NO_SETTINGS, settings_digest
from trl_unlearn.results import SuiteOutcome
from trl_unlearn.scripts import bs_s
from trl_unlearn.scripts.arguments import (
    DataArguments,
    EvaluationArguments,
    ForgetArguments,
    StoppingArguments,
    UnlearnArguments,
    UnlearnModelConfig,
)
from trl_unlearn.scripts.compare import CompareArguments
from trl_unlearn.scripts.evaluate import EvaluateArguments, SuiteArguments, _Stages
from trl_unlearn.scripts.sequence import SequenceArguments
from trl_unlearn.scripts.unlearn import OutputArguments
from trl_unlearn.trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig
from trl_unlearn.trainer.bootstrap_unlearn_trainer import BootstrapUnlearnTrainer

from .conftest import QUICK


# The options that change what a run makes.
SETTINGS = """
    chat_template_kwargs
    per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs
    warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon optim_target_modules
    gradient_accumulation_steps average_tokens_across_devices max_grad_norm label_smoothing_factor bf16 fp16
    bf16_full_eval fp16_full_eval tf32 activation_checkpointing activation_checkpointing_kwargs
    gradient_checkpointing gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode
    use_liger_kernel liger_kernel_config use_cache neftune_noise_alpha auto_find_batch_size eval_strategy
    eval_steps eval_delay per_device_eval_batch_size prediction_loss_only eval_on_start eval_do_concat_batches
    eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics load_best_model_at_end
    metric_for_best_model greater_is_better ignore_data_skip full_determinism seed data_seed use_cpu
    accelerator_config parallelism_config dataloader_drop_last dataloader_in_order remove_unused_columns
    label_names train_sampling_strategy length_column_name ddp_find_unused_parameters ddp_bucket_cap_mb
    ddp_broadcast_buffers ddp_static_graph ddp_backend fsdp fsdp_config deepspeed model_init_kwargs
    trust_remote_code router_aux_loss_coef chat_template_path dataset_text_field dataset_kwargs eos_token
    max_length truncation_mode shuffle_dataset packing packing_strategy padding_free pad_to_multiple_of
    eval_packing completion_only_loss assistant_only_loss loss_type activation_offloading pad_token
    forget_loss_type forget_weight forget_floor forget_token_floor retain_loss_type retain_weight
    retain_max_drop beta forget_loss_kwargs token_reduction
    ignorant_model_name_or_path ignorant_refresh_epochs ignorant_retain_rows ignorant_epochs forget_subjects
    forget_aliases
    lambda_bst belief_top_k belief_temperature belief_exclude_target
    lambda_schedule lambda_bss num_beliefs num_belief_candidates belief_refresh_epochs max_completion_length
    temperature top_p top_k generation_kwargs prompt_length disable_dropout share_prompts stop_on_divergence
    model_name_or_path model_revision dtype attn_implementation use_peft lora_r lora_alpha lora_dropout
    lora_target_modules lora_target_parameters lora_modules_to_save lora_task_type use_rslora use_dora
    load_in_8bit load_in_4bit bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage
    adapter_name_or_path dataset_name forget_config retain_config forget_split retain_split forget_dataset
    retain_dataset retrained_model_name_or_path parity max_eval_rows fluency_classifier stop_at stop_metric
    stop_retain_floor stop_every_steps panel_prompts curve_steps holdout_config holdout_dataset muse_dataset
    wmdp_tasks wmdp_include_path wmdp_limit judge_model judge_base_url unlearned_model_name_or_path
    quick rwku_dataset rwku_subjects max_minutes
    forget subject hints retain max_utility_loss add
    second_retrained_model_name_or_path
"""
ADAPTER = "adapter_model.safetensors"


class Killed(BaseException):
    """An end that no handler takes for an error, as a kill."""


@pytest.fixture
def start(own, tmp_path, capfd):
    """Function that runs BS-S on two files for 4 steps, saves each, and returns the output folder."""

    def call(output, *flags):
        steps = ["--max_steps", "4", "--save_strategy", "steps", "--save_steps", "1", "--panel_prompts", "2"]
        folder = tmp_path / output
        bs_s.main([*own, *QUICK, *steps, "--no_evaluate", "--output_dir", str(folder), *flags])
        return folder

    return call


@pytest.fixture(scope="module")
def _finished():
    return []


@pytest.fixture
def whole(start, _finished):
    """The folder of a run that nothing has ended, which is made once."""
    if not _finished:
        _finished.append(start("whole"))
    return _finished[0]


@pytest.fixture
def refused(start, capfd):
    """Function of a run that must not begin: its message."""

    def call(output, *flags):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            start(output, *flags)
        assert ended.value.code == 2
        return capfd.readouterr().err

    return call


@pytest.fixture
def killed(start, monkeypatch):
    """Function of an output folder and a step, in the middle of which a run in that folder is killed."""

    def call(output, at):
        plain = BootstrapUnlearnTrainer.training_step

        def step(self, *args, **kwargs):
            if self.state.global_step == at:
                raise Killed
            return plain(self, *args, **kwargs)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(BootstrapUnlearnTrainer, "training_step", step)
            start(output)

    return call


def same_bits(one, other):
    first, second = load_file(one / ADAPTER), load_file(other / ADAPTER)
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize("at", [0, 3])
def test_the_same_command_goes_on_with_an_unfinished_run(start, whole, killed, at, capfd):
    killed("cut", at)
    capfd.readouterr()
    cut = start("cut")
    assert ("Resuming from a checkpoint" in capfd.readouterr().out) == (at > 0)
    assert same_bits(whole, cut)
    assert (cut / "squeezing.json").read_text() == (whole / "squeezing.json").read_text()
    assert not (cut / "unfinished.json").exists()
    runs = [json.loads((folder / "run.json").read_text()) for folder in (whole, cut)]
    assert runs[0]["steps"] == runs[1]["steps"] == 4


def test_a_finished_run_is_refused_unless_it_is_to_be_overwritten(start, refused):
    first = start("out")
    message = refused("out")
    assert "holds a finished run" in message and "--overwrite_output_dir true" in message
    before = load_file(first / ADAPTER)
    start("out", "--overwrite_output_dir", "true", "--max_steps", "2")
    assert not all(before[name].equal(value) for name, value in load_file(first / ADAPTER).items())
    assert sorted(path.name for path in first.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]


def test_a_run_that_could_not_begin_leaves_no_file_behind(refused, tmp_path):
    assert "there is nothing to unlearn" in refused("out", "--stop_at", "0.9")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("flags", "words"),
    [(("--stop_at", "0.9"), "there is nothing to unlearn"), ((), "There is no squeezing panel. None of 2 prompts")],
)
def test_a_run_that_could_not_begin_leaves_the_one_that_it_was_to_replace_as_it_was(
    flags, words, start, refused, monkeypatch
):
    folder = start("out")

    def freeze(*_, **__):
        raise ValueError("None of 2 prompts has three distinct responses.")

    monkeypatch.setattr(SqueezingPanel, "freeze", freeze)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert words in refused("out", "--overwrite_output_dir", "true", *flags)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_an_unfinished_run_with_other_settings_is_refused(killed, refused):
    killed("out", 2)
    message = refused("out", "--learning_rate", "1e-3")
    assert "holds an unfinished run with other settings" in message


def test_an_unfinished_run_whose_rows_have_changed_is_refused_and_goes_on_when_they_are_back(
    start, refused, whole, killed, own
):
    killed("cut", 2)
    path = Path(own[own.index("--retain_dataset") + 1])
    rows = path.read_text(encoding="utf-8")
    path.write_text("".join(rows.splitlines(keepends=True)[::-1]), encoding="utf-8")
    assert "The retain set is another one than that of the run" in refused("cut")
    path.write_text(rows, encoding="utf-8")
    assert same_bits(whole, start("cut"))


def test_an_unfinished_run_goes_on_where_what_is_logged_shown_and_saved_differs(start, whole, killed, capfd):
    killed("cut", 2)
    capfd.readouterr()
    shown = ["--logging_steps", "4", "--disable_tqdm", "true", "--log_completions", "true", "--run_name", "again"]
    loaded = ["--dataloader_num_workers", "1", "--belief_batch_size", "1", "--evaluation_batch_size", "1"]
    cut = start("cut", *shown, *loaded, "--num_completions_to_print", "1", "--save_total_limit", "1")
    assert "Resuming from a checkpoint" in capfd.readouterr().out
    assert same_bits(whole, cut)
    assert [path.name for path in cut.glob("checkpoint-*")] == ["checkpoint-4"]
    log = json.loads((cut / "run.json").read_text())["training_log"]
    # `logging_steps` of the command that goes on, not of the one that was cut off.
    assert [entry["step"] for entry in log if "loss/forget" in entry] == [1, 2, 4]


def test_every_option_is_known_to_change_what_a_run_makes_or_not_to():
    types = (DataArguments, EvaluationArguments, StoppingArguments, UnlearnArguments, OutputArguments)
    types += (CompareArguments, SequenceArguments, SuiteArguments, EvaluateArguments, ForgetArguments)
    every = {field.name for one in (BootstrapUnlearnConfig, UnlearnModelConfig, *types) for field in fields(one)}
    settings = set(SETTINGS.split())
    # An option that is new here, in TRL or in Transformers goes into `SETTINGS` or into `NO_SETTINGS`.
    unknown, twice, gone = every - NO_SETTINGS - settings, settings & NO_SETTINGS, (settings | NO_SETTINGS) - every
    assert (unknown, twice, gone) == (set(), set(), set())


def test_only_options_that_change_what_a_run_makes_change_the_digest(tmp_path):
    before = BootstrapUnlearnConfig(str(tmp_path)), UnlearnModelConfig(), OutputArguments()
    before += (DataArguments(dataset_name="any"), EvaluationArguments(), StoppingArguments(), UnlearnArguments())
    for one in before:
        for field in fields(one):
            after = copy.copy(one)
            setattr(after, field.name, "another")
            others = [after if other is one else other for other in before]
            changed = settings_digest(*others) != settings_digest(*before)
            assert changed == (field.name not in NO_SETTINGS), field.name


def test_an_evaluation_takes_its_own_outcomes_away_and_no_other_file_of_their_folder(tmp_path):
    stages = _Stages(tmp_path / "stages", "settings")
    for own in (True, False):
        stages.keep("tofu", SuiteOutcome({}))
        (tmp_path / "stages/mine.txt").touch() if own else (tmp_path / "stages/mine.txt").unlink()
        stages.clear()
        assert [path.name for path in tmp_path.rglob("*")] == ["stages", "mine.txt"] * own


def test_checkpoints_of_another_run_are_refused(killed, refused, tmp_path):
    killed("out", 2)
    (tmp_path / "out" / "unfinished.json").unlink()
    assert "holds checkpoints of another run" in refused("out")


@pytest.mark.parametrize("at", [1, 2])
def test_a_disk_that_is_full_ends_with_1_and_the_run_can_go_on(start, whole, monkeypatch, capfd, at):
    plain = BootstrapUnlearnTrainer._save_optimizer_and_scheduler

    def full(self, folder):
        if self.state.global_step == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(self, folder)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(BootstrapUnlearnTrainer, "_save_optimizer_and_scheduler", full)
        start("cut")
    assert ended.value.code == 1
    message = capfd.readouterr().err
    assert f"bs_s.py: failed: The checkpoint of step {at} could not be written" in message
    assert ("checkpoint-1" in message) == (at == 2)
    assert same_bits(whole, start("cut"))


def test_a_model_that_cannot_be_saved_ends_with_1_and_the_run_can_go_on(start, whole, monkeypatch, capfd):
    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(BootstrapUnlearnTrainer, "save_model", lambda self, *a, **k: full(self) if not a else None)
        start("cut", "--save_strategy", "no")
    assert ended.value.code == 1
    assert "failed: The model could not be written to" in capfd.readouterr().err
    assert same_bits(whole, start("cut", "--save_strategy", "no"))
