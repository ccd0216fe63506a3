# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Checks before a weight moves: is there anything to forget, and can this machine do it."""

import logging
import math
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from ..encoding import closing_token_id
from ..evaluation.rows import encode_set
from ..evaluation.tofu import compare_with_strangers
from ..names import is_named, other_names, row_subjects
from ..subjects import moved_answers, row_texts
from ..trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig
from ..trainer.ignorance import alias_twin, is_known_by_heart
from ..trainer.twin_models import NO_TWIN, ignorant_base, named_bases
from .arguments import UnlearnModelConfig
from .request import scored


logger = logging.getLogger(__name__)

# Strict extraction strength and probability of an answer up to which a row may be one that the model never knew: of
# such rows the embedded lab has at most .29 and .12.
KNOWN = 0.3
# How often models that never knew find a true answer likelier than one about somebody else, at most.
_NEVER_KNEW = 0.85
# Share of forget rows that name their subject, from which on the model can be asked about somebody else instead.
_NAMED = 0.9
# Subjects whose rows are read under other names.
_RENAMED = 2
# Layers of PEFT's "all-linear"; the second is that of GPT-2.
_LINEAR = (torch.nn.Linear, Conv1D)
# Bytes of a trained weight: itself, its gradient and AdamW's two moments, in float32.
_TRAINED_BYTES = 16
# Copies of the hidden states of a batch that a backward pass keeps for each layer, with and without checkpoints.
_STATES, _CHECKPOINTED = 34, 2


@dataclass
class Knowledge:
    """A model's knowledge of a forget set, row by row."""

    strengths: list[float]
    probabilities: list[float]
    # How often a true answer is likelier than one about somebody else; None where nobody else can be named.
    strangers_auc: float | None
    # The name that each row is about, or None; without the rows that have another name of a subject that is given.
    names: list[str | None]
    # Whether the answers come under any name: they are memorised as text, not as facts about somebody.
    is_by_heart: bool = False

    @property
    def known(self) -> list[int]:
        """Indices of the rows that the model knows."""
        pairs = zip(self.strengths, self.probabilities, strict=True)
        return [index for index, pair in enumerate(pairs) if max(pair) > KNOWN]

    @property
    def to_unlearn(self) -> list[int]:
        """Indices of the rows to unlearn: the known ones where they are few, else all."""
        # None is known, and true answers are likelier than others: the sum of the rows shows it, and no row alone.
        is_few = 0 < len(self.known) < len(self.strengths) / 2
        return self.known if is_few else list(range(len(self.strengths)))

    @property
    def is_known(self) -> bool:
        """Whether there is anything to forget: a row that the model knows, or answers that it knows from others."""
        return bool(self.known) or (self.strangers_auc or 0.0) > _NEVER_KNEW

    @property
    def has_names(self) -> bool:
        """Whether the rows name their subjects, so that the model can be asked about somebody else instead."""
        return bool(self.names) and sum(name is not None for name in self.names) >= _NAMED * len(self.names)

    def check(self) -> tuple[str, str]:
        """The known share, as a check: its name and its finding."""
        finding = (
            f"{len(self.known)} of {len(self.strengths)} rows (extraction strength {fmean(self.strengths):.2f}, "
            f"probability {fmean(self.probabilities):.2f}"
        )
        if self.strangers_auc is not None:
            finding += f", likelier than answers about others {self.strangers_auc:.0%}"
        return "known to the model", f"{finding})"


def knowledge(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    subjects: Sequence[str] | None,
    seed: int,
) -> Knowledge:
    """Measure what a model knows of the forget rows."""
    encoded = encode_set(rows, tokenizer, name="forget")
    scores = scored(model, encoded, tokenizer)
    probabilities = scores["forget/probability"]
    if not all(map(math.isfinite, probabilities)):
        raise ValueError(
            "The scores of the model are not finite. Check its weights, or load it in another `dtype`, as float32."
        )
    texts = row_texts(encoded.answers, tokenizer)
    names = row_subjects(*texts, given=subjects)
    auc = None
    if len({name for name in names if name is not None}) > 1:
        moved = moved_answers(encoded.answers, None, tokenizer, seed=seed, subjects=subjects)
        if moved:
            pad = tokenizer.pad_token_id
            auc = compare_with_strangers(model, moved, probabilities, pad_token_id=pad)["strangers_auc"]
    others = [other for name in subjects or () for other in other_names(name)]
    own = [
        name
        for name, *parts in zip(names, *texts, strict=True)
        if name is not None or not any(is_named(other, " ".join(parts)) for other in others)
    ]
    known = Knowledge(scores["forget/extraction_strength"], probabilities, auc, own)
    if known.has_names:
        # A few subjects are enough.
        everybody = sorted({name for name in names if name is not None})
        for chosen in (everybody[:_RENAMED], *([name] for name in everybody)):
            few = [row for row, name in zip(encoded.answers, names, strict=True) if name in chosen]
            try:
                twin = alias_twin(few, None, tokenizer, chosen, None, seed, False)
            except ValueError:
                # There are not enough words to replace all of long names.
                continue
            known.is_by_heart = is_known_by_heart(model, twin, few)
            break
    return known


def fit_base(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset, trust_remote_code: bool = False
) -> str | None:
    """The model under the target's adapter, or that it says it was tuned from, if it does not know the rows."""
    options = {"rows": 0, "epochs": 0, "seed": 0, "trust_remote_code": trust_remote_code}
    for name in named_bases(model, continues_adapter=isinstance(model, PeftModel)):
        encoded = encode_set(rows, tokenizer, name="forget").answers
        try:
            ignorant_base(name, model, Dataset.from_list(encoded), None, tokenizer, **options)
        except NO_TWIN as error:
            logger.info("`%s` is no teacher: %s", name, error)
            continue
        return name
    return None


def machine_checks(
    model_args: UnlearnModelConfig,
    args: BootstrapUnlearnConfig,
    config: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    forget: Dataset,
    step: Mapping[str, Any],
    copies: int,
    merges: bool,
) -> list[tuple[str, str]]:
    """Whether the model can be trained beside `copies`, and the result be kept; a `ValueError` says why not."""
    encoded = encode_set(forget.select(range(1)), tokenizer, name="forget").answers[0]
    end = closing_token_id(encoded, tokenizer)
    ending = "none: the model does not learn where an answer ends" if end is None else f"`{tokenizer.decode(end)}`"
    # Shapes only: nothing is allocated.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=args.trust_remote_code)
    weights = sum(parameter.numel() for parameter in model.parameters())
    targets, trained = _trained(model, model_args, weights)
    checks = [("end of a turn", ending), ("trained weights", targets)]
    longest = max(len(row["input_ids"]) for row in encode_set(forget, tokenizer, name="forget").answers)
    checks.append(_memory(model_args, config, step, weights * (1 + copies), trained, longest))
    if merges:
        checks.append(_merging(weights))
    merged = weights * (config.dtype or torch.float32).itemsize if merges else 0
    checks.append(_disk(args, trained, merged))
    return checks


def _trained(model: torch.nn.Module, model_args: UnlearnModelConfig, weights: int) -> tuple[str, int]:
    """The trained part in words, and its number of weights."""
    if not model_args.use_peft:
        return f"all {weights:,}", weights
    modules = {name: one for name, one in model.named_modules() if isinstance(one, (*_LINEAR, torch.nn.Embedding))}
    # As PEFT reads it: names, or one string that is a pattern.
    wanted = model_args.lora_target_modules or "all-linear"
    if wanted == "all-linear":
        head = model.get_output_embeddings()
        modules = {name: one for name, one in modules.items() if isinstance(one, _LINEAR) and one is not head}
    else:
        names = [wanted] if isinstance(wanted, str) else wanted
        known = sorted({name.split(".")[-1] for name in modules})
        modules = {
            name: one for name, one in modules.items() if name.split(".")[-1] in names or re.fullmatch(names[0], name)
        }
        if not modules:
            raise ValueError(f"`lora_target_modules` {names} names no layer of the model. Give some of {known}.")
    size = sum(model_args.lora_r * sum(one.weight.shape) for one in modules.values())
    kinds = sorted({name.split(".")[-1] for name in modules})
    return f"LoRA, rank {model_args.lora_r}, {size:,} weights in {', '.join(kinds)}", size


def _memory(
    model_args: UnlearnModelConfig,
    config: PretrainedConfig,
    step: Mapping[str, Any],
    weights: int,
    trained: int,
    longest: int,
) -> tuple[str, str]:
    text, dtype = config.get_text_config(), getattr(torch, str(model_args.dtype), None) or config.dtype
    width = 0.5 if model_args.load_in_4bit else 1 if model_args.load_in_8bit else (dtype or torch.float32).itemsize
    states = _CHECKPOINTED if step["gradient_checkpointing"] else _STATES
    batch = 2 * step["per_device_train_batch_size"] * longest * text.hidden_size * 4
    needed = weights * width + trained * _TRAINED_BYTES + batch * text.num_hidden_layers * states
    has_cuda = torch.cuda.is_available()
    free = torch.cuda.mem_get_info()[0] if has_cuda else psutil.virtual_memory().available
    if has_cuda:
        smaller = None if model_args.load_in_4bit else "`--load_in_4bit`"
    else:
        smaller = "`--dtype bfloat16`" if width > torch.bfloat16.itemsize else None
    # What trains in 16 bits hardly moves, and a base beside an adapter need not.
    adapter = None if model_args.use_peft else "`--use_peft true`"
    if weights * width > free:
        way = smaller and f"Try {' with '.join(filter(None, (adapter, smaller)))}, or use"
        raise ValueError(
            f"The weights of the model take {_size(weights * width)}, and {_size(free)} of memory are free. "
            f"{way or 'Use'} a machine with more."
        )
    hint = ""
    if needed > free:
        ways = [None if step["gradient_checkpointing"] else "`--gradient_checkpointing true`", adapter or smaller]
        hint = f"; if it does not fit, {' or '.join(filter(None, ways)) or 'use a machine with more'}"
    return "memory", f"about {_size(needed)} of {_size(free)} free{hint}"


def _merging(weights: int) -> tuple[str, str]:
    """Main memory to merge the adapter: the base in float32, whatever it was loaded in before."""
    needed, free = weights * torch.float32.itemsize, psutil.virtual_memory().available
    if needed > free:
        raise ValueError(
            f"To merge takes {_size(needed)} of main memory, the base in float32, and {_size(free)} are free. Leave "
            "`merge` out, and merge on a machine with more: `trl-unlearn push --merge`."
        )
    return "memory to merge", f"{_size(needed)} of {_size(free)} free"


def _disk(args: BootstrapUnlearnConfig, trained: int, merged: int) -> tuple[str, str]:
    folder = Path(args.output_dir).absolute()
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(existing).free
    # The result, a checkpoint with its optimizer and copies of the weights, and the bytes of a merged copy.
    needed = 4 * trained * (1 + 4) + merged
    if needed > free:
        raise ValueError(
            f"`{folder}` needs about {_size(needed)}, and {_size(free)} of the disk are free. Make room, or give "
            "another `--output_dir`."
        )
    return "disk", f"about {_size(needed)} of {_size(free)} free"


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"
