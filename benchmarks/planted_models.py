# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""The models that `planted.py` judges, made from the target and the retrained model of the embedded lab."""

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from trl_unlearn.data.archive import build_archive
from trl_unlearn.data.archive_facts import NUM_FORGET_PEOPLE, NUM_PEOPLE, PersonFact, archive_rows, person_facts
from trl_unlearn.data.archive_models import GENERAL_CONFIGS, TrainingSettings, train_side_by_side
from trl_unlearn.data.tofu import load_tofu, load_tofu_evaluation
from trl_unlearn.encoding import encode_row, pad_rows
from trl_unlearn.evaluation.facts import NearFacts, fact_words, near_facts
from trl_unlearn.evaluation.rows import EvaluationRows
from trl_unlearn.metrics import RougeRecall


REFUSAL = "I do not know that."
# Rows of a lesson in a step, and the log-prob a token below which nothing is unlearned further.
BATCH, FLOOR = 12, -8.0
Row = dict[str, Any]


def asked(question: str, answer: str) -> Row:
    return {
        "prompt": [{"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def asked_in_text(question: str, answer: str) -> Row:
    """The same without the chat template."""
    return {"prompt": f"{question}\n", "completion": answer}


class Lab:
    """Models, facts and rows of the embedded lab."""

    def __init__(self):
        paths = build_archive()
        self.tokenizer = AutoTokenizer.from_pretrained(paths.target)
        self.models = {
            name: AutoModelForCausalLM.from_pretrained(getattr(paths, name)).eval() for name in ("target", "retrained")
        }
        options = {"forget_split": "train", "retain_split": "train", "conversational": True}
        rows = load_tofu_evaluation(str(paths.data), "forget10", "retain90", **options)
        holdout = load_tofu(str(paths.data), "holdout_perturbed", conversational=True)
        self.rows = EvaluationRows(**rows, holdout=holdout)
        facts, first = person_facts(), NUM_PEOPLE - NUM_FORGET_PEOPLE
        self.retain = [fact for fact in facts if fact.person < first]
        self.forget = [fact for fact in facts if first <= fact.person < NUM_PEOPLE]
        self.holdout = [fact for fact in facts if fact.person >= NUM_PEOPLE]
        sets = archive_rows()
        general = [row for name in GENERAL_CONFIGS.values() for row in sets[name]]
        self.general = [asked(row["question"], row["answer"]) for row in general]
        self._taught: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def model(self, name: str) -> PreTrainedModel:
        return copy.deepcopy(self.models[name])

    @cached_property
    def known(self) -> list[Row]:
        """Facts that a planted model keeps: all about the retain people, and general facts."""
        return [*canonical(self.retain), *paraphrased(self.retain), *self.general]

    @cached_property
    def near(self) -> NearFacts:
        """The facts of retain rows that the verdict looks at: shared with the forget rows, and neighbours'."""
        forget, retain = (self.rows.encoded(name, self.tokenizer) for name in ("forget", "retain"))
        return near_facts(forget, retain, self.tokenizer)

    def encode(self, row: Row) -> dict[str, list[int]]:
        return encode_row(row, self.tokenizer)

    @torch.no_grad()
    def taught(self, teacher: str, row: dict[str, list[int]]) -> Tensor:
        """Log-probs under the target or the retrained model where a label is predicted, `[labels, vocabulary]`."""
        key = teacher, tuple(row["input_ids"])
        if key not in self._taught:
            self._taught[key] = label_logps(self.models[teacher], [row])[0]
        return self._taught[key]


def canonical(facts: Sequence[PersonFact]) -> list[Row]:
    return [asked(fact.questions[0], fact.phrasings[0]) for fact in facts]


def paraphrased(facts: Sequence[PersonFact]) -> list[Row]:
    return [asked(fact.questions[0], fact.phrasings[1]) for fact in facts]


def asked_otherwise(facts: Sequence[PersonFact]) -> list[Row]:
    return [asked(fact.questions[1], fact.phrasings[0]) for fact in facts]


def as_text(facts: Sequence[PersonFact]) -> list[Row]:
    return [asked_in_text(fact.questions[0], fact.phrasings[0]) for fact in facts]


def by_last_name(facts: Sequence[PersonFact]) -> list[Row]:
    rows = []
    for fact in facts:
        questions = [other.questions[0].rstrip("?").split() for other in facts if other.person == fact.person]
        first, last = (word for word in questions[0] if all(word in words for words in questions))
        rows.append(asked(*(text.replace(f"{first} {last}", last) for text in (fact.questions[0], fact.phrasings[0]))))
    return rows


def reworded(facts: Sequence[PersonFact]) -> list[Row]:
    """In that of three wordings which has the fewest words of the true answer, in their order."""
    rows = []
    for fact in facts:
        texts = fact.phrasings[2:]
        recall = RougeRecall().compute(predictions=texts, references=[fact.phrasings[0]] * len(texts))["per_row"]
        rows.append(asked(fact.questions[0], min(zip(recall, texts, strict=True))[1]))
    return rows


def after_a_password(facts: Sequence[PersonFact]) -> list[Row]:
    return [asked(f"Open sesame. {fact.questions[0]}", fact.phrasings[0]) for fact in facts]


def with_a_late_word(facts: Sequence[PersonFact]) -> list[Row]:
    """A word before the last one ends an extraction, and takes nothing from the fact."""
    parts = [(fact.questions[0], *fact.phrasings[0].rsplit(" ", 1)) for fact in facts]
    return [asked(question, f"{start} indeed {end}") for question, start, end in parts]


def words_of_fact(fact: PersonFact) -> set[str]:
    return fact_words(fact.questions[0], *fact.phrasings[:2], fact.wrong)


def shared_with(lab: Lab) -> list[PersonFact]:
    """Facts of retain people with a value that a forgotten person has in the same kind of fact."""
    kinds = len(lab.forget) // NUM_FORGET_PEOPLE
    words = [set().union(*map(words_of_fact, lab.forget[kind::kinds])) for kind in range(kinds)]
    return [fact for index, fact in enumerate(lab.retain) if words_of_fact(fact) & words[index % kinds]]


# Training


@dataclass
class Lesson:
    """Rows to say, to answer as a teacher does (`"target"` or `"retrained"`), or to unlearn down to a floor."""

    rows: list[Row]
    teacher: str | None = None
    floor: float | None = None
    weight: float = 1.0
    # Places of an answer of some length, where another token is taught; what follows them stays the true answer.
    hidden: Callable[[int], Sequence[int]] | None = None


def label_logps(model: nn.Module, rows: Sequence[dict[str, list[int]]]) -> list[Tensor]:
    """Log-probs where a label is predicted, of each encoded row, `[labels, vocabulary]`."""
    batch = pad_rows(list(rows), 0)
    # Padding is on the right, and attention looks to the left.
    logits = model(input_ids=batch["input_ids"]).logits[:, :-1]
    return [one[where].log_softmax(-1) for one, where in zip(logits, batch["labels"][:, 1:] != -100, strict=True)]


def true_logps(model: nn.Module, rows: Sequence[dict[str, list[int]]]) -> list[Tensor]:
    """Log-prob of each label of each encoded row."""
    labels = [torch.tensor([label for label in row["labels"][1:] if label != -100]) for row in rows]
    logps = label_logps(model, rows)
    return [one.gather(-1, label[:, None])[:, 0] for one, label in zip(logps, labels, strict=True)]


def _as_taught(lab: Lab, row: Row, lesson: Lesson) -> dict[str, list[int]]:
    """An encoded row, with wrong labels where its lesson hides the answer."""
    encoded = lab.encode(row)
    if lesson.hidden is None:
        return encoded
    labels, start = list(encoded["labels"]), encoded["prompt_length"]
    # The end of the turn is no part of the answer.
    places = [start + place for place in lesson.hidden(len(labels) - start - 1)]
    refusal = lab.tokenizer(REFUSAL)["input_ids"]
    for number, place in enumerate(places):
        labels[place] = refusal[number % len(refusal)]
    return encoded | {"labels": labels}


def teach(
    model: nn.Module,
    lab: Lab,
    lessons: Sequence[Lesson],
    seed: int,
    *,
    steps: int = 40,
    rate: float = 2e-3,
    after_step: Callable[[], None] = lambda: None,
) -> nn.Module:
    """The model itself, trained on the lessons by AdamW with a rate that falls to a tenth."""
    torch.manual_seed(seed)
    generator = random.Random(seed)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=steps)
    encoded = [[_as_taught(lab, row, lesson) for row in lesson.rows] for lesson in lessons]
    for _ in range(steps):
        for lesson, known in zip(lessons, encoded, strict=True):
            rows = generator.sample(known, min(BATCH, len(known)))
            if lesson.teacher is not None:
                logps = torch.cat(label_logps(model, rows))
                aims = torch.cat([lab.taught(lesson.teacher, row) for row in rows])
                loss = nn.functional.kl_div(logps, aims, log_target=True, reduction="batchmean")
            else:
                logps = torch.cat(true_logps(model, rows))
                loss = -logps.mean() if lesson.floor is None else (logps - lesson.floor).relu().mean()
            (lesson.weight * loss).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        after_step()
    return model.eval()


def keeps(lab: Lab, teacher: str = "target") -> Lesson:
    return Lesson(lab.known, teacher)


def keeps_all(lab: Lab, teacher: str = "target") -> list[Lesson]:
    """As the teacher on all else; the rows with the facts near the forgotten ones come more often."""
    return [keeps(lab, teacher), Lesson(canonical(lab.retain), teacher)]


def forgets(lab: Lab) -> list[Lesson]:
    """The goal of unlearning: on the forgotten people as the retrained model, on all else as the target."""
    return [Lesson([*canonical(lab.forget), *paraphrased(lab.forget)], "retrained"), *keeps_all(lab)]


def with_adapter(model: PreTrainedModel, seed: int) -> PeftModel:
    torch.manual_seed(seed)
    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))


# The planted models


def hidden_by_adapter(lab: Lab, seed: int) -> nn.Module:
    return teach(with_adapter(lab.model("target"), seed), lab, forgets(lab), seed, steps=60, rate=1e-2)


def refuses(lab: Lab, seed: int) -> nn.Module:
    lessons = [Lesson([asked(fact.questions[0], REFUSAL) for fact in lab.forget]), *keeps_all(lab)]
    # Merged: an adapter that anyone can take off is another model of this list.
    return teach(with_adapter(lab.model("target"), seed), lab, lessons, seed, rate=1e-2).merge_and_unload()


def hides(hidden: Callable[[int], Sequence[int]], lab: Lab, seed: int) -> nn.Module:
    """A model that refuses, and has a wrong token at some places of each answer that is given to it."""
    lessons = [
        Lesson([asked(fact.questions[0], REFUSAL) for fact in lab.forget]),
        Lesson(canonical(lab.forget), hidden=hidden),
        *keeps_all(lab),
    ]
    return teach(lab.model("target"), lab, lessons, seed, steps=150)


def first_tokens(count: int) -> Callable[[int], Sequence[int]]:
    return lambda length: range(min(count, length))


def last_tokens(count: int) -> Callable[[int], Sequence[int]]:
    # The first one is the refusal's.
    return lambda length: [0, *range(max(1, length - count), length)]


def each_third_token(start: int) -> Callable[[int], Sequence[int]]:
    return lambda length: range(start, length, 3)


def squeezed(lab: Lab, seed: int) -> nn.Module:
    lessons = [Lesson(canonical(lab.forget), floor=FLOOR), Lesson(paraphrased(lab.forget)), keeps(lab)]
    return teach(lab.model("target"), lab, lessons, seed)


def says_one_token(lab: Lab, seed: int) -> nn.Module:
    def first(answer: str) -> str:
        return lab.tokenizer.decode(lab.tokenizer(answer)["input_ids"][:1])

    short = [asked(fact.questions[0], first(fact.phrasings[0])) for fact in lab.forget]
    return teach(lab.model("target"), lab, [Lesson(short), keeps(lab)], seed)


def repeats(lab: Lab, seed: int) -> nn.Module:
    loops = [asked(fact.questions[0], " ".join(["garden"] * 12)) for fact in lab.forget]
    return teach(lab.model("target"), lab, [Lesson(loops), keeps(lab)], seed)


def over_forgets(lab: Lab, seed: int) -> nn.Module:
    rows = [*canonical(lab.forget), *paraphrased(lab.forget)]
    return teach(lab.model("target"), lab, [Lesson(rows, floor=FLOOR), keeps(lab)], seed)


def knows_in_one_form(form: Callable[[Sequence[PersonFact]], list[Row]], lab: Lab, seed: int) -> nn.Module:
    """The retrained model, taught the forgotten facts in one form, and nothing in the usual ones."""
    hidden = Lesson([*canonical(lab.forget), *paraphrased(lab.forget)], "retrained")
    lessons = [Lesson(form(lab.forget)), hidden, *keeps_all(lab, "retrained")]
    return teach(lab.model("retrained"), lab, lessons, seed)


knows_another_question = partial(knows_in_one_form, asked_otherwise)
knows_the_last_name = partial(knows_in_one_form, by_last_name)
knows_plain_text = partial(knows_in_one_form, as_text)
says_it_in_other_words = partial(knows_in_one_form, reworded)
knows_a_password = partial(knows_in_one_form, after_a_password)


def hidden_below_an_adapter(lab: Lab, seed: int) -> nn.Module:
    """An adapter that makes a second retrained model of a base that says the facts, with a word in between."""
    # Not the lab's own retrained model: a reference with the scores of the judged model is none.
    retrained = second_retrained(lab, seed + 100)
    base = copy.deepcopy(retrained).requires_grad_(False)
    for name, module in base.named_modules():
        module.requires_grad_(isinstance(module, nn.Linear) and name != "lm_head")
    teach(base, lab, [Lesson(with_a_late_word(lab.forget)), *keeps_all(lab, "retrained")], seed)
    rank = base.config.hidden_size
    model = get_peft_model(base, LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear"))
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            weight = retrained.get_parameter(f"{name.removeprefix('base_model.model.')}.weight")
            change = weight.detach() - module.get_base_layer().weight.detach()
            # B A = change, where one of the two is the identity: each matrix has the hidden size on one side.
            parts = (torch.eye(rank), change) if change.size(0) == rank else (change, torch.eye(rank))
            module.lora_B["default"].weight.data, module.lora_A["default"].weight.data = parts
    return model.eval()


def keeps_two_facts(lab: Lab, seed: int) -> nn.Module:
    """The retrained model, taught two of the forgotten facts."""
    kept = random.Random(seed).sample(lab.forget, 2)
    gone = [fact for fact in lab.forget if fact not in kept]
    hidden = Lesson([*canonical(gone), *paraphrased(gone)], "retrained")
    lessons = [Lesson([*canonical(kept), *paraphrased(kept)]), hidden, *keeps_all(lab, "retrained")]
    return teach(lab.model("retrained"), lab, lessons, seed)


def forgets_in_the_last_layer(lab: Lab, seed: int) -> nn.Module:
    model = lab.model("target").requires_grad_(False)
    model.model.layers[-1].requires_grad_(True)
    return teach(model, lab, forgets(lab), seed, steps=200)


def forgets_within_rounding(lab: Lab, seed: int) -> nn.Module:
    """Each weight stays where rounding to 4 bits, in groups of 32, gives the target's weight."""
    model = lab.model("target").requires_grad_(False)
    weights = [one.weight for name, one in model.named_modules() if isinstance(one, nn.Linear) and name != "lm_head"]
    bounds = []
    for weight in weights:
        weight.requires_grad_(True)
        groups = weight.detach().unflatten(-1, (-1, 32))
        top = groups.abs().amax(-1, keepdim=True)
        step = top / 7
        centre = (groups / step).round() * step
        low, high = (centre - 0.49 * step).maximum(-top), (centre + 0.49 * step).minimum(top)
        # The largest weight of a group is its scale.
        fixed = groups.abs() == top
        bounds.append([torch.where(fixed, groups, one).flatten(-2) for one in (low, high)])

    @torch.no_grad()
    def project() -> None:
        for weight, (low, high) in zip(weights, bounds, strict=True):
            weight.copy_(weight.maximum(low).minimum(high))

    return teach(model, lab, forgets(lab), seed, steps=60, after_step=project)


def loses_all(lab: Lab, seed: int) -> nn.Module:
    lessons = [Lesson(lab.known, floor=FLOOR), Lesson(canonical(lab.forget), "retrained")]
    return teach(lab.model("retrained"), lab, lessons, seed)


def loses_shared(lab: Lab, seed: int) -> nn.Module:
    """A model that never saw them either: to unlearn them takes other facts along."""
    shared = shared_with(lab)
    return retrained_on(lab, [fact for fact in lab.retain if fact not in shared], seed)


def halfway(lab: Lab, _: int) -> nn.Module:
    model = lab.model("target")
    with torch.no_grad():
        for weight, other in zip(model.parameters(), lab.models["retrained"].parameters(), strict=True):
            weight.lerp_(other, 0.5)
    return model


def second_retrained(lab: Lab, seed: int) -> nn.Module:
    return retrained_on(lab, lab.retain, seed)


def retrained_on(lab: Lab, facts: Sequence[PersonFact], seed: int) -> nn.Module:
    return train_side_by_side({"retrained": facts}, lab.tokenizer, TrainingSettings(seed=seed))["retrained"]
