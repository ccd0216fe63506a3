# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Requests of `trl-unlearn forget` one after another: the run before, the ledger, and the way back."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.files import load_rows
from ..evaluation.facts import still_known
from ..evaluation.rows import encode_set
from ..forgetting import bound_words, has_forgotten
from ..hub.folder import RunFolder, weights_sha256
from ..questions import STRENGTH, still_says
from ..records import ChainLink, RequestLedger, ServedRequest, UnlearningRun
from ..trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig
from ..trainer.twin_models import extraction_strength
from .arguments import UnlearnModelConfig
from .models import quantize_as_trained, take_as_target
from .sources import recorded_models


# Files of a request in its run's folder: its rows, those to keep, and the rows of earlier requests, by number.
FORGET, RETAIN = "forget.jsonl", "retain.jsonl"
_EARLIER = "earlier-{}.jsonl"
_LEDGER = "requests.json"
_NOT_MEASURED = "Not measured: there was no evaluation."
_REPLACED = "Replaced by another run: the weights of this entry are not here any more."


@dataclass(frozen=True)
class Predecessor:
    """A finished run of `forget`, from whose model the next request resumes."""

    folder: RunFolder
    # The requests that its model has served, its own the last one.
    links: list[ChainLink]

    @classmethod
    def of(cls, path: str) -> "Predecessor":
        """The run in a folder; a `ValueError` if no request can resume from it."""
        folder = RunFolder(path)
        run = folder.run()
        # The record of its forget set names a file that is another one in the next folder.
        name = f"{folder.request.name}/{_EARLIER.format(len(run.chain) + 1)}"
        own = ChainLink.of(str(len(run.chain) + 1), replace(run, forget_set=replace(run.forget_set, name=name)))
        one = cls(folder, [*run.chain, own])
        missing = [name for name in (RETAIN, *one.files()) if not (folder.request / name).is_file()]
        if missing:
            raise ValueError(
                f"`{folder.request}` has no `{missing[0]}`, so the rows of earlier requests cannot be protected. Give "
                "the folder of a run of `trl-unlearn forget`, with its `request/`."
            )
        if folder.is_unfinished or not is_in_ledger(folder):
            raise ValueError(f"The run in `{path}` has not ended. The command that it was started with finishes it.")
        return one

    def files(self) -> dict[str, str]:
        """Name of each request's rows in this folder's `request/` -> their name in the next folder's."""
        *earlier, own = (_EARLIER.format(link.request) for link in self.links)
        return {**{name: name for name in earlier}, FORGET: own}

    def rows(self) -> list[dict[str, Any]]:
        """The rows of all requests that were served."""
        return [row for name in self.files() for row in load_rows(str(self.folder.request / name))]

    def retain(self) -> Dataset:
        """The rows that were kept so far."""
        return load_rows(str(self.folder.request / RETAIN))

    def texts(self) -> dict[str, str]:
        """Files of the next folder: the rows of each request that was served, as they are."""
        place = self.folder.request
        return {new: (place / name).read_text(encoding="utf-8") for name, new in self.files().items()}

    def take_model(self, model_args: UnlearnModelConfig) -> None:
        """Make the run's model the target, in the precision in which it was trained."""
        run, path = self.folder.run(), self.folder.path
        known = recorded_models(path, run)
        for name in ("model_name_or_path", "model_revision"):
            setattr(model_args, name, known.get(name))
        take_as_target(model_args, path.resolve())
        quantize_as_trained(model_args, str(path))
        model_args.use_peft = run.is_adapter
        if run.is_adapter:
            if model_args.model_name_or_path is None:
                raise ValueError(f"`{path}` does not say where the base of its adapter is. Put the base back.")
            # What the checks before a run count.
            model_args.lora_r = run.adapter.r or model_args.lora_r

    def refuse_beside(self, names: set[str], training_args: BootstrapUnlearnConfig) -> None:
        """Refuse options that the run leaves no choice of."""
        of_model = {"model_name_or_path", "model_revision", "adapter_name_or_path", "use_peft"}
        if named := sorted(name for name in names if name in of_model or name.startswith("lora_")):
            raise ValueError(
                f"`{named[0]}` is given with `add`, whose run names the model and its adapter. Leave it out."
            )
        output_dir = training_args.output_dir
        if output_dir is not None and Path(output_dir).resolve() == self.folder.path.resolve():
            raise ValueError(
                f"`output_dir` is the folder of `add`, `{self.folder.path}`, whose model comes first. Give another."
            )

    def digest(self) -> str:
        """Digest of the run's weights."""
        return str(weights_sha256(self.folder.path, self.folder.run().is_adapter))


# The ledger


def load_ledger(folder: RunFolder) -> RequestLedger:
    """The ledger of a folder; an empty one if it has none."""
    path = folder.path / _LEDGER
    return RequestLedger.load(path) if path.is_file() else RequestLedger()


def is_in_ledger(folder: RunFolder) -> bool:
    """Whether the ledger has the request of a finished run, with the weights that lie there."""
    weights = weights_sha256(folder.path, folder.run().is_adapter)
    served = {one.sha256: one.weights_sha256 for one in load_ledger(folder).requests}
    return served.get(_file_digest(folder.request / FORGET)) == weights


def earlier_now(
    folder: RunFolder, earlier: Predecessor, model: PreTrainedModel | None, tokenizer: PreTrainedTokenizerBase
) -> list[ServedRequest]:
    """The entries of earlier requests under the model of a finished run; None: nothing was evaluated."""
    weights = weights_sha256(folder.path, folder.run().is_adapter)
    served = {one.sha256: one for one in load_ledger(earlier.folder).requests}
    paths = [folder.request / name for name in earlier.files().values()]
    return [_entry_now(served[_file_digest(path)], weights, model, tokenizer, path) for path in paths]


def write_ledger(folder: RunFolder, run: UnlearningRun, entries: Sequence[ServedRequest]) -> None:
    """Enter the request of a finished run, and those before it as they are now; others are replaced."""
    result, ledger = folder.results(), load_ledger(folder)
    forgotten, sentence = None, _NOT_MEASURED
    strengths = dict.fromkeys(("target", "unlearned", "retrained"))
    if result is not None:
        forgotten, sentence = has_forgotten(result)
        strengths = {role: result.value(role, STRENGTH) for role in strengths}
    own = ServedRequest(
        sha256=_file_digest(folder.request / FORGET),
        rows=run.forget_set.rows,
        served_at=datetime.now(UTC).isoformat(timespec="seconds"),
        weights_sha256=weights_sha256(folder.path, run.is_adapter),
        target_strength=strengths["target"],
        strength=strengths["unlearned"],
        forgotten=forgotten if run.shortfall is None else False,
        verdict=sentence if run.shortfall is None else run.shortfall,
        retrained_strength=strengths["retrained"],
    )
    for other in [one for one in ledger.requests if one.weights_sha256 != own.weights_sha256]:
        ledger.put(replace(other, strength=None, forgotten=None, verdict=_REPLACED))
    for entry in (*entries, own):
        ledger.put(entry)
    ledger.save(folder.path / _LEDGER)


def _entry_now(
    entry: ServedRequest,
    weights: dict[str, str],
    model: PreTrainedModel | None,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
) -> ServedRequest:
    """The entry of an earlier request under the model of now."""
    if model is None:
        return replace(entry, weights_sha256=weights, strength=None, forgotten=None, verdict=_NOT_MEASURED)
    rows = load_rows(str(path))
    strength, target = mean_strength(model, rows, tokenizer), entry.target_strength
    if math.isnan(strength):
        sentence = f"Not known: scores of this model are not finite (`{STRENGTH}`)."
        return replace(entry, weights_sha256=weights, strength=None, forgotten=None, verdict=sentence)
    if target is None:
        sentence = f"`{STRENGTH}` is {strength:.3f}; what the first model had was not measured."
        return replace(entry, weights_sha256=weights, strength=strength, forgotten=None, verdict=sentence)

    def says(strength: float) -> bool:
        return still_says(strength, target, entry.retrained_strength)

    known = None if says(strength) else still_known(model, encode_set(rows, tokenizer, name="forget"), tokenizer)
    if known is not None:
        sentence = f"`{STRENGTH}` is {strength:.3f}, but {known}."
        return replace(entry, weights_sha256=weights, strength=strength, forgotten=False, verdict=sentence)
    # No answers are generated here: a strength can take a good verdict away, and never gives one.
    has_come_down = entry.strength is not None and says(entry.strength)
    forgotten = False if says(strength) else None if has_come_down else entry.forgotten
    bound = bound_words(strength, target, entry.retrained_strength)
    sentence = f"`{STRENGTH}` is {strength:.3f}, {'' if says(strength) else 'not '}above {bound}."
    if not says(strength) and not forgotten:
        before = "whether they were forgotten was not known" if entry.forgotten is None else "they were not forgotten"
        sentence += f" Before this request {before}, and no answers were generated that could say more."
    return replace(entry, weights_sha256=weights, strength=strength, forgotten=forgotten, verdict=sentence)


def mean_strength(model: PreTrainedModel, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> float:
    """Strict extraction strength of rows, or NaN, by this process alone: those of a launch have parted by then."""
    return extraction_strength(model, encode_set(rows, tokenizer, name="forget").answers, tokenizer)


def _file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# The way back


def way_back(path: str) -> list[str]:
    """Sentences on how to have the model back as it was before a run."""
    folder = RunFolder(path)
    run = folder.run()
    known = recorded_models(folder.path, run)
    base, before = known.get("model_name_or_path", run.base_model), _adapter_before(folder)
    lines = [f"The request of `{path}` has {run.forget_set.rows} rows. Nothing is changed by this command."]
    if run.chain:
        rows = sum(link.forget_set.rows for link in run.chain)
        lines.append(f"Requests before it on the same model: {len(run.chain)}, of {rows} rows.")
    if not run.is_adapter:
        lines.append(
            f"All weights were trained, and nothing can be taken off. The model from before this request is `{base}`."
        )
        return lines
    # The adapter of the first target, one step back for each request.
    own, gone = before, None
    for _ in run.chain:
        gone = gone or (own if own is not None and not RunFolder(own).is_run else None)
        own = None if own is None or gone else _adapter_before(RunFolder(own))
    first = " before the first request" if run.chain else ""
    lines.append(f"It is an adapter on `{base}`, whose weights were not touched.")
    if gone is not None:
        lines.append(f"Whether the first target had an adapter of its own only `{gone}` tells, which is not there.")
    else:
        way = "without the adapter" if own is None else f"with the adapter `{own}` in place of this one"
        lines.append(f"To have all back that the model knew{first}, load `{base}` {way}.")
    if run.chain and before is not None:
        lines.append(f"To take back this request alone, load `{base}` with the adapter `{before}`, from before it.")
    lines.append("A merged copy, made by `--merge` or pushed by `trl-unlearn push --merge`, cannot be taken back.")
    return lines


def _adapter_before(folder: RunFolder) -> str | None:
    """The adapter that a run trained further; None if it began with a new one."""
    adapter = folder.run().adapter
    return folder.sources().get("adapter_name_or_path") or (adapter and adapter.continued_from)
