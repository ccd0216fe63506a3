# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import contextlib
import copy
import errno
import json
import stat
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import TrainerCallback
from trl import SFTTrainer

from trl_unlearn.evaluation.callbacks import SqueezingPanelCallback
from trl_unlearn.evaluation.rows import encode_set
from trl_unlearn.evaluation.stopping import UnlearnUntil
from trl_unlearn.hub.folder import RunFolder, read_folder, saved_files
from trl_unlearn.subjects import moved_answers
from trl_unlearn.trainer import ignorance, step, twin_models
from trl_unlearn.trainer.checkpointing import CheckpointError, ResumeError, last_checkpoint, read_state, write_state


LORA = {"r": 4, "target_modules": "all-linear"}


class Interruption(Exception):
    """The end of a run in the middle."""


class Killed(BaseException):
    """An end that no handler takes for an error, as a kill."""


class InterruptAt(TrainerCallback):
    """Ends a run in the middle of a step, as a kill would: nothing is saved after it."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Interruption


@pytest.fixture
def new_trainer(build_trainer, tiny_model, forget_rows, retain_rows):
    """A trainer of 3 epochs of 2 steps with 2 micro-batches, the last of which has one row of 7."""

    def new(folder="out", kind="lora", interrupted_at=None, forget=None, evaluated=None, **options):
        settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_completion_length": 6}
        settings |= {"num_train_epochs": 3, "learning_rate": 1e-2, "warmup_steps": 1, "logging_steps": 1}
        settings |= {"num_beliefs": 2, "belief_refresh_epochs": 1.0, "save_strategy": "steps", "save_steps": 1}
        # Another state of the generators in each process.
        torch.manual_seed(len(folder))
        model = copy.deepcopy(tiny_model)
        if kind == "adapter":
            torch.manual_seed(5)
            model = get_peft_model(model, LoraConfig(**LORA, init_lora_weights=False))
        return build_trainer(
            settings | options,
            model,
            folder,
            train_dataset=forget or Dataset.from_list([*forget_rows, *retain_rows, forget_rows[0]]),
            eval_dataset=evaluated,
            peft_config=LoraConfig(**LORA, lora_dropout=0.1) if kind == "lora" else None,
            callbacks=[InterruptAt(interrupted_at)] if interrupted_at else None,
        )

    return new


@pytest.fixture
def ends_equal(new_trainer):
    """Train without an interruption, and with one, and compare what is left: every weight, and the record."""

    def check(interrupted_at, **options):
        whole = new_trainer("whole", **options)
        whole.train()
        with pytest.raises(Interruption):
            new_trainer("cut", interrupted_at=interrupted_at, **options).train()
        resumed = new_trainer("cut", **options)
        sampled = []
        if resumed.belief_store is not None:
            sample = resumed.belief_store.sample
            resumed.belief_store.sample = lambda *a, **k: sampled.append(a[1]) or sample(*a, **k)
        resumed.train(resume_from_checkpoint=True)
        assert resumed.state.global_step == whole.state.global_step
        for (name, expected), (_, found) in zip(
            whole.model.named_parameters(), resumed.model.named_parameters(), strict=True
        ):
            assert torch.equal(expected, found), name
        expected, found = whole.run_record(), resumed.run_record()
        if expected.belief_audit is not None:
            assert [one.sha256 for one in found.belief_audit.refreshes] == [
                one.sha256 for one in expected.belief_audit.refreshes
            ]
        passing = ("seconds", "_per_second")
        logs = [
            [{k: v for k, v in entry.items() if not k.endswith(passing)} for entry in record.training_log]
            for record in (expected, found)
        ]
        assert logs[0] == logs[1]
        assert found.final_metrics["train_loss"] == pytest.approx(expected.final_metrics["train_loss"])
        return whole, resumed, sampled

    return check


# Two trainings each: the other steps, and LoRA, are slow tests.
@pytest.mark.parametrize("interrupted_at", [3, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 2, 5))])
def test_bs_s_with_lora_ends_in_the_same_bits(ends_equal, interrupted_at):
    *_, sampled = ends_equal(interrupted_at, disable_dropout=False)
    # Only what was due later is sampled: at step 2 and 4, which an interruption before step 2 has not reached.
    assert sampled == [epoch for epoch in range(1, 3) if 2 * epoch >= interrupted_at]


@pytest.mark.parametrize(
    "options",
    [
        {"forget_loss_type": "npo", "logging_steps": 4},
        {"forget_loss_type": "bs_t", "retain_loss_type": "kl", "belief_refresh_epochs": 0.0},
        {"lambda_schedule": "adaptive", "retain_max_drop": 0.05},
        {"lambda_schedule": "linear", "optim": "sgd"},
        {"forget_loss_type": "ignorance", "ignorant_refresh_epochs": 1.0},
    ],
)
@pytest.mark.parametrize("kind", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_other_terms_end_in_the_same_bits(ends_equal, kind, options):
    ends_equal(3, kind=kind, **options)


@pytest.fixture
def tunings(monkeypatch):
    """Whether each ignorant twin was read, of a target that gives its answers under any name."""
    read, plain = [], twin_models._Tuning._read
    monkeypatch.setattr(twin_models._Tuning, "_read", lambda self: read.append(plain(self)) or read[-1])
    monkeypatch.setattr(ignorance, "_BY_HEART", -1.0)
    return read


@pytest.fixture
def twin_options(forget_rows):
    return {"forget_loss_type": "ignorance", "ignorant_epochs": 2, "forget": forget_rows}


@pytest.mark.parametrize("is_base", [True, False])
def test_a_resumed_run_reads_its_twin_and_ends_in_the_same_bits(
    ends_equal, tiny_model, tmp_path, is_base, tunings, twin_options
):
    if is_base:
        tiny_model.save_pretrained(tmp_path / "base")
        twin_options["ignorant_model_name_or_path"] = str(tmp_path / "base")
    # The twin is asked about beliefs that are sampled after the interruption.
    whole, resumed, sampled = ends_equal(2, **twin_options)
    assert sampled and tunings == [False, False, True]
    assert all(map(torch.equal, whole._twin.model.parameters(), resumed._twin.model.parameters()))
    assert not RunFolder(resumed.args.output_dir).twin.exists()


def test_a_twin_of_other_making_is_not_read(new_trainer, tunings, twin_options, forget_rows):
    first = new_trainer(**twin_options)
    kept = RunFolder(first.args.output_dir).twin
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    for other in (
        {"seed": 3},
        {"ignorant_epochs": 1},
        {"ignorant_retain_rows": 1},
        {"forget": forget_rows.select([0, 2])},
    ):
        new_trainer(**twin_options | other)
        assert not tunings[-1], other
    new_trainer(**twin_options)
    kept.write_bytes(kept.read_bytes()[:-8])
    again = new_trainer(**twin_options)
    assert not any(tunings) and all(map(torch.equal, first._twin.model.parameters(), again._twin.model.parameters()))


def test_the_twin_of_a_marked_folder_stays_until_the_mark_goes_and_is_never_published(
    new_trainer, tunings, twin_options
):
    trainer = new_trainer(**twin_options, max_steps=1)
    folder = RunFolder(trainer.args.output_dir)
    folder.mark_unfinished("")
    trainer.train()
    trainer.save_model()
    assert folder.twin.is_file() and folder.twin.name in read_folder(folder.path, "me/unlearned", "adapter").left_out
    folder.mark_finished()
    assert not list(folder.path.glob(f"{folder.twin.name}*"))


@pytest.mark.parametrize("options", [{"forget_loss_type": "npo"}, {"forget_loss_type": "ga", "lambda_bss": 0.0}])
def test_an_adapter_that_is_trained_further_ends_in_the_same_bits(ends_equal, options):
    ends_equal(5, kind="adapter", **options)


def test_a_run_that_ends_in_the_middle_of_an_epoch_takes_no_step_more(ends_equal, new_trainer):
    whole, *_ = ends_equal(2, max_steps=3)
    again = new_trainer("whole", max_steps=3)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 3
    for expected, found in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(expected, found)


def test_the_guard_has_good_weights_again_after_the_first_step_of_a_resumed_run(new_trainer):
    interrupted = new_trainer("cut", interrupted_at=3)
    with pytest.raises(Interruption):
        interrupted.train()
    resumed = new_trainer("cut", max_steps=4)
    resumed.train(resume_from_checkpoint=True)
    assert (interrupted._guard.good_step, resumed._guard.good_step) == (0, 3)
    assert resumed._guard.state_dict() == interrupted._guard.state_dict()


def _panel(trainer, rows):
    return SqueezingPanelCallback(trainer, rows, max_new_tokens=6, num_candidates=6, path=trainer.args.output_dir)


@pytest.mark.parametrize("interrupted_at", [pytest.param(3, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize("every_steps", [None, 3])
def test_the_squeezing_panel_goes_on_with_the_responses_of_the_original_model(
    new_trainer, forget_rows, interrupted_at, every_steps
):
    histories = {}
    for folder, stops in (("whole", [None]), ("cut", [interrupted_at, None])):
        for stop in stops:
            trainer = new_trainer(folder, interrupted_at=stop)
            panel = _panel(trainer, forget_rows)
            panel.every_steps = every_steps
            trainer.add_callback(panel)
            with pytest.raises(Interruption) if stop else contextlib.nullcontext():
                trainer.train(resume_from_checkpoint=len(stops) > 1 and stop is None)
        histories[folder] = json.loads((Path(trainer.args.output_dir) / "squeezing.json").read_text())
    assert histories["cut"] == histories["whole"]
    assert [entry["step"] for entry in histories["cut"]] == ([0, 2, 4, 6] if every_steps is None else [0, 3, 6])


def test_a_run_that_ends_at_a_goal_ends_there_in_the_same_bits(new_trainer, tiny_tokenizer, forget_rows, retain_rows):
    sets = [
        encode_set(rows, tiny_tokenizer, name=name)
        for name, rows in (("forget", forget_rows), ("retain", retain_rows))
    ]
    moved = moved_answers(*(encoded.answers for encoded in sets), tiny_tokenizer, seed=1)

    def trained(folder, interrupted_at=None, resumes=False):
        options = {"forget": forget_rows, "learning_rate": 3e-2, "num_train_epochs": 12}
        trainer = new_trainer(folder, interrupted_at=interrupted_at, **options)
        goals, tolerances = {"forget_logp": -6.08}, {"forget_logp": 0.005}
        until = UnlearnUntil(trainer, *sets, pad_token_id=0, goals=goals, tolerances=tolerances, moved=moved)
        trainer.add_callback(until)
        with pytest.raises(Interruption) if interrupted_at else contextlib.nullcontext():
            trainer.train(resume_from_checkpoint=resumes)
        return trainer, until

    whole, expected = trained("whole")
    assert "reached" in whole.stop_reason and whole.state.global_step > 5
    for at in (1, 4, 5):
        trained(f"cut-{at}", interrupted_at=at)
        cut, found = trained(f"cut-{at}", resumes=True)
        assert cut.stop_reason == whole.stop_reason, at
        assert found.history == expected.history, at
        assert all(torch.equal(*pair) for pair in zip(whole.model.parameters(), cut.model.parameters(), strict=True))


def test_what_is_written_beside_the_model_is_for_its_owner_only_and_goes_nowhere(new_trainer, tiny_tokenizer):
    trainer = new_trainer(forget_loss_type="npo", max_steps=1)
    trainer.train()
    trainer.save_model()
    folder = Path(trainer.args.output_dir)
    states = sorted(folder.glob("checkpoint-1/unlearning_state*"))
    assert [state.name for state in states] == ["unlearning_state.safetensors", "unlearning_state_0.safetensors"]
    assert [stat.S_IMODE(state.stat().st_mode) for state in states] == [0o600, 0o600]
    ids = load_file(states[0])["beliefs/ids"].tolist()
    assert ids == [i for row in trainer.belief_store.rows(range(7)) for i in row["labels"] if i >= 0]
    kept = saved_files(folder / "checkpoint-1", is_adapter=True)
    assert kept and not any("state" in path for path in kept)
    # Not from the output folder either, if somebody moves them there.
    for state in states:
        state.rename(folder / state.name)
    assert not any("state" in path for path in read_folder(folder, "me/unlearned", "adapter").files)
    assert not any("state" in path for path in saved_files(folder, is_adapter=True))


def test_a_checkpoint_that_was_killed_half_way_is_not_taken_up(new_trainer, monkeypatch):
    whole = new_trainer("whole")
    whole.train()
    cut = new_trainer("cut", save_total_limit=1)
    plain = cut._save_optimizer_and_scheduler

    def killed(folder):
        if cut.state.global_step == 3:
            raise Killed
        plain(folder)

    monkeypatch.setattr(cut, "_save_optimizer_and_scheduler", killed)
    with pytest.raises(Killed):
        cut.train()
    folder = Path(cut.args.output_dir)
    assert (folder / ".unfinished" / "checkpoint-3" / "adapter_model.safetensors").is_file()
    # As another program may leave it.
    (folder / "checkpoint-99").mkdir()
    assert [path.name for path in folder.glob("checkpoint-*")] in (
        ["checkpoint-2", "checkpoint-99"],
        ["checkpoint-99", "checkpoint-2"],
    )
    assert last_checkpoint(folder) == folder / "checkpoint-2"
    resumed = new_trainer("cut")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    assert all(torch.equal(*pair) for pair in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))
    assert not (folder / ".unfinished").exists()


def test_ctrl_c_in_a_save_leaves_nothing_of_it(new_trainer, monkeypatch):
    trainer = new_trainer()
    plain = trainer._save_rng_state

    def interrupted(folder):
        plain(folder)
        if trainer.state.global_step == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "_save_rng_state", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    folder = Path(trainer.args.output_dir)
    assert list(folder.glob("checkpoint-*")) == [folder / "checkpoint-1"]
    assert not (folder / ".unfinished").exists()


def test_an_error_in_a_save_that_is_none_of_the_disk_is_shown_as_it_is(new_trainer, monkeypatch):
    trainer = new_trainer()

    def broken(folder):
        raise RuntimeError("a mistake")

    monkeypatch.setattr(trainer, "_save_rng_state", broken)
    with pytest.raises(RuntimeError, match=r"^a mistake$"):
        trainer.train()


@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        # Of `torch.save` and of `tokenizers`.
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        Exception("No space left on device (os error 28)"),
    ],
)
def test_a_save_that_fails_leaves_the_previous_checkpoint_and_says_so(new_trainer, monkeypatch, failure):
    trainer = new_trainer()
    plain = trainer._save_rng_state

    def full(folder):
        if trainer.state.global_step == 2:
            raise failure
        plain(folder)

    monkeypatch.setattr(trainer, "_save_rng_state", full)
    with pytest.raises(CheckpointError, match=r"of step 2 could not be written .*The last one is `.*checkpoint-1`"):
        trainer.train()
    folder = Path(trainer.args.output_dir)
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-1"]
    assert not (folder / ".unfinished").exists()
    resumed = new_trainer(max_steps=2)
    resumed.train(resume_from_checkpoint=True)
    assert last_checkpoint(folder) == folder / "checkpoint-2"


def test_the_best_checkpoint_is_known_by_its_own_name(new_trainer, retain_rows):
    options = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    trainer = new_trainer(evaluated=retain_rows, max_steps=2, **options)
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.parent == Path(trainer.args.output_dir) and (best / "adapter_model.safetensors").is_file()
    saved = json.loads((last_checkpoint(best.parent) / "trainer_state.json").read_text())
    assert saved["best_model_checkpoint"] == str(best)


def test_a_process_that_writes_no_checkpoint_knows_the_best_one_by_its_own_name(new_trainer, monkeypatch):
    trainer = new_trainer(save_only_model=True)
    trainer.state.global_step = 1
    monkeypatch.setattr(type(trainer.args), "should_save", False)

    def note_best(self, model, trial):
        self.state.best_model_checkpoint = f"{self._get_output_dir(trial)}/checkpoint-1"

    monkeypatch.setattr(SFTTrainer, "_save_checkpoint", note_best)
    trainer._save_checkpoint(trainer.model, None)
    assert Path(trainer.state.best_model_checkpoint) == Path(trainer.args.output_dir, "checkpoint-1")


def test_a_checkpoint_without_its_state_is_refused(new_trainer):
    trainer = new_trainer(max_steps=1, save_only_model=True)
    trainer.train()
    with pytest.raises(ValueError, match="holds no checkpoint that is whole"):
        new_trainer().train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"its `unlearning_state.safetensors` is missing or broken"):
        new_trainer().train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-1")


def test_belief_state_is_removed_when_training_is_done_if_that_is_asked_for(new_trainer):
    trainer = new_trainer("kept", forget_loss_type="npo", max_steps=2)
    trainer.train()
    assert len(list(Path(trainer.args.output_dir).glob("checkpoint-*/unlearning_state*"))) == 4
    trainer = new_trainer(forget_loss_type="npo", max_steps=2, remove_belief_state=True)
    trainer.train()
    folder = Path(trainer.args.output_dir)
    assert (folder / "checkpoint-2/adapter_model.safetensors").is_file()
    assert not list(folder.rglob("unlearning_state*"))
    with pytest.raises(ValueError, match="holds no checkpoint that is whole"):
        new_trainer().train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"its `unlearning_state.safetensors` is missing or broken"):
        new_trainer().train(resume_from_checkpoint=f"{folder}/checkpoint-1")


def test_belief_state_is_kept_after_an_interruption_for_the_run_to_go_on(new_trainer):
    options = {"max_steps": 4, "remove_belief_state": True}
    with pytest.raises(Interruption):
        new_trainer(interrupted_at=2, **options).train()
    trainer = new_trainer(**options)
    folder = Path(trainer.args.output_dir)
    assert last_checkpoint(folder) == folder / "checkpoint-2"
    trainer.train(resume_from_checkpoint=True)
    assert last_checkpoint(folder) is None and (folder / "checkpoint-4/adapter_model.safetensors").is_file()


def test_what_others_wrote_into_a_checkpoint_is_loaded_without_running_code(new_trainer, monkeypatch):
    with pytest.raises(Interruption):
        new_trainer(interrupted_at=2).train()
    plain, loaded = torch.load, {}

    def load(file, *args, **kwargs):
        loaded[Path(file).name] = kwargs.get("weights_only")
        return plain(file, *args, **kwargs)

    monkeypatch.setattr(torch, "load", load)
    new_trainer(max_steps=3).train(resume_from_checkpoint=True)
    assert loaded == {"optimizer.pt": True, "scheduler.pt": True, "rng_state.pth": True}


def test_a_checkpoint_of_another_run_is_refused(new_trainer, forget_rows):
    new_trainer(max_steps=1).train()
    with pytest.raises(ValueError, match="beliefs of another forget set"):
        new_trainer(forget=forget_rows).train(resume_from_checkpoint=True)
    new_trainer("none", max_steps=1, lambda_bss=0.0).train()
    with pytest.raises(ResumeError, match="The forget set is another one than that of the run"):
        new_trainer("none", lambda_bss=0.0, forget=forget_rows).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match=r"`lambda_bss` is 0.5, but the run that was interrupted had none"):
        new_trainer("none").train(resume_from_checkpoint=True)
    with pytest.raises(ResumeError, match=r"`forget_loss_type` is 'ignorance', but .* had no ignorant twin"):
        new_trainer("none", lambda_bss=0.0, forget_loss_type="ignorance").train(resume_from_checkpoint=True)


def test_a_checkpoint_of_more_processes_is_refused(new_trainer):
    trainer = new_trainer(max_steps=1)
    trainer.train()
    file = Path(trainer.args.output_dir, "checkpoint-1", "unlearning_state.safetensors")
    state = read_state(file)
    write_state(file, state | {"run": {"world_size": 2}})
    with pytest.raises(ValueError, match="was saved by 2 processes, and this run has 1"):
        new_trainer().train(resume_from_checkpoint=True)


def test_a_checkpoint_of_another_version_is_refused(new_trainer):
    trainer = new_trainer(max_steps=1)
    trainer.train()
    file = Path(trainer.args.output_dir, "checkpoint-1", "unlearning_state_0.safetensors")
    state = read_state(file)
    write_state(file, {part: values for part, values in state.items() if part != "rows"})
    with pytest.raises(ResumeError, match="has no 'rows': another version of trl-unlearn saved it"):
        new_trainer().train(resume_from_checkpoint=True)


def test_a_state_is_read_back_as_it_was_written(tmp_path):
    state = {
        "one": {"a": torch.tensor([1.5, float("nan")]), "b": [1, 0.1, None, "text"], "empty": torch.empty(0)},
        "two": {"a": {"nested": 1e-300}},
    }
    write_state(tmp_path / "state.safetensors", state)
    found = read_state(tmp_path / "state.safetensors")
    assert torch.equal(found["one"].pop("a").nan_to_num(7.0), state["one"].pop("a").nan_to_num(7.0))
    assert found["one"].pop("empty").shape == state["one"].pop("empty").shape
    assert found == state


def test_the_original_model_scores_no_row_again_after_an_interruption(new_trainer, monkeypatch):
    options = {"forget_loss_type": "npo", "belief_refresh_epochs": 0.0}
    with pytest.raises(Interruption):
        new_trainer(interrupted_at=3, **options).train()
    resumed, scored = new_trainer(**options, max_steps=4), []
    plain = step.score_batch
    monkeypatch.setattr(step, "score_batch", lambda *a: scored.append(a) or plain(*a))
    resumed.train(resume_from_checkpoint=True)
    assert scored == []
