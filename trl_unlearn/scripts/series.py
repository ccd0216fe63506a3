# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Several runs in one process: all parsed before the first begins, skipped when finished, cleared when cut off."""

import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from ..evaluation.callbacks import CannotBeginError
from ..hub.folder import RunFolder
from ..records import write_whole
from ..trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig
from ..trainer.bootstrap_unlearn_trainer import BootstrapUnlearnTrainer
from ..trainer.checkpointing import last_checkpoint
from ..trainer.guard import DivergenceError
from ..trainer.logs import say, say_one_line
from .arguments import (
    DataArguments,
    EvaluationArguments,
    UnlearnModelConfig,
    as_options,
    default_config,
    parse,
    use_archive,
)
from .evaluate import SuiteArguments
from .exits import close_bars, one_line, refuse, stop
from .models import (
    check_models,
    identities,
    load_config,
    load_tokenizer,
    refuse_replaced,
    refuse_whole_quantized,
)


@dataclass
class Job:
    """One run of a series, parsed. `label` names it in messages; it is finished when the file `finished` exists."""

    name: str
    label: str
    folder: Path
    finished: Path
    data_args: DataArguments
    training_args: BootstrapUnlearnConfig
    model_args: UnlearnModelConfig
    settings: str
    earlier: list["Job"]
    # Its number and label, when it runs.
    place: str = ""
    # Digests of its rows and models by name: no option shows that a file is another one.
    content: dict[str, Any] = field(default_factory=dict)

    def kept(self) -> dict[str, Any]:
        """The parts of the last file of the run; none before it is finished."""
        return json.loads(self.finished.read_text(encoding="utf-8")) if self.finished.is_file() else {}

    def keep(self, **parts: Any) -> None:
        """Put parts into the last file of the run, whole or not at all: it says that the folder is complete."""
        parts = self.kept() | {"settings": self.settings, "content": self.content} | parts
        write_whole(self.finished, json.dumps(parts, indent=2) + "\n")


class Series:
    """The runs of one command line, each with own options behind it; `finished` is the file that a run writes last."""

    def __init__(
        self, own_types: tuple[type, ...], prog: str, doc: str, argv: list[str] | None, recipe: str, finished: str
    ):
        self._prog, self._doc, self._finished = prog, doc, finished
        # Once for all runs: the options of a run may name rows, which keeps the recipe away.
        self._argv = default_config(sys.argv[1:] if argv is None else argv, recipe)
        # The own options stand in the middle: `add` and `prepare` know the first and the last two.
        self._types = (DataArguments, EvaluationArguments, *own_types, BootstrapUnlearnConfig, UnlearnModelConfig)
        arguments, _ = self._parse()
        self.data_args, self.eval_args, *self.own_args, self.training_args, self.model_args = arguments
        self.folder = Path(self.training_args.output_dir)
        self.jobs: list[Job] = []

    def _parse(self, *flags: str) -> tuple[tuple[Any, ...], str]:
        # A finished run may be measured by more. What that changes, rows and conditions of the results tell.
        measuring, argv = (EvaluationArguments, SuiteArguments), [*self._argv, *flags]
        arguments, settings = parse(self._types, self._prog, self._doc, argv, measuring=measuring)
        refuse_for_several(arguments[-2])
        return arguments, settings

    def add(self, name: str, label: str, folder: str, options: Mapping[str, Any]) -> None:
        """Parse a run now, so that a mistake in the last one is found before the first begins."""
        path = self.folder / folder
        if other := next((job.label for job in self.jobs if job.folder == path), None):
            raise ValueError(f"The {other} and the {label} have one folder, `{path}`. Rename one, or leave it out.")
        if empty := [option for option, value in options.items() if value is None]:
            raise ValueError(f"The {label} sets `{empty[0]}` to nothing, which no option can be. Leave it out.")
        arguments, settings = self._parse(*as_options({**options, "output_dir": path}))
        data_args, *_, training_args, model_args = arguments
        finished, earlier = path / self._finished, list(self.jobs)
        self.jobs.append(
            Job(name, label, path, finished, data_args, training_args, model_args, settings, earlier=earlier)
        )

    def prepare(self) -> tuple[PreTrainedTokenizerBase, PretrainedConfig]:
        """Check all runs and models; returns tokenizer and config of the target."""
        with self.training_args.main_process_first(desc="the embedded lab"):
            use_archive(self.data_args, self.eval_args, self.model_args)
        for job in self.jobs:
            # Jobs were parsed before the embedded lab had a folder. Their settings are digested already.
            job.data_args.dataset_name = self.data_args.dataset_name
            job.model_args.model_name_or_path = self.model_args.model_name_or_path
            if (kept := job.kept()) and kept.get("settings") != job.settings:
                raise ValueError(
                    f"`{job.folder}` holds a finished run with other settings. Delete the folder, or give another "
                    "`--output_dir`."
                )
        trust_remote_code = self.training_args.trust_remote_code
        checked = set()
        for model_args in (self.model_args, *(job.model_args for job in self.jobs)):
            names = (model_args.model_name_or_path, model_args.model_revision, model_args.adapter_name_or_path)
            if names not in checked:
                check_models(model_args, self.eval_args, trust_remote_code)
                checked.add(names)
            refuse_whole_quantized(model_args)
        for job in self.jobs:
            refuse_replaced(job.folder, job.model_args, self.eval_args, job.training_args.ignorant_model_name_or_path)
            if held := _held(job):
                raise ValueError(
                    f"`{job.folder}` holds {held}. The {job.label} would replace that: move it, or give another "
                    "`--output_dir`."
                )
        tokenizer = load_tokenizer(self.model_args, trust_remote_code, self.training_args.chat_template_path)
        return tokenizer, load_config(self.model_args, trust_remote_code)

    def identify(self, rows: Sequence[Mapping[str, str]], goal: str | None = None) -> None:
        """Note digests of the rows of each run, and of its models; refuse a finished run that had others."""
        names = {"target": self.model_args.model_name_or_path, "adapter": self.model_args.adapter_name_or_path}
        teachers = [job.training_args.ignorant_model_name_or_path for job in self.jobs]
        shared, by_name = identities(names | {"retrained model": goal}), identities({name: name for name in teachers})
        for job, own, teacher in zip(self.jobs, rows, teachers, strict=True):
            job.content = {**own, **shared, "ignorant model": by_name[teacher]}
            earlier = job.kept().get("content", job.content)
            if changed := [name for name, digest in job.content.items() if earlier.get(name) != digest]:
                raise ValueError(
                    f"`{job.folder}` holds a finished run, and since then its {' and '.join(changed)} changed. "
                    "Put back what was there, delete the folder, or give another `--output_dir`."
                )

    def run(self, work: Callable[[Job], None], desc: str, chained: bool = False) -> Iterator[dict[str, Any]]:
        """Do the work of each unfinished run, and of all after it if `chained`; yields the record of each run."""
        is_stale = False
        is_main = PartialState().is_main_process
        for number, job in enumerate(tqdm(self.jobs, desc=desc, disable=None if is_main else True), 1):
            is_stale = (chained and is_stale) or not job.finished.is_file()
            if is_stale:
                job.place = f"{number} of {len(self.jobs)}: {job.label}"
                if is_main and job.training_args.verbose:
                    say(job.place)
                folder = RunFolder(job.folder)
                if is_main and job.folder.exists():
                    # The remains of an interrupted run: a series restarts it, from its first step.
                    shutil.rmtree(job.folder)
                if is_main:
                    folder.mark_unfinished(job.settings)
                PartialState().wait_for_everyone()
                try:
                    work(job)
                # Other errors keep their traceback.
                except (CannotBeginError, DivergenceError) as error:
                    end_series(self._prog, error, job.label)
                finally:
                    # No run of a series resumes with it.
                    if is_main:
                        folder.drop_twin()
                PartialState().wait_for_everyone()
                if is_main:
                    folder.mark_finished()
            # From the file, whether it was written now or by an earlier command: results have one form.
            yield job.kept()["run"]


def _held(job: Job) -> str:
    """Files in the folder of a run that no series wrote, in words; `""` if there are none."""
    folder = RunFolder(job.folder)
    if job.finished.is_file() or not job.folder.exists():
        return ""
    if folder.is_unfinished:
        # A series starts its runs anew. Those of other commands would resume from their checkpoints.
        is_own = folder.unfinished_settings() == job.settings or last_checkpoint(job.folder) is None
        return "" if is_own else "an unfinished run of another command"
    if folder.is_run:
        return f"{folder.earlier_run()} of another command"
    return "files and no run" if any(job.folder.iterdir()) else ""


def folder_name(name: Any) -> str:
    """A name with dashes for what a folder's name should not hold."""
    return re.sub(r"[^\w.-]+", "-", str(name))


def train_and_save(trainer: BootstrapUnlearnTrainer, job: Job) -> tuple[int, float]:
    """Train and save, with one line at the end; returns the steps, and the seconds of the training."""
    say_one_line(trainer, job.place)
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    trainer.save_model()
    trainer.accelerator.wait_for_everyone()
    return trainer.state.global_step, seconds


def refuse_for_several(args: BootstrapUnlearnConfig) -> None:
    """Refuse to publish several models under one id, to resume inside one, and to train several with DeepSpeed."""
    if args.push_to_hub:
        raise ValueError(
            "`push_to_hub` is set, but this makes several models, which would overwrite each other. Leave it out, and "
            "publish the one that you choose: `trl-unlearn push --output_dir <its folder> ...`."
        )
    if args.resume_from_checkpoint is not None:
        raise ValueError(
            "`resume_from_checkpoint` is set, but a run of a series starts at its first step. Leave it out: the same "
            "command keeps the runs that are finished."
        )
    if args.deepspeed_plugin is not None:
        raise ValueError(
            "This trains several models in one process, which DeepSpeed does not allow. Launch it with DDP or FSDP "
            "(`recipes/accelerate/ddp.yaml`)."
        )


def end_series(prog: str, error: CannotBeginError | DivergenceError, label: str) -> NoReturn:
    """Exit with 2 if a run could not begin, with 3 if a guard stopped it."""
    speaks = PartialState().is_main_process
    if speaks:
        close_bars()
    end = stop if isinstance(error, DivergenceError) else refuse
    end(prog, f"{label}: {one_line(error)} Runs that are finished are kept.", speaks=speaks)
