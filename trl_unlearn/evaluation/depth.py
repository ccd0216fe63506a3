# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Forgotten facts in the hidden states: the Unlearning Depth Score and the logit lens."""

import logging
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..encoding import pad_rows, spread_evenly
from ..label_states import hooked_layers, layer_states, layers_of, replaced_forward
from ..metrics import UnlearningDepth
from ..results import MEASURED_ROLES, SuiteOutcome
from ..token_scores import score_batch
from .facts import entity_rows, no_facts
from .rows import EvaluationRows, Loaders, encode_set, rows_protocol
from .together import SuiteSetting, measure_each, shared
from .uncertainty import summarise_rows


logger = logging.getLogger(__name__)

# Nats a token that the fact must lose by a layer of the retrained model: that layer then holds it. As in the paper.
THRESHOLD = 0.05
# Retain rows that show whether the states of two models can be exchanged.
CONTROL_ROWS = 32
# Highest loss of retain facts, as a share of the loss of forget facts with the retrained model's states.
MISFIT = 0.5
_UDS, _LENS = "depth/uds", "depth/logit_lens"
_LOST, _CONTROL = "depth/degradation", "depth/retain_degradation"


@dataclass
class _Batch:
    # Indices of the rows.
    rows: list[int]
    inputs: dict[str, Tensor]

    @property
    def mask(self) -> Tensor:
        """Where the next token is a label, `[rows, tokens - 1]`."""
        return self.inputs["labels"][:, 1:] != -100


# `"lens"` (a model's states read by its own norm and head) or `"patched"` (read by the target's later layers) -> role
# -> mean log-prob a token of the fact of each row after each layer, `[rows, layers]`.
_Tables = dict[str, dict[str, np.ndarray]]


def _batches(rows: Sequence[dict[str, Any]], setting: SuiteSetting) -> list[_Batch]:
    # Longest first: if memory is short, the first batch fails.
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]["input_ids"]))
    size = setting.score_batch_size
    chunks = [order[start : start + size] for start in range(0, len(order), size)]
    return [_Batch(chunk, pad_rows([rows[i] for i in chunk], setting.pad_token_id)) for chunk in chunks]


def _where_labels(hidden: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The part of hidden states that may predict a label, as a view, and where it does."""
    # Prompt-learning adapters prepend virtual tokens, and some layers leave out leading tokens that predict no label:
    # count from the end.
    count = min(hidden.size(1) - 1, mask.size(1))
    return hidden[:, -count - 1 : -1], mask[:, -count:].to(hidden.device)


def _with_states(output: Any, mask: Tensor, states: Tensor) -> Any:
    """The output of a layer, with other hidden states where a label is predicted."""
    hidden = layer_states(output).clone()
    part, where = _where_labels(hidden, mask)
    part[where] = states.to(hidden)
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def _mean_logps(model: nn.Module, batch: _Batch) -> Tensor:
    device = next(model.parameters()).device
    scores = score_batch(model, {name: values.to(device) for name, values in batch.inputs.items()})
    # Padding is 0. An infinite mean would pass for a low one.
    means = (scores.logps.double().sum(-1) / scores.mask.sum(-1)).cpu()
    return means.where(means.isfinite(), torch.nan)


def _read_from(model: nn.Module, batch: _Batch, layers: Iterable[nn.Module], output: Any) -> Tensor:
    """Log-prob of the fact where some first layers do not run: each returns an output that the next module reads."""
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(replaced_forward(layer, lambda *args, **kwargs: output))
        return _mean_logps(model, batch)


def _outputs(model: nn.Module, batch: _Batch) -> list[Any]:
    """The output of each layer."""
    layers, outputs = layers_of(model), []
    with hooked_layers(layers, outputs.append):
        _mean_logps(model, batch)
    if len(outputs) != len(layers):
        raise ValueError(
            f"`{type(model).__name__}` runs {len(outputs)} layers, expected each of its {len(layers)} decoder layers "
            "once: its states cannot be told apart by layer. Leave `depth` out of `suites`, and please report this "
            "model."
        )
    return outputs


def _lens(model: nn.Module, batch: _Batch) -> tuple[Tensor, Tensor]:
    """States after each layer where a label is predicted, on the CPU, and the fact's log-prob by norm and head."""
    outputs = _outputs(model, batch)
    parts = [_where_labels(layer_states(output), batch.mask) for output in outputs]
    states = [part[where] for part, where in parts]
    # In the place of the last layer's: each family has other modules behind it, and they run as always.
    read = [
        _read_from(model, batch, layers_of(model), _with_states(outputs[-1], batch.mask, layer)) for layer in states
    ]
    return torch.stack([layer.cpu() for layer in states]), torch.stack(read, 1)


def _patched(model: nn.Module, batch: _Batch, states: Tensor) -> Tensor:
    """Log-prob of the fact with the states of another model after each layer, one layer at a time."""
    layers, outputs = layers_of(model), _outputs(model, batch)
    # Later layers of some families read keys and values that an earlier layer leaves beside its states: all must run.
    is_chain = not getattr(model.config.get_text_config(), "num_kv_shared_layers", None)
    columns = []
    for index, (output, other) in enumerate(zip(outputs, states, strict=True)):
        changed = _with_states(output, batch.mask, other)
        if is_chain:
            columns.append(_read_from(model, batch, layers[: index + 1], changed))
            continue
        with hooked_layers([layers[index]], lambda _, changed=changed: changed):
            columns.append(_mean_logps(model, batch))
    return torch.stack(columns, 1)


def _in_order(parts: Sequence[Tensor], batches: Sequence[_Batch]) -> np.ndarray:
    order = np.argsort([row for batch in batches for row in batch.rows])
    return torch.cat(list(parts)).numpy()[order]


@torch.no_grad()
def _read(models: Loaders, rows: Sequence[dict[str, Any]], setting: SuiteSetting, patches: bool) -> _Tables:
    """All models on some rows, with one model in memory at a time."""
    tables, states, batches = {"lens": {}, "patched": {}}, {}, _batches(rows, setting)

    def read(role: str, model: nn.Module) -> None:
        model.eval()
        pairs = [_lens(model, batch) for batch in tqdm(batches, desc=f"Reading layers of {role}", disable=None)]
        states[role], logps = zip(*pairs, strict=True)
        tables["lens"][role] = _in_order(logps, batches)
        for source in states if patches and role == "target" and "retrained" in states else ():
            # States of another number of layers, or of another size, cannot be put into the target.
            if source == "target" or states[source][0].shape != states["target"][0].shape:
                continue
            pairs = tqdm(list(zip(batches, states[source], strict=True)), desc=f"Patching {source}", disable=None)
            tables["patched"][source] = _in_order([_patched(model, *pair) for pair in pairs], batches)

    # The target last: it needs the states of the others.
    measure_each({role: models.get(role) for role in reversed(MEASURED_ROLES)} if batches else {}, read)
    return tables


def _read_together(models: Loaders, rows: list[dict[str, Any]], setting: SuiteSetting, patches: bool) -> _Tables:
    """[`_read`], with the rows shared among processes."""

    def work(indices: list[int]) -> list[_Tables]:
        tables = _read(models, [rows[i] for i in indices], setting, patches)
        return [
            {name: {role: table[i] for role, table in roles.items()} for name, roles in tables.items()}
            for i in range(len(indices))
        ]

    by_row = shared(work, [len(row["input_ids"]) for row in rows])
    return {
        name: {role: np.stack([tables[name][role] for tables in by_row]) for role in roles}
        for name, roles in by_row[0].items()
    }


def _degradations(tables: _Tables) -> dict[str, np.ndarray]:
    """Role -> nats a token that the fact loses by each layer of that model in the target, `[rows, layers]`."""
    if "retrained" not in tables["patched"]:
        return {}
    lens = tables["lens"]
    # The lens after the last layer is the model itself. A layer of the target in its own place changes nothing.
    own = lens["target"][:, -1:]
    read = {"target": np.broadcast_to(own, lens["target"].shape)} | tables["patched"]
    # A model that gives no number has none through the target, either.
    return {role: np.where(np.isfinite(lens[role][:, -1:]), own - table, np.nan) for role, table in read.items()}


def _misfits(lost: dict[str, np.ndarray], control: dict[str, np.ndarray]) -> list[str]:
    """Models whose states cost the target facts of the retain set, too: their score would say nothing."""
    bound = MISFIT * lost["retrained"].mean()
    misfits = [role for role, table in control.items() if table.mean() > bound]
    if misfits:
        logger.warning(
            f"`{_UDS}` is left out for the {' and the '.join(misfits)} model: with its hidden states the target loses "
            f"facts of the retain set, too (`{_CONTROL}`), by more than {MISFIT} of its loss of the forget set "
            "with the retrained model's. They lack more than the forgotten facts: after a training from another "
            "initialisation, after damage, or where the retain set is not known either."
        )
    return misfits


def _depths(lost: dict[str, np.ndarray], misfits: Sequence[str]) -> tuple[dict[str, list[float]], list[int]]:
    """Role -> score of each row with a layer that holds its fact, and the indices of these rows."""
    reference = lost["retrained"]
    # A row that is not finite stays, and leaves the score without a mean.
    kept = (reference > THRESHOLD).any(1) | ~np.isfinite(reference).all(1)
    if not kept.any():
        logger.warning(
            f"`{_UDS}` is left out: no layer of the retrained model lacks a fact of the forget set by more than "
            f"{THRESHOLD} nats a token. Either it was trained on these rows, or the target does not know them."
        )
        return {}, []
    scores = {
        role: UnlearningDepth().compute(
            unlearned=table[kept].tolist(), retrained=reference[kept].tolist(), threshold=THRESHOLD
        )["per_row"]
        for role, table in lost.items()
        if role not in misfits and "retrained" not in misfits
    }
    return scores, np.flatnonzero(kept).tolist()


def measure_depth(
    models: Loaders, rows: EvaluationRows, setting: SuiteSetting, *, patches: bool = True
) -> SuiteOutcome:
    """How deep facts are gone: UDS by patching, and a logit lens; without `patches` the lens alone."""
    tokenizer, seed = setting.tokenizer, setting.seed
    forget = rows.encoded("forget", tokenizer)
    entities, retained = entity_rows(forget, tokenizer), []
    facts = list(entities.values())
    protocol = {"rows_without_entity": len(forget.answers) - len(facts)}
    if not facts:
        if patches:
            raise no_facts("depth")
        logger.warning(f"`{_LENS}` is left out. {no_facts('depth')}")
        return SuiteOutcome({}, protocol=rows_protocol(forget, seed=seed) | {"depth": protocol})
    if patches and rows.retain is not None and all(models.get(role) is not None for role in ("target", "retrained")):
        chosen = [rows.retain[i] for i in spread_evenly(len(rows.retain), CONTROL_ROWS)]
        retained = list(entity_rows(encode_set(chosen, tokenizer, name="retain"), tokenizer).values())
    tables = _read_together(models, [*facts, *retained], setting, patches)
    lens = {role: np.exp(table[: len(facts)]) for role, table in tables["lens"].items()}
    lost = {role: table[: len(facts)] for role, table in _degradations(tables).items()}
    control = {role: table[len(facts) :] for role, table in _degradations(tables).items() if retained}
    per_row = {role: {_LENS: lens[role].max(1).tolist()} for role in MEASURED_ROLES if role in lens}
    parts = {_LENS: list(entities)}
    curves = {role: {_LENS: table.mean(0).tolist()} for role, table in lens.items()}
    for role in lost:
        curves[role][_LOST] = lost[role].mean(0).tolist()
        if retained:
            per_row[role][_CONTROL] = control[role].mean(1).tolist()
            curves[role][_CONTROL] = control[role].mean(0).tolist()
    if lost:
        if not retained:
            logger.warning(
                f"Without facts of a retain set `{_UDS}` cannot tell damaged hidden states from states without the "
                "forgotten facts."
            )
        protocol["misfits"] = _misfits(lost, control)
        scores, kept = _depths(lost, protocol["misfits"])
        protocol["rows_without_layers"] = len(facts) - len(kept)
        protocol["threshold"] = THRESHOLD
        for role, values in scores.items():
            per_row[role][_UDS] = values
        parts[_UDS] = [parts[_LENS][index] for index in kept]
    without = [role for role in lens if patches and role != "target" and role not in lost]
    if without:
        logger.warning(
            f"Only the logit lens of the {' and the '.join(without)} model is measured: `{_UDS}` needs a target and a "
            "retrained model, all with layers of the same number and size."
        )
    # The control is of retain rows.
    about = forget.people_of(parts)
    people = {metric: about(metric) for metric in parts}
    outcome = summarise_rows(per_row, seed=seed, people=people.get)
    for differences in outcome.differences.values():
        # It judges the measurement: the retrained model's is no aim.
        differences.pop(_CONTROL, None)
    outcome.curves = curves
    outcome.protocol = rows_protocol(forget, seed=seed) | {"depth": protocol}
    return outcome
