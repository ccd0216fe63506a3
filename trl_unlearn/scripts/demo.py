# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Ask the target, the unlearned and the retrained model of a run the same, side by side, in a browser."""

import json
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..encoding import encode_row, prompt_ids
from ..evaluation import demo_page
from ..evaluation.demo_page import Question, Reply, build_page, serve
from ..evaluation.row_views import token_texts
from ..evaluation.together import SuiteSetting
from ..hub.access import PushError, check_repo_id, is_on_hub
from ..hub.folder import RunFolder
from ..hub.push import push_space
from ..records import UnlearningRun
from ..results import MODEL_ROLES
from ..row_forms import naming
from ..trainer.bootstrap_unlearn_config import option
from .exits import fail, interruptible, one_line, refusing
from .push import forget_texts, summary
from .sources import (
    MODEL_SOURCES,
    SourceArguments,
    parse_folder,
    recorded_models,
    refuse_models,
    run_loaders,
    run_tokenizer,
)


# Packages of the app of a Space; Gradio comes with the Space itself.
_APP_PACKAGES = ("torch", "transformers", "peft", "accelerate")
_APP_README = """---
{head}---

# {title}

The same prompt to several models ({roles}), side by side. The app loads them by their ids and holds no data. If one of
them is private, give the Space a secret `HF_TOKEN` that may read it.
"""
# Any answer: the prompt of a row is the same for all.
_ANSWER = "1"
_DESCRIPTION = (
    "Serve a page, to this machine alone, that asks the target, the unlearned and the retrained model of a run the "
    "same: likeliest answer, samples, and log-probs of a candidate answer. Nothing is kept."
)


@dataclass
class DemoArguments(SourceArguments):
    """Place of the page, on this machine or the Hub, and of the models where the record has none."""

    host: str = option("127.0.0.1", "Address to listen to. '0.0.0.0' lets everybody in the network ask the models.")
    port: int | None = option(None, "Port to listen to. Default: the first free one from 7860.")
    push_space: str | None = option(
        None,
        "Space to push the page to, such as 'me/unlearned-demo', in place of serving it. With `hub_model_id`.",
    )
    hub_model_id: str | None = option(None, "Repository that the run was pushed to; the Space loads it from there.")
    hub_private_repo: bool = option(True, "Whether a new Space is private. To push to a public one, set it to false.")

    def __post_init__(self):
        if self.port is not None and not 0 < self.port < 65536:
            raise ValueError(f"`port` is {self.port}. Give one from 1 to 65535, or leave it out.")
        if (self.push_space is None) != (self.hub_model_id is None):
            raise ValueError(
                "`push_space` and `hub_model_id` belong together: the Space, and the repository that its model was "
                "pushed to. Give both, or neither."
            )
        for name in filter(None, (self.push_space, self.hub_model_id)):
            check_repo_id(name)


def main(argv: list[str] | None = None, prog: str = "trl-unlearn demo") -> None:
    """Serve the page of a run's models until it is interrupted, or push it to a Space."""
    with interruptible(prog, "and the page is gone: the same command serves it again."):
        PartialState(cpu=not torch.accelerator.is_available())
        with refusing(prog):
            args, folder = parse_folder(DemoArguments, prog, _DESCRIPTION, argv)
            run = RunFolder(folder).run()
            if find_spec("gradio") is None:
                raise ValueError("The page needs Gradio, which is not installed: `pip install 'trl-unlearn[demo]'`.")
            if args.push_space is not None:
                return _push(args, folder, run, prog)
            refuse_models(args)
            own, notes = RunFolder(folder).own_results(run), []
            loaders = run_loaders(args, folder, run, own.result, notes)
            ask, roles, has_chat = _loaded(loaders, run, run_tokenizer(folder, args.trust_remote_code), notes)
            title = f"{run.base_model.split('/')[-1]}, unlearned with {run.method}"
            page = build_page(ask, roles, title=title, notes=notes, has_chat=has_chat)
            url = serve(page, args.host, args.port)
        try:
            print("\n".join(f"{prog}: {note}" for note in notes), file=sys.stderr, end="\n" if notes else "")
            print(f"{url}: {', '.join(roles)}. Ctrl-C ends it.{_warning(args.host)}", flush=True)
            wait()
        finally:
            page.close(verbose=False)


def wait() -> None:
    """Wait for a signal."""
    threading.Event().wait()


def _warning(host: str) -> str:
    is_private = host in ("localhost", "::1") or host.startswith("127.")
    return "" if is_private else f" Everybody who reaches {host} can ask the target what was to be forgotten."


def _loaded(
    loaders: Mapping[str, Callable[[], PreTrainedModel] | None], run: UnlearningRun, tokenizer: Any, notes: list[str]
) -> tuple[Callable[[str, Question], Reply], list[str], bool]:
    """Function that asks the models, their roles, and whether they know turns. All models stay in memory."""
    models = {}
    for role in MODEL_ROLES:
        try:
            if (load := loaders.get(role)) is not None:
                models[role] = load().eval()
        except Exception as error:
            # Of any library: the page says so, and asks the others.
            notes.append(f"The {role} model could not be loaded: {one_line(error) or type(error).__name__}")
    if not models:
        raise ValueError(f"No model could be loaded. {' '.join(notes)}")
    template_kwargs = run.hyperparameters.get("chat_template_kwargs")

    def asked(role: str, question: Question) -> Reply:
        return ask(models[role], tokenizer, question, template_kwargs)

    return asked, list(models), tokenizer.chat_template is not None


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    question: Question,
    template_kwargs: Mapping[str, Any] | None = None,
) -> Reply:
    """A model's answers, and how likely it finds that of the question; `template_kwargs` go to the chat template."""
    # Samples have the same random numbers for every model.
    setting = SuiteSetting(tokenizer, seed=question.seed)
    with naming("The prompt with its candidate answer"):
        row = encode_row(_row(question, template_kwargs), tokenizer)
    top, size = max(row["input_ids"]), model.config.get_text_config().vocab_size
    if top >= size:
        raise ValueError(f"A model knows {size} tokens, and the prompt has the token {top}: it has another tokenizer.")
    # Without an answer the row has a stand-in for one.
    ends, prompt = [row], prompt_ids(row)
    limit = {"max_new_tokens": question.max_new_tokens, "desc": None}
    (greedy,) = setting.generate(model, [prompt], ends, **limit)
    keys = [(question.seed, j) for j in range(question.num_samples)]
    samples = setting.generate(model, [prompt] * len(keys), ends, keys=keys, temperature=question.temperature, **limit)
    tokens = []
    if question.answer:
        (score,) = setting.score(model, [row], None)
        labels = [label for label in row["labels"][1:] if label != -100]
        tokens = list(zip(token_texts(labels, tokenizer), score.logps, strict=True))
    return Reply(setting.text(greedy.ids), [setting.text(one.ids) for one in samples], tokens)


def _row(question: Question, template_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    prompt, answer = question.prompt, question.answer or _ANSWER
    if not question.is_chat:
        # A space belongs to the word behind it, as in rows to train on.
        return {"prompt": prompt, "completion": answer if prompt[-1:].isspace() else f" {answer}"}
    turns = {"user": prompt, "assistant": answer}
    prompt, completion = ([{"role": role, "content": text}] for role, text in turns.items())
    return {"prompt": prompt, "completion": completion, "chat_template_kwargs": dict(template_kwargs or {})}


def _push(args: DemoArguments, folder: Path, run: UnlearningRun, prog: str) -> None:
    """Push the app of a Space, which names models and holds no text of the run's rows."""
    texts = forget_texts(args, folder, prog) | {"beliefs": RunFolder(folder).belief_texts()}
    try:
        pushed = push_space(
            args.push_space,
            space_files(args, folder, run),
            folder=folder,
            model_id=args.hub_model_id,
            forbidden_texts=texts,
            private=args.hub_private_repo,
        )
    except PushError as error:
        fail(prog, str(error))
    print(summary([pushed]))
    if not pushed.private:
        print(f"WARNING: `{pushed.repo_id}` is PUBLIC: everybody can ask its target what was to be forgotten.")


def space_files(args: DemoArguments, folder: Path, run: UnlearningRun) -> dict[str, str]:
    """The files of the Space: path -> text."""
    known = recorded_models(folder, run) | args.given(MODEL_SOURCES)
    models = {"unlearned": args.hub_model_id, "is_adapter": run.is_adapter}
    # The base of an adapter that continues another one never was the target.
    models["base_is_target"] = run.is_adapter and run.adapter.continued_from is None
    others = {"retrained": known.get("retrained_model_name_or_path")}
    if not run.is_adapter:
        others["target"] = known.get("model_name_or_path")
    # Folders of this machine are of no use there, and nobody's business.
    models |= {role: name for role, name in others.items() if name and is_on_hub(name)}
    if "target" in models and (revision := known.get("model_revision")):
        models["target_revision"] = revision
    roles = [role for role in MODEL_ROLES if role in models or (role == "target" and models["base_is_target"])]
    missing = [role for role in MODEL_ROLES if role not in roles]
    models["notes"] = [f"The {role} model is not on the Hub." for role in missing]
    models["title"] = f"{args.hub_model_id.split('/')[1]}: {' beside '.join(roles)}"
    models["chat_template_kwargs"] = run.hyperparameters.get("chat_template_kwargs") or {}
    head = {"title": models["title"], "sdk": "gradio", "sdk_version": _app_version("gradio"), "app_file": "app.py"}
    head["models"] = [models[role] for role in MODEL_ROLES if role in models]
    readme = _APP_README.format(
        head=yaml.safe_dump(head, sort_keys=False), title=models["title"], roles=", ".join(roles)
    )
    return {
        "README.md": readme,
        "app.py": _source("space_app.py"),
        "demo_page.py": _source("demo_page.py"),
        "models.json": json.dumps(models, indent=2, ensure_ascii=False) + "\n",
        "requirements.txt": "".join(f"{name}>={_app_version(name)}\n" for name in _APP_PACKAGES),
    }


def _source(name: str) -> str:
    return files(demo_page.__package__).joinpath(name).read_text(encoding="utf-8")


def _app_version(package: str) -> str:
    """The version that runs here, without the label of a build such as `+cpu`."""
    return version(package).split("+")[0]
