# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import itertools
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from trl_unlearn.evaluation.callbacks import CannotBeginError, sequence_point
from trl_unlearn.evaluation.tables import SequenceStage
from trl_unlearn.hub.folder import RunFolder
from trl_unlearn.records import UnlearningRun
from trl_unlearn.scripts import sequence
from trl_unlearn.scripts.sequence import write_sequence
from trl_unlearn.trainer.bootstrap_unlearn_trainer import BootstrapUnlearnTrainer
from trl_unlearn.trainer.guard import DivergenceError

from .conftest import write_jsonl


REQUESTS = {
    "a": {"forget_split": "train[:1]"},
    "b c": {"forget_split": "train[1:2]", "max_steps": 3},
    "d": {"forget_split": "train[2:]"},
}
FOLDERS = ["1-a", "2-b-c", "3-d"]


@pytest.fixture
def starts():
    """Numbers at the start of each request, in order."""
    return []


@pytest.fixture
def call(checkpoint, tofu_folder, tmp_path, monkeypatch, starts):
    """Function that serves requests on the tiny model; returns the folders of those that were trained for."""
    build, load, trained, sets = sequence.build_trainer, sequence._row_sets, [], []

    def row_sets(*arguments):
        sets[:] = load(*arguments)
        return tuple(sets)

    def build_trainer(data_args, training_args, model_args):
        trained.append(Path(training_args.output_dir).name)
        trainer = build(data_args, training_args, model_args)
        pad_token_id = trainer.processing_class.pad_token_id
        starts.append(sequence_point(trainer.model.eval(), *sets[:2], pad_token_id=pad_token_id))
        return trainer

    monkeypatch.setattr(sequence, "_row_sets", row_sets)
    monkeypatch.setattr(sequence, "build_trainer", build_trainer)

    def run(*extra: str, requests=REQUESTS, data: tuple[str, ...] | None = None) -> list[str]:
        trained.clear()
        starts.clear()
        data = data or ("--dataset_name", tofu_folder, "--forget_config", "forget", "--retain_config", "retain")
        sequence.main(
            [
                *("--model_name_or_path", checkpoint, *data, "--requests", json.dumps(requests)),
                *("--output_dir", str(tmp_path / "out"), "--max_steps", "2", "--per_device_train_batch_size", "2"),
                *("--num_beliefs", "2", "--max_completion_length", "12", "--learning_rate", "1e-2"),
                *("--warmup_steps", "0", "--report_to", "none", "--save_strategy", "no"),
                *("--gradient_checkpointing", "false", *extra),
            ]
        )
        return list(trained)

    return run


def results(folder: Path) -> dict:
    return json.loads((folder / "sequence.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("use_peft", ["true", "false"])
def test_each_request_goes_on_from_where_the_one_before_ended(call, starts, use_peft, tmp_path):
    assert call("--use_peft", use_peft) == FOLDERS
    found = results(tmp_path / "out")
    ends = [found["baselines"]["target"], *found["stages"]]
    for start, end in zip(starts, ends[:-1], strict=True):
        assert start["retain_probability"] == pytest.approx(end["retain_probability"], rel=1e-4)
        for name, values in start["requests"].items():
            assert values == pytest.approx(end["requests"][name], rel=1e-4)
    kept = [end["retain_probability"] for end in ends]
    # Farther from one another than a start is from the end before it.
    assert min(abs(one - other) / one for one, other in itertools.pairwise(kept)) > 1e-3
    saved = "adapter_config.json" if use_peft == "true" else "config.json"
    assert all((tmp_path / "out" / name / saved).is_file() for name in FOLDERS)


def test_a_sequence_leaves_its_chain_in_each_record_and_a_table_and_a_figure(call, checkpoint, tmp_path, capsys):
    call("--retrained_model_name_or_path", checkpoint, "--second_retrained_model_name_or_path", checkpoint)
    folder = tmp_path / "out"
    found = results(folder)
    assert [(stage["request"], stage["steps"]) for stage in found["stages"]] == [("a", 2), ("b c", 3), ("d", 2)]
    assert all(list(stage["requests"]) == ["a", "b c", "d"] for stage in found["stages"])
    assert found["baselines"]["second_retrained"] == found["baselines"]["retrained"] == found["baselines"]["target"]
    runs = [UnlearningRun.load(folder / name / "run.json") for name in FOLDERS]
    assert [[link.request for link in run.chain] for run in runs] == [[], ["a"], ["a", "b c"]]
    assert [link.steps for link in runs[2].chain] == [2, 3]
    assert [link.forget_set for link in runs[2].chain] == [run.forget_set for run in runs[:2]]
    assert [run.forget_set.split for run in runs] == ["train[:1]", "train[1:2]", "train[2:]"]
    assert runs[1].adapter.continued_from == "1-a"
    assert len({run.retain_set.sha256 for run in runs}) == 1
    assert all((folder / name / "README.md").is_file() for name in FOLDERS)
    assert (folder / "sequence.md").read_text(encoding="utf-8").count("\n") == 8
    assert (folder / "figures/sequence.png").is_file()
    assert "second retrained" in capsys.readouterr().out


def test_a_request_that_misses_the_goal_of_the_retrained_model_is_named_last(call, tiny_model, tmp_path, capsys):
    with torch.no_grad():
        tiny_model.model.norm.weight.mul_(3)
    tiny_model.save_pretrained(tmp_path / "retrained")
    options = ["--retrained_model_name_or_path", str(tmp_path / "retrained"), "--stop_metric", "forget_logp"]
    # By the same command later too, which serves nothing.
    for served in (["1-a"], []):
        command = ("--stop_at", "retrained", *options, "--learning_rate", "1e-6")
        assert call(*command, requests={"a": REQUESTS["a"]}) == served
        printed = " ".join(capsys.readouterr().out.split())
        _, last = printed.split("Request `a`: The goal was not reached in 2 steps: `forget_logp` is ")
        assert last.endswith("to go.") and "Sequence of requests" in printed


@pytest.mark.slow
def test_what_was_served_is_not_served_again_and_what_was_cut_off_is_with_all_that_stands_on_it(call, tmp_path):
    call()
    before = results(tmp_path / "out")
    assert call() == []
    assert results(tmp_path / "out") == before
    (tmp_path / "out/2-b-c/stage.json").unlink()
    RunFolder(tmp_path / "out/2-b-c").mark_unfinished("settings")
    left = tmp_path / "out/2-b-c/left"
    left.touch()
    assert call() == FOLDERS[1:]
    assert not left.exists()
    for old, new in zip(before["stages"], results(tmp_path / "out")["stages"], strict=True):
        assert {**old, "seconds": 0} == {**new, "seconds": 0}


@pytest.mark.slow
def test_nothing_is_served_on_top_of_a_request_that_diverged(call, tmp_path, monkeypatch, capsys):
    train = BootstrapUnlearnTrainer.train

    def diverge_at_the_second(trainer, *args, **kwargs):
        if trainer.earlier_requests:
            raise DivergenceError("`loss/forget` is inf at step 1.")
        return train(trainer, *args, **kwargs)

    with monkeypatch.context() as patched, pytest.raises(SystemExit) as stopped:
        patched.setattr(BootstrapUnlearnTrainer, "train", diverge_at_the_second)
        call()
    assert stopped.value.code == 3
    assert "request `b c`: `loss/forget` is inf at step 1." in capsys.readouterr().err
    assert not (tmp_path / "out/3-d").exists()
    assert call() == FOLDERS[1:]


def test_an_adapter_of_ones_own_is_the_start_of_the_first_request_and_what_is_called_target(call, starts, tmp_path):
    call(requests={"earlier": {"forget_split": "train[:1]"}})
    end = results(tmp_path / "out")["stages"][0]
    arguments = ("--adapter_name_or_path", str(tmp_path / "out/1-earlier"), "--output_dir", str(tmp_path / "next"))
    call(*arguments, requests={"later": {"forget_split": "train[1:]"}, "last": {"forget_split": "train[:2]"}})
    # Each name has other rows than before; the retain rows are the same.
    assert starts[0]["retain_probability"] == pytest.approx(end["retain_probability"], rel=1e-4)
    found = results(tmp_path / "next")
    assert found["baselines"]["target"]["retain_probability"] == pytest.approx(end["retain_probability"], rel=1e-4)
    assert starts[1]["retain_probability"] == pytest.approx(found["stages"][0]["retain_probability"], rel=1e-4)


def test_a_request_whose_folder_is_that_of_a_model_is_refused_and_the_model_stays(call, checkpoint, tmp_path, capsys):
    folder = tmp_path / "out/2-b-c"
    shutil.copytree(checkpoint, folder)
    files = sorted(folder.iterdir())
    with pytest.raises(SystemExit) as refused:
        call("--retrained_model_name_or_path", str(folder))
    assert refused.value.code == 2 and sorted(folder.iterdir()) == files
    assert f"would replace the `retrained_model_name_or_path`, `{folder}`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("notes.txt", "files and no run"),
        ("run.json", "a finished run of another command"),
        ("unfinished.json", "an unfinished run of another command"),
    ],
)
def test_a_folder_of_a_request_that_holds_what_no_series_wrote_is_refused_and_the_files_stay(
    call, tmp_path, capsys, name, held
):
    own = tmp_path / "out/2-b-c" / name
    own.parent.mkdir(parents=True)
    text = '{"settings": "of `bs-s`"}'
    own.write_text(text)
    if "unfinished" in held:
        (own.parent / "checkpoint-20").mkdir()
        (own.parent / "checkpoint-20/unlearning_state.safetensors").touch()
    with pytest.raises(SystemExit) as refused:
        call()
    assert refused.value.code == 2 and own.read_text() == text and [*own.parents[1].iterdir()] == [own.parent]
    assert f"holds {held}. The request `b c` would replace that: move it" in capsys.readouterr().err


def test_a_request_that_could_not_begin_leaves_no_ignorant_twin(call, tmp_path, monkeypatch):
    twin = RunFolder(tmp_path / "out/1-a").twin

    def refuse(*_):
        twin.touch()
        raise CannotBeginError("There is nothing to unlearn.")

    monkeypatch.setattr(sequence, "build_trainer", refuse)
    with pytest.raises(SystemExit) as refused:
        call()
    assert refused.value.code == 2 and twin.parent.is_dir() and not twin.exists()


def test_each_request_may_name_a_file_of_its_own(call, own_files, tmp_path):
    first, retain = own_files("prompt-completion")
    second, _ = own_files("messages")
    requests = {"a": {"forget_dataset": first, "forget_split": "train[:1]"}, "b": {"forget_dataset": second}}
    assert call("--max_eval_rows", "2", requests=requests, data=("--retain_dataset", retain)) == ["1-a", "2-b"]
    runs = [UnlearningRun.load(tmp_path / "out" / name / "run.json") for name in ("1-a", "2-b")]
    assert [(Path(run.forget_set.name).name, run.forget_set.rows) for run in runs] == [
        (Path(first).name, 1),
        (Path(second).name, 3),
    ]


def test_a_finished_request_is_not_taken_over_when_rows_that_it_has_measured_have_changed(
    call, own_files, tmp_path, capsys
):
    first, retain = own_files("prompt-completion")
    requests = {"a": {"forget_dataset": first, "forget_split": "train[:1]"}}
    later = requests | {"b": {"forget_dataset": first, "forget_split": "train[1:]"}}
    data = ("--retain_dataset", retain)
    assert call(requests=requests, data=data) == ["1-a"]
    # With another request there are other rows to measure.
    for asked, name in ((later, "measured rows"), (requests, "training rows and measured rows")):
        with pytest.raises(SystemExit) as refused:
            call(requests=asked, data=data)
        assert refused.value.code == 2
        assert f"holds a finished run, and since then its {name} changed. Put back what" in capsys.readouterr().err
        path = Path(first)
        path.write_text(path.read_text().replace("Ada", "Eda"))


@pytest.mark.parametrize(
    ("requests", "complaint"),
    [
        ({}, "`requests` is missing"),
        (["train[:1]"], "must give each request its fields"),
        ({"x": None}, "must give each request its fields"),
        ({"x": {}}, "Request `x` has no forget rows of its own"),
        ({"x": {"max_steps": 1}}, "Request `x` has no forget rows of its own"),
        ({**REQUESTS, "b/c": {"forget_split": "train"}}, "Requests `b c` and `b/c` have one name, `b-c`"),
        ({**REQUESTS, "x": {"forget_spilt": "train"}}, "Request `x` sets `forget_spilt`"),
        ({**REQUESTS, "x": {"forget_split": "train", "retain_split": "train[:1]"}}, "Request `x` sets `retain_split`"),
        ({**REQUESTS, "x": {"forget_split": "train", "output_dir": "y"}}, "Request `x` sets `output_dir`"),
        ({"x": {"forget_split": "train", "resume_from_checkpoint": "y"}}, "`resume_from_checkpoint` is set"),
        ({**REQUESTS, "x": {"forget_split": "train", "lambda_bst": 3}}, "`lambda_bst` must be in [0, 1]"),
        ({**REQUESTS, "x": {"forget_split": "train[3:]"}}, "Request `x`: The forget set (`forget`, split `train[3:]`"),
    ],
)
def test_a_mistake_in_a_request_is_found_before_anything_runs(call, requests, complaint, tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        call(requests=requests)
    assert refused.value.code == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rows_of_a_request_that_cannot_be_loaded_are_named_by_it(call, tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        call(requests={**REQUESTS, "x": {"forget_config": "nothing"}})
    assert refused.value.code == 2
    sentence = capsys.readouterr().err
    assert "Request `x`: " in sentence and "could not be loaded with config `nothing`" in sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["parity", "fluency_classifier"])
def test_options_of_numbers_that_a_sequence_does_not_measure_are_refused(call, option, capsys):
    with pytest.raises(SystemExit) as refused:
        call(f"--{option}", "strict")
    assert refused.value.code == 2
    assert f"`{option}` is given, but a sequence measures no fluency" in capsys.readouterr().err


def test_a_sequence_without_a_retain_set_is_refused(call, tofu_folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as refused:
        call(data=("--dataset_name", tofu_folder, "--forget_config", "forget"))
    assert refused.value.code == 2
    assert "There is no retain set" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_later_request_that_names_nobody_is_refused_before_the_first_is_served(call, own_files, tmp_path, capsys):
    first, retain = own_files("prompt-completion")
    nameless = write_jsonl(tmp_path / "nameless.jsonl", [{"prompt": "where is it?", "completion": " there."}])
    requests = {"a": {"forget_dataset": first}, "b": {"forget_dataset": nameless}}
    with pytest.raises(SystemExit) as refused:
        call("--stop_at", "strangers", requests=requests, data=("--retain_dataset", retain))
    assert refused.value.code == 2
    assert "Request `b`: No true answer can be compared" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_stage_that_diverged_is_null_in_the_sequence(tmp_path, capsys):
    request = {"one": {"extraction_strength": math.nan, "forget_probability": 0.1}}
    target = {"requests": {"one": {"extraction_strength": 1.0, "forget_probability": 0.9}}, "retain_probability": 0.9}
    write_sequence(tmp_path, [SequenceStage("one", "a1", 1, 1.0, request, math.nan)], {"target": target})
    text = (tmp_path / "sequence.json").read_text()
    assert "NaN" not in text
    (stage,) = json.loads(text)["stages"]
    assert (stage["requests"]["one"]["extraction_strength"], stage["retain_probability"]) == (None, None)
