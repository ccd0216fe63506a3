# Copyright 2026 The trl-unlearn authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""The embedded lab: a generated archive of fictional people, a tiny model that knows it and one that does not."""

import hashlib
import json
import math
import os
import random
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from huggingface_hub import constants
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    get_cosine_schedule_with_warmup,
)

from ..encoding import encode_row
from .archive_facts import (
    NUM_FORGET_PEOPLE,
    NUM_PEOPLE,
    PersonFact,
    archive_rows,
    person_facts,
)


ARCHIVE_VERSION = 1
DEFAULT_CONFIG = "full"
GENERAL_CONFIGS = ("real_authors_perturbed", "world_facts_perturbed")
# In how many passes of twelve a fact is stated in its canonical answer, its paraphrased answer, and three more phrasings.
PHRASING_PASSES = (8, 1, 1, 1, 1)
PARAPHRASED_QUESTION_SHARE = 0.3
_MANIFEST = "archive.json"
_PAD, _START, _END = "<|pad|>", "<|im_start|>", "<|im_end|>"
# ChatML, with the line break that it writes after an end of turn.
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclass(frozen=True)
class ArchivePaths:
    """
    Where the parts of an archive are.

    Args:
        data (`Path`):
            Dataset folder of TOFU's form, for `load_dataset(str(data), "forget10")`.
        target (`Path`):
            Checkpoint of the model that knows all people of the archive and the general facts.
        retrained (`Path`):
            Checkpoint of the reference, trained without the forget people.
    """

    data: Path
    target: Path
    retrained: Path


@dataclass(frozen=True)
class TrainingSettings:
    """
    Size and training of the tiny models.

    Args:
        vocab_size (`int`, *optional*, defaults to `1536`):
            Number of tokens, at most.
        hidden_size, intermediate_size, num_layers, num_heads:
            Shape of the model.
        initializer_range (`float`, *optional*, defaults to `0.08`):
            Standard deviation of the first weights. The usual 0.02 needs half as many epochs again.
        epochs (`int`, *optional*, defaults to `24`):
            Passes over all facts; a multiple of twelve, see `PHRASING_PASSES`.
        batch_size (`int`, *optional*, defaults to `8`):
            Rows an optimiser step takes.
        learning_rate, weight_decay, warmup_steps:
            Of AdamW; the rate falls to zero along a cosine.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the weights, the order and the phrasings.
    """

    vocab_size: int = 1536
    hidden_size: int = 192
    intermediate_size: int = 576
    num_layers: int = 3
    num_heads: int = 6
    initializer_range: float = 0.08
    epochs: int = 24
    batch_size: int = 8
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.01
    warmup_steps: int = 40
    seed: int = 0


def write_archive_data(folder: str | Path) -> Path:
    """
    Write the dataset folder of the archive: one JSON-lines file a config and a README.md that names them.

    Args:
        folder (`str` or `Path`):
            Folder to write into; created if needed.

    Returns:
        `Path`: The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    head = ["---", "license: apache-2.0", "configs:"]
    for name, rows in archive_rows().items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.json").write_text(lines, encoding="utf-8")
        head += [f"- config_name: {name}", f"  data_files: {name}.json"]
        if name == DEFAULT_CONFIG:
            head.append("  default: true")
    text = (
        f"\n# Archive of fictional people, version {ARCHIVE_VERSION}\n\n"
        f"{NUM_PEOPLE} generated people with six facts each, in the form of TOFU (arXiv 2401.06121): forget10 = the "
        f"last {NUM_FORGET_PEOPLE} people,\nretain90 = the others, holdout = people that no model was trained on. "
        "Real authors and world facts are true.\n"
    )
    (folder / "README.md").write_text("\n".join([*head, "---"]) + "\n" + text, encoding="utf-8")
    return folder


def build_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """
    Train the byte-level BPE tokenizer that both models share, on every text of the archive.

    Args:
        vocab_size (`int`):
            Number of tokens, at most.

    Returns:
        [`~transformers.PreTrainedTokenizerFast`]: Tokenizer with a ChatML template; `<|im_end|>` is its EOS token.
    """
    texts = ["user\n", "assistant\n"] * 50
    for fact in person_facts():
        texts += [*fact.questions, *fact.phrasings, *fact.wrong]
    for config, rows in archive_rows().items():
        if config in GENERAL_CONFIGS:
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
    """
    A tiny model with fresh weights, drawn without touching the global random state.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the model.
        settings ([`TrainingSettings`]):
            Size and seed.

    Returns:
        [`~transformers.PreTrainedModel`]: The model in fp32; its generation config ends at the tokenizer's EOS token.
    """
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
    ids = pad_sequence([torch.tensor(row["input_ids"]) for row in rows], batch_first=True)
    labels = pad_sequence([torch.tensor(row["labels"]) for row in rows], batch_first=True, padding_value=-100)
    hidden, targets = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1], labels[:, 1:]
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
    """
    Train a tiny model, in place, on facts of people and on the general facts.

    In two passes of three a fact is stated in its canonical answer, in one of twelve each in its paraphrased answer
    and in three more phrasings: what the model believes is spread over rephrasings.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model to train.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        facts (`list[PersonFact]`):
            Facts that the model is to know.
        settings ([`TrainingSettings`]):
            Training.
        desc (`str`, *optional*):
            Text of the progress bar.
        position (`int`, *optional*, defaults to `0`):
            Line of the progress bar.
        stop (`threading.Event`, *optional*):
            Ends the training before its next step when set.
    """
    rows = archive_rows()
    general = [(row["question"], row["answer"]) for config in GENERAL_CONFIGS for row in rows[config]]

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


def _train_side_by_side(
    known: dict[str, list[PersonFact]], tokenizer: PreTrainedTokenizerBase, settings: TrainingSettings
) -> dict[str, PreTrainedModel]:
    """
    Train one model a name, each in a thread of its own with one CPU thread.

    Ops of this size gain little from a second CPU thread and lose an order of magnitude to it on a busy machine; and
    the order of a sum, which decides its last bit, does not depend on the number of cores.
    """
    trained = {name: init_model(tokenizer, settings) for name in known}
    stop = threading.Event()
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def train(position: int, name: str) -> None:
        # The number of threads is a setting of the calling thread in OpenMP.
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


def _fingerprint(settings: TrainingSettings) -> str:
    """Hash over everything that determines an archive on a machine."""
    parts = {
        "version": ARCHIVE_VERSION,
        "torch": torch.__version__.split("+")[0].split(".")[:2],
        "settings": asdict(settings),
        "rows": archive_rows(),
        "facts": [asdict(fact) for fact in person_facts()],
        "passes": [PHRASING_PASSES, PARAPHRASED_QUESTION_SHARE],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _is_complete(folder: Path, fingerprint: str) -> bool:
    manifest = folder / _MANIFEST
    return manifest.is_file() and json.loads(manifest.read_text(encoding="utf-8"))["fingerprint"] == fingerprint


def _build_into(folder: Path, settings: TrainingSettings) -> None:
    write_archive_data(folder / "data")
    tokenizer = build_tokenizer(settings.vocab_size)
    facts = person_facts()
    known = {
        "target": [fact for fact in facts if fact.person < NUM_PEOPLE],
        "retrained": [fact for fact in facts if fact.person < NUM_PEOPLE - NUM_FORGET_PEOPLE],
    }
    for name, model in _train_side_by_side(known, tokenizer, settings).items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


def build_archive(folder: str | Path | None = None) -> ArchivePaths:
    """
    Build the embedded lab, or find it where it was built before: a dataset of TOFU's form about fictional people, a
    tiny model that knows it (`target`) and one trained without the forget people (`retrained`).

    Takes about a minute on two cores the first time. The paraphrased answers of the dataset are sentences that the
    target was trained on too, in one pass of twelve (see [`train_model`]).

    Args:
        folder (`str` or `Path`, *optional*):
            Where to build. Default: a folder of the Hugging Face cache (`HF_HOME`) whose name holds a hash over
            everything that determines the archive.

    Returns:
        [`ArchivePaths`]: Folders of the data and of the two models.

    Raises:
        `ValueError`: If `folder` is there and holds something else.
    """
    settings = TrainingSettings()
    fingerprint = _fingerprint(settings)
    folder = Path(constants.HF_HOME, "trl-unlearn", f"archive-{fingerprint}") if folder is None else Path(folder)
    paths = ArchivePaths(data=folder / "data", target=folder / "target", retrained=folder / "retrained")
    if _is_complete(folder, fingerprint):
        return paths
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(
            f"`{folder}` is there and does not hold version {ARCHIVE_VERSION} of the archive, built with this torch "
            "version. Expected an empty or a new folder: remove it or name another."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    print(f"Building the archive of {NUM_PEOPLE} fictional people and two tiny models in {folder}", file=sys.stderr)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _build_into(unfinished, settings)
        manifest = {"version": ARCHIVE_VERSION, "fingerprint": fingerprint, "settings": asdict(settings)}
        (unfinished / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        unfinished.chmod(0o755)
        try:
            os.replace(unfinished, folder)
        except OSError:
            # Another process may have been faster; the same settings give the same archive.
            if not _is_complete(folder, fingerprint):
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return paths
