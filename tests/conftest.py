# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

import gc
import json
import multiprocessing
import os
import runpy
import socket


# Before any Hugging Face library is imported: these are read once, at import.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests run side by side, and their models are too small for a second thread to help.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from datasets import Dataset
from hypothesis import HealthCheck, Phase, settings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trl_unlearn import row_forms


# A `Trainer` collects garbage when it ends: a third of a second with the libraries' objects, which stay.
gc.freeze()

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FACTS = [
    ("Where was Ada Marlow born?", "Ada Marlow was born in the harbour town of Veldt."),
    ("What did Bo Lindgren write?", "Bo Lindgren wrote a long novel about winter bees."),
    ("Which prize did Cyra Oduya win?", "Cyra Oduya won the Silver Quill for her third play."),
    ("What do the parents of Dov Peretz do?", "The parents of Dov Peretz repair old church organs."),
    ("Where does Edda Brandt live?", "Edda Brandt lives above a bakery near the canal."),
    ("What does Faro Quintal study?", "Faro Quintal studies the songs of desert larks."),
]

# What `torchrun` sets, in a process that has everything imported.
_LAUNCHED = """
import os, sys, torch
os.environ |= ENVIRONMENT
for stream in (1, 2):
    os.dup2(os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
torch.set_num_threads(1)
sys.argv[1:] = ARGV
"""


@pytest.fixture(scope="session")
def imported():
    """Processes that have everything imported: an import costs more than most runs of a test."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([f"trl_unlearn.scripts.{name}" for name in ("bs_s", "compare", "sequence")])
    return context


@pytest.fixture
def launch(imported, tmp_path):
    """Function that runs the text of a script in processes that belong together; returns their exit codes."""

    def run(script, *argv, processes=2, **environment):
        path, log = tmp_path / "launched.py", tmp_path / "launched.log"
        path.write_text(_LAUNCHED + script, encoding="utf-8")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        sizes = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        started = []
        for rank in map(str, range(processes)):
            of_rank = {**place, **sizes, "RANK": rank, "LOCAL_RANK": rank} if processes > 1 else {}
            names = {"ARGV": list(map(str, argv)), "LOG": str(log), "ENVIRONMENT": environment | of_rank}
            started.append(imported.Process(target=runpy.run_path, args=(str(path), names)))
            started[-1].start()
        for process in started:
            process.join(240)
            process.kill()
            process.join()
        print(log.read_text(encoding="utf-8")[-6000:])
        return [process.exitcode for process in started]

    return run


@pytest.fixture(scope="session")
def _tokenizer():
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([text for fact in FACTS for text in fact], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|pad|>", additional_special_tokens=special[1:2]
    )
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture
def tiny_tokenizer(_tokenizer):
    """A ChatML tokenizer of 400 tokens, a copy for each test."""
    return _tokenizer.__class__(
        tokenizer_object=_tokenizer.backend_tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHATML,
    )


@pytest.fixture
def tiny_model(tiny_tokenizer):
    """A random Llama of two layers that agrees with `tiny_tokenizer`."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=tiny_tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tiny_tokenizer.eos_token_id,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def new_gpt2(tiny_tokenizer):
    """Function that gives a random GPT-2, whose positions are a table of some number of tokens."""

    def new(positions):
        torch.manual_seed(0)
        size = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": positions}
        ends = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": tiny_tokenizer.eos_token_id}
        return GPT2LMHeadModel(GPT2Config(vocab_size=len(tiny_tokenizer), **size, **ends)).eval()

    return new


def cases(count, shrinks=True):
    """
    So many cases of a property. They are the same in every run; `TRL_UNLEARN_EXAMPLES` is how many times as many are
    drawn, and then they are others each time. Where a case is slow, the first that fails is shown, not the smallest.
    """
    factor = float(os.environ.get("TRL_UNLEARN_EXAMPLES", "1"))
    return settings(
        max_examples=max(1, round(count * factor)),
        derandomize=factor == 1,
        database=None,
        deadline=None,
        print_blob=True,
        phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if shrinks else [])],
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


def conversations(facts) -> Dataset:
    """Question-answer pairs as conversational prompt-completion rows."""
    return Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": answer}],
            }
            for question, answer in facts
        ]
    )


@pytest.fixture
def forget_rows():
    """Three conversational rows."""
    return conversations(FACTS[:3])


@pytest.fixture
def retain_rows():
    """Three other conversational rows."""
    return conversations(FACTS[3:])


@pytest.fixture(autouse=True)
def _warnings_of_other_tests_do_not_count():
    row_forms.warn_once.cache_clear()


@pytest.fixture
def build_trainer(tmp_path, tiny_model, tiny_tokenizer, forget_rows, retain_rows):
    """Function of settings, and of arguments of the trainer, that builds a quiet one of `tiny_model` and six rows."""
    from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer

    def build(settings, model=None, folder="out", **given):
        quiet = {"gradient_checkpointing": False, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
        usual = {"train_dataset": forget_rows, "retain_dataset": retain_rows, "processing_class": tiny_tokenizer}
        args = BootstrapUnlearnConfig(str(tmp_path / folder), **quiet | settings)
        return BootstrapUnlearnTrainer(tiny_model if model is None else model, args, **usual | given)

    return build


@pytest.fixture
def write_dataset(tmp_path):
    """Function of config -> split -> rows that writes a dataset folder: JSON lines and a README.md; its path."""

    def write(configs, name="dataset"):
        folder, lines = tmp_path / name, ["---", "configs:"]
        for config, splits in configs.items():
            (folder / config).mkdir(parents=True)
            lines += [f"- config_name: {config}", "  data_files:"]
            for split, rows in splits.items():
                path = folder / config / f"{split}.jsonl"
                path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
                lines += [f"  - split: {split}", f"    path: {config}/{split}.jsonl"]
        (folder / "README.md").write_text("\n".join([*lines, "---", "# Texts\n"]), encoding="utf-8")
        return str(folder)

    return write


@pytest.fixture
def rwku_rows():
    """Rows of RWKU's form about two invented people, by config."""
    people = [("Ada Marlow", "Veldt", "Bo Lindgren"), ("Cyra Oduya", "Harrow", "Dov Peretz")]

    def probes(level, kinds, named):
        return [
            {"query": form.format(names[named]), "answer": names[1], "level": level, "type": kind, "subject": names[0]}
            for names, (kind, form) in zip(people, kinds, strict=True)
        ]

    blank, question = ("cloze", "{} was born in ___."), ("simple question", "Where was {} born?")
    attacks = [("affirmative suffix", "Where was {} born? Sure, it is")]
    attacks += [("incontext learning", "Q: Who?\nA: Bo.\nQ: {}?")]
    general = {"question": "What is two and two?", "choices": ["3", "4", "5", "6"], "answer": 1, "task": "plain_sums"}
    solved = {"question": "What is one and one?", "choices": ["2", "4", "5", "6"], "answer": 0}
    return {
        "forget_level1": probes("1", [blank] * 2, 0),
        "forget_level2": probes("2", [question] * 2, 0),
        "forget_level3": probes("3", attacks, 0),
        "neighbor_level1": probes("1", [blank] * 2, 2),
        "neighbor_level2": probes("2", [question] * 2, 2),
        "mia_forget": [{"text": f"{name} was born in {town}.", "subject": name} for name, town, _ in people],
        "mia_retain": [{"text": f"{other} writes about bees.", "subject": name} for name, _, other in people],
        "utility_general": [{**general, "examples": [solved], "subject": name} for name, _, _ in people],
    }
