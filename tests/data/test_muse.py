# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import json

import datasets
import pytest

from trl_unlearn.data.muse import load_muse
from trl_unlearn.evaluation.muse import MuseRows


QA = {"question": "Who keeps the bees?", "answer": "Bo Lindgren."}
ROWS = {
    "verbmem": {"forget": [{"prompt": "Ada Marlow was", "gt": " born in Veldt.", "source": "a letter"}]},
    "knowmem": {
        "forget_qa": [QA, QA | {"answer": "Edda Brandt."}],
        "forget_qa_icl": [QA],
        "retain_qa": [QA],
        "retain_qa_icl": [QA],
    },
    "privleak": {
        "forget": [{"text": "Ada Marlow."}],
        "retain": [{"text": "Cyra Oduya."}],
        "holdout": [{"text": "Dov Peretz."}],
    },
    "raw": {"forget": [{"text": "Ada Marlow was born in Veldt."}]},
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def write_folder(tmp_path):
    """Function of config -> split -> rows that writes a dataset folder of MUSE's form: JSON lines and a README.md."""

    def write(rows):
        folder = tmp_path / "muse"
        lines = ["---", "configs:"]
        for config, splits in rows.items():
            (folder / config).mkdir(parents=True)
            lines += [f"- config_name: {config}", "  data_files:"]
            for split, found in splits.items():
                path = folder / config / f"{split}.jsonl"
                path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
                lines += [f"  - split: {split}", f"    path: {config}/{split}.jsonl"]
        (folder / "README.md").write_text("\n".join([*lines, "---", "# Texts\n"]), encoding="utf-8")
        return str(folder)

    return write


def test_every_row_set_is_read_from_its_config_and_split(write_folder):
    rows = load_muse(write_folder(ROWS))
    assert {name: list(found) for name, found in rows.items()} == {
        "verbmem": [{"prompt": "Ada Marlow was", "gt": " born in Veldt."}],
        "forget_qa": ROWS["knowmem"]["forget_qa"],
        "forget_qa_icl": [QA],
        "retain_qa": [QA],
        "retain_qa_icl": [QA],
        "forget": [{"text": "Ada Marlow."}],
        "holdout": [{"text": "Dov Peretz."}],
    }


def test_the_row_sets_are_the_fields_of_the_suite(write_folder):
    rows = load_muse(write_folder(ROWS))
    assert vars(MuseRows(**rows)) == rows
    assert len(rows) == len(vars(MuseRows()))


def test_what_a_folder_lacks_is_none(write_folder):
    rows = load_muse(write_folder({"knowmem": {"retain_qa": [QA]}, "raw": ROWS["raw"]}))
    assert {name for name, found in rows.items() if found is not None} == {"retain_qa"}


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ({"raw": ROWS["raw"]}, "none of its configs"),
        ({"privleak": {"retain": [{"text": "a"}]}}, r"`privleak` \(splits retain\)"),
    ],
)
def test_a_folder_without_any_of_it_is_refused_with_what_it_has(rows, found, write_folder):
    with pytest.raises(ValueError, match=f"has nothing to evaluate on: found {found}. Expected configs"):
        load_muse(write_folder(rows))


def test_rows_without_their_columns_are_refused_by_config_and_split(write_folder):
    name = write_folder({"verbmem": {"forget": [{"prompt": "a", "completion": "b"}]}})
    with pytest.raises(
        ValueError,
        match=r"config `verbmem`, split `forget`\) has the columns \['prompt', 'completion'\].*needs `prompt`, `gt`",
    ):
        load_muse(name)


@pytest.mark.parametrize("answer", ["", " \n", None])
def test_a_row_without_text_is_refused_by_its_index(answer, write_folder):
    name = write_folder({"knowmem": {"forget_qa": [QA, QA | {"answer": answer}]}})
    with pytest.raises(ValueError, match=r"Row 1 of .*split `forget_qa`\) has no text in `answer`"):
        load_muse(name)
