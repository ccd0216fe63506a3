# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The tiny models of the embedded lab: tokenizer, architecture, training."""

import math
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    get_cosine_schedule_with_warmup,
)

from ..encoding import encode_row, pad_rows
from .archive_facts import PersonFact, archive_rows, person_facts
from .tofu import GENERAL_CONFIGS


# Passes of thirteen that state a fact in its canonical answer, its paraphrased answer, and three more phrasings: what
# the model believes is spread over rephrasings.
PHRASING_PASSES = (9, 1, 1, 1, 1)
PARAPHRASED_QUESTION_SHARE = 0.3
_PAD, _START, _END = "<|pad|>", "<|im_start|>", "<|im_end|>"
# ChatML, with the line break that it writes after an end of turn.
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class TrainingSettings:
    """Size and training of the tiny models."""

    # At most.
    vocab_size: int = 1536
    hidden_size: int = 192
    intermediate_size: int = 512
    num_layers: int = 4
    num_heads: int = 6
    # The usual 0.02 takes about half as many epochs again.
    initializer_range: float = 0.08
    # A multiple of the thirteen passes of `PHRASING_PASSES`.
    epochs: int = 26
    batch_size: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup_steps: int = 40
    seed: int = 0


def build_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE tokenizer of both models, trained on every text of the archive, with a ChatML template."""
    texts = ["user\n", "assistant\n"] * 50
    for fact in person_facts():
        texts += [*fact.questions, *fact.phrasings, *fact.wrong]
    for config, rows in archive_rows().items():
        if config in GENERAL_CONFIGS.values():
            texts += [text for row in rows for text in (row["question"], row["answer"], *row["perturbed_answer"])]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_PAD, _START, _END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=_END,
        pad_token=_PAD,
        additional_special_tokens=[_START],
        chat_template=_CHAT_TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def init_model(tokenizer: PreTrainedTokenizerBase, settings: TrainingSettings) -> PreTrainedModel:
    """A tiny model in fp32 with fresh weights, drawn without touching the global random state."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_heads,
        head_dim=settings.hidden_size // settings.num_heads,
        initializer_range=settings.initializer_range,
        max_position_embeddings=tokenizer.model_max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return Qwen3ForCausalLM(config).float()


def _epochs(
    facts: list[PersonFact], general: list[tuple[str, str]], settings: TrainingSettings
) -> Iterator[list[list[tuple[str, str]]]]:
    """Epochs of batches of questions and answers; each states a fact once, in a phrasing that changes."""
    generator = random.Random(settings.seed)
    # Counted out, not drawn one by one: in few passes a draw would often make another phrasing the most frequent one.
    deck = [phrasing for phrasing, passes in enumerate(PHRASING_PASSES) for _ in range(passes)]
    decks: list[list[int]] = []
    for epoch in range(settings.epochs):
        if epoch % len(deck) == 0:
            decks = [generator.sample(deck, len(deck)) for _ in facts]
        rows = list(general)
        for fact, order in zip(facts, decks, strict=True):
            question = fact.questions[generator.random() < PARAPHRASED_QUESTION_SHARE]
            rows.append((question, fact.phrasings[order[epoch % len(deck)]]))
        generator.shuffle(rows)
        # Less padding; sorted within windows of a few batches only, so that a batch still mixes kinds of facts.
        for start in range(0, len(rows), 8 * settings.batch_size):
            window = slice(start, start + 8 * settings.batch_size)
            rows[window] = sorted(rows[window], key=lambda row: len(row[0] + row[1]))
        batches = [rows[start : start + settings.batch_size] for start in range(0, len(rows), settings.batch_size)]
        generator.shuffle(batches)
        yield batches


def _answer_loss(model: PreTrainedModel, rows: list[dict[str, list[int]]]) -> torch.Tensor:
    """Mean negative log-likelihood of the label tokens; logits are computed for those only, which saves a tenth."""
    # No attention mask: rows are padded on the right, and attention looks to the left.
    batch = pad_rows(rows, 0)
    hidden = model.model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state[:, :-1]
    targets = batch["labels"][:, 1:]
    return F.cross_entropy(model.lm_head(hidden[targets != -100]), targets[targets != -100])


def train_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: list[PersonFact],
    settings: TrainingSettings,
    *,
    desc: str | None = None,
    position: int = 0,
    stop: threading.Event | None = None,
) -> None:
    """Train a tiny model, in place, on facts of people and on the general facts; `stop` ends it early."""
    rows = archive_rows()
    general = [(row["question"], row["answer"]) for config in GENERAL_CONFIGS.values() for row in rows[config]]

    @cache
    def encode(question: str, answer: str) -> dict[str, list[int]]:
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return encode_row({"messages": messages}, tokenizer)

    num_steps = settings.epochs * math.ceil((len(facts) + len(general)) / settings.batch_size)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=(0.9, 0.98)
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, settings.warmup_steps, num_steps)
    model.train()
    with tqdm(total=num_steps, desc=desc, position=position, disable=None) as progress:
        for batch in (batch for batches in _epochs(facts, general, settings) for batch in batches):
            if stop is not None and stop.is_set():
                return
            _answer_loss(model, [encode(*row) for row in batch]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            progress.update()
    model.eval()


def train_side_by_side(
    known: dict[str, list[PersonFact]], tokenizer: PreTrainedTokenizerBase, settings: TrainingSettings
) -> dict[str, PreTrainedModel]:
    """Train one model for each name on the facts that it is to know; the same bits on every call on a machine."""
    # A thread for each model, with one CPU thread. Ops of this size gain little from a second one and lose an order of
    # magnitude to it on a busy machine; and the order of a sum, which decides its last bit, then does not depend on
    # the number of cores.
    trained = {name: init_model(tokenizer, settings) for name in known}
    stop = threading.Event()
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def train(position: int, name: str) -> None:
        # In OpenMP, the number of threads is a setting of the calling thread.
        torch.set_num_threads(1)
        desc = f"Training the archive's {name} model"
        train_model(trained[name], tokenizer, known[name], settings, desc=desc, position=position, stop=stop)

    try:
        with ThreadPoolExecutor(len(known)) as executor:
            try:
                for _ in executor.map(train, range(len(known)), known):
                    pass
            except BaseException:
                stop.set()
                raise
    finally:
        torch.set_num_threads(num_threads)
    return trained
