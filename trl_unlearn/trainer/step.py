# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""A step: its rows, cut into passes of similar length, and the scores of each pass."""

import functools
import hashlib
import logging
import math
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import extract_model_from_parallel
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from ..beliefs import BeliefStore
from ..encoding import pad_rows, padded_width
from ..generation import key_seed
from ..label_states import LabelStates, sharing_obstacle
from ..objectives.forget import bs_s_weights, reduce_tokens
from ..objectives.hidden import rmu_retain
from ..objectives.retain import kl, nll
from ..prompt_sharing import Layout, RowShape, is_worth_sharing, lay_out, pass_cost, row_shape, widest_of
from ..token_scores import RowGroup, ScoreTerms, TokenScores, score_batch, score_groups, states_inside
from .bootstrap_unlearn_config import BootstrapUnlearnConfig
from .forget_objectives import FORGET_OBJECTIVES, ForgetObjective, ForgetScores
from .weights import Weights


if TYPE_CHECKING:
    # It reads the rows of a step, and so imports this module.
    from .ignorance import IgnorantTwin


logger = logging.getLogger(__name__)

# Pad widths to a multiple of 8: repeated shapes reuse cached blocks instead of fragmenting memory.
_MULTIPLE = 8
_DIGEST_BYTES = 16


@dataclass
class DataCollatorForUnlearning:
    """Indices of forget rows for training, batches of other rows for evaluation. No draws: a run resumes."""

    pad_token_id: int
    multiple: int = 1
    limit: int | None = None

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        if "row" in examples[0]:
            return {"row": torch.tensor([example["row"] for example in examples])}
        return pad_rows(examples, self.pad_token_id, self.multiple, self.limit)


# Rows of a micro-batch


@dataclass(frozen=True)
class StepRow:
    """
    A row of a micro-batch: `kind` is "forget", "beliefs" or "retain", `weight` its factor in the loss of the step.

    `index` is its place in its set; for a belief, the index of its forget row and its number. `chosen` is the answer
    that DPO prefers, which passes with the row. Rows that do not count only keep the processes in step.
    """

    encoded: Mapping[str, Any]
    kind: str
    weight: float
    index: tuple[int, ...]
    chosen: Mapping[str, Any] | None = None
    counts: bool = True

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence that passes through the model."""
        return [len(row["input_ids"]) for row in (self.encoded, self.chosen) if row is not None]

    @functools.cached_property
    def shapes(self) -> list[RowShape]:
        """The shape of each sequence that passes through the model."""
        return [row_shape(row["input_ids"], row["labels"]) for row in (self.encoded, self.chosen) if row is not None]

    def __len__(self) -> int:
        return max(self.lengths)


def own_rows(accelerator: Accelerator, size: int, remainder: int) -> int:
    """Rows of a batch without those of the first one, with which `accelerate` fills up the `remainder` of a set."""
    if not accelerator.gradient_state.end_of_dataloader or remainder <= 0:
        return size
    return min(max(remainder - accelerator.process_index * size, 0), size)


def mark_repeated_rows(accelerator: Accelerator, batches: Sequence[dict[str, Any]], remainder: int) -> None:
    """Set `num_own_rows` in the last micro-batch of an epoch."""
    if batches:
        own = own_rows(accelerator, len(batches[-1]["row"]), remainder)
        batches[-1]["num_own_rows"] = torch.tensor(own)


def num_own_rows(batch: Mapping[str, Any]) -> int:
    """Rows of a micro-batch that count, possibly 0; rows that another process has too come last."""
    return int(batch["num_own_rows"]) if "num_own_rows" in batch else len(batch["row"])


@functools.lru_cache(maxsize=2)
def _retain_order(seed: int, epoch: int, turn: int, num_retain: int) -> list[int]:
    generator = torch.Generator().manual_seed(key_seed((seed, epoch, turn)))
    return torch.randperm(num_retain, generator=generator).tolist()


def retain_index(seed: int, epoch: int, row: int, num_retain: int) -> int:
    """Index of the retain row that goes with a forget row in an epoch."""
    # Keyed, not drawn: every process seeds its generator alike, and a batch may hold rows in any order. The forget
    # rows go through permutations of the retain set, one after the other.
    turn, place = divmod(row, num_retain)
    return _retain_order(seed, epoch, turn, num_retain)[place]


def _encoded(batch: Mapping[str, Sequence], i: int, prefix: str = "") -> dict[str, Any]:
    return {name: batch[f"{prefix}{name}"][i] for name in ("input_ids", "labels")}


def step_rows(
    inputs: Mapping[str, Any],
    args: BootstrapUnlearnConfig,
    weights: Weights,
    *,
    share: float,
    epoch: int,
    forget: Dataset,
    retain: Dataset | None,
    beliefs: BeliefStore | None,
    needs_chosen: bool,
) -> list[StepRow]:
    """The forget rows of a micro-batch, each with a `share`, their beliefs, and retain rows of the epoch, weighted."""
    indices, count = inputs["row"].tolist(), num_own_rows(inputs)
    batch = forget[indices]
    chosen = [_encoded(batch, i, "chosen_") if needs_chosen else None for i in range(len(indices))]
    target, belief = bs_s_weights(weights.lambda_bss, args.num_beliefs)
    rows = []
    for i, index in enumerate(indices):
        counts = i < count
        weight = args.forget_weight * target * share if counts else 0.0
        rows.append(StepRow(_encoded(batch, i), "forget", weight, (index,), chosen[i], counts))
    if beliefs is not None:
        weight = args.forget_weight * belief * share
        numbers = [(i, j) for i in range(count) for j in range(args.num_beliefs)]
        rows += [
            StepRow(row, "beliefs", weight, (indices[i], j), chosen[i])
            for row, (i, j) in zip(beliefs.rows(indices[:count]), numbers, strict=True)
        ]
    if args.uses_retain:
        for index in indices[:count]:
            paired = retain_index(args.seed, epoch, index, len(retain))
            rows.append(StepRow(retain[paired], "retain", weights.retain_weight * share, (paired,)))
    return rows


# Passes


def can_share_prompts(
    args: BootstrapUnlearnConfig, model: nn.Module, forget: Dataset, retain: Dataset | None, is_sharded: bool
) -> bool:
    """Whether rows with the same prompt have it once in a pass; where a model cannot do that, a warning says why."""
    if not args.share_prompts:
        return False
    # A refusal may be longer than the answer in whose place it stands.
    names, sets = ("input_ids", "chosen_input_ids"), [rows for rows in (forget, retain) if rows is not None]
    columns = [rows[name] for rows in sets for name in names if name in rows.column_names]
    longest = max(len(ids) for column in columns for ids in column)
    if args.lambda_bss > 0:
        longest = max(longest, max(forget["prompt_length"]) + args.max_completion_length)
    # A pass is at most as large as that of the forget rows of a micro-batch, of which some have a second answer.
    padded = padded_width(longest, math.lcm(_MULTIPLE, args.pad_to_multiple_of or 1))
    width = min(widest_of(longest), 2 * args.per_device_train_batch_size * padded)
    obstacle = "it is sharded" if is_sharded else sharing_obstacle(model, longest, width)
    # Of other rows each has its own prompt, and some share a sequence at most, which is padded less.
    have_prompts_in_common = args.lambda_bss > 0 or FORGET_OBJECTIVES[args.forget_loss_type].needs_chosen
    if obstacle is not None and have_prompts_in_common:
        logger.warning(
            "`share_prompts` does nothing: a prompt passes through the model with each of its answers, because %s.",
            obstacle,
        )
    return obstacle is None


def _padded_width(rows: Sequence[StepRow], multiple: int) -> int:
    return padded_width(max(map(len, rows), default=0), math.lcm(_MULTIPLE, multiple))


def padded_tokens(rows: Sequence[StepRow], multiple: int = 1) -> int:
    """Tokens of rows as one batch that is padded to a width that is a multiple of a number."""
    return sum(len(row.lengths) for row in rows) * _padded_width(rows, multiple)


def cut_rows(rows: Sequence[StepRow], max_tokens: int, multiple: int = 1) -> list[list[StepRow]]:
    """As few slices as fit `max_tokens` with their padding, longest rows first; a longer row is a slice of its own."""
    ordered = sorted(rows, key=len, reverse=True)
    return _cut(ordered, max_tokens, functools.partial(padded_tokens, multiple=multiple))


def cut_and_share(
    rows: Sequence[StepRow], max_tokens: int, multiple: int, hidden_size: int
) -> tuple[list[list[StepRow]], bool]:
    """Slices like those of [`cut_rows`], and whether their rows share prompts, which they do where that costs less."""

    def layout(rows: Sequence[StepRow]) -> Layout:
        return lay_out([shape for row in rows for shape in row.shapes], hidden_size)

    def tokens(rows: Sequence[StepRow]) -> int:
        return layout(rows).tokens

    by_prompt: dict[Hashable, list[StepRow]] = {}
    for row in rows:
        by_prompt.setdefault(row.shapes[0].prompt, []).append(row)
    groups = sorted(by_prompt.values(), key=tokens, reverse=True)
    shared = _cut([row for group in groups for row in group], max_tokens, tokens)
    plain = cut_rows(rows, max_tokens, multiple)
    sizes = [(padded_tokens(part, multiple), _padded_width(part, multiple)) for part in plain]
    is_cheaper = is_worth_sharing(
        sum(layout(part).cost for part in shared), sum(pass_cost(*size, hidden_size) for size in sizes)
    )
    return (shared, True) if is_cheaper else (plain, False)


def _cut(rows: list[StepRow], max_tokens: int, tokens: Callable[[Sequence[StepRow]], int]) -> list[list[StepRow]]:
    slices = []
    while rows:
        # By bisection: the tokens of a layout take time in proportion to its rows.
        more = bisect_right(range(2, len(rows) + 1), max_tokens, key=lambda count: tokens(rows[:count]))
        slices.append(rows[: 1 + more])
        rows = rows[1 + more :]
    return slices


def split_to(slices: list[list[StepRow]], count: int) -> list[list[StepRow]]:
    """Split slices until there are `count`; where rows run out, a row passes again and does not count."""
    # Where parameters are sharded, every pass gathers them from all processes: a process with fewer passes would leave
    # the others waiting for ever.
    slices = list(slices)
    while len(slices) < count:
        largest = max(slices, key=len)
        half = len(largest) // 2
        if half:
            slices.remove(largest)
            slices += [largest[:half], largest[half:]]
        else:
            slices.insert(0, [replace(largest[0], weight=0.0, counts=False)])
    return slices


def collate_rows(
    rows: Sequence[StepRow], pad_token_id: int, multiple: int = 1, limit: int | None = None
) -> dict[str, Any]:
    """Inputs of one pass: `rows`, and tensors `[rows, tokens]`, where the answers that DPO prefers come last."""
    encoded = [row.encoded for row in rows] + [row.chosen for row in rows if row.chosen is not None]
    return {"rows": list(rows), **pad_rows(encoded, pad_token_id, math.lcm(_MULTIPLE, multiple), limit)}


def passes(
    rows: Sequence[StepRow], padding: Mapping[str, Any], hidden_size: int | None, accelerator: Accelerator | None
) -> list[dict[str, Any]]:
    """Inputs of the passes of a micro-batch, none larger than that of its forget rows: beliefs need no more memory."""
    multiple, share_prompts = padding["multiple"], False
    most = padded_tokens([row for row in rows if row.kind == "forget"], multiple)
    if hidden_size is None:
        slices = cut_rows(rows, most, multiple)
    else:
        slices, share_prompts = cut_and_share(rows, most, multiple, hidden_size)
    if accelerator is not None:
        counts = accelerator.gather(torch.tensor([len(slices)], device=accelerator.device))
        slices = split_to(slices, int(counts.max()))
    last = len(slices) - 1
    return [
        collate_rows(part, **padding) | {"share_prompts": share_prompts, "is_last": i == last}
        for i, part in enumerate(slices)
    ]


@contextmanager
def without_synchronisation(accelerator: Accelerator, model: nn.Module) -> Iterator[None]:
    """Keep gradients on this process, and keep DeepSpeed from stepping: more of the micro-batch is to come."""
    state = accelerator.gradient_state
    synchronised = state.sync_gradients
    # DeepSpeed's engine steps at the end of a backward pass where this flag is set; `no_sync` is for DDP and FSDP.
    state._set_sync_gradients(False)
    try:
        with accelerator.no_sync(model):
            yield
    finally:
        state._set_sync_gradients(synchronised)


# Scores


@dataclass(frozen=True)
class ScoredRows:
    """Rows of a pass under one term: their places in the pass, their scores, and states of the original model."""

    places: list[int]
    scores: TokenScores
    reference: LabelStates | None = None


class PassScorer:
    """Scores of the rows of a pass from one forward pass, with what their objectives read of the original model."""

    def __init__(
        self,
        args: BootstrapUnlearnConfig,
        objective: ForgetObjective,
        reference: Callable[[], AbstractContextManager[nn.Module]],
        is_sharded: bool,
        layer: int | None,
        twin: "IgnorantTwin | None",
    ):
        self.args, self.objective, self._layer = args, objective, layer
        self._reference, self._is_sharded = reference, is_sharded
        # Log-probs under the original model by the digest of a row: kind -> digest -> [tokens], on the CPU.
        self._known_logps: dict[str, dict[bytes, Tensor]] = {"forget": {}, "beliefs": {}, "chosen": {}}
        self._twin = twin
        if twin is not None:
            twin.begin()

    def drop_beliefs(self) -> None:
        """Drop the log-probs of beliefs, which are about to be replaced."""
        self._known_logps["beliefs"].clear()

    def state_dict(self) -> dict[str, Any]:
        """Log-probs under the original model: of each kind, digests of rows, lengths, and values one after another."""
        # Passes of other shapes would change their last bits.
        state = {}
        for kind, known in self._known_logps.items():
            state[f"{kind}_rows"] = pack_digests(known)
            state[f"{kind}_lengths"] = torch.tensor([len(logps) for logps in known.values()], dtype=torch.long)
            state[f"{kind}_logps"] = torch.cat(list(known.values())) if known else torch.empty(0)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from the state of a checkpoint."""
        for kind in self._known_logps:
            lengths = state[f"{kind}_lengths"].tolist()
            rows = unpack_digests(state[f"{kind}_rows"])
            # Copies, not views: beliefs come and go one by one.
            logps = [part.clone() for part in state[f"{kind}_logps"].split(lengths)] if rows else []
            self._known_logps[kind] = dict(zip(rows, logps, strict=True))

    def score(self, model: nn.Module, inputs: Mapping[str, Any]) -> tuple[ScoredRows | None, ScoredRows | None]:
        """Forget rows with their beliefs, and retain rows, from one pass; None where the pass has no such rows."""
        rows = inputs["rows"]
        forget = [i for i, row in enumerate(rows) if row.kind != "retain"]
        retain = [i for i, row in enumerate(rows) if row.kind == "retain"]
        chosen = list(range(len(rows), len(inputs["labels"])))
        forget_states, taught = None, None
        if self.objective.needs_states:
            forget_states = self._states(inputs, forget)
        elif self._twin is not None and forget:
            unwrapped = extract_model_from_parallel(model)
            forget_states, taught = self._twin.reference(unwrapped, [rows[i] for i in forget])
        retain_states = self._states(inputs, retain) if self.args.compares_retain else None

        # Before the pass of the model itself, whose weights must stay as they are until its gradients are computed: a
        # reference may put other values into the same parameters.
        known = {}
        if self.objective.needs_logps:
            answers = {"forget": forget} | ({"chosen": chosen} if self.objective.needs_chosen else {})
            known = {name: self._reference_logps(inputs, places) for name, places in answers.items()}

        groups = {"forget": RowGroup(forget, self.objective.terms(self.args), forget_states)}
        if self.objective.needs_chosen:
            groups["chosen"] = RowGroup(chosen)
        if self.args.uses_retain:
            compared = retain_states if self.args.retain_loss_type == "kl" else None
            groups["retain"] = RowGroup(retain, ScoreTerms(entropy=True), compared)
        # Where parameters are sharded, all processes gather the head for each group, with or without rows of it.
        groups = {name: group for name, group in groups.items() if group.rows or self._is_sharded}
        scored = score_groups(model, inputs, list(groups.values()), self._layer, inputs["share_prompts"])
        scores = dict(zip(groups, scored, strict=True))

        def with_reference(name: str) -> ForgetScores:
            answers = ForgetScores(**vars(scores[name]))
            return replace(answers, reference_logps=known[name]) if known.get(name) is not None else answers

        scored_forget = None
        if forget:
            answers = replace(with_reference("forget"), taught=taught)
            if chosen:
                answers = replace(answers, chosen=with_reference("chosen"))
            scored_forget = ScoredRows(forget, answers)
        return scored_forget, ScoredRows(retain, scores["retain"], retain_states) if retain else None

    def _states(self, inputs: Mapping[str, Any], places: list[int]) -> LabelStates | None:
        """States of rows under the original model."""
        if not places and not self._is_sharded:
            return None
        # Where parameters are sharded, a process without such rows still takes part, with any row.
        with self._reference() as reference:
            states = states_inside(reference, _part(inputs, places or [0]), self._layer, inputs["share_prompts"])
        return states.rows(range(len(places)))

    def _reference_logps(self, inputs: Mapping[str, Any], places: list[int]) -> Tensor | None:
        """Log-probs `[rows, tokens]` under the original model, which scores each row once."""
        if not places:
            if self._is_sharded:
                # Other processes have such rows, and each takes part in every pass.
                with self._reference() as reference:
                    score_batch(reference, _part(inputs, [0]))
            return None
        kinds = [row.kind for row in inputs["rows"]]
        # By kind, too: a belief may repeat its target, and is dropped earlier.
        keys = [(kinds[i] if i < len(kinds) else "chosen", _digest(inputs, i)) for i in places]
        unknown = {
            (kind, digest): i
            for i, (kind, digest) in zip(places, keys, strict=True)
            if digest not in self._known_logps[kind] or self._is_sharded
        }
        if unknown:
            with self._reference() as reference:
                part = _part(inputs, list(unknown.values()))
                scores = score_batch(reference, part, share_prompts=inputs["share_prompts"])
            for (kind, digest), logps, mask in zip(unknown, scores.logps, scores.mask, strict=True):
                self._known_logps[kind][digest] = logps[mask].cpu()
        logps = [self._known_logps[kind][digest] for kind, digest in keys]
        return pad_sequence(logps, batch_first=True).to(inputs["labels"].device)


def retain_loss(part: ScoredRows, args: BootstrapUnlearnConfig) -> Tensor:
    """Loss of each retain row of a pass."""
    scores, reference = part.scores, part.reference
    if args.retain_loss_type == "kl":
        return kl(scores.kl, scores.mask, args.token_reduction)
    if args.retain_loss_type == "hidden":
        inner = pad_sequence(reference.inner.split(reference.lengths), batch_first=True)
        return rmu_retain(scores.inner, inner, scores.mask)
    return nll(scores.logps, scores.mask, args.token_reduction)


def row_values(losses: Sequence[tuple[ScoredRows, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """`loss`, and means of `logps`, `entropy` and `twin_logps` of the tokens, each `[rows]` in the order of a pass."""
    columns = []
    for part, loss in losses:
        scores = part.scores
        # Without a twin, or where it teaches nothing, it has no other probability than the model.
        twin_logps = scores.logps
        if isinstance(scores, ForgetScores) and scores.taught is not None:
            twin_logps = scores.reference_logps.where(scores.taught, scores.logps)
        means = [reduce_tokens(x.detach(), scores.mask) for x in (scores.logps, scores.entropy, twin_logps)]
        columns.append(torch.stack([loss, *means]).to(device))
    order = torch.tensor([place for part, _ in losses for place in part.places], device=device).argsort()
    return dict(zip(("loss", "logps", "entropy", "twin_logps"), torch.cat(columns, 1)[:, order], strict=True))


def _part(inputs: Mapping[str, Any], places: list[int]) -> dict[str, Tensor]:
    return {name: inputs[name][places] for name in ("input_ids", "attention_mask", "labels")}


def _digest(inputs: Mapping[str, Any], place: int) -> bytes:
    """Digest of a row of a pass, without its padding."""
    length = int(inputs["attention_mask"][place].sum())
    return row_digest(inputs["input_ids"][place, :length], inputs["labels"][place, :length])


def row_digest(input_ids: Sequence[int] | Tensor, labels: Sequence[int] | Tensor) -> bytes:
    """Digest of a row's tokens and labels, by which what is known of the row is kept."""
    values = torch.stack([torch.as_tensor(input_ids), torch.as_tensor(labels)]).cpu()
    return hashlib.blake2b(values.numpy().tobytes(), digest_size=_DIGEST_BYTES).digest()


def pack_digests(digests: Iterable[bytes]) -> Tensor:
    """Digests one after another, for a checkpoint."""
    packed = bytearray(b"".join(digests))
    return torch.frombuffer(packed, dtype=torch.uint8) if packed else torch.empty(0)


def unpack_digests(packed: Tensor) -> list[bytes]:
    """The digests that [`pack_digests`] has packed."""
    values = bytes(packed.tolist())
    return [values[i : i + _DIGEST_BYTES] for i in range(0, len(values), _DIGEST_BYTES)]
