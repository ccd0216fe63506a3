# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

# %% [markdown]
# # Unlearn in five minutes
#
# Two tiny models are built, one of them forgets four people, and then it is asked, looked into and attacked.
# Nothing is downloaded, and no accelerator is needed: after `pip install -e ".[dev]"` this takes a minute of one
# core, and another one where the two models were never built before.

# %%
import os
import sys
import warnings


# No bars: they would be what this notebook has most of.
os.environ["TQDM_DISABLE"] = "1"
warnings.filterwarnings("ignore")

import transformers
from IPython.display import Image, Markdown
from IPython.utils.capture import capture_output
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

from trl_unlearn import BootstrapUnlearnConfig, BootstrapUnlearnTrainer, EvaluationResult
from trl_unlearn.cli import main as trl_unlearn
from trl_unlearn.data.archive import build_archive
from trl_unlearn.data.tofu import load_tofu
from trl_unlearn.evaluation.callbacks import SqueezingPanelCallback
from trl_unlearn.evaluation.rows import encode_set
from trl_unlearn.evaluation.tables import print_verdict
from trl_unlearn.evaluation.tofu import score_set
from trl_unlearn.hub.leaks import TextIndex


transformers.logging.set_verbosity_error()

# %% [markdown]
# ## The lab
#
# An archive of forty invented people. The *target* was trained on all of them, the *retrained* model on the first
# thirty-six: it is what the target should become.

# %%
lab = build_archive()
tokenizer = AutoTokenizer.from_pretrained(lab.target)
models = {name: AutoModelForCausalLM.from_pretrained(getattr(lab, name)) for name in ("target", "retrained")}
forget = load_tofu(str(lab.data), "forget10_perturbed")
retain = load_tofu(str(lab.data), "retain90")
print(f"{len(forget)} rows to forget, {len(retain)} to keep; {models['target'].num_parameters():,} parameters")

# %% [markdown]
# ## Unlearn
#
# The objective is [`ignorance`](../methods/distillation.md#ignorance): the model is asked about four strangers,
# and learns to answer about the four people to forget as it does about them. `lambda_bss=0` leaves sequence
# beliefs out, which would take most of the time and keep the sentences straighter. The panel follows answers that
# are frozen before training.

# %%
args = BootstrapUnlearnConfig(
    output_dir="unlearned",
    forget_loss_type="ignorance",
    forget_aliases=["Oswin Rookwood", "Petra Saltmarsh", "Quentin Tidewell", "Rosalind Whitlock"],
    lambda_bss=0,
    retain_weight=2,
    learning_rate=4e-4,
    num_train_epochs=40,
    per_device_train_batch_size=8,
    gradient_checkpointing=False,
    save_strategy="no",
    report_to="none",
)
trainer = BootstrapUnlearnTrainer(model=str(lab.target), args=args, train_dataset=forget, retain_dataset=retain)
trainer.remove_callback(PrinterCallback)
panel = SqueezingPanelCallback(trainer, forget, max_new_tokens=32, num_prompts=8, every_steps=12, path="unlearned")
trainer.add_callback(panel)
trainer.train()
trainer.save_model()
models["unlearned"] = trainer.model.eval()

# %% [markdown]
# ## Ask all three
#
# What a push must not hold, this page must not either: an answer that repeats a row of the archive is found by
# the same search that stands before every push, and left out.

# %%
rows = load_tofu(str(lab.data), "full")
archive = TextIndex({"archive": [row["completion"][0]["content"] for row in rows]})
place = {row["prompt"][0]["content"]: index for index, row in enumerate(rows)}


def ask(model, question):
    """The greedy answer of a model, or what it repeats of the archive."""
    turns = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = model.generate(**prompt, max_new_tokens=40, do_sample=False)
    answer = tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    repeated = {leak.row for leak in archive.leaks("answer", answer.encode())}
    if place[question] in repeated:
        return "[the row, word for word]"
    return "[word for word what a row says of somebody else]" if repeated else answer


for row in forget.select(range(0, 24, 5)):
    question = row["prompt"][0]["content"]
    print(question)
    for name in ("target", "unlearned", "retrained"):
        print(f"  {name:<10} {ask(models[name], question)}")

# %% [markdown]
# The target gives the rows. The other two mix up the facts of others; without sequence beliefs the unlearned model
# breaks a sentence now and then. Numbers say how near they are:

# %%
sets = [encode_set(rows, tokenizer, name=name) for name, rows in (("forget", forget), ("retain", retain))]
print(f"{'':<10} {'extraction strength':>20} {'p(answer to forget)':>20} {'p(answer to keep)':>20}")
for name in ("target", "unlearned", "retrained"):
    values = {}
    for encoded in sets:
        answers = encoded.true_answers()
        values |= score_set(models[name], answers, parity="strict", pad_token_id=tokenizer.pad_token_id)
    columns = ("forget/extraction_strength", "forget/probability", "retain/probability")
    print(f"{name:<10}", *(f"{sum(values[column]) / len(values[column]):>20.3f}" for column in columns))

# %% [markdown]
# ## Where did the probability go?
#
# Lowering an answer hands its probability to the answers next to it: [squeezing](../beliefs.md#squeezing). Here
# are the true answers (target), their paraphrases, and what the model itself used to say instead: likely (high)
# to unlikely (low). Nothing that was likely before may rise while the true answer falls.

# %%
start, end = panel.history[0], panel.history[-1]
for band in ("target", "paraphrase", "high", "middle", "low", "wrong"):
    print(f"{band:<11} {start[band]:>6.2f} -> {end[band]:>6.2f} nats per token")
Image("unlearned/figures/squeezing.png", width=620)

# %% [markdown]
# ## Attack it
#
# Three attacks that take seconds: two steps of relearning on a fifth of the rows, reading the layers through the
# model's own head, and telling its rows from rows that no model was trained on. Each is made on all three models,
# and [the verdict](../verdict.md) compares.

# %%
with capture_output():
    options = {"dataset_name": "archive", "holdout_config": "holdout_perturbed"}
    options["unlearned_model_name_or_path"] = "unlearned"
    trl_unlearn(["evaluate", "--quick", *(part for name, value in options.items() for part in (f"--{name}", value))])
result = EvaluationResult.load("unlearned/eval_results.json")
print_verdict(result, Console(file=sys.stdout, force_jupyter=False, force_terminal=False, width=100))

# %% [markdown]
# [Whole attacks](../attacks.md) take a minute.
#
# ## The card
#
# All of it stands on the model card, in the folder that `trl-unlearn push` would send. It begins with the
# verdict:

# %%
with open("unlearned/README.md", encoding="utf-8") as file:
    card = file.read()
Markdown(card[card.index("| question") : card.index("![verdict]")])
