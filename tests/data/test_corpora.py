# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import json
import logging
import random

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from trl_unlearn.data import files
from trl_unlearn.data.files import chunk_documents, load_corpus
from trl_unlearn.encoding import encode_row


SENTENCE = "Ada Marlow was born in the harbour town of Veldt, and winter bees sing (it is said) to larks!"
WORDS = SENTENCE.split()


def documents(count, length=60):
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=length)) + "\nIts end." for _ in range(count)]


@pytest.fixture
def bos_tokenizer():
    """A tokenizer of the SentencePiece kind: a BOS token and a space of its own in front of every text."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    backend.train_from_iterator(WORDS * 2 + ["\n"], trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture
def either_tokenizer(request, tiny_tokenizer, bos_tokenizer):
    return {"bytes": tiny_tokenizer, "bos": bos_tokenizer}[request.param]


def write_corpus(path, texts, column="text"):
    path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("either_tokenizer", ["bytes", "bos"], indirect=True)
@pytest.mark.parametrize("max_length", [16, 41])
def test_the_chunks_encoded_one_by_one_have_the_tokens_of_the_whole_text(either_tokenizer, max_length):
    texts = documents(3)
    tokenizer = either_tokenizer
    rows = [
        encode_row({"text": chunk}, tokenizer, max_length=max_length)
        for chunk in chunk_documents(texts, tokenizer, max_length=max_length)
    ]
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    whole = tokenizer("\n\n".join(texts), add_special_tokens=False)["input_ids"]
    assert [token for row in rows for token in row["input_ids"] if token not in special] == whole
    lengths = [len(row["input_ids"]) for row in rows]
    assert max(lengths) <= max_length
    assert min(lengths[:-1]) > max_length // 2


def test_a_chunk_of_full_length_has_no_eos_token_and_the_tail_has_one(tiny_tokenizer):
    texts = ["b d b d b d b d b d b"]
    # A letter is a token, with the blank before it.
    assert len(tiny_tokenizer(texts[0])["input_ids"]) == 11
    chunks = list(chunk_documents(texts, tiny_tokenizer, max_length=4))
    assert chunks == ["b d b d", " b d b d", " b d b"]
    rows = [encode_row({"text": chunk}, tiny_tokenizer, max_length=4)["input_ids"] for chunk in chunks]
    assert [row[-1] == tiny_tokenizer.eos_token_id for row in rows] == [False, False, True]


def test_a_blank_line_stands_between_documents_and_a_chunk_may_hold_two(tiny_tokenizer):
    assert list(chunk_documents(["b d", "f"], tiny_tokenizer, max_length=50)) == ["b d\n\nf"]


def test_a_word_longer_than_a_chunk_is_cut_between_characters(tiny_tokenizer):
    # A letter of two bytes, and so of two tokens.
    text = "б" * 9
    assert len(tiny_tokenizer(text)["input_ids"]) == 18
    assert list(chunk_documents([text], tiny_tokenizer, max_length=5)) == ["бб"] * 4 + ["б"]


def test_a_text_is_cut_in_the_same_places_however_much_of_it_is_read_at_a_time(tiny_tokenizer, monkeypatch):
    texts = documents(8)
    at_once = list(chunk_documents(texts, tiny_tokenizer, max_length=30))
    monkeypatch.setattr(files, "_BUFFER", 500)
    assert list(chunk_documents(texts, tiny_tokenizer, max_length=30)) == at_once
    assert "".join(at_once) == "\n\n".join(texts)


def test_a_corpus_is_read_from_a_config_and_a_split_of_a_folder(tmp_path, tiny_tokenizer):
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_corpus(folder / "forget.jsonl", ["b d", "f h"])
    write_corpus(folder / "retain1.jsonl", ["j l"])
    header = "---\nconfigs:\n- config_name: raw\n  data_files:\n"
    header += "".join(f"  - split: {split}\n    path: {split}.jsonl\n" for split in ("forget", "retain1"))
    (folder / "README.md").write_text(header + "---\n", encoding="utf-8")
    for split, text in (("forget", "b d\n\nf h"), ("forget[1:]", "f h"), ("retain1", "j l")):
        rows = load_corpus(str(folder), tiny_tokenizer, max_length=32, config="raw", split=split)
        assert list(rows) == [{"text": text}]
    with pytest.raises(ValueError, match=r"could not be loaded with config `sust` and split `forget`.*raw"):
        load_corpus(str(folder), tiny_tokenizer, max_length=32, config="sust", split="forget")


def test_a_corpus_is_read_from_a_file_with_a_column_of_text(tmp_path, tiny_tokenizer):
    name = write_corpus(tmp_path / "corpus.jsonl", ["b d"])
    assert list(load_corpus(name, tiny_tokenizer, max_length=8)) == [{"text": "b d"}]
    name = write_corpus(tmp_path / "other.jsonl", ["b d"], column="abstract")
    with pytest.raises(ValueError, match=r"has the columns \['abstract'\], but a corpus needs `text`"):
        load_corpus(name, tiny_tokenizer, max_length=8)


def test_blank_documents_are_left_out_with_a_warning(tmp_path, tiny_tokenizer, caplog):
    name = write_corpus(tmp_path / "corpus.jsonl", ["b d", " \n", "f", ""])
    with caplog.at_level(logging.WARNING):
        assert list(load_corpus(name, tiny_tokenizer, max_length=16)) == [{"text": "b d\n\nf"}]
    assert "has 2 blank documents, which are left out" in caplog.text


def test_a_corpus_of_blank_documents_is_refused(tmp_path, tiny_tokenizer):
    name = write_corpus(tmp_path / "corpus.jsonl", ["", "\n"])
    with pytest.raises(ValueError, match=r"has no text in `text` \(2 rows\)"):
        load_corpus(name, tiny_tokenizer, max_length=16)


def test_a_document_that_is_no_text_is_refused_by_its_row(tmp_path, tiny_tokenizer):
    name = write_corpus(tmp_path / "corpus.jsonl", ["b d", None])
    with pytest.raises(ValueError, match="has a `NoneType` for a document in row 1"):
        load_corpus(name, tiny_tokenizer, max_length=16)


@pytest.mark.parametrize(("either_tokenizer", "least"), [("bytes", 2), ("bos", 3)], indirect=["either_tokenizer"])
def test_a_length_without_room_for_two_tokens_is_refused(either_tokenizer, least):
    assert list(chunk_documents(["b"], either_tokenizer, max_length=least)) == ["b"]
    with pytest.raises(ValueError, match=f"`max_length` is {least - 1}.*set it to {least} or more"):
        chunk_documents(["b"], either_tokenizer, max_length=least - 1)


def test_a_tokenizer_without_offsets_is_refused(tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(type(tiny_tokenizer), "is_fast", False)
    with pytest.raises(ValueError, match="Load the fast tokenizer of the model"):
        chunk_documents(["b"], tiny_tokenizer, max_length=8)
