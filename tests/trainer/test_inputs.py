# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import logging
import os
import stat
from pathlib import Path

import pytest
from datasets import Dataset, IterableDataset

from trl_unlearn.trainer.inputs import stored_stream


class Owner:
    """An owner whose end removes the files of a stream."""


@pytest.fixture
def new_trainer(build_trainer):
    def new(forget, retain, evaluated=None, **kwargs):
        settings = {"per_device_train_batch_size": 2, "max_completion_length": 6, "num_train_epochs": 2}
        sets = {"train_dataset": forget, "retain_dataset": retain, "eval_dataset": evaluated}
        return build_trainer(settings | kwargs, **sets)

    return new


def _endless(rows):
    """A stream without an end that counts what is read."""
    read = []

    def generate():
        number = 0
        while True:
            row = rows[number % len(rows)]
            read.append(number)
            number += 1
            yield {"prompt": f"{number} {row['prompt'][0]['content']}", "completion": row["completion"][0]["content"]}

    return IterableDataset.from_generator(generate), read


def _hidden(folder):
    return [path for path in Path(folder).iterdir() if path.name.startswith(".stream-")]


def test_streams_train_on_the_rows_of_the_sets(new_trainer, forget_rows, retain_rows):
    plain = new_trainer(forget_rows, retain_rows, retain_rows)
    streamed = new_trainer(*(rows.to_iterable_dataset() for rows in (forget_rows, retain_rows, retain_rows)))
    for name in ("train_dataset", "retain_dataset", "eval_dataset"):
        assert list(getattr(streamed, name)) == list(getattr(plain, name))
        # From the disk, not from memory.
        assert getattr(streamed, name).cache_files and not getattr(plain, name).cache_files
    streamed.train()
    assert streamed.state.global_step == 4
    assert streamed.evaluate()["eval_loss"] > 0


def test_of_an_endless_retain_stream_the_run_takes_what_it_can_use(new_trainer, forget_rows, retain_rows, caplog):
    stream, read = _endless(retain_rows)
    with caplog.at_level(logging.WARNING):
        trainer = new_trainer(forget_rows, stream, num_train_epochs=3.5)
    # A row for each forget row of each epoch that is begun.
    assert len(trainer.retain_dataset) == 3 * 4
    assert "left after 12 rows" in caplog.text
    assert max(read) <= 12
    stream, _ = _endless(retain_rows)
    assert len(new_trainer(forget_rows, stream, max_steps=5, gradient_accumulation_steps=2).retain_dataset) == 20


def test_the_files_of_a_stream_are_private_and_go_with_their_owner(tmp_path, retain_rows):
    owner = Owner()
    rows = stored_stream(retain_rows.to_iterable_dataset(), name="retain", folder=tmp_path, owner=owner)
    (hidden,) = _hidden(tmp_path)
    assert stat.S_IMODE(hidden.stat().st_mode) == 0o700
    assert all(Path(file["filename"]).is_relative_to(hidden) for file in rows.cache_files)
    assert sum(map(len, (files for *_, files in os.walk(hidden)))) > 0
    del owner
    assert _hidden(tmp_path) == []
    assert list(rows) == list(retain_rows)


def test_two_streams_in_one_folder_do_not_meet(tmp_path, forget_rows, retain_rows):
    owner = Owner()
    for rows in (forget_rows, retain_rows):
        assert list(stored_stream(rows.to_iterable_dataset(), name="eval", folder=tmp_path, owner=owner)) == list(rows)


@pytest.mark.parametrize("empty", ["forget", "retain"])
def test_an_empty_stream_is_refused(new_trainer, forget_rows, retain_rows, empty):
    sets = {"forget": forget_rows, "retain": retain_rows}
    sets[empty] = sets[empty].to_iterable_dataset().filter(lambda row: False)
    with pytest.raises(ValueError, match=f"The {empty} set .* is empty"):
        new_trainer(**sets)


def test_a_stream_that_breaks_says_why_and_leaves_nothing(new_trainer, forget_rows, retain_rows, tmp_path):
    def generate():
        yield retain_rows[0]
        raise ConnectionError("the line was cut")

    with pytest.raises(ValueError, match=r"retain set could not be read from its stream .* the line was cut"):
        new_trainer(forget_rows, IterableDataset.from_generator(generate))
    assert _hidden(tmp_path / "out") == []


def test_what_is_neither_a_set_nor_a_stream_is_refused(new_trainer, forget_rows):
    with pytest.raises(TypeError, match="must be a `Dataset` or an `IterableDataset`, got `list`"):
        new_trainer(list(forget_rows), Dataset.from_list([]))
