# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0


import json

import huggingface_hub.constants
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertModel,
    PreTrainedTokenizerFast,
)

from trl_unlearn.evaluation.judge_models import FLUENCY_CLASSIFIER, load_fluency_classifier


WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "bees", "sing", "in", "winter", "veldt", "qsq"]
TEXTS = ["bees sing in winter", "", "qsq", "veldt veldt in", " \n", "sing bees sing bees sing bees in winter"]


def save_classifier(folder, labels=("noise", "clean", "word salad"), model_class=DistilBertForSequenceClassification):
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(WORDS),
        dim=16,
        n_heads=2,
        n_layers=1,
        hidden_dim=32,
        max_position_embeddings=12,
        initializer_range=0.5,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    model_class(config).save_pretrained(folder)
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]"
    )
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def plain(folder, text, label):
    """Probability of a class, from a forward pass over one text."""
    ids = [1, *(WORDS.index(word) for word in text.split()), 2]
    logits = DistilBertForSequenceClassification.from_pretrained(folder).eval()(torch.tensor([ids])).logits[0]
    return logits.softmax(-1)[label].item()


def in_cache(monkeypatch, cache, labels=("noise", "clean")):
    """A local cache that holds the published classifier's id."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    repo = cache / f"models--{FLUENCY_CLASSIFIER.replace('/', '--')}"
    commit = "0" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    return save_classifier(repo / "snapshots" / commit, labels)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_the_probability_is_that_of_a_plain_forward_pass(tmp_path, batch_size):
    folder = save_classifier(tmp_path)
    classifier = load_fluency_classifier(str(folder))
    assert classifier.name == str(folder)
    actual = classifier.probabilities(TEXTS, batch_size=batch_size)
    assert actual == pytest.approx([plain(folder, text, 1) if text.strip() else 0.0 for text in TEXTS], abs=1e-6)
    assert len({round(value, 4) for value in actual}) == 5


def test_nothing_but_empty_texts_is_zero_everywhere(tmp_path):
    classifier = load_fluency_classifier(str(save_classifier(tmp_path)))
    assert classifier.probabilities(["", "  "]) == [0.0, 0.0]
    assert classifier.probabilities([]) == []


def test_a_text_beyond_the_classifiers_positions_is_cut(tmp_path):
    folder = save_classifier(tmp_path)
    classifier = load_fluency_classifier(str(folder))
    (actual,) = classifier.probabilities(["bees " * 40])
    assert actual == pytest.approx(plain(folder, "bees " * 10, 1), abs=1e-6)


def test_the_class_is_found_in_any_case(tmp_path):
    folder = save_classifier(tmp_path, ["Clean", "NOISE"])
    (actual,) = load_fluency_classifier(str(folder)).probabilities(["bees sing"])
    assert actual == pytest.approx(plain(folder, "bees sing", 0), abs=1e-6)


def test_a_classifier_without_the_class_is_refused_with_those_it_has(tmp_path):
    folder = save_classifier(tmp_path, ["spam", "ham"])
    with pytest.raises(ValueError, match=r"has the classes \['spam', 'ham'\]. Expected a class called `clean`"):
        load_fluency_classifier(str(folder))


def test_a_model_without_a_trained_head_is_refused(tmp_path):
    folder = save_classifier(tmp_path, model_class=DistilBertModel)
    with pytest.raises(ValueError, match=r"lacks \['classifier.bias', 'classifier.weight'"):
        load_fluency_classifier(str(folder))


def test_a_classifier_without_its_tokenizer_is_refused(tmp_path):
    folder = save_classifier(tmp_path)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ValueError, match=f"`{folder}` (lacks a vocabulary|cannot be loaded)"):
        load_fluency_classifier(str(folder))


@pytest.mark.parametrize("content", [None, b"not weights"])
def test_missing_and_broken_weights_are_refused(tmp_path, content):
    path = save_classifier(tmp_path) / "model.safetensors"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=f"The fluency classifier `{tmp_path}` cannot be loaded"):
        load_fluency_classifier(str(tmp_path))


@pytest.mark.parametrize("name", ["someone/not-in-the-cache", "./no-such-folder"])
def test_a_name_that_leads_nowhere_is_refused(name, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=f"The fluency classifier `{name}` cannot be loaded"):
        load_fluency_classifier(name)


def test_weights_in_the_older_format_are_read(tmp_path):
    folder = save_classifier(tmp_path)
    before = load_fluency_classifier(str(folder))
    torch.save(before.model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert load_fluency_classifier(str(folder)).probabilities(TEXTS) == before.probabilities(TEXTS)


def test_code_in_the_folder_is_not_run(tmp_path):
    folder = save_classifier(tmp_path)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["model_type"] = "unheard-of"
    config["auto_map"] = {
        "AutoConfig": "own.OwnConfig",
        "AutoModelForSequenceClassification": "own.OwnModel",
    }
    path.write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_fluency_classifier(str(folder))
    assert not (tmp_path / "ran").exists()


def test_the_published_classifier_is_none_where_it_is_not_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert load_fluency_classifier() is None


def test_the_published_classifier_is_taken_from_the_cache_without_being_named(monkeypatch, tmp_path):
    folder = in_cache(monkeypatch, tmp_path)
    classifier = load_fluency_classifier()
    assert classifier.name == FLUENCY_CLASSIFIER
    assert classifier.probabilities(["bees sing"]) == pytest.approx([plain(folder, "bees sing", 1)], abs=1e-6)


@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer*"])
def test_a_half_downloaded_classifier_is_not_used_and_said_so(monkeypatch, tmp_path, missing, caplog):
    folder = in_cache(monkeypatch, tmp_path)
    for path in folder.glob(missing):
        path.unlink()
    assert load_fluency_classifier() is None
    assert "The fluency classifier in the cache is not used" in caplog.text
