# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""`trl-unlearn forget` as a function: `from trl_unlearn import unlearn`."""

import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from peft import AutoPeftModelForCausalLM
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..hub.folder import CARD_FILE, RunFolder, holds_adapter, saved_files
from ..hub.push import save_merged
from ..verdict import Verdict, verdict
from .arguments import as_options
from .exits import raising
from .forget import refuse_none, run
from .push import main as publish


@dataclass(frozen=True)
class Unlearned:
    """
    What [`unlearn`] gives back.

    Attributes:
        folder (`Path` or `None`):
            Absolute path of the run's output folder: adapter or model, tokenizer, card, records and figures. None
            where there was nothing to forget, and nothing was changed.
        shortfall (`str` or `None`):
            What is missing to the goal; None if it was reached.
        trust_remote_code (`bool`):
            Whether the model may run code of its own, as in the call.
    """

    folder: Path | None
    shortfall: str | None = None
    trust_remote_code: bool = False

    @property
    def verdict(self) -> Verdict | None:
        """The answers to the five questions about the model; None without a run, or an evaluation of its weights."""
        if self.folder is None:
            return None
        folder = RunFolder(self.folder)
        result = folder.own_results(folder.run()).result
        return None if result is None else verdict(result)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The unlearned model; an adapter is on its base."""
        folder = self._made()
        loader = AutoPeftModelForCausalLM if holds_adapter(folder) else AutoModelForCausalLM
        return loader.from_pretrained(folder, trust_remote_code=self.trust_remote_code)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the model."""
        return AutoTokenizer.from_pretrained(self._made(), trust_remote_code=self.trust_remote_code)

    def save(self, folder: str | Path) -> None:
        """Save the whole model, an adapter merged into it, and the tokenizer: an adapter can be taken off again."""
        made, folder = self._made(), Path(folder)
        held = RunFolder(folder)
        if held.holds_run or set(held.files_of_user()) - {CARD_FILE}:
            raise ValueError(
                f"`{folder}` holds files of a run or a model, which this one would replace. Give another."
            )
        if holds_adapter(made):
            save_merged(made, RunFolder(made).run(), folder, trust_remote_code=self.trust_remote_code)
            self.tokenizer.save_pretrained(folder)
            return
        folder.mkdir(parents=True, exist_ok=True)
        for name in saved_files(made, is_adapter=False):
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copy(made / name, folder / name)

    def push_to_hub(self, repo_id: str, **options: Any) -> None:
        """
        Publish the run as `trl-unlearn push` does, in a private repository.

        Args:
            repo_id (`str`):
                Id of the repository, such as `"me/unlearned"`.
            options:
                Options of `trl-unlearn push`, such as `merge=True`.
        """
        options = {"trust_remote_code": self.trust_remote_code, **options}
        argv = as_options({"output_dir": self._made(), "hub_model_id": repo_id, **options})
        with raising():
            publish(argv)

    def _made(self) -> Path:
        if self.folder is None:
            raise ValueError("There was nothing to forget, so no model was made. Use the one that was given.")
        return self.folder


def unlearn(
    model: str | None = None,
    forget: Any = None,
    *,
    subject: str | None = None,
    retain: Any = None,
    **options: Any,
) -> Unlearned:
    """
    Make a model forget rows, or a subject. All settings are chosen; the run ends in a folder of its own.

    Raises `ValueError` for what cannot be used, before anything is computed, and `RuntimeError` if the run fails. A
    goal that is not reached is no error: see `shortfall`.

    Args:
        model (`str`, *optional*):
            Id on the Hub, or folder, of a causal language model. Not with the option `add="out"`, the folder of a run
            that this request resumes from.
        forget (`str`, `Dataset`, `DataFrame`, `list[dict]` or `list[str]`, *optional*):
            Rows to forget: a file, a folder, an id on the Hub, or rows in memory, with `messages`, `prompt` and
            `completion`, `question` and `answer`, `instruction` and `output`, or `text`. A list of strings is raw
            text.
        subject (`str`, *optional*):
            A name in place of rows: what the model believes about it is forgotten.
        retain (`str`, `Dataset`, `DataFrame`, `list[dict]`, `list[str]` or `RetainSource`, *optional*):
            Rows to keep, in the same forms, or a [`~trl_unlearn.data.retain_source.RetainSource`] of one's own. By
            default the model makes them.
        options:
            Options of `trl-unlearn forget`, such as `output_dir="out"` or `max_minutes=30`.

    Example:

    ```python
    result = unlearn("org/model", forget="rows.jsonl")
    result.save("out")
    ```
    """
    if not isinstance(model, str | Path | None):
        raise ValueError(
            f"`model` is a `{type(model).__name__}`. Give its folder or its id on the Hub: it is loaded several times."
        )
    refuse_none(options)
    sets = {"forget": forget, "retain": retain}
    in_memory = {name: rows for name, rows in sets.items() if not isinstance(rows, str | Path | None)}
    sets |= dict.fromkeys(in_memory, "rows in memory")
    with raising():
        argv = as_options({"model_name_or_path": model, "subject": subject, **sets, **options})
        outcome = run(argv, "unlearn", **in_memory)
    # The caller may change the working directory.
    folder = None if outcome.folder is None else outcome.folder.absolute()
    return Unlearned(folder, outcome.shortfall, outcome.trust_remote_code)
