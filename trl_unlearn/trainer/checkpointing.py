# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Checkpoints that are written whole or not at all, and from which a run resumes exactly."""

import errno
import json
import os
import re
import shutil
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from transformers.trainer_utils import IntervalStrategy, TrainOutput, rotate_checkpoints
from trl import SFTTrainer

from .bootstrap_unlearn_config import SECRETS


# Files of a checkpoint: the state that all processes share, and that of each process.
_SHARED, _OWN = "unlearning_state.safetensors", "unlearning_state_{rank}.safetensors"
_STATES = "unlearning_state*.safetensors"
# Checkpoints are written in this folder, and moved when they are whole. Hidden: nothing takes it for a result.
_UNFINISHED = ".unfinished"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
# How `tokenizers`, with a bare `Exception`, and `torch.save`, with a `RuntimeError`, say that a file was not written.
_DISK_WORDS = ("(os error ", "inline_container", "file write failed")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written. The ones before it are as they were."""


class ResumeError(ValueError):
    """Training cannot be resumed from a checkpoint."""


def is_full_disk(error: Exception) -> bool:
    """Whether an error says that a disk is full or broken; a missing file does not count."""
    if isinstance(error, OSError):
        return error.errno in _DISK_ERRORS
    return isinstance(error, SafetensorError) or any(words in str(error) for words in _DISK_WORDS)


def last_checkpoint(folder: str | os.PathLike) -> Path | None:
    """The checkpoint of the highest step in an output folder that is whole, or None."""
    checkpoints = {
        int(match[1]): path
        for path in Path(folder).glob("checkpoint-*")
        if (match := _CHECKPOINT.fullmatch(path.name)) and (path / _SHARED).is_file()
    }
    return checkpoints[max(checkpoints)] if checkpoints else None


def write_state(path: Path, parts: Mapping[str, Mapping[str, Any]]) -> None:
    """Write part -> name -> tensor or JSON value; only its owner can read the file, which may hold text to forget."""
    named = [(f"{part}/{name}", value) for part, state in parts.items() for name, value in state.items()]
    tensors = {name: value.detach().cpu().contiguous() for name, value in named if isinstance(value, Tensor)}
    values = {
        part: {name: value for name, value in state.items() if not isinstance(value, Tensor)}
        for part, state in parts.items()
    }
    # With the mode from the start: nobody else can open it before it is closed.
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(save(tensors, metadata={"values": json.dumps(values)}))


def read_state(path: Path) -> dict[str, dict[str, Any]]:
    """Read what [`write_state`] wrote; `ValueError` if the file is missing or broken."""
    try:
        with safe_open(path, framework="pt") as file:
            parts = json.loads(file.metadata()["values"])
            for key in file.keys():  # noqa: SIM118
                part, _, name = key.partition("/")
                # A copy, not a view of the file, which may be replaced.
                parts[part][name] = file.get_tensor(key).clone()
    except (OSError, SafetensorError, TypeError, KeyError) as error:
        raise ValueError(
            f"`{path.parent}` cannot be resumed from: its `{path.name}` is missing or broken ({error}). Take another "
            "checkpoint, saved by this trainer without `save_only_model` and `remove_belief_state`, or "
            "train from the start."
        ) from error
    return parts


class ResumableTrainer(SFTTrainer):
    """An SFT trainer that resumes from a checkpoint as if it had not been interrupted."""

    def __init__(self, *args: Any, **kwargs: Any):
        self._writes_checkpoint = False
        self._log_state: dict[str, Any] | None = None
        # Sum of the losses that the interrupted run has logged.
        self._earlier_loss = 0.0
        self._has_trained = False
        super().__init__(*args, **kwargs)
        self._makes_optimizer = self.optimizer is None

    def _begin_run(self) -> None:
        """Reset what belongs to one call of `train`."""
        self._log_state, self._earlier_loss = None, 0.0
        self._metrics["train"].clear()
        if self._makes_optimizer:
            # `Trainer` makes a new schedule for each call, but would keep the moments of the last optimizer.
            self.optimizer = None

    @abstractmethod
    def _shared_state(self) -> dict[str, dict[str, Any]]:
        """State that is the same in all processes, by part."""

    @abstractmethod
    def _own_state(self) -> dict[str, dict[str, Any]]:
        """State of this process, by part."""

    @abstractmethod
    def _load_state(self, shared: dict[str, dict[str, Any]], own: dict[str, dict[str, Any]]) -> None:
        """Restore the states of a checkpoint."""

    # Saving

    def _get_output_dir(self, trial):
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, _UNFINISHED) if self._writes_checkpoint else folder

    def _save(self, output_dir=None, state_dict=None):
        # `training_args.bin`, which others may read, holds all arguments. A run that resumes is given them anew.
        kept = {name: getattr(self.args, name) for name in SECRETS}
        try:
            for name in SECRETS:
                setattr(self.args, name, None)
            super()._save(output_dir, state_dict)
        finally:
            for name, value in kept.items():
                setattr(self.args, name, value)

    def _save_checkpoint(self, model, trial):
        folder = Path(self._get_output_dir(trial))
        unfinished, name = folder / _UNFINISHED, f"checkpoint-{self.state.global_step}"
        try:
            if self.args.should_save:
                shutil.rmtree(unfinished, ignore_errors=True)
            # No process writes before the leftovers of an earlier attempt are gone.
            self.accelerator.wait_for_everyone()
            # From here to `finally`, `_get_output_dir` names the hidden folder.
            self._writes_checkpoint = True
            super()._save_checkpoint(model, trial)
            if not self.args.save_only_model:
                self._write_states(unfinished / name)
            # Whole means: with the states of all processes.
            self.accelerator.wait_for_everyone()
            # `Trainer` has just noted where the best checkpoint is, in the hidden folder that is about to go: in every
            # process, each of which may load it.
            is_best = str(self.state.best_model_checkpoint or "").startswith(str(unfinished))
            if is_best:
                self.state.best_model_checkpoint = str(folder / name)
            if self.args.should_save:
                if is_best:
                    self.state.save_to_json(str(unfinished / name / "trainer_state.json"))
                self._publish_checkpoint(unfinished, folder, name)
        except KeyboardInterrupt:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        except Exception as error:
            if not (isinstance(error, OSError) or is_full_disk(error)):
                raise
            shutil.rmtree(unfinished, ignore_errors=True)
            last = last_checkpoint(folder)
            then = "There is none before it: make room, and train from the start."
            if last:
                then = f"The last one is `{last}`: make room, and resume from it with `resume_from_checkpoint=True`."
            raise CheckpointError(
                f"The checkpoint of step {self.state.global_step} could not be written to `{folder}` "
                f"({' '.join(str(error).split())}). {then}"
            ) from error
        finally:
            self._writes_checkpoint = False
        self.accelerator.wait_for_everyone()

    def _write_states(self, checkpoint: Path) -> None:
        if self.args.should_save:
            run = {"run": {"world_size": self.args.world_size}}
            write_state(checkpoint / _SHARED, run | self._shared_state())
        # Sums of the log since its last entry, which every process has for itself.
        log = {
            "loss": self._tr_loss,
            "total": self._earlier_loss + self._total_loss_scalar,
            "step": self._globalstep_last_logged,
            "means": {name: list(values) for name, values in self._metrics["train"].items()},
        }
        callbacks = {f"callback {name}": one.state_dict() for name, one in self._stateful_callbacks().items()}
        write_state(
            checkpoint / _OWN.format(rank=self.args.process_index), self._own_state() | callbacks | {"log": log}
        )

    def _publish_checkpoint(self, unfinished: Path, folder: Path, name: str) -> None:
        # A folder cannot be moved onto another one that is not empty.
        if (folder / name).exists():
            os.replace(folder / name, unfinished / "replaced")
        os.replace(unfinished / name, folder / name)
        shutil.rmtree(unfinished, ignore_errors=True)
        # `Trainer` has rotated the hidden folder only, which never holds more than one.
        rotate_checkpoints(
            output_dir=str(folder),
            save_total_limit=self.args.save_total_limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
            use_mtime=True,
        )

    def _stateful_callbacks(self) -> dict[str, Any]:
        callbacks = [one for one in self.callback_handler.callbacks if hasattr(one, "load_state_dict")]
        return {f"{i} {type(one).__name__}": one for i, one in enumerate(callbacks)}

    # Resuming

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> TrainOutput:
        """
        Train, from the start or from a checkpoint.

        A second call starts from the weights as they are. Everything else begins anew: schedules, beliefs, optimizer
        (unless it was passed in), record. The reference stays the model as it was passed in.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                Checkpoint to resume from; `True` for the last one in `output_dir` that is whole.
            kwargs (`dict[str, Any]`, *optional*):
                Passed to [`~transformers.Trainer.train`].

        Returns:
            [`~transformers.trainer_utils.TrainOutput`]: See there.

        Raises:
            [`ResumeError`]: If there is no such checkpoint, or it is one of another run.
            [`CheckpointError`]: If a checkpoint cannot be written.
        """
        if self._has_trained:
            self._begin_run()
        self._has_trained = True
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ResumeError(
                    f"`resume_from_checkpoint` is set, but `{self.args.output_dir}` holds no checkpoint that is "
                    "whole. Leave it out to train from the start, or check `output_dir`."
                )
        if resume_from_checkpoint:
            resume_from_checkpoint = str(resume_from_checkpoint)
            try:
                self._restore(Path(resume_from_checkpoint))
            except ValueError as error:
                raise ResumeError(str(error)) from error
            except KeyError as error:
                raise ResumeError(
                    f"The state in `{resume_from_checkpoint}` has no {error}: another version of trl-unlearn saved "
                    "it. Resume with that version, or train from the start."
                ) from error
        output = super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)
        if self.args.remove_belief_state and self.args.should_save:
            for state in Path(self.args.output_dir).glob(f"checkpoint-*/{_STATES}"):
                state.unlink()
        return output

    def _restore(self, checkpoint: Path) -> None:
        shared = read_state(checkpoint / _SHARED)
        processes = shared["run"]["world_size"]
        if processes != self.args.world_size:
            raise ValueError(
                f"`{checkpoint}` was saved by {processes} processes, and this run has {self.args.world_size}. Start "
                f"it with {processes}, or train from the start."
            )
        own = read_state(checkpoint / _OWN.format(rank=self.args.process_index))
        self._load_state(shared, own)
        self._log_state, self._earlier_loss = own["log"], own["log"]["total"]
        for name, callback in self._stateful_callbacks().items():
            if f"callback {name}" in own:
                callback.load_state_dict(own[f"callback {name}"])

    def _init_training_state(self, max_steps: int, *args: Any, **kwargs: Any) -> tuple[int, int]:
        done = super()._init_training_state(max_steps, *args, **kwargs)
        # `logging_steps` and the like of this run: the checkpoint brings those of the interrupted one.
        self.state.compute_steps(self.args, max_steps)
        return done

    def _finalize_training(self, *args: Any, **kwargs: Any) -> TrainOutput:
        output = super()._finalize_training(*args, **kwargs)
        return output._replace(training_loss=output.metrics["train_loss"])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "train_loss" in logs:
            # Of all steps: `Trainer` takes those of this call, and of the loss what was not logged before it, too.
            total = self._earlier_loss + self._total_loss_scalar
            logs["train_loss"] = total / max(self.state.global_step, 1)
        super().log(logs, start_time)

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # Otherwise the steps since the last entry are in no log, and a run shorter than `logging_steps` has none.
        if self.control.should_training_stop and self.args.logging_strategy != IntervalStrategy.NO:
            self.control.should_log = True
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # `Trainer` makes a step too many where it resumes from the last one in the middle of an epoch, and where a
        # callback has stopped it before the first.
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        if self._log_state is not None:
            # Here, after `Trainer` has cleared them: the next entry is the mean since the last one in the log.
            self._tr_loss = self._log_state["loss"].to(self.args.device)
            self._globalstep_last_logged = self._log_state["step"]
            for name, values in self._log_state["means"].items():
                self._metrics["train"][name] = values
            self._log_state = None
        super()._run_epoch(*args, **kwargs)
