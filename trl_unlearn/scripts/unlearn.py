# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Unlearn a model into an output folder, then evaluate it: the body of `bs_s` and `bs_t`."""

import copy
import dataclasses
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback
from trl import get_peft_config, get_quantization_config

from ..evaluation.callbacks import CannotBeginError, SqueezingPanelCallback, curve_point
from ..evaluation.judge_models import load_fluency_classifier
from ..evaluation.plots import attempted
from ..evaluation.rows import EncodedSet, EvaluationRows
from ..evaluation.stopping import EndAfter, UnlearnUntil
from ..evaluation.tables import print_shortfall
from ..evaluation.tofu import evaluate_models
from ..evaluation.together import SuiteSetting
from ..hub.folder import RunFolder
from ..records import ChainLink
from ..subjects import MovedAnswers, moved_answers
from ..trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig
from ..trainer.bootstrap_unlearn_trainer import BootstrapUnlearnTrainer
from ..trainer.checkpointing import CheckpointError, ResumeError, is_full_disk, last_checkpoint
from ..trainer.guard import DivergenceError
from .arguments import (
    RETRAINED,
    STRANGERS,
    TEACHER,
    DataArguments,
    EvaluationArguments,
    StoppingArguments,
    UnlearnArguments,
    UnlearnModelConfig,
    option,
    parse,
    refuse_goal_without_reference,
    use_archive,
)
from .exits import clearing, fail, on_interrupt, one_line, refuse, refusing, stop
from .models import (
    check_models,
    evaluation_loaders,
    load_model,
    load_tokenizer,
    refuse_replaced,
    refuse_whole_quantized,
)
from .push import may_publish, publish, push_command, refuse_unpublished_base
from .results import evaluation_result, verdict_logs, write_results
from .rows import load_evaluation_rows, load_training_rows
from .sources import dataset_sources, keep_sources


@dataclass
class OutputArguments:
    """Treatment of an earlier run in the output folder."""

    overwrite_output_dir: bool = option(
        False, "Whether to start anew in an output folder that holds a run, and replace it."
    )


# Every option of a run.
TYPES = (DataArguments, EvaluationArguments, StoppingArguments, UnlearnArguments)
TYPES += (BootstrapUnlearnConfig, UnlearnModelConfig, OutputArguments)


class _AtBegin(TrainerCallback):
    """Calls a function once, when training begins."""

    def __init__(self, call: Callable[[], None]):
        self._calls = [call]

    def on_train_begin(self, args, state, control, **kwargs):
        while self._calls:
            self._calls.pop()()


class OutputFolder:
    """The output folder of a run; a `ValueError` if it holds a finished run, or one with other settings."""

    def __init__(
        self,
        args: BootstrapUnlearnConfig,
        output_args: OutputArguments,
        settings: str,
        rows_in: Path | None = None,
    ):
        self.path, self._settings, self._rows_in = Path(args.output_dir), settings, rows_in
        self._folder = RunFolder(self.path)
        self._overwrites = output_args.overwrite_output_dir
        self.checkpoint: str | bool | None = args.resume_from_checkpoint
        # The option is a string: a folder, or a word from the command line.
        if str(self.checkpoint).lower() in ("true", "false", "none"):
            self.checkpoint = True if str(self.checkpoint).lower() == "true" else None
        self._given_checkpoint, self.trained, self._ended = self.checkpoint, False, False
        self._begun = False
        if self.checkpoint is None and not self._overwrites:
            self.checkpoint = self._checkpoint_of_same_run()

    def _checkpoint_of_same_run(self) -> Path | None:
        ways = "give another `--output_dir`, or start anew in this one with `--overwrite_output_dir true`."
        if not self._folder.is_unfinished:
            if held := self._folder.earlier_run():
                raise ValueError(f"`{self.path}` holds {held}. To keep that, {ways}")
            return None
        if self._folder.unfinished_settings() != self._settings:
            raise ValueError(
                f"`{self.path}` holds an unfinished run with other settings. Resume it with the command that it was "
                f"started with (what is logged, shown, saved and published may differ); otherwise {ways}"
            )
        return last_checkpoint(self.path)

    @property
    def holds_run(self) -> bool:
        """`bool`: Whether an earlier run is to go, or to be resumed."""
        return self._folder.holds_run

    def begin(self, trainer: BootstrapUnlearnTrainer) -> None:
        """Mark the folder as that of an unfinished run, and clear it if the run does not resume."""
        # No process clears the folder before all have read what was there.
        trainer.accelerator.wait_for_everyone()
        self._begun = True
        if not trainer.is_world_process_zero():
            return
        if self.checkpoint is None:
            self._folder.clear()
        if self._rows_in is not None:
            self._folder.take_request(self._rows_in)
        self._folder.mark_unfinished(self._settings)
        if self.checkpoint:
            trainer.accelerator.print(f"Resuming from a checkpoint in {self.path}.")
        on_interrupt(lambda: self.progress(trainer))

    def progress(self, trainer: BootstrapUnlearnTrainer) -> str:
        """The progress of a run that ends now, a colon, and the way to resume it."""
        args, step, last = trainer.args, trainer.state.global_step, last_checkpoint(self.path)
        if self._ended:
            later = f", and {push_command(args)} publishes it." if args.hub_model_id else "."
            return f"when all was done: the run is complete in `{self.path}`{later}"
        again = self._command(last)
        then = f"the last checkpoint is `{last}`, and {again} resumes from it"
        if last is None:
            reasons = {
                "`save_strategy` is 'no'": args.save_strategy == "no",
                "`save_only_model` is set": args.save_only_model,
                "`remove_belief_state` is set": self.trained and args.remove_belief_state,
                "none was due yet": True,
            }
            then = f"there is no checkpoint ({next(why for why, holds in reasons.items() if holds)}), and {again} "
            then += "starts anew"
        if not self.trained:
            return f"{f'at step {step} of {trainer.state.max_steps}' if step else 'before its first step'}: {then}."
        if last is not None and int(last.name.rpartition("-")[2]) >= step:
            then = f"{again} resumes with the evaluation"
        else:
            judge = f"`trl-unlearn evaluate --unlearned_model_name_or_path {shlex.quote(str(self.path))}`"
            then = f"{judge}, with the model and the data of the command, judges it. Otherwise {then}"
        return f"after the training of {step} steps: the model is saved in `{self.path}`; {then}."

    def _command(self, last: Path | None) -> str:
        """The command that resumes from the last checkpoint, in words."""
        if isinstance(self._given_checkpoint, str) and last:
            return f"the command with `--resume_from_checkpoint {last}`"
        if self._given_checkpoint is None and self._overwrites and last:
            return "the same command without `--overwrite_output_dir`"
        return "the same command"

    @contextmanager
    def writing(self, prog: str, trainer: BootstrapUnlearnTrainer, what: str) -> Iterator[None]:
        """While `what` is written: exit with 1 and one sentence on a full or broken disk."""
        try:
            yield
        except CheckpointError as error:
            again = self._command(last_checkpoint(self.path))
            fail(prog, f"{error} {again[0].upper()}{again[1:]} does that.")
        except Exception as error:
            if not is_full_disk(error):
                # A traceback follows: the note says that hours of training are not lost.
                if self.trained:
                    error.add_note(f"{prog}: failed {self.progress(trainer)}")
                raise
            why = f"could not be written to `{self.path}` ({one_line(error)})"
            fail(prog, f"{what} {why}, {self.progress(trainer)} Make room before that.")

    def clear_refused(self) -> None:
        """Remove the ignorant twin of a trainer that was built and then refused; an unfinished run keeps its own."""
        if not self._folder.is_unfinished:
            self._folder.drop_twin()

    def give_up(self, trainer: BootstrapUnlearnTrainer) -> None:
        """Leave nothing of a run that could not begin: the next command may have other settings."""
        if not self._begun:
            return
        self.end(trainer)
        if self.checkpoint is None and trainer.is_world_process_zero():
            self._folder.clear()

    def begin_again(self) -> None:
        """From here on another attempt counts, which begins where the last one ended."""
        self.checkpoint, self.trained = None, False
        # If it cannot begin, what lies here is the last one's.
        self._begun = False

    def end(self, trainer: BootstrapUnlearnTrainer) -> None:
        """Mark the run as finished."""
        if trainer.is_world_process_zero():
            self._folder.mark_finished()
        self._ended = True


def train_into(output: OutputFolder, prog: str, trainer: BootstrapUnlearnTrainer) -> None:
    """Train from the start or from the last checkpoint, and save the model; or say why not, and exit."""
    try:
        with output.writing(prog, trainer, "The record"):
            trainer.train(resume_from_checkpoint=output.checkpoint)
    except DivergenceError as error:
        with output.writing(prog, trainer, "The model"):
            _end_diverged(output, prog, trainer, error)
    except (ResumeError, CannotBeginError) as error:
        if trainer.state.global_step == 0:
            output.give_up(trainer)
        kept = f" The model of the first attempt is in `{output.path}`." if trainer.first_attempt else ""
        refuse(prog, f"{one_line(error)}{kept}", speaks=trainer.is_world_process_zero())
    with output.writing(prog, trainer, "The model"):
        trainer.save_model()
    output.trained = True


def _end_diverged(
    output: OutputFolder, prog: str, trainer: BootstrapUnlearnTrainer, error: DivergenceError
) -> NoReturn:
    """Save the last good weights, if there are any, say what happened, and exit with 3."""
    # No goal was reached either: the model is not pushed, and `forget` does not take it for one that forgot.
    trainer.stop_reason = trainer.shortfall = one_line(error)
    trainer.missed = "diverged"
    saved = ""
    if error.good_step is not None:
        trainer.save_model()
        saved = f" They are saved in {trainer.args.output_dir}."
    # The same command would diverge again.
    output.end(trainer)
    # A process that ends with a code of its own lets the launcher end the one that writes.
    trainer.accelerator.wait_for_everyone()
    stop(prog, f"{trainer.stop_reason}{saved}", speaks=trainer.is_world_process_zero())


def main(
    prog: str,
    doc: str,
    recipe: str,
    defaults: dict[str, Any] | None = None,
    argv: list[str] | None = None,
    *,
    earlier_requests: Sequence[ChainLink] = (),
    try_again: Callable[[BootstrapUnlearnTrainer], bool] | None = None,
    rows_in: Path | None = None,
) -> None:
    """
    Parse the command line, unlearn (again, if `try_again` says so), evaluate, write the folder and publish.

    `rows_in` is the folder in which the files of the rows lie until training begins, if they are a request's.
    """
    output = None
    with clearing(lambda: output and PartialState().is_main_process and output.clear_refused()), refusing(prog):
        arguments, settings = parse(TYPES, prog, doc, argv, recipe, **(defaults or {}))
        data_args, eval_args, stop_args, args, training_args, model_args, output_args = arguments
        output = OutputFolder(training_args, output_args, settings, rows_in)
        publishes = may_publish(prog, training_args)
        with training_args.main_process_first(desc="the embedded lab"):
            use_archive(data_args, eval_args, model_args)
        read_args = data_args if rows_in is None else _in_folder(data_args, rows_in)
        check_models(model_args, eval_args, training_args.trust_remote_code)
        refuse_whole_quantized(model_args)
        if publishes:
            refuse_unpublished_base(model_args)
        refuse_replaced(output.path, model_args, eval_args, training_args.ignorant_model_name_or_path)
        trainer = build_trainer(read_args, training_args, model_args)
        trainer.earlier_requests = list(earlier_requests)
        tokenizer, config = trainer.processing_class, trainer.model.config
        # All that can be refused is loaded now, and not hours later.
        rows = None
        if args.evaluate or args.panel_prompts or stop_args.stop_at:
            rows = load_evaluation_rows(read_args, eval_args.max_eval_rows, tokenizer, config, training_args)
        classifier = load_fluency_classifier(eval_args.fluency_classifier) if args.evaluate else None
        if stop_args.stop_at:
            # Before the panel's callback, which then measures the state that is kept.
            trainer.add_callback(_stopping_callback(stop_args, eval_args, model_args, trainer, rows))
        if args.max_minutes is not None:
            trainer.add_callback(EndAfter(trainer, args.max_minutes))

        if args.panel_prompts:
            panel = SqueezingPanelCallback(
                trainer,
                list(rows.forget),
                max_new_tokens=training_args.max_completion_length,
                num_prompts=args.panel_prompts,
                seed=training_args.seed,
                path=training_args.output_dir,
            )
            trainer.add_callback(panel)

        def begin() -> None:
            output.begin(trainer)
            trainer.dataset_sources |= dataset_sources(data_args)
            if trainer.is_world_process_zero():
                keep_sources(output.path, data_args, eval_args, model_args, subjects=training_args.forget_subjects)

        if output.holds_run:
            # Last: it stays as it is until a checkpoint is read, and all other callbacks know that this one can begin.
            trainer.add_callback(_AtBegin(begin))
        else:
            begin()

    train_into(output, prog, trainer)
    if try_again is not None and try_again(trainer):
        output.begin_again()
        train_into(output, prog, trainer)
    if args.evaluate:
        with output.writing(prog, trainer, "The evaluation"):
            _evaluate(eval_args, model_args, trainer, rows, classifier)
    trainer.accelerator.wait_for_everyone()
    output.end(trainer)
    trainer.end()
    # A caller with a second attempt has its own advice.
    if trainer.shortfall and try_again is None and trainer.is_world_process_zero():
        advice = "" if trainer.stop_reason else " Train for more epochs, or with a higher learning rate."
        print_shortfall(f"{trainer.shortfall}{advice}")
    # Last, when no process waits for another: an upload may take longer than the timeout of a collective.
    if publishes and trainer.is_world_process_zero():
        publish(prog, trainer.args, trainer.forbidden_texts())


def _evaluate(
    eval_args: EvaluationArguments,
    model_args: UnlearnModelConfig,
    trainer: BootstrapUnlearnTrainer,
    rows: EvaluationRows,
    classifier: Any,
) -> None:
    """Evaluate the model as it was saved, and write the results."""
    folder = Path(trainer.args.output_dir)
    # The main process has written the files that every process loads.
    trainer.accelerator.wait_for_everyone()
    outcome = evaluate_models(
        evaluation_loaders(eval_args, model_args, str(folder), trainer.args.trust_remote_code),
        rows,
        SuiteSetting(
            trainer.processing_class, eval_args.evaluation_batch_size, trainer.args.seed, trainer.args.forget_subjects
        ),
        parity=eval_args.parity,
        fluency_classifier=classifier,
    )
    if trainer.is_world_process_zero():
        result = evaluation_result({"tofu": outcome}, eval_args, model_args, str(folder))
        write_results(folder, result, is_brief=not trainer.args.verbose)
        # Not by the trainer's own method, which would add means of the last steps.
        attempted("The verdict in the log", lambda: Trainer.log(trainer, verdict_logs(result)))


def _in_folder(data_args: DataArguments, folder: Path) -> DataArguments:
    """The rows of the same files in another folder."""
    paths = {name: Path(getattr(data_args, name)).name for name in ("forget_dataset", "retain_dataset")}
    return dataclasses.replace(data_args, **{name: str(folder / path) for name, path in paths.items()})


def build_trainer(
    data_args: DataArguments, training_args: BootstrapUnlearnConfig, model_args: UnlearnModelConfig
) -> BootstrapUnlearnTrainer:
    """Trainer with model and data; raises `ValueError` if they or their combination cannot be used."""
    name, adapter = model_args.model_name_or_path, model_args.adapter_name_or_path
    if "revision" in (training_args.model_init_kwargs or {}):
        # Tokenizer, reference and evaluation would read a revision other than the trained one.
        raise ValueError(
            "`model_init_kwargs` holds `revision`. Give `model_revision`, which counts for the evaluation too."
        )
    tokenizer = load_tokenizer(model_args, training_args.trust_remote_code, training_args.chat_template_path)
    forget, retain = load_training_rows(data_args, tokenizer, training_args.max_length)
    init_kwargs = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        # The config of the training wins.
    } | (training_args.model_init_kwargs or {})
    quantization_config = get_quantization_config(model_args)
    if adapter is not None:
        # It stays the only one.
        trusts = training_args.trust_remote_code
        init_kwargs |= {"trust_remote_code": trusts, "quantization_config": quantization_config}
        options = {"model": load_model(name, adapter=adapter, is_trainable=True, **init_kwargs)}
    else:
        options = {
            "model": name,
            "quantization_config": quantization_config,
            "peft_config": get_peft_config(model_args),
        }
        # A copy: the caller may build another trainer from the same arguments.
        training_args = copy.copy(training_args)
        training_args.model_init_kwargs = init_kwargs
    trainer = BootstrapUnlearnTrainer(
        args=training_args, train_dataset=forget, retain_dataset=retain, processing_class=tokenizer, **options
    )
    trainer.dataset_sources = dataset_sources(data_args)
    if adapter is not None:
        trainer.dataset_sources["adapter"] = {"name": adapter}
    return trainer


def _stopping_callback(
    stop_args: StoppingArguments,
    eval_args: EvaluationArguments,
    model_args: UnlearnModelConfig,
    trainer: BootstrapUnlearnTrainer,
    rows: EvaluationRows,
) -> UnlearnUntil:
    """Callback that ends training at the goal of the arguments."""
    refuse_goal_without_reference(stop_args, eval_args)
    if rows.retain is None:
        raise ValueError("`stop_at` needs a retain set: it measures what is kept. Give one.")
    forget, retain = (rows.encoded(name, trainer.processing_class) for name in ("forget", "retain"))
    retrained = evaluation_loaders(eval_args, model_args, None, trainer.args.trust_remote_code)["retrained"]
    moved = moved_for(stop_args, trainer.args, forget, retain, trainer.processing_class)
    return unlearn_until(stop_args, trainer, forget, retain, moved, retrained)


def moved_for(
    stop_args: StoppingArguments,
    args: BootstrapUnlearnConfig,
    forget: EncodedSet,
    retain: EncodedSet,
    tokenizer: PreTrainedTokenizerBase,
) -> MovedAnswers | None:
    """The answers about others that the goals of the arguments need; None if they need none."""
    if "strangers_auc" not in stop_args.metrics():
        return None
    moved = moved_answers(forget.answers, retain.answers, tokenizer, seed=args.seed, subjects=args.forget_subjects)
    if not moved:
        raise ValueError(
            "No true answer can be compared with answers about other people, as `strangers_auc` needs: one of the "
            "sets names nobody whom the other does not name, or the tokens of its rows are not those of their text. "
            "Stop at a number, or at 'retrained', with the `stop_metric` 'extraction_strength', or give rows about "
            "people by name."
        )
    return moved


def unlearn_until(
    stop_args: StoppingArguments,
    trainer: BootstrapUnlearnTrainer,
    forget: EncodedSet,
    retain: EncodedSet,
    moved: MovedAnswers | None,
    load_retrained: Callable[[], PreTrainedModel] | None,
) -> UnlearnUntil:
    """Callback that ends training at the goals of the arguments; the retrained model is loaded where it has them."""
    metrics, options = stop_args.metrics(), {"pad_token_id": trainer.processing_class.pad_token_id, "moved": moved}
    if stop_args.stop_at in (RETRAINED, TEACHER):
        model = trainer.teacher if stop_args.stop_at == TEACHER else load_retrained()
        if model is None:
            raise ValueError(
                "`stop_at` is 'teacher', and no other model teaches: `forget_loss_type` is not 'ignorance', or the "
                "target itself is asked about strangers. Stop at 'strangers', or at a number."
            )
        # In the precision in which the callback will measure the model in training.
        with trainer.accelerator.autocast():
            point = curve_point(model, forget, retain, **options)
    else:
        point = dict.fromkeys(metrics, 0.5 if stop_args.stop_at == STRANGERS else float(stop_args.stop_at))
    return UnlearnUntil(
        trainer,
        forget,
        retain,
        **options,
        goals={metric: point[metric] for metric in metrics},
        retain_floor=stop_args.stop_retain_floor,
        every_steps=stop_args.stop_every_steps,
    )
