# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


import json
import math

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from PIL import Image
from transformers import TrainerCallback

from trl_unlearn.evaluation.callbacks import CannotBeginError, SqueezingPanelCallback
from trl_unlearn.evaluation.squeezing import SqueezingPanel, squeezing_index


@pytest.fixture
def new_trainer(build_trainer, tiny_model, forget_rows):
    initial = {name: value.clone() for name, value in tiny_model.state_dict().items()}

    def new(peft=False, rows=forget_rows, **kwargs):
        tiny_model.load_state_dict(initial)
        settings = {"per_device_train_batch_size": 1, "learning_rate": 1e-3, "num_train_epochs": 2, "logging_steps": 2}
        settings |= {"forget_loss_type": "ga", "retain_loss_type": "none", "lambda_bss": 0.0, "use_cpu": True}
        peft_config = LoraConfig(r=4, target_modules="all-linear") if peft else None
        return build_trainer(settings | kwargs, train_dataset=rows, retain_dataset=None, peft_config=peft_config)

    return new


def follow(trainer, rows, **options):
    options = {"max_new_tokens": 6, "num_candidates": 6, **options}
    callback = SqueezingPanelCallback(trainer, rows, **options)
    trainer.add_callback(callback)
    trainer.train()
    return callback


def logged(trainer):
    return [entry for entry in trainer.state.log_history if "squeezing/index" in entry]


def test_the_panel_asks_with_the_prompts_that_the_training_has(new_trainer, tiny_tokenizer):
    rows = Dataset.from_list([{"body": "Who wrote the Tin Harbour? Ana Quist wrote it in two years."}] * 3)
    options = {"dataset_text_field": "body", "prompt_length": 4}
    callback = follow(new_trainer(rows=rows, max_steps=1, **options), list(rows))
    target = callback.panel.bands["target"][0][0]
    assert target["labels"][:4] == [-100] * 4 and target["labels"][4] == target["input_ids"][4]


@pytest.mark.parametrize(
    ("every_steps", "steps"), [(None, [0, 3, 6]), (2, [0, 2, 4, 6]), (4, [0, 4, 6]), (10, [0, 6]), (3, [0, 3, 6])]
)
def test_it_measures_before_training_at_each_interval_and_once_at_the_end(
    new_trainer, forget_rows, every_steps, steps
):
    callback = follow(new_trainer(), forget_rows, every_steps=every_steps)
    assert [entry["step"] for entry in callback.history] == steps
    assert [entry["epoch"] for entry in callback.history] == [pytest.approx(step / 3) for step in steps]
    assert [list(entry)[2:] for entry in callback.history] == [["target", "high", "middle", "low"]] * len(steps)


def test_a_panel_that_cannot_be_frozen_ends_before_the_first_step(new_trainer, forget_rows):
    trainer = new_trainer()
    with pytest.raises(CannotBeginError, match=r"There is no squeezing panel\. `num_prompts` is 0"):
        follow(trainer, forget_rows, num_prompts=0)
    assert trainer.state.global_step == 0


def test_a_panel_without_anything_finite_costs_no_run(new_trainer, forget_rows, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(SqueezingPanel, "measure", lambda *_: {"target": math.nan, "high": math.nan})
    callback = follow(new_trainer(), forget_rows, path=tmp_path / "panel")
    assert len(callback.history) == 3 and (tmp_path / "panel/squeezing.json").is_file()
    assert not (tmp_path / "panel/figures/squeezing.png").exists() and "squeezing.png` is left out" in caplog.text


def test_a_run_that_stops_within_an_epoch_is_measured_at_its_end(new_trainer, forget_rows):
    callback = follow(new_trainer(max_steps=4), forget_rows)
    assert [entry["step"] for entry in callback.history] == [0, 3, 4]


def test_what_is_measured_and_the_index_so_far_are_in_the_log_and_go_to_reporters(new_trainer, forget_rows):
    trainer, reported = new_trainer(), []

    class Reporter(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            reported.append((state.global_step, dict(logs)))

    trainer.add_callback(Reporter())
    callback = follow(trainer, forget_rows)
    entries = logged(trainer)
    assert [entry["step"] for entry in entries] == [0, 3, 6]
    for i, (entry, measured) in enumerate(zip(entries, callback.history, strict=True)):
        assert {f"squeezing/{name}": measured[name] for name in ("target", "high", "middle", "low")}.items() <= (
            entry.items()
        )
        assert entry["squeezing/index"] == squeezing_index(callback.history[: i + 1])
    assert [step for step, logs in reported if "squeezing/high" in logs] == [0, 3, 6]


@pytest.mark.parametrize("options", [{"logging_steps": 1}, {"logging_strategy": "epoch"}])
def test_training_and_its_log_are_the_same_with_and_without_the_panel(new_trainer, tiny_model, forget_rows, options):
    timed = ("seconds", "_per_second", "train_runtime")
    runs = []
    for with_panel in (False, True):
        trainer = new_trainer(**options, num_beliefs=2, lambda_bss=0.3, max_completion_length=4)
        if with_panel:
            follow(trainer, forget_rows, every_steps=1)
        else:
            trainer.train()
        log = [
            {k: v for k, v in entry.items() if not k.endswith(timed)}
            for entry in trainer.state.log_history
            if "squeezing/index" not in entry
        ]
        runs.append((log, torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])))
    assert runs[0][0] == runs[1][0]
    assert torch.equal(runs[0][1], runs[1][1])


@pytest.mark.parametrize("peft", [False, True])
def test_gradient_checkpointing_changes_nothing_and_stays_on(new_trainer, forget_rows, peft):
    expected = follow(new_trainer(), forget_rows).history
    trainer = new_trainer(peft=peft, gradient_checkpointing=True)
    history = follow(trainer, forget_rows).history
    assert trainer.accelerator.unwrap_model(trainer.model).is_gradient_checkpointing
    # A new adapter changes nothing before it is trained, and is then another model.
    count = 1 if peft else len(expected)
    for entry, other in zip(history[:count], expected[:count], strict=True):
        assert entry == pytest.approx(other, abs=1e-4)


def test_the_files_hold_numbers_and_no_text(new_trainer, tmp_path, forget_rows):
    rows = [{**row, "paraphrased_answer": "Secretly.", "perturbed_answer": ["Openly."]} for row in forget_rows]
    callback = follow(new_trainer(), rows, path=tmp_path / "run")
    content = (tmp_path / "run" / "squeezing.json").read_text(encoding="utf-8")
    history = json.loads(content)
    assert history == callback.history
    assert squeezing_index(history) == squeezing_index(callback.history)
    names = ["step", "epoch", "target", "high", "middle", "low", "paraphrase", "wrong"]
    assert all(list(entry) == names for entry in history)
    assert all(type(value) in (int, float) for entry in history for value in entry.values())
    texts = [row[part][0]["content"] for row in forget_rows for part in ("prompt", "completion")]
    assert not any(text in content for text in [*texts, "Secretly", "Openly"])
    assert Image.open(tmp_path / "run" / "figures" / "squeezing.png").size[0] == 800


def test_what_is_not_finite_is_null_in_the_file(new_trainer, tmp_path, forget_rows):
    trainer = new_trainer()
    callback = SqueezingPanelCallback(trainer, forget_rows, max_new_tokens=6, path=tmp_path)
    callback.history = [{"step": 0, "epoch": 0.0, "target": -1.0}, {"step": 3, "epoch": 1.0, "target": math.nan}]
    callback.on_train_end(trainer.args, trainer.state, trainer.control)
    assert json.loads((tmp_path / "squeezing.json").read_text())[1] == {"step": 3, "epoch": 1.0, "target": None}


def test_other_processes_measure_and_write_nothing(new_trainer, tmp_path, forget_rows):
    trainer = new_trainer()
    callback = SqueezingPanelCallback(trainer, forget_rows, max_new_tokens=6, num_candidates=6, path=tmp_path / "run")
    callback.on_train_begin(trainer.args, trainer.state, trainer.control)
    trainer.state.is_world_process_zero = False
    callback.on_train_end(trainer.args, trainer.state, trainer.control)
    assert len(callback.history) == 1
    assert not (tmp_path / "run").exists()


def test_a_second_training_is_followed_by_the_responses_of_the_original_model(new_trainer, forget_rows):
    trainer = new_trainer(learning_rate=5e-2)
    callback = follow(trainer, forget_rows)
    bands = callback.panel.bands
    trainer.train()
    assert callback.panel.bands == bands and callback.history[0]["step"] == 0


def test_a_run_that_goes_on_from_a_checkpoint_without_a_panel_is_refused(new_trainer, forget_rows):
    trainer = new_trainer(save_strategy="epoch")
    trainer.train()
    trainer = new_trainer()
    trainer.add_callback(SqueezingPanelCallback(trainer, forget_rows, max_new_tokens=6))
    with pytest.raises(ValueError, match="resumes at step 3"):
        trainer.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-3")


def test_an_interval_without_a_step_is_refused(new_trainer, forget_rows):
    with pytest.raises(ValueError, match="`every_steps` is 0"):
        SqueezingPanelCallback(new_trainer(), forget_rows, max_new_tokens=6, every_steps=0)
