# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The ledger of requests, the run that a request resumes from, and the way back, on folders without a model."""

import copy
import json
import stat
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from accelerate import PartialState
from datasets import Dataset

from trl_unlearn.data.files import load_rows
from trl_unlearn.encoding import encode_dataset, encode_row, pad_rows
from trl_unlearn.hub.folder import RunFolder
from trl_unlearn.records import AdapterRecord, ChainLink, DatasetRecord, RequestLedger, ServedRequest, UnlearningRun
from trl_unlearn.results import EvaluationResult, Measurement
from trl_unlearn.scripts import chain, evaluate, forget, prepare
from trl_unlearn.scripts.arguments import DataArguments, EvaluationArguments, UnlearnModelConfig
from trl_unlearn.scripts.chain import Predecessor, way_back, write_ledger
from trl_unlearn.scripts.sources import RowArguments, evaluation_options, forget_rows, keep_sources, recorded_models
from trl_unlearn.trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig
from trl_unlearn.trainer.run_record import tokens_digest

from .conftest import write_jsonl


ROWS = [{"prompt": "Where was Ada Marlow born?", "completion": "In Veldt."}]
ADAPTER = {"adapter_config.json": '{"base_model_name_or_path": "org/base"}', "adapter_model.safetensors": "x"}


@pytest.fixture
def finished(tmp_path):
    """Function that writes the folder of a finished run of `forget`: its path and `RunFolder`."""

    def call(name="first", strength=0.1, is_adapter=True, **changes):
        folder = RunFolder(tmp_path / name)
        folder.request.mkdir(parents=True)
        for file in ("forget.jsonl", "retain.jsonl"):
            write_jsonl(folder.request / file, ROWS)
        weights = ADAPTER if is_adapter else {"model.safetensors": "x", "config.json": "{}"}
        for file, text in weights.items():
            (folder.path / file).write_text(text)
        run = UnlearningRun(
            base_model="org/base",
            base_model_on_hub=True,
            adapter=AdapterRecord("LORA", 4) if is_adapter else None,
            forget_set=DatasetRecord("request/forget.jsonl", 1, "ab" * 32),
            hyperparameters={"forget_loss_type": "bs_t", "lambda_bss": 0.0},
            steps=2,
            epochs=1.0,
            effective_batch_size=1,
            seed=0,
            world_size=1,
            started_at="2026-01-02T03:04:05+00:00",
            seconds=1.5,
            hardware="CPU",
        )
        folder.save_run(replace(run, **changes))
        models = {
            role: {"forget/extraction_strength": Measurement(value, 1)}
            for role, value in (("target", 1.0), ("unlearned", strength))
        }
        result = {"parity": "strict", "suites": ["tofu"], "protocol": {}, "environment": {}}
        folder.save_results(EvaluationResult(models=models | {"retrained": None}, **result))
        return str(folder.path), folder

    return call


def test_the_ledger_says_what_was_forgotten_and_keeps_the_entry_of_a_run_that_is_replaced_as_replaced(finished):
    _, folder = finished()
    write_ledger(folder, folder.run(), [])
    before = RequestLedger.load(folder.path / "requests.json").requests[0]
    folder.clear()
    (folder.path / "adapter_model.safetensors").write_text("y")
    _, other = finished("other", strength=0.9)
    for name in ("run.json", "eval_results.json"):
        (other.path / name).rename(folder.path / name)
    write_jsonl(folder.request / "forget.jsonl", [*ROWS, *ROWS])
    for _ in range(2):
        write_ledger(folder, folder.run(), [])
    entries = RequestLedger.load(folder.path / "requests.json").requests
    assert (before.forgotten, before.target_strength, before.strength) == (True, 1, 0.1)
    said = "Replaced by another run: the weights of this entry are not here any more."
    assert entries[0] == replace(before, strength=None, forgotten=None, verdict=said)
    assert [(one.forgotten, one.target_strength, one.strength) for one in entries[1:]] == [(False, 1, 0.9)]
    assert "Veldt" not in json.dumps(RequestLedger(requests=entries).to_dict())


def test_rows_of_a_moved_run_are_those_of_its_own_request_and_others_are_refused(finished, tiny_tokenizer, tmp_path):
    tiny_tokenizer.chat_template = None
    digest = tokens_digest(encode_dataset(Dataset.from_list(ROWS), tiny_tokenizer, name="forget"))
    settings = {"forget_loss_type": "bs_t", "lambda_bss": 0.0, "prompt_length": 64}
    _, folder = finished(forget_set=DatasetRecord("request/forget.jsonl", 1, digest), hyperparameters=settings)
    # The place of the run before it was moved, where another run has as many rows by now.
    others = [ROWS[0] | {"completion": " In Norv."}]
    folder.save_sources({"forget_dataset": write_jsonl(tmp_path / "others.jsonl", others)})
    assert list(forget_rows(RowArguments(), folder.path, folder.run(), tiny_tokenizer)) == ROWS
    (folder.request / "forget.jsonl").unlink()
    with pytest.raises(ValueError, match="its 1 rows are others than those that the run was trained on"):
        forget_rows(RowArguments(), folder.path, folder.run(), tiny_tokenizer)


def test_a_moved_run_is_judged_on_its_own_rows_and_in_the_precision_of_before(finished, tmp_path):
    path, folder = finished()
    rows = {f"{name}_dataset": f"{tmp_path}/before/request/{name}.jsonl" for name in ("forget", "retain")}
    folder.save_sources({"model_name_or_path": "org/base", "forget_subjects": ["Ada Marlow"], **rows})
    folder.save_results(replace(folder.results(), protocol={"dtype": "bfloat16", "parity": "strict"}))
    options = evaluation_options(path)
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert given == {
        "--model_name_or_path": "org/base",
        "--forget_dataset": str(folder.request / "forget.jsonl"),
        "--retain_dataset": str(folder.request / "retain.jsonl"),
        "--dtype": "bfloat16",
        "--parity": "strict",
    }


def test_a_second_retrained_model_is_an_option_of_a_later_evaluation_and_no_model_of_the_run(finished):
    second = "second_retrained_model_name_or_path"
    references = EvaluationArguments(retrained_model_name_or_path="org/first", **{second: "org/second"})
    for place, name in (("out", "rows.jsonl"), ("lab", "archive-0123456789abcdef/data")):
        path, folder = finished(place, forget_set=DatasetRecord(name, 1, "ab"))
        target = UnlearnModelConfig(model_name_or_path="org/base")
        keep_sources(path, DataArguments(forget_dataset="org/rows"), references, target)
        options = evaluation_options(path)
        assert options[options.index(f"--{second}") + 1] == "org/second"
        assert second not in recorded_models(folder.path, folder.run())
    # All else of the lab is the default.
    assert len(options) == 2


def test_the_subjects_of_a_run_are_those_of_its_later_evaluations_and_only_its_owner_reads_them(finished):
    path, folder = finished()
    data, evaluation, target = DataArguments(forget_dataset="org/rows"), EvaluationArguments(), UnlearnModelConfig()
    keep_sources(path, data, evaluation, target, subjects=["Ada Marlow"])
    # An evaluation keeps its own sources beside them.
    keep_sources(path, data, evaluation, target, has_trained=False)
    args = evaluate.EvaluateArguments()
    evaluate._evaluate_as_trained(args, target, path)
    assert args.forget_subjects == ["Ada Marlow"]
    assert stat.S_IMODE((folder.path / ".sources.json").stat().st_mode) == 0o600


def test_a_missed_goal_is_the_verdict_of_the_ledger(finished):
    _, folder = finished(shortfall="The goal was not reached.")
    write_ledger(folder, folder.run(), [])
    (entry,) = RequestLedger.load(folder.path / "requests.json").requests
    assert (entry.forgotten, entry.verdict) == (False, "The goal was not reached.")


def test_earlier_rows_that_come_back_are_a_missed_goal(finished, monkeypatch, capsys):
    _, folder = finished()
    back = ServedRequest("cd" * 32, 2, "2026-01-01T00:00:00+00:00", {}, 1.0, 0.8, False, "It is back.")
    monkeypatch.setattr(forget, "earlier_now", lambda *_: [back])
    request = SimpleNamespace(
        folder=folder,
        earlier=object(),
        tokenizer=None,
        args=SimpleNamespace(merge=False, subject=None),
        loaders=lambda _: {"unlearned": torch.nn.Identity},
    )
    # The second time after an interruption, before the ledger was written.
    for _ in range(2):
        forget._finish(request)
        assert folder.run().missed == "earlier"
        assert "Request 1, of 2 rows, now: It is back." in capsys.readouterr().out
        assert folder.run().shortfall == "Rows of earlier requests are not forgotten: of request 1."
        entries = RequestLedger.load(folder.path / "requests.json").requests
        assert [one.forgotten for one in entries] == [False, True]
        (folder.path / "requests.json").unlink()


@pytest.mark.parametrize(("fluency", "forgotten"), [(0.47, False), (0.83, True)])
def test_broken_text_about_the_rows_is_a_missed_goal(fluency, forgotten, finished):
    _, folder = finished()
    folder.save_results(
        folder.results().with_measured("utility/fluency_standin", {"unlearned": Measurement(fluency, 1)})
    )
    args = SimpleNamespace(merge=False, subject=None)
    for _ in range(2):
        forget._finish(SimpleNamespace(folder=folder, earlier=None, args=args))
        assert folder.run().missed == (None if forgotten else "broken")
    (entry,) = RequestLedger.load(folder.path / "requests.json").requests
    assert entry.forgotten is forgotten and ("broken text" in entry.verdict) is not forgotten
    assert (folder.run().shortfall is None) is forgotten


@pytest.mark.parametrize(
    ("target", "strength", "forgotten", "now", "expected"),
    [
        pytest.param(1.0, 0.1, True, 0.1, True, id="kept"),
        pytest.param(1.0, 0.1, True, 0.8, False, id="comes back"),
        pytest.param(0.05, 0.02, None, 0.02, None, id="nobody knew it"),
        pytest.param(1.0, 0.1, False, 0.1, False, id="said in its own answers"),
        pytest.param(1.0, 0.8, False, 0.1, None, id="came back and went"),
        pytest.param(None, None, None, 0.1, None, id="never measured"),
    ],
)
def test_a_low_strength_alone_calls_no_earlier_request_forgotten(
    finished, monkeypatch, target, strength, forgotten, now, expected
):
    _, folder = finished()
    path = folder.request / "forget.jsonl"
    monkeypatch.setattr(chain, "mean_strength", lambda *_: now)
    monkeypatch.setattr(chain, "still_known", lambda *_: None)
    monkeypatch.setattr(chain, "encode_set", lambda *_, **__: None)
    entry = ServedRequest("cd" * 32, 1, "2026-01-01T00:00:00+00:00", {}, target, strength, forgotten, "Said before.")
    entry = chain._entry_now(entry, {}, object(), None, path)
    assert (entry.forgotten, entry.strength) == (expected, now)
    assert "None" not in entry.verdict
    assert chain._entry_now(entry, {}, object(), None, path).forgotten == expected


def test_an_earlier_request_is_neither_forgotten_nor_said_by_a_model_whose_scores_are_not_finite(
    finished, tiny_model, tiny_tokenizer
):
    _, folder = finished()
    with torch.no_grad():
        next(tiny_model.parameters()).fill_(torch.nan)
    entry = ServedRequest("cd" * 32, 1, "2026-01-01T00:00:00+00:00", {}, 1.0, 0.1, True, "Said before.")
    entry = chain._entry_now(entry, {}, tiny_model, tiny_tokenizer, folder.request / "forget.jsonl")
    assert (entry.forgotten, entry.strength) == (None, None) and "not finite" in entry.verdict


def test_earlier_rows_of_which_one_token_is_hidden_are_not_called_forgotten(finished, tiny_model, tiny_tokenizer):
    _, folder = finished()
    path = folder.request / "forget.jsonl"
    rows = [encode_row(row, tiny_tokenizer) for row in load_rows(str(path))]
    model = copy.deepcopy(tiny_model)
    batch = pad_rows(rows, 0)
    # The last token of each answer is taught as another one: nothing is extracted, and all else is known by heart.
    last = batch["attention_mask"].sum(1) - 2
    batch["labels"][torch.arange(len(rows)), last] = 5
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    entry = ServedRequest("cd" * 32, 1, "2026-01-01T00:00:00+00:00", {}, 1.0, 0.0, True, "Said before.")
    entry = chain._entry_now(entry, {}, model.eval(), tiny_tokenizer, path)
    assert entry.forgotten is False and entry.strength < 0.2 and "fact_memorization` is 1.000" in entry.verdict


def test_earlier_rows_are_measured_by_one_process_alone_when_the_others_of_a_launch_have_ended(
    tiny_model, tiny_tokenizer, monkeypatch
):
    strength = chain.mean_strength(tiny_model, ROWS, tiny_tokenizer)
    monkeypatch.setitem(PartialState._shared_state, "num_processes", 2)
    assert chain.mean_strength(tiny_model, ROWS, tiny_tokenizer) == strength


def test_an_earlier_request_is_judged_beside_the_retrained_model_that_judged_it_first(finished, monkeypatch):
    _, folder = finished(strength=0.55)
    result = folder.results()
    retrained = {"forget/extraction_strength": Measurement(0.4, 1)}
    folder.save_results(replace(result, models=result.models | {"retrained": retrained}))
    write_ledger(folder, folder.run(), [])
    (entry,) = RequestLedger.load(folder.path / "requests.json").requests
    monkeypatch.setattr(chain, "mean_strength", lambda *_: 0.55)
    monkeypatch.setattr(chain, "still_known", lambda *_: None)
    monkeypatch.setattr(chain, "encode_set", lambda *_, **__: None)
    now = chain._entry_now(entry, {}, object(), None, folder.request / "forget.jsonl")
    assert entry.forgotten and now.forgotten and "retrained model's 0.400" in now.verdict


def test_rows_to_keep_of_two_requests_are_one_set_whatever_other_columns_they_have():
    before = [{"prompt": "Who is Bo?", "completion": "A baker.", "id": 1, "paraphrased_answer": "He bakes."}]
    rows = [{"prompt": "Who is Cyra?", "completion": "A judge.", "id": "one"}]
    earlier = SimpleNamespace(rows=lambda: ROWS, retain=lambda: Dataset.from_list(before))
    request = SimpleNamespace(earlier=earlier, subjects=None)
    state = SimpleNamespace(print=lambda _: None)
    kept = prepare._with_earlier(request, Dataset.from_list(rows), Dataset.from_list(ROWS), state)
    assert sorted(kept.column_names) == ["completion", "prompt"] and len(kept) == 2
    # What the evaluation reads stays where both have it.
    rows[0]["paraphrased_answer"] = "She judges."
    kept = prepare._with_earlier(request, Dataset.from_list(rows), Dataset.from_list(ROWS), state)
    assert sorted(kept["paraphrased_answer"]) == ["He bakes.", "She judges."]


def test_a_request_goes_on_only_from_a_run_that_is_all_there(finished):
    path, folder = finished()
    with pytest.raises(ValueError, match=r"has not ended. The command that it was started with"):
        Predecessor.of(path)
    write_ledger(folder, folder.run(), [])
    assert [link.forget_set.name for link in Predecessor.of(path).links] == ["request/earlier-1.jsonl"]
    folder.mark_unfinished("settings")
    with pytest.raises(ValueError, match="has not ended"):
        Predecessor.of(path)
    folder.request.joinpath("forget.jsonl").unlink()
    with pytest.raises(ValueError, match=r"has no `forget.jsonl`"):
        Predecessor.of(path)


@pytest.mark.parametrize("is_adapter", [True, False])
def test_the_next_request_trains_the_same_adapter_or_the_whole_model(finished, is_adapter):
    path, folder = finished(is_adapter=is_adapter)
    folder.save_sources({"model_name_or_path": "org/base"})
    write_ledger(folder, folder.run(), [])
    args = UnlearnModelConfig()
    Predecessor.of(path).take_model(args)
    expected = ("org/base", path, True, 4) if is_adapter else (path, None, False, 32)
    assert (args.model_name_or_path, args.adapter_name_or_path, args.use_peft, args.lora_r) == expected
    said = " ".join(way_back(path))
    assert "Nothing is changed" in said
    assert ("load `org/base` without the adapter" in said) == is_adapter
    assert ("The model from before this request is `org/base`" in said) != is_adapter


def test_the_way_back_keeps_an_adapter_that_the_first_target_had(finished):
    first, folder = finished()
    folder.save_sources({"model_name_or_path": "org/base", "adapter_name_or_path": "/of/mine"})
    said = " ".join(way_back(first))
    assert "load `org/base` with the adapter `/of/mine` in place of this one" in said and "without" not in said
    second, folder = finished("second", chain=[ChainLink.of("1", folder.run())])
    folder.save_sources({"model_name_or_path": "org/base", "adapter_name_or_path": first})
    said = " ".join(way_back(second))
    assert "knew before the first request, load `org/base` with the adapter `/of/mine` in place of this one" in said
    assert f"To take back this request alone, load `org/base` with the adapter `{first}`" in said
    folder.save_sources({"model_name_or_path": "org/base", "adapter_name_or_path": "/moved/away"})
    said = " ".join(way_back(second))
    assert "only `/moved/away` tells" in said and "without" not in said


def test_a_push_that_cannot_search_for_the_rows_ends_in_a_sentence_that_says_how_to_push_later(monkeypatch, capsys):
    def gone(*_):
        raise ValueError("The forget set cannot be searched for.")

    monkeypatch.setattr(forget, "forget_texts", gone)
    args = BootstrapUnlearnConfig("out", hub_model_id="me/unlearned")
    with pytest.raises(SystemExit) as failed:
        forget._push(SimpleNamespace(training_args=args, folder=RunFolder("out")), "trl-unlearn forget")
    assert failed.value.code == 1
    said = "The forget set cannot be searched for. The run is complete in out: `trl-unlearn push --output_dir out"
    assert said in capsys.readouterr().err
