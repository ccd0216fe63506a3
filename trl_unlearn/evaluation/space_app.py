# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""
The app of a Space that `trl-unlearn demo --push_space` makes: models by their ids in `models.json`, and no data.

It runs beside `demo_page.py`, where trl-unlearn is not installed. A private model needs a secret `HF_TOKEN`.
"""

import json
from contextlib import nullcontext
from pathlib import Path

import torch
from demo_page import Question, Reply, build_page, serve
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed


# `unlearned`; `target` and `retrained` where the Hub has them. Without a `target`, an adapter's base is it.
MODELS = json.loads(Path(__file__).with_name("models.json").read_text(encoding="utf-8"))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def load(name, revision=None):
    return AutoModelForCausalLM.from_pretrained(name, revision=revision, dtype="auto").to(DEVICE).eval()


tokenizer = AutoTokenizer.from_pretrained(MODELS["unlearned"])
if MODELS["is_adapter"]:
    # The id of the base stands in the adapter's own config.
    config = PeftConfig.from_pretrained(MODELS["unlearned"])
    base = load(config.base_model_name_or_path, config.revision)
    models = {"unlearned": PeftModel.from_pretrained(base, MODELS["unlearned"]).eval()}
else:
    models = {"unlearned": load(MODELS["unlearned"])}
revisions = {"target": MODELS.get("target_revision")}
models |= {role: load(MODELS[role], revisions.get(role)) for role in ("target", "retrained") if MODELS.get(role)}
if MODELS["is_adapter"] and MODELS["base_is_target"]:
    models["target"] = models["unlearned"]
roles = [role for role in ("target", "unlearned", "retrained") if role in models]


def encode(question):
    """Token ids of the prompt with the answer, and how many of them are prompt."""
    if not question.is_chat:
        space = "" if question.prompt[-1:].isspace() else " "
        prompt, whole = question.prompt, f"{question.prompt}{space}{question.answer}{tokenizer.eos_token or ''}"
        options = {}
    else:
        turns, options = [{"role": "user", "content": question.prompt}], {"add_special_tokens": False}
        variables = MODELS["chat_template_kwargs"] | {"tokenize": False}
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, **variables)
        answer = {"role": "assistant", "content": question.answer}
        # What a template writes behind the end of a turn, such as a line break, is never generated.
        whole = tokenizer.apply_chat_template([*turns, answer], **variables).rstrip()
    asked, ids = (tokenizer(text, **options)["input_ids"] for text in (prompt, whole))
    if not question.is_chat and not question.answer:
        return asked, len(asked)
    return ids, next((i for i, (a, b) in enumerate(zip(asked, ids, strict=False)) if a != b), len(asked))


@torch.no_grad()
def ask(role: str, question: Question) -> Reply:
    model = models[role]
    is_base = role == "target" and model is models["unlearned"]
    with model.disable_adapter() if is_base else nullcontext():
        ids, start = encode(question)
        inputs = torch.tensor([ids[:start]], device=DEVICE)
        eos = model.generation_config.eos_token_id
        ends = {tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])} - {None}
        options = {"max_new_tokens": question.max_new_tokens, "eos_token_id": sorted(ends)}
        options |= {"pad_token_id": tokenizer.pad_token_id or tokenizer.eos_token_id, "top_k": 0, "top_p": 1.0}
        written = [model.generate(inputs, do_sample=False, **options)]
        if question.num_samples:
            set_seed(question.seed)
            draws = {"num_return_sequences": question.num_samples, "temperature": question.temperature}
            written.append(model.generate(inputs, do_sample=True, **draws, **options))
        texts = [tokenizer.decode(one[start:], skip_special_tokens=True).strip() for batch in written for one in batch]
        tokens = []
        if question.answer:
            logits = model(torch.tensor([ids], device=DEVICE)).logits[0, start - 1 : -1].float()
            logps = logits.log_softmax(-1).gather(-1, torch.tensor(ids[start:], device=DEVICE)[:, None])[:, 0]
            tokens = list(zip(map(tokenizer.decode, ids[start:]), logps.tolist(), strict=True))
    return Reply(texts[0], texts[1:], tokens)


if __name__ == "__main__":
    page = build_page(ask, roles, title=MODELS["title"], notes=MODELS["notes"], has_chat=bool(tokenizer.chat_template))
    serve(page)
    page.block_thread()
