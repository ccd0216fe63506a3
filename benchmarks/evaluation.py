# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The TOFU suite on one model: shared passes, beside an evaluator that makes one teacher-forced pass a metric."""

import math
from collections.abc import Callable
from statistics import fmean

import torch
from settings import Settings
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_unlearn.data.tofu import load_tofu_evaluation
from trl_unlearn.encoding import prompt_ids
from trl_unlearn.evaluation.rows import encode_set
from trl_unlearn.evaluation.tofu import TofuSetting, measure_rows
from trl_unlearn.evaluation.together import SuiteSetting
from trl_unlearn.generation import Completion, eos_token_ids
from trl_unlearn.metrics import RougeRecall


MAX_NEW_TOKENS, BATCH_SIZE = 200, 32


def _load(settings: Settings):
    tokenizer = AutoTokenizer.from_pretrained(settings.model_name_or_path)
    model = AutoModelForCausalLM.from_pretrained(settings.model_name_or_path, dtype=torch.float32).to(settings.device)
    loaded = load_tofu_evaluation(
        settings.dataset_name,
        settings.forget_config,
        settings.retain_config,
        forget_split="train",
        retain_split="train",
        conversational=True,
    )
    for name in ("forget", "retain"):
        loaded[name] = loaded[name].select(range(settings.prompts))
    return model.eval(), tokenizer, {name: encode_set(rows, tokenizer, name=name) for name, rows in loaded.items()}


class PlainEvaluator:
    """One pass a metric, rows in their order, logits at every position; answers generated once a set."""

    def __init__(self, model, tokenizer, sets):
        self.model, self.tokenizer, self.sets = model, tokenizer, sets

    @torch.no_grad()
    def _pass(self, rows: list[dict]) -> tuple[list[list[float]], list[list[bool]]]:
        logps, hits = [], []
        for start in range(0, len(rows), BATCH_SIZE):
            part = rows[start : start + BATCH_SIZE]
            width = max(len(row["input_ids"]) for row in part)
            ids = torch.full((len(part), width), self.tokenizer.pad_token_id)
            mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
            for i, row in enumerate(part):
                ids[i, : len(row["input_ids"])] = torch.tensor(row["input_ids"])
                labels[i, : len(row["labels"])] = torch.tensor(row["labels"])
                mask[i, : len(row["input_ids"])] = 1
            ids, mask, labels = (x.to(self.model.device) for x in (ids, mask, labels))
            logits = self.model(input_ids=ids, attention_mask=mask).logits[:, :-1].float()
            target = labels[:, 1:]
            scores = logits.log_softmax(-1).gather(-1, target.clamp(min=0)[..., None])[..., 0]
            hit = logits.argmax(-1) == target
            for i in range(len(part)):
                scored = target[i] != -100
                logps.append(scores[i][scored].tolist())
                hits.append(hit[i][scored].tolist())
        return logps, hits

    def _means(self, rows: list[dict]) -> list[float]:
        return [fmean(row) for row in self._pass(rows)[0]]

    def _wrong(self, encoded) -> list[list[float]]:
        means = iter(self._means([row for rows in encoded.wrong for row in rows]))
        return [[next(means) for _ in rows] for rows in encoded.wrong]

    def _ratio(self, encoded, true_rows: list[dict], kind: str) -> list[float]:
        true = self._means(true_rows)
        wrong = [fmean(means) for means in self._wrong(encoded)]
        if kind == "knowledge":
            return [1 / (1 + math.exp(b - a)) for a, b in zip(true, wrong, strict=True)]
        if kind == "utility":
            return [max(0.0, 1 - math.exp(b - a)) for a, b in zip(true, wrong, strict=True)]
        return [math.exp(-abs(b - a)) for a, b in zip(true, wrong, strict=True)]

    @torch.no_grad()
    def _answers(self, encoded) -> list[Completion]:
        prompts = [prompt_ids(row) for row in encoded.answers]
        ends, answers = eos_token_ids(self.model, self.tokenizer, encoded.answers), []
        for start in range(0, len(prompts), BATCH_SIZE):
            part = prompts[start : start + BATCH_SIZE]
            padded = self.tokenizer.pad({"input_ids": part}, padding_side="left", return_tensors="pt")
            output = self.model.generate(
                **padded.to(self.model.device), do_sample=False, max_new_tokens=MAX_NEW_TOKENS, eos_token_id=ends
            )
            for ids in output[:, padded["input_ids"].size(1) :].tolist():
                length = next((i + 1 for i, token in enumerate(ids) if token in ends), len(ids))
                answers.append(Completion(ids[:length], [], ids[length - 1] in ends))
        return answers

    def run(self) -> dict[str, list[float]]:
        values = {}
        for name, encoded in self.sets.items():
            general = name not in ("forget", "retain")
            if not general:
                values[f"{name}/probability"] = [math.exp(mean) for mean in self._means(encoded.answers)]
            if name == "forget":
                cut = [-1 if closed else None for closed in encoded.closed]
                hits = [h[:end] for h, end in zip(self._pass(encoded.answers)[1], cut, strict=True)]
                values["forget/exact_memorization"] = [fmean(h) for h in hits]
                hits = [h[:end] for h, end in zip(self._pass(encoded.answers)[1], cut, strict=True)]
                values["forget/extraction_strength"] = [
                    next((len(h) - k for k in range(len(h)) if all(h[k:])), 0) / len(h) for h in hits
                ]
                paraphrased = self._means(encoded.paraphrases)
                values["forget/paraphrase_probability"] = [math.exp(mean) for mean in paraphrased]
                values["forget/truth_ratio"] = self._ratio(encoded, encoded.paraphrases, "fraction")
                values["forget/truth_ratio_knowledge"] = self._ratio(encoded, encoded.paraphrases, "knowledge")
            else:
                true = encoded.answers if general else encoded.paraphrases
                values[f"{name}/truth_ratio"] = self._ratio(encoded, true, "utility")
            if general:
                true = [math.exp(mean) for mean in self._means(encoded.answers)]
                wrong = [sum(math.exp(mean) for mean in means) for means in self._wrong(encoded)]
                values[f"{name}/probability"] = [a / (a + b) for a, b in zip(true, wrong, strict=True)]
            setting = SuiteSetting(tokenizer=self.tokenizer, batch_size=None, seed=42)
            values[f"{name}/rougeL_recall"] = setting.overlap(RougeRecall(), self._answers(encoded), encoded.texts)
        return values


def plain(settings: Settings) -> Callable[[], dict[str, list[float]]]:
    return PlainEvaluator(*_load(settings)).run


def ours(settings: Settings) -> Callable[[], dict[str, list[float]]]:
    model, tokenizer, sets = _load(settings)
    setting = TofuSetting(
        tokenizer=tokenizer,
        batch_size=None,
        seed=42,
        sets=sets,
        parity="open-unlearning",
        max_completion_length=MAX_NEW_TOKENS,
        num_squeezing_beliefs=4,
    )
    return lambda: measure_rows(model, setting)[0]


CASES = {"evaluation/one pass a metric": plain, "evaluation/shared passes": ours}
COMPARED = {"evaluation/shared passes": ["evaluation/one pass a metric"]}
# A round takes minutes: the set-up of a first call does not count.
WARM_UP = False


def agreement(a: dict[str, list[float]], b: dict[str, list[float]]) -> str:
    """Largest difference between the means of two evaluators."""
    gaps = {name: abs(fmean(a[name]) - fmean(b[name])) for name in a}
    worst = max(gaps, key=gaps.get)
    return f"Largest difference of {len(gaps)} means: {gaps[worst]:.1e} (`{worst}`)."
