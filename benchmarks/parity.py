# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

r"""
Our numbers beside OpenUnlearning's definitions, written down anew: one row and one dense pass at a time, in float64.

```bash
python benchmarks/parity.py --model_name_or_path org/model --retrained_model_name_or_path org/other \
    --dataset_name locuslab/TOFU --forget_config forget10 --retain_config retain90 --holdout_config holdout10
```

Definitions: https://github.com/locuslab/open-unlearning, `src/evals/metrics` and `configs/eval/tofu_metrics`.
"""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np
import torch
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import hmean, ks_2samp
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser, PreTrainedModel

from trl_unlearn.data.tofu import load_tofu, load_tofu_evaluation
from trl_unlearn.encoding import prompt_ids, spread_evenly
from trl_unlearn.evaluation.privacy import attack_scores
from trl_unlearn.evaluation.rows import EncodedSet, encode_set
from trl_unlearn.evaluation.tofu import TofuSetting, measure_rows, summarise_tofu
from trl_unlearn.generation import eos_token_ids
from trl_unlearn.metrics import MembershipAUC, PrivLeak


TINY = 1e-10
ROLES = ("target", "retrained")
# Settings of an attack: share of the lowest tokens, and whether the end-of-turn token counts.
OURS, THEIRS = (0.2, True), (0.4, False)
_KEYS = ("probability", "rougeL_recall", "truth_ratio")


@dataclass
class Row:
    """Dense scores of one row: log-prob, rank and standardised log-prob of each label token."""

    logps: np.ndarray
    is_top1: np.ndarray
    standardised: np.ndarray

    @property
    def loss(self) -> float:
        return -float(self.logps.mean())


class Definitions:
    """OpenUnlearning's numbers of one model on encoded sets."""

    def __init__(self, model: PreTrainedModel, tokenizer, sets: Mapping[str, EncodedSet], max_new_tokens: int):
        self.model, self.tokenizer, self.max_new_tokens = model, tokenizer, max_new_tokens
        self.sets = sets
        self.rows = {name: [self._row(row) for row in encoded.answers] for name, encoded in sets.items()}

    @torch.no_grad()
    def _row(self, row: dict) -> Row:
        ids = torch.tensor([row["input_ids"]], device=self.model.device)
        dense = self.model(ids).logits[0, :-1].double().log_softmax(-1).cpu()
        labels = torch.tensor(row["labels"][1:])
        dense, labels = dense[labels != -100], labels[labels != -100]
        logps = dense.gather(1, labels[:, None])[:, 0]
        mean = (dense.exp() * dense).sum(1)
        variance = (dense.exp() * dense**2).sum(1) - mean**2
        standardised = (logps - mean) / variance.clamp(min=1e-6).sqrt()
        return Row(logps.numpy(), (dense.argmax(1) == labels).numpy(), standardised.numpy())

    def _losses(self, rows: Sequence[dict]) -> np.ndarray:
        return np.array([self._row(row).loss for row in rows])

    def _ratios(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """p(true) and p(wrong) of each row; the mean over wrong answers is one of losses."""
        encoded = self.sets[name]
        true = self._losses(encoded.paraphrases if name in ("forget", "retain") else encoded.answers)
        wrong = np.array([self._losses(rows).mean() for rows in encoded.wrong])
        return np.exp(-true), np.exp(-wrong)

    @torch.no_grad()
    def _recall(self, name: str) -> float:
        scorer, values = RougeScorer(["rougeL"], use_stemmer=True), []
        encoded = self.sets[name]
        ends = eos_token_ids(self.model, self.tokenizer, encoded.answers)
        for row, text in zip(encoded.answers, encoded.texts, strict=True):
            prompt = torch.tensor([prompt_ids(row)], device=self.model.device)
            options = {"max_new_tokens": self.max_new_tokens, "do_sample": False, "eos_token_id": ends}
            output = self.model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)[0]
            said = self.tokenizer.decode(output[prompt.size(1) :], skip_special_tokens=True).strip()
            values.append(scorer.score(text, said)["rougeL"].recall)
        return fmean(values)

    def tofu(self) -> dict[str, float]:
        """The numbers that need no other model."""
        values = {"forget/probability": fmean(math.exp(-row.loss) for row in self.rows["forget"])}
        memorized, strengths = [], []
        for row, closed in zip(self.rows["forget"], self.sets["forget"].closed, strict=True):
            right = row.is_top1[: len(row.is_top1) - closed]
            memorized.append(right.mean())
            given = next((k for k in range(len(right)) if right[k:].all()), len(right) - 1)
            strengths.append(1 - given / len(right))
        true, wrong = self._ratios("forget")
        self.truth_ratios = wrong / (true + TINY)
        values |= {
            "forget/exact_memorization": fmean(memorized),
            "forget/extraction_strength": fmean(strengths),
            "forget/paraphrase_probability": fmean(np.exp(-self._losses(self.sets["forget"].paraphrases))),
            "forget/truth_ratio": fmean(np.minimum(self.truth_ratios, 1 / (self.truth_ratios + TINY))),
            "forget/truth_ratio_knowledge": fmean(true / (true + wrong + TINY)),
            "forget/rougeL_recall": self._recall("forget"),
        }
        terms = []
        for name in ("retain", "real_authors", "world_facts"):
            probabilities = np.array([math.exp(-row.loss) for row in self.rows[name]])
            if name != "retain":
                others = np.array([np.exp(-self._losses(rows)).sum() for rows in self.sets[name].wrong])
                probabilities = probabilities / (probabilities + others + TINY)
            true, wrong = self._ratios(name)
            ratio = np.maximum(0, 1 - wrong / (true + TINY)).mean()
            part = [float(probabilities.mean()), self._recall(name), float(ratio)]
            values |= {f"{name}/{key}": value for key, value in zip(_KEYS, part, strict=True)}
            terms += part
        # Terms of general facts are no line of our table.
        kept = {key: value for key, value in values.items() if key.split("/")[0] in ("forget", "retain")}
        return kept | {"utility/model_utility": float(hmean(terms))}

    def attack_aucs(self, share: float, with_end: bool, reference: "Definitions") -> dict[str, float]:
        """AUC of each attack; a higher loss is that of a non-member."""
        scores = {name: [] for name in ("loss", "zlib", "reference", "min_k", "min_k_pp")}
        for name in ("forget", "holdout"):
            encoded = self.sets[name]
            columns = zip(self.rows[name], reference.rows[name], encoded.texts, encoded.closed, strict=True)
            for row, other, text, closed in columns:
                scores["loss"].append(row.loss)
                scores["zlib"].append(row.loss / len(zlib.compress(text.encode())))
                scores["reference"].append(row.loss - other.loss)
                for attack, values in (("min_k", row.logps), ("min_k_pp", row.standardised)):
                    values = np.sort(values if with_end else values[: len(values) - closed])
                    scores[attack].append(-values[: max(1, int(len(values) * share))].mean())
        count, aucs = len(self.rows["forget"]), {}
        for attack, one in scores.items():
            # Of all pairs; a tie counts a half.
            apart = np.subtract.outer(one[count:], one[:count])
            aucs[f"privacy/{attack}_auc"] = float(((apart > 0) + (apart == 0) / 2).mean())
        return aucs


def ours(
    models: Mapping[str, PreTrainedModel], tokenizer, sets: Mapping[str, EncodedSet], max_new_tokens: int
) -> dict:
    """Role -> metric -> our value, with the parity `open-unlearning`."""
    tofu_sets = {name: encoded for name, encoded in sets.items() if name != "holdout"}
    options = {"batch_size": None, "seed": 42, "num_squeezing_beliefs": 1, "parity": "open-unlearning"}
    setting = TofuSetting(tokenizer=tokenizer, sets=tofu_sets, max_completion_length=max_new_tokens, **options)
    rows = {role: measure_rows(model, setting)[0] for role, model in models.items()}
    outcome = summarise_tofu(rows, seed=42).models
    values = {role: {name: one.value for name, one in outcome[role].items()} for role in models}
    answers = [*sets["forget"].answers, *sets["holdout"].answers]
    texts = [*sets["forget"].texts, *sets["holdout"].texts]
    scores = {role: setting.score(model, answers, None, moments=True) for role, model in models.items()}
    count = len(sets["forget"].answers)
    for role, one in scores.items():
        for attack, per_row in attack_scores(one, texts, scores["retrained"]).items():
            auc = MembershipAUC().compute(members=[per_row[:count]], non_members=[per_row[count:]])["auc"]
            values[role][f"privacy/{attack}_auc"] = auc
    leaks = [values[role]["privacy/min_k_auc"] for role in ROLES]
    for role, leak in zip(ROLES, PrivLeak().compute(unlearned=leaks, retrained=leaks[1:] * 2)["per_row"], strict=True):
        values[role]["privacy/privleak"] = leak
    return values


def compare(
    models: Mapping[str, PreTrainedModel], tokenizer, sets: Mapping[str, EncodedSet], max_new_tokens: int = 200
) -> list[tuple[str, str, float, float, float | None]]:
    """Role, metric, our value, that of the definition, and that with OpenUnlearning's settings of an attack."""
    defined = {role: Definitions(model, tokenizer, sets, max_new_tokens) for role, model in models.items()}
    values, theirs = {role: one.tofu() for role, one in defined.items()}, {}
    for role, one in defined.items():
        test = ks_2samp(one.truth_ratios, defined["retrained"].truth_ratios)
        values[role] |= {"forget_quality/p_value": float(test.pvalue)}
        values[role] |= one.attack_aucs(*OURS, defined["retrained"])
        theirs[role] = one.attack_aucs(*THEIRS, defined["retrained"])
    for aucs in (values, theirs):
        leaks = {role: 1 - aucs[role]["privacy/min_k_auc"] for role in ROLES}
        for role in ROLES:
            aucs[role]["privacy/privleak"] = (leaks[role] - leaks["retrained"]) / (leaks["retrained"] + TINY) * 100
    mine = ours(models, tokenizer, sets, max_new_tokens)
    return [
        (role, name, mine[role][name], value, theirs[role].get(name))
        for role in ROLES
        for name, value in values[role].items()
    ]


@dataclass
class Settings:
    """Options."""

    model_name_or_path: str
    retrained_model_name_or_path: str
    dataset_name: str = field(metadata={"help": "TOFU, or a dataset of its form with all its configs."})
    forget_config: str = "forget10"
    retain_config: str = "retain90"
    holdout_config: str = field(default="holdout10", metadata={"help": "Non-members of the attacks."})
    rows: int | None = field(default=None, metadata={"help": "At most so many rows of each set."})


def _load(settings: Settings, tokenizer) -> dict[str, EncodedSet]:
    names = settings.dataset_name, settings.forget_config, settings.retain_config
    loaded = load_tofu_evaluation(*names, forget_split="train", retain_split="train", conversational=True)
    loaded["holdout"] = load_tofu(settings.dataset_name, settings.holdout_config)
    return {
        name: encode_set(rows.select(spread_evenly(len(rows), settings.rows)), tokenizer, name=name)
        for name, rows in loaded.items()
    }


def main(write: Callable[[str], None] = print) -> None:
    (settings,) = HfArgumentParser(Settings, description=__doc__).parse_args_into_dataclasses()
    tokenizer = AutoTokenizer.from_pretrained(settings.model_name_or_path)
    names = settings.model_name_or_path, settings.retrained_model_name_or_path
    models = {
        role: AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32).eval()
        for role, name in zip(ROLES, names, strict=True)
    }
    write("| model | metric | ours | definition | difference | with their k, without the end of turn |")
    write("| --- | --- | --: | --: | --: | --: |")
    for role, name, mine, value, theirs in compare(models, tokenizer, _load(settings, tokenizer)):
        other = "" if theirs is None else f"{theirs:.6g}"
        write(f"| {role} | `{name}` | {mine:.6g} | {value:.6g} | {abs(mine - value):.0e} | {other} |")


if __name__ == "__main__":
    main()
