# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Models that stand in for one that never knew: the base of a target, or a copy that lost everything it knew."""

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import ENCODED_COLUMNS, closing_token_id, pad_rows, spread_evenly
from ..generation import key_seed
from ..metrics import ExtractionStrength
from ..objectives.retain import nll
from ..questions import MEMORIZATION_MARGIN
from ..subjects import MovedAnswers, rows_under_names
from ..token_scores import TokenScores, answer_matches, score_batch, score_rows
from .checkpointing import read_state, write_state
from .logs import say
from .reference import copy_of
from .run_record import card_metadata


logger = logging.getLogger(__name__)

Row = Mapping[str, Any]

# LoRA that gives a model the form of the retain rows.
_RANK, _LEARNING_RATE, _BATCH_SIZE, _WARMUP_STEPS = 32, 1e-3, 8, 5
_DESC = "Tuning the ignorant twin"
# Collapse: passes over the forget rows at most, weight of their ascent, and the mean log-prob where it ends, at which
# a token is left alone, too. Further down, repair takes far longer.
_COLLAPSE_EPOCHS, _ASCENT_WEIGHT, _COLLAPSE_FLOOR = 2, 5.0, -5.0
# Repair: weight of the distance of a true answer from the level of strangers beside a whole batch of retain rows,
# steps between two looks at that level, and answers of a look.
_LEVEL_WEIGHT, _LEVEL_STEPS, _LEVEL_ROWS = 0.3, 10, 24
# Forget rows above which half of the retain rows of a step of repair stand under their names: 80 were measured without
# such rows, 400 with them.
LARGE_FORGET_SET = 180
# The least likely quarter of the tokens of an answer gives the floor.
_LEAST = 4
# Extraction strength of a copy that is no teacher. Copies that lost 80 rows have .05 to .10, and their students as
# much; one that was to lose 400 had .35, and its student was at .43 and hardly came down.
_KNOWING = 2 * MEMORIZATION_MARGIN


class UnfitTwinError(ValueError):
    """A model that cannot stand in for one that never knew the forget set."""


# Errors of a base that nobody asked for, which is passed over: it is not there, of an unknown architecture, in a form
# of a library that is not installed, too large for the memory, or unfit.
NO_TWIN = (OSError, ValueError, ImportError, RuntimeError)


def named_bases(model: nn.Module, continues_adapter: bool) -> list[str]:
    """Models that the target says it was tuned from: that under its adapter, and those of its card."""
    name = model.config.name_or_path
    bases = card_metadata(name).get("base_model") or []
    return [*[name] * (continues_adapter and bool(name)), *([bases] if isinstance(bases, str) else bases)]


def ignorant_base(
    name_or_path: str,
    model: nn.Module,
    forget: Dataset,
    retain: Dataset | None,
    tokenizer: PreTrainedTokenizerBase,
    *,
    rows: int,
    epochs: int,
    seed: int,
    bf16: bool = False,
    kept: Path | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Load a model that never knew, with the form of a few retain rows by LoRA, which the file `kept` keeps or has."""
    weight = next(model.parameters())
    # The base under an adapter is the one that the adapter is on; `main` may be another.
    revision = getattr(model.config, "_commit_hash", None) if name_or_path == model.config.name_or_path else None
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = AutoConfig.from_pretrained(name_or_path, **options)
    sizes = [one.get_text_config().vocab_size for one in (model.config, config)]
    if sizes[0] != sizes[1]:
        raise UnfitTwinError(f"it is a model over {sizes[1]} tokens, and the target has {sizes[0]}")
    twin = AutoModelForCausalLM.from_pretrained(name_or_path, dtype=weight.dtype, **options).to(weight.device)
    strength = extraction_strength(twin.eval(), _encoded(forget), tokenizer)
    if not strength <= MEMORIZATION_MARGIN:
        known = f"it knows the forget set, with an extraction strength of {strength:.2f}"
        raise UnfitTwinError("its scores of the forget set are not finite" if math.isnan(strength) else known)
    if retain is not None and rows and epochs:
        sample = retain.select(spread_evenly(len(retain), rows))
        logger.info("Tuning the ignorant twin `%s` on %d retain rows, %d epochs.", name_or_path, len(sample), epochs)
        # Neither the draws nor the modules of this training may show in the run's own.
        with torch.random.fork_rng():
            torch.manual_seed(key_seed((seed, "twin")))
            sample = _encoded(sample)
            tuning = _Tuning(twin, tokenizer.pad_token_id, bf16, kept, sample, epochs, seed)
            twin = tuning.merged() if tuning.is_read else _tuned(tuning, sample, epochs)
    return twin


def _encoded(rows: Dataset) -> list[Row]:
    """The encoded rows of a data set."""
    return list(rows.select_columns(list(ENCODED_COLUMNS)))


def extraction_strength(model: PreTrainedModel, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> float:
    """Mean strict extraction strength of encoded rows, by this process alone; NaN if a score is not finite."""
    scores = score_rows(model, rows, pad_token_id=tokenizer.pad_token_id, batch_size=_BATCH_SIZE)
    if not all(score.is_finite for score in scores):
        return math.nan
    matches = answer_matches(scores, [closing_token_id(row, tokenizer) is not None for row in rows])
    return fmean(ExtractionStrength().compute(is_top1=matches, parity="strict")["per_row"])


def _digest(model: nn.Module, made_of: Any) -> str:
    """Digest of the weights of a model and of values."""
    digest = hashlib.blake2b(json.dumps(made_of).encode())
    for parameter in model.parameters():
        digest.update(parameter.detach().cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


class _Tuning:
    """LoRA on a copy of a model, and the file that keeps it for a run that resumes: `made_of` decides its weights."""

    def __init__(self, model: PreTrainedModel, pad_token_id: int, bf16: bool, kept: Path | None, *made_of: Any):
        self._kept, self._made_of = kept, _digest(model, [*made_of, bf16]) if kept else ""
        config = LoraConfig(r=_RANK, lora_alpha=2 * _RANK, target_modules="all-linear", task_type="CAUSAL_LM")
        self._model, self._pad_token_id, self._bf16 = get_peft_model(model, config).train(), pad_token_id, bf16
        self._device = next(model.parameters()).device
        self._parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(self._parameters, weight_decay=0.0)
        self.is_read = self._read()

    def _read(self) -> bool:
        """Take the LoRA of the file, if it is made of the same."""
        if self._kept is None:
            return False
        try:
            state = read_state(self._kept)["twin"]
        except ValueError:
            # It is not there, or broken.
            return False
        if state["made_of"] != self._made_of:
            return False
        for i, parameter in enumerate(self._parameters):
            parameter.data.copy_(state[str(i)])
        logger.info("The ignorant twin is as the interrupted run in `%s` has tuned it.", self._kept.parent)
        return True

    def keep(self) -> None:
        """Write the LoRA to the file."""
        if self._kept is None or self.is_read or not PartialState().is_main_process:
            return
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._kept.with_name(f"{self._kept.name}.{os.getpid()}")
        try:
            write_state(unfinished, {"twin": {"made_of": self._made_of, **dict(enumerate(self._parameters))}})
            os.replace(unfinished, self._kept)
        finally:
            unfinished.unlink(missing_ok=True)

    def step(self, rows: list[Mapping[str, Any]], loss: Callable[[TokenScores], Tensor], share: float) -> TokenScores:
        """A step on a loss of the scores of rows, which it returns, at a share of the learning rate."""
        for group in self._optimizer.param_groups:
            group["lr"] = _LEARNING_RATE * share
        batch = {name: values.to(self._device) for name, values in pad_rows(rows, self._pad_token_id).items()}
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            scores = score_batch(self._model, batch)
        loss(scores).backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return scores

    def drop_momentum(self) -> None:
        """Forget the direction of earlier steps."""
        self._optimizer.state.clear()

    def logps(self, rows: Sequence[Mapping[str, Any]]) -> list[list[float]]:
        """Log-probs of the tokens of each row, in nats."""
        scores = score_rows(self._model, rows, pad_token_id=self._pad_token_id, batch_size=_BATCH_SIZE)
        return [score.logps for score in scores]

    def merged(self) -> PreTrainedModel:
        """The model with the LoRA merged."""
        return self._model.merge_and_unload()


def _batches(rows: list[Mapping[str, Any]], epochs: int, size: int = _BATCH_SIZE) -> Iterator[list[Mapping[str, Any]]]:
    for _ in range(epochs):
        order = torch.randperm(len(rows)).tolist()
        for start in range(0, len(order), size):
            yield [rows[i] for i in order[start : start + size]]


@contextmanager
def _progress(epochs: int, steps: int) -> Iterator[Callable[[], None]]:
    """A function that counts a step, with a bar, or in a pipe a line an epoch."""
    done = count(1)
    with tqdm(total=epochs * steps, desc=_DESC, disable=None, leave=False) as bar:

        def step() -> None:
            bar.update()
            epoch, rest = divmod(next(done), steps)
            if rest == 0 and bar.disable and PartialState().is_main_process:
                say(f"{_DESC}: epoch {epoch} of {epochs}.")

        yield step


def _tuned(tuning: _Tuning, rows: list[Mapping[str, Any]], epochs: int) -> PreTrainedModel:
    batches = list(_batches(rows, epochs))
    with _progress(epochs, len(batches) // epochs) as count_step:
        for step, batch in enumerate(batches):
            share = min(1.0, (step + 1) / _WARMUP_STEPS) * (1 - step / len(batches))
            tuning.step(batch, lambda scores: nll(scores.logps, scores.mask).mean(), share)
            count_step()
    tuning.keep()
    return tuning.merged()


def _floor(logps: Sequence[Sequence[float]]) -> float:
    """Median over answers of their least likely tokens, in nats."""
    return median(fmean(sorted(row)[: max(1, len(row) // _LEAST)]) for row in logps)


def _level(logps: Sequence[Sequence[float]], floor: float) -> float:
    """Median over answers of the mean log-prob of a token, those below the floor at the floor."""
    return median(fmean(max(logp, floor) for logp in row) for row in logps)


def _distance(logps: Tensor, mask: Tensor, level: float, floor: float) -> Tensor:
    """Distance `[rows]` of answers from a level, in nats a token."""
    # A token below the floor is not pushed. Without it, names and numbers pay for the common words of an answer: a
    # Min-K attack sees them, strangers sink with them, and the level with these, to -5 nats.
    return (-nll(logps.clamp(min=floor), mask) - level).abs()


def _collapse(tuning: _Tuning, true: Iterable[list[Row]], held: Iterable[list[Row]]) -> None:
    """Ascent on batches of true answers, beside batches of retain rows, until one is below the floor."""
    for batch, beside in zip(true, held, strict=False):
        size = len(beside)

        def loss(scores: TokenScores, size: int = size) -> Tensor:
            part = scores.mask[:-size]
            ascent = ((scores.logps[:-size] - _COLLAPSE_FLOOR).relu() * part).sum(1) / part.sum(1)
            return _ASCENT_WEIGHT * ascent.mean() + nll(scores.logps[-size:], scores.mask[-size:]).mean()

        scores = tuning.step([*batch, *beside], loss, 1.0)
        if -nll(scores.logps[:-size], scores.mask[:-size]).mean() < _COLLAPSE_FLOOR:
            return


def _repair(
    tuning: _Tuning,
    true: Iterable[list[Row]],
    held: Sequence[list[Row]],
    others: Sequence[Row],
    floor: float,
    weight: float,
    count_step: Callable[[], None],
) -> None:
    """Training on batches of retain rows, beside true answers, which are held at the level of answers about others."""
    for step, (beside, batch) in enumerate(zip(held, true, strict=False)):
        if step % _LEVEL_STEPS == 0:
            level = _level(tuning.logps(others), floor)
        size = len(beside)

        def loss(scores: TokenScores, size: int = size, level: float = level) -> Tensor:
            distance = _distance(scores.logps[:-size], scores.mask[:-size], level, floor)
            return weight * distance.mean() + nll(scores.logps[-size:], scores.mask[-size:]).mean()

        tuning.step([*batch, *beside], loss, 1 - step / len(held))
        count_step()


def repaired_copy(
    model: nn.Module,
    forget: Dataset,
    retain: Dataset,
    moved: MovedAnswers,
    tokenizer: PreTrainedTokenizerBase,
    *,
    rows: int,
    epochs: int,
    seed: int,
    bf16: bool = False,
    kept: Path | None = None,
    subjects: Sequence[str] | None = None,
) -> PreTrainedModel:
    """
    A copy of the target that lost all that it was tuned on, and has its form again from a few retain rows, by LoRA.

    Ascent on the forget rows breaks the copy. The retain rows then repair it, while the true answers are held at the
    level of strangers: the median log-prob, under the copy as it is, of answers about others moved under their
    questions. Under the target these are likelier, and the true answers would end above them. No token is pushed below
    the least likely ones of these answers under the target. The others come back with the form. Beside a large forget
    set, a true answer has more weight, else it comes back with the form; and half of the retain rows of a step stand
    under names of the forget set, else the copy loses its language under these, and the level runs away. The LoRA is
    kept in the file `kept`, as by [`ignorant_base`].
    """
    pad = tokenizer.pad_token_id
    others = [row for answers in moved.values() for row in answers]
    others = [others[i] for i in spread_evenly(len(others), _LEVEL_ROWS)]
    known = _encoded(forget)
    sample = _encoded(retain.select(spread_evenly(len(retain), rows)))
    batch_size = _BATCH_SIZE // 2 if len(known) > LARGE_FORGET_SET else _BATCH_SIZE
    weight = _LEVEL_WEIGHT * _BATCH_SIZE / batch_size
    # As many steps as by whole batches: with more of them, the true answers and their level sink together.
    steps = epochs * math.ceil(len(sample) / _BATCH_SIZE)
    named_count = (_BATCH_SIZE - batch_size) * steps
    named = rows_under_names(known, sample, tokenizer, count=named_count, seed=seed, subjects=subjects)

    # Neither the draws nor the modules of this training may show in the run's own.
    with torch.random.fork_rng():
        torch.manual_seed(key_seed((seed, "twin")))
        twin = copy_of(model)
        if isinstance(twin, PeftModel):
            twin = twin.merge_and_unload()
        tuning = _Tuning(twin, pad, bf16, kept, known, sample, others, named, epochs, seed)
        if tuning.is_read:
            return tuning.merged()
        floor = _floor(tuning.logps(others))
        broken = list(_batches(known, _COLLAPSE_EPOCHS))
        repaired = list(_batches(sample, epochs, batch_size))[:steps]
        _collapse(tuning, broken, _batches(sample, len(broken) + 1))
        tuning.drop_momentum()
        held = [[*batch, *named[step::steps]] for step, batch in enumerate(repaired)]
        with _progress(epochs, steps // epochs) as count_step:
            _repair(tuning, _batches(known, steps + 1), held, others, floor, weight, count_step)
    twin = tuning.merged().eval()
    strength = extraction_strength(twin, known, tokenizer)
    if not strength <= _KNOWING:
        fault = "has no finite scores of" if math.isnan(strength) else "still says"
        raise UnfitTwinError(
            f"The copy of the target that was to teach {fault} the {len(forget)} forget rows (extraction strength "
            f"{strength:.2f}), and the model would end where it is. Give a model that never saw them in "
            "`ignorant_model_name_or_path`, or fewer rows."
        )
    # Not before: a run that resumes takes the copy as it is.
    tuning.keep()
    log = logger.warning if strength > MEMORIZATION_MARGIN else logger.info
    log("The repaired twin has an extraction strength of %.2f on the forget set.", strength)
    return twin
