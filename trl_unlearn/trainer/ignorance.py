# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The ignorant twin that `forget_loss_type="ignorance"` distils: a model that answers as one that never knew."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import ENCODED_COLUMNS, pad_rows
from ..generation import key_seed
from ..hub.folder import RunFolder
from ..label_states import LabelStates, LogitHead, in_mode, logit_head
from ..metrics.membership import StrangersAUC
from ..names import row_subjects
from ..subjects import MovedAnswers, alias_words, moved_answers, row_texts
from ..token_scores import score_rows, states_inside
from .bootstrap_unlearn_config import BootstrapUnlearnConfig
from .forget_objectives import ForgetObjective
from .reference import with_values
from .step import StepRow, pack_digests, row_digest, unpack_digests
from .twin_models import NO_TWIN, UnfitTwinError, ignorant_base, named_bases, repaired_copy


logger = logging.getLogger(__name__)

# `strangers_auc` of models that never knew; on the embedded lab .58 to .70 for four of them.
_LEVEL = 0.65
# Mean probability of the true answers under other names. On the embedded lab .08 and .18, on a 135M model that has
# memorised whole sentences .70.
_BY_HEART = 0.5
_BATCH_SIZE = 8


@dataclass(frozen=True)
class TwinStates:
    """The twin on one row: states `[labels, hidden size]`, where they may teach `[labels]`, and swaps `[pairs, 2]`."""

    hidden: Tensor
    taught: Tensor
    swaps: Tensor


class IgnorantTwin(ABC):
    """A stand-in for a model that never knew the forget set. Its answers are kept as hidden states: exact."""

    def __init__(self):
        # Number of the refresh of the forget rows' states.
        self.refresh = -1
        # Whether no other refresh follows.
        self.is_final = False
        self._known: dict[str, dict[bytes, TwinStates]] = {"forget": {}, "beliefs": {}}

    @abstractmethod
    def states(self, model: nn.Module, rows: Sequence[Mapping[str, Any]]) -> list[TwinStates]:
        """The twin on encoded rows, from one pass, on the CPU; `model` is the model in training as it is."""

    @abstractmethod
    def head(self, model: nn.Module) -> LogitHead:
        """The head that the states go through."""

    @torch.no_grad()
    def ask(self, model: nn.Module, kind: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the states of all rows of a kind, `"forget"` or `"beliefs"`."""
        asked = {row_digest(row["input_ids"], row["labels"]): row for row in rows}
        # A pass of rows of similar length.
        keys = sorted(asked, key=lambda key: len(asked[key]["input_ids"]))
        with in_mode(model, training=False):
            passes = (keys[start : start + _BATCH_SIZE] for start in range(0, len(keys), _BATCH_SIZE))
            states = [one for part in passes for one in self.states(model, [asked[key] for key in part])]
        self._known[kind] = dict(zip(keys, states, strict=True))

    def begin(self) -> None:
        """Forget the refreshes of an earlier run."""
        self.refresh, self.is_final = -1, False

    def refresh_if_due(self, model: nn.Module, due: int, forget: Dataset) -> None:
        """Ask about the forget rows where another refresh is due than the last one."""
        is_first = self.refresh < 0
        if not is_first and (self.is_final or self.refresh == due):
            return
        rows = forget.select_columns(list(ENCODED_COLUMNS))
        self.is_final = not is_first and self.is_reached(model, rows)
        if not self.is_final:
            self.refresh = due
            self.ask(model, "forget", rows)

    def is_reached(self, model: nn.Module, forget: Dataset) -> bool:
        """Whether the twin need not be asked anew: at the level of strangers, or where it stays the same."""
        return False

    def reference(self, model: nn.Module, rows: Sequence[StepRow]) -> tuple[LabelStates, Tensor]:
        """States on rows laid end to end, as a reference of theirs, and where they may teach, `[rows, labels]`."""
        keys = [row_digest(row.encoded["input_ids"], row.encoded["labels"]) for row in rows]
        known = [self._known[row.kind][key] for row, key in zip(rows, keys, strict=True)]
        lengths, most = [len(row.taught) for row in known], max(len(row.swaps) for row in known)
        swaps = []
        for row, length in zip(known, lengths, strict=True):
            # To swap a pair twice at once is to swap it; a row without one swaps token 0 with itself.
            filling = row.swaps[-1:] if len(row.swaps) else torch.zeros(1, 2, dtype=torch.long)
            pairs = torch.cat([row.swaps, filling.expand(most - len(row.swaps), 2)])
            swaps.append(pairs.expand(length, -1, -1))
        head = self.head(model)
        device = head.weight.device
        hidden, taught = torch.cat([row.hidden for row in known]), [row.taught for row in known]
        swapped = torch.cat(swaps).to(device) if most else None
        states = LabelStates(hidden.to(device), hidden.new_empty(0), lengths, head, swaps=swapped)
        return states, pad_sequence(taught, batch_first=True).to(device)

    def state_dict(self) -> dict[str, Any]:
        """The refresh, and of each kind, digests of rows, and their states one after another."""
        state: dict[str, Any] = {"refresh": self.refresh, "is_final": self.is_final}
        for kind, known in self._known.items():
            state[f"{kind}_rows"] = pack_digests(known)
            for name in ("hidden", "taught", "swaps"):
                parts = [getattr(states, name) for states in known.values()]
                state[f"{kind}_{name}"] = torch.cat(parts) if parts else torch.empty(0)
                state[f"{kind}_{name}_lengths"] = torch.tensor([len(part) for part in parts], dtype=torch.long)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from the state of a checkpoint."""
        self.refresh, self.is_final = int(state["refresh"]), bool(state["is_final"])
        for kind in self._known:
            keys = unpack_digests(state[f"{kind}_rows"])
            parts = [
                state[f"{kind}_{name}"].split(state[f"{kind}_{name}_lengths"].tolist()) if keys else []
                for name in ("hidden", "taught", "swaps")
            ]
            self._known[kind] = {
                key: TwinStates(hidden.clone(), taught.bool(), swaps.long())
                for key, hidden, taught, swaps in zip(keys, *parts, strict=True)
            }


def _row_states(model: nn.Module, rows: Sequence[Mapping[str, Any]]) -> Sequence[Tensor]:
    """Hidden states of each row, `[labels, hidden size]`, from one pass, on the CPU."""
    device = next(model.parameters()).device
    states = states_inside(model, {name: values.to(device) for name, values in pad_rows(rows, 0).items()})
    return states.hidden.cpu().split(states.lengths)


def _mean_logps(model: nn.Module, rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Mean log-prob of a token of each row, in nats."""
    return [fmean(score.logps) for score in score_rows(model, rows, pad_token_id=0, batch_size=_BATCH_SIZE)]


# The model itself under other names


class AliasTwin(IgnorantTwin):
    """
    The model in training on a row whose names are those of strangers, token by token beside the row itself.

    Where the twin expects the stranger, the student is to expect the person: in its distribution the first tokens of
    both words change places, and tokens inside a word are not taught.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        subjects: Set[str],
        strangers: Set[str],
        seed: int,
        moved: MovedAnswers | None = None,
        has_beliefs: bool = False,
    ):
        super().__init__()
        self.moved, self._has_beliefs = moved, has_beliefs
        # What trains, as it came, on the CPU; only beliefs need it.
        self._weights: dict[str, Tensor] = {}
        self._tokenizer, self._subjects, self._strangers, self._seed = tokenizer, subjects, strangers, seed
        self._rename(0)

    def begin(self) -> None:
        super().begin()
        self._weights = {}

    def is_reached(self, model: nn.Module, forget: Dataset) -> bool:
        # A twin that is asked below the level of strangers would drag the next one below it.
        if not self.moved:
            return False
        true = _mean_logps(model, [forget[index] for index in self.moved])
        means = iter(_mean_logps(model, [row for rows in self.moved.values() for row in rows]))
        others = [[next(means) for _ in rows] for rows in self.moved.values()]
        level = StrangersAUC().compute(true=true, others=others)["strangers_auc"]
        logger.info("Before refresh %d of the ignorant twin, `strangers_auc` is %.3f.", self.refresh + 1, level)
        return level <= _LEVEL

    def ask(self, model: nn.Module, kind: str, rows: Iterable[Mapping[str, Any]]) -> None:
        # Other names each time: one stranger has facts of one's own, only many have none.
        self._rename(self.refresh)
        if self._has_beliefs and not self._weights:
            trains = ((name, one) for name, one in model.named_parameters() if one.requires_grad)
            self._weights = {name: one.detach().to("cpu", copy=True) for name, one in trains}
        # Beliefs hold no memorised answer for long, and the model as it came puts them into whole sentences. One that
        # is in training does not: student and twin end in broken text.
        with with_values(model, self._weights if kind == "beliefs" else {}):
            super().ask(model, kind, rows)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {f"weight {name}": weight for name, weight in self._weights.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        prefix = "weight "
        self._weights = {name.removeprefix(prefix): one for name, one in state.items() if name.startswith(prefix)}

    def _rename(self, refresh: int) -> None:
        self.aliases = aliases = alias_words(
            self._subjects, self._strangers, key_seed((self._seed, "aliases", refresh))
        )
        # Tokens of a word, after a space or not -> the word, and the tokens of its alias.
        self._spellings: dict[tuple[int, ...], tuple[str, list[int]]] = {}
        self._first_tokens: dict[str, list[tuple[int, int]]] = {}
        for word, alias in aliases.items():
            self._first_tokens[word] = []
            for space in (" ", ""):
                ids, other = (
                    self._tokenizer(space + text, add_special_tokens=False)["input_ids"] for text in (word, alias)
                )
                self._spellings[tuple(ids)] = word, other
                self._first_tokens[word].append((ids[0], other[0]))
        self._longest = max(map(len, self._spellings))

    def replaced(self, row: Mapping[str, Any]) -> tuple[dict[str, list[int]], list[int], set[str]]:
        """The row with aliases, the place in it of each token of the row (-1 inside a word), and the words."""
        ids, labels = list(row["input_ids"]), list(row["labels"])
        out: dict[str, list[int]] = {"input_ids": [], "labels": []}
        places, words, i = [], set(), 0
        while i < len(ids):
            place, label = len(out["input_ids"]), labels[i]
            spellings = (tuple(ids[i : i + n]) for n in range(self._longest, 0, -1))
            spelling = next((one for one in spellings if one in self._spellings), None)
            if spelling is None:
                out["input_ids"].append(ids[i])
                out["labels"].append(label)
                places.append(place)
                i += 1
                continue
            word, other = self._spellings[spelling]
            out["input_ids"] += other
            out["labels"] += [-100 if label == -100 else token for token in other]
            places += [place, *[-1] * (len(spelling) - 1)]
            words.add(word)
            i += len(spelling)
        return out, places, words

    def swaps(self, words: Iterable[str]) -> Tensor:
        """First tokens of words and of their aliases, `[pairs, 2]`; a token that has a partner gets no second one."""
        partners: dict[int, int] = {}
        for first, second in (pair for word in sorted(words) for pair in self._first_tokens[word]):
            if first != second and first not in partners and second not in partners:
                partners |= {first: second, second: first}
        pairs = [(first, second) for first, second in partners.items() if first < second]
        return torch.tensor(pairs, dtype=torch.long).reshape(-1, 2)

    def states(self, model: nn.Module, rows: Sequence[Mapping[str, Any]]) -> list[TwinStates]:
        def labelled(row: Mapping[str, Any]) -> list[int]:
            # Nothing predicts the first token of a row.
            return [i for i, label in enumerate(row["labels"]) if i and label != -100]

        renamed, states = [self.replaced(row) for row in rows], []
        passed = _row_states(model, [replaced for replaced, _, _ in renamed])
        for row, (replaced, places, words), hidden in zip(rows, renamed, passed, strict=True):
            order = {place: i for i, place in enumerate(labelled(replaced))}
            taken = torch.tensor([order.get(places[i], -1) for i in labelled(row)])
            states.append(TwinStates(hidden[taken.clamp(min=0)], taken >= 0, self.swaps(words)))
        return states

    def head(self, model: nn.Module) -> LogitHead:
        # As it is now, where it trains: to keep that of the last refresh would take a second matrix, also on the disk.
        return logit_head(model)


def alias_twin(
    forget: Dataset,
    retain: Dataset | None,
    tokenizer: PreTrainedTokenizerBase,
    subjects: Sequence[str] | None,
    aliases: Sequence[str] | None,
    seed: int,
    has_beliefs: bool,
) -> AliasTwin:
    """The twin of a forget set under names of strangers; logs how many rows it can teach, and no name."""
    texts = row_texts(forget, tokenizer)
    others = ([], []) if retain is None else row_texts(retain, tokenizer)
    named = row_subjects(*texts, [*others[0], *others[1]], subjects)
    names = {name for name in named if name is not None}
    way = "Give names" if subjects is None else "Write them as the rows do, capitals too,"
    if not names:
        raise ValueError(
            "`forget_loss_type='ignorance'` asks the model about somebody else in place of the subject of a row, and "
            f"no row of the forget set has a name that can be replaced. {way} in `forget_subjects`, or give a model "
            "that never knew the forget set in `ignorant_model_name_or_path`."
        )
    if absent := len({*(subjects or ())} - names):
        logger.warning("%d names of `forget_subjects` are those of no row. %s if they should be.", absent, way)
    # A name that both sets have, such as one in a system prompt, is nobody's.
    strangers = {name for name in row_subjects(*others, [*texts[0], *texts[1]]) if name is not None}
    moved = moved_answers(forget, retain, tokenizer, seed=seed, subjects=subjects) if strangers else None
    twin = AliasTwin(tokenizer, names, set(aliases or strangers), seed, moved, has_beliefs)
    unnamed = named.count(None)
    log = logger.warning if unnamed else logger.info
    log(
        "The ignorant twin is the model itself under other names: %d names in %d of %d forget rows.%s",
        len(names),
        len(named) - unnamed,
        len(named),
        f" {unnamed} rows name none: the model's answers to them as they are would be kept." if unnamed else "",
    )
    return twin


# A model that never knew


class BaseTwin(IgnorantTwin):
    """Another model that never saw the forget set, such as the base that the target was tuned from."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model.requires_grad_(False).eval()

    def is_reached(self, model: nn.Module, forget: Dataset) -> bool:
        # It never changes, and would give the same states again.
        return True

    def states(self, model: nn.Module, rows: Sequence[Mapping[str, Any]]) -> list[TwinStates]:
        return [
            TwinStates(hidden, torch.ones(len(hidden), dtype=torch.bool), torch.zeros(0, 2, dtype=torch.long))
            for hidden in _row_states(self.model, rows)
        ]

    def head(self, model: nn.Module) -> LogitHead:
        return logit_head(self.model)


def is_known_by_heart(model: nn.Module, alias: AliasTwin, rows: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a model finds the answers of encoded rows likely under the names of strangers, too."""
    with in_mode(model, training=False):
        logps = _mean_logps(model, [alias.replaced(row)[0] for row in rows])
    probability = fmean(map(math.exp, logps))
    logger.info("Under other names the mean probability of the true answers is %.2f.", probability)
    return probability > _BY_HEART


def new_twin(
    objective: ForgetObjective,
    args: BootstrapUnlearnConfig,
    model: nn.Module,
    forget: Dataset,
    retain: Dataset | None,
    tokenizer: PreTrainedTokenizerBase,
    is_sharded: bool,
    continues_adapter: bool,
) -> IgnorantTwin | None:
    """The twin that an objective distils: a model that never knew, the target under other names, or a broken copy."""
    if not objective.needs_twin:
        return None
    if is_sharded:
        raise ValueError(
            "`forget_loss_type='ignorance'` is not supported with FSDP and DeepSpeed, which shard the model that is "
            "asked. Launch with `recipes/accelerate/ddp.yaml`, or choose another objective."
        )
    sizes = {"rows": args.ignorant_retain_rows, "epochs": args.ignorant_epochs, "seed": args.seed, "bf16": args.bf16}
    sizes["kept"] = RunFolder(args.output_dir).twin
    loading = sizes | {"trust_remote_code": args.trust_remote_code}
    name = args.ignorant_model_name_or_path
    if name is not None:
        try:
            return BaseTwin(ignorant_base(name, model, forget, retain, tokenizer, **loading))
        except (OSError, UnfitTwinError) as error:
            raise ValueError(
                f"`ignorant_model_name_or_path` is `{name}`, which cannot stand in for a model that never knew: "
                f"{error}. Give one that never saw the forget set and has the target's tokenizer, such as its base."
            ) from error
    if not args.forget_subjects and not args.forget_aliases:
        for name in named_bases(model, continues_adapter):
            try:
                twin = BaseTwin(ignorant_base(name, model, forget, retain, tokenizer, **loading))
            except NO_TWIN as error:
                logger.warning("`%s` is not the ignorant twin: %s", name, error)
                continue
            logger.warning("The ignorant twin is `%s`, which the target was tuned from.", name)
            # For the record.
            args.ignorant_model_name_or_path = name
            return twin
    names = (args.forget_subjects, args.forget_aliases)
    alias = alias_twin(forget, retain, tokenizer, *names, args.seed, args.lambda_bss > 0)
    can_repair = not args.forget_aliases and alias.moved and args.ignorant_retain_rows and args.ignorant_epochs
    if not can_repair or not is_known_by_heart(model, alias, forget.select_columns(list(ENCODED_COLUMNS))):
        return alias
    logger.warning(
        "The target gives the memorised answers under any name, and names no base. The ignorant twin is a copy of it "
        "that loses everything, and gets the form of its answers back from %d retain rows. A model that never saw the "
        "forget set, in `ignorant_model_name_or_path`, is a better one.",
        min(args.ignorant_retain_rows, len(retain)),
    )
    if (args.forget_loss_kwargs or {}).get("margin"):
        logger.warning(
            "`margin` of `forget_loss_kwargs` is %s, and the copy holds the true answers at the level of strangers: "
            "they will end below it. With 0 they end there.",
            args.forget_loss_kwargs["margin"],
        )
    sizes["subjects"] = args.forget_subjects
    return BaseTwin(repaired_copy(model, forget, retain, alias.moved, tokenizer, **sizes))
