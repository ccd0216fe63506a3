# Copyright 2026 The trl-unlearn authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""One run and its output folder: an unfinished run is resumed, a finished one is not touched."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from ..evaluation.callbacks import CannotBeginError
from ..hub.folder import RunFolder
from ..trainer.bootstrap_unlearn_config import BootstrapUnlearnConfig
from ..trainer.bootstrap_unlearn_trainer import BootstrapUnlearnTrainer
from ..trainer.checkpointing import CheckpointError, ResumeError, is_full_disk, last_checkpoint
from ..trainer.guard import DivergenceError
from .exits import fail, on_interrupt, one_line, refuse, stop


@dataclass
class OutputArguments:
    """What happens to an earlier run in the output folder."""

    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Whether to start anew in an output folder that holds a run, and replace it."}
    )


class OutputFolder:
    """
    The output folder of the run of one command, whose settings have the digest `settings`.

    A `ValueError` if the folder holds a finished run, or an unfinished one with other settings.
    """

    def __init__(self, args: BootstrapUnlearnConfig, output_args: OutputArguments, settings: str):
        self.path, self._settings = Path(args.output_dir), settings
        self._folder = RunFolder(self.path)
        self._overwrites = output_args.overwrite_output_dir
        self.checkpoint: str | bool | None = args.resume_from_checkpoint
        # The option is a string: a folder, or a word from the command line.
        if str(self.checkpoint).lower() in ("true", "false", "none"):
            self.checkpoint = True if str(self.checkpoint).lower() == "true" else None
        self._given_checkpoint, self.trained, self._ended = self.checkpoint, False, False
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

    def begin(self, trainer: BootstrapUnlearnTrainer) -> None:
        """Mark the folder as that of an unfinished run, and clear it if the run does not resume."""
        # No process clears the folder before all have read what was there.
        trainer.accelerator.wait_for_everyone()
        if not trainer.is_world_process_zero():
            return
        if self.checkpoint is None:
            self._folder.clear()
        self._folder.mark_unfinished(self._settings)
        if self.checkpoint:
            trainer.accelerator.print(f"Resuming from a checkpoint in {self.path}.")
        on_interrupt(lambda: self.progress(trainer))

    def progress(self, trainer: BootstrapUnlearnTrainer) -> str:
        """How far a run came that ends now, a colon, and how to resume it."""
        args, step, last = trainer.args, trainer.state.global_step, last_checkpoint(self.path)
        if self._ended:
            publish = f"`trl-unlearn push --output_dir {self.path} --hub_model_id {args.hub_model_id}` publishes it"
            return f"when all was done: the run is complete in `{self.path}`" + (
                f", and {publish}." if args.hub_model_id else "."
            )
        again = "the same command"
        if isinstance(self._given_checkpoint, str) and last:
            again = f"the command with `--resume_from_checkpoint {last}`"
        elif self._given_checkpoint is None and self._overwrites and last:
            again = "the same command without `--overwrite_output_dir`"
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
            judge = f"`trl-unlearn evaluate --unlearned_model_name_or_path {self.path}`"
            then = f"{judge}, with the model and the data of the command, judges it. Otherwise {then}"
        return f"after the training of {step} steps: the model is saved in `{self.path}`; {then}."

    @contextmanager
    def writing(self, prog: str, trainer: BootstrapUnlearnTrainer, what: str) -> Iterator[None]:
        """While `what` is written: exit with 1 and one sentence on a full or broken disk."""
        try:
            yield
        except CheckpointError as error:
            fail(prog, f"{error} The same command does that.")
        except Exception as error:
            if not is_full_disk(error):
                # A traceback follows: the note says that hours of training are not lost.
                if self.trained:
                    error.add_note(f"{prog}: failed {self.progress(trainer)}")
                raise
            why = f"could not be written to `{self.path}` ({one_line(error)})"
            fail(prog, f"{what} {why}, {self.progress(trainer)} Make room before that.")

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
            # Nothing is unfinished: the next command may have other settings.
            output.end(trainer)
        refuse(prog, one_line(error), speaks=trainer.is_world_process_zero())
    with output.writing(prog, trainer, "The model"):
        trainer.save_model()
    output.trained = True


def _end_diverged(
    output: OutputFolder, prog: str, trainer: BootstrapUnlearnTrainer, error: DivergenceError
) -> NoReturn:
    """Save the last good weights, if there are any, say what happened, and exit with 3."""
    trainer.stop_reason = one_line(error)
    saved = ""
    if error.good_step is not None:
        trainer.save_model()
        saved = f" They are saved in {trainer.args.output_dir}."
    # The same command would diverge again.
    output.end(trainer)
    stop(prog, f"{trainer.stop_reason}{saved}", speaks=trainer.is_world_process_zero())
