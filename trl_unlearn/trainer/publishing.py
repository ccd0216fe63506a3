# SPDX-FileCopyrightText: 2026 The trl-unlearn authors
# SPDX-License-Identifier: Apache-2.0

"""Records, card and pushes of a trainer. `hub` decides which files a folder holds and which may leave it."""

import logging
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from datasets import Dataset
from huggingface_hub import get_full_repo_name
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ..hub.access import check_access, explaining
from ..hub.folder import RunFolder
from ..hub.leaks import answer_texts
from ..hub.push import PushedRepo, push_output
from ..records import UnlearningRun
from .checkpointing import ResumableTrainer
from .run_record import RunClock, build_run_record


logger = logging.getLogger(__name__)


class PublishingTrainer(ResumableTrainer):
    """A trainer with our record, card and pushes (the files of `trl-unlearn push`) in place of `Trainer`'s."""

    def __init__(self, *args: Any, **kwargs: Any):
        self._clock = RunClock()
        # The step whose weights are in the output folder. At any other step, results there are not this model's.
        self._saved_step: int | None = None
        # The shortfall after a first call of `train`, for the record of the second.
        self.first_attempt: str | None = None
        # The forget set as it was passed in: its answers are whole, where training cuts rows at `max_length`.
        self._forget_source: Dataset | None = None
        super().__init__(*args, **kwargs)

    def _begin_run(self) -> None:
        super()._begin_run()
        self._saved_step = None
        if self._has_trained:
            # The first run began when its model was loaded, before this.
            self._clock = RunClock()

    def _send_telemetry(self) -> None:
        # TRL sends a ping when a trainer is built.
        if self.args.telemetry:
            super()._send_telemetry()

    # Records

    def run_record(self) -> UnlearningRun:
        """The record of the run, for `run.json` and the card. It holds no text of the data."""
        return build_run_record(self, self._clock)

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Write the card of the run's record to the output folder; the arguments, those of `Trainer`, are not used."""
        if self.is_world_process_zero():
            self._write_card(Path(self.args.output_dir), self.run_record())

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the adapter (or the model), the tokenizer, `run.json` and the card, in `output_dir`."""
        folder = Path(output_dir or self.args.output_dir)
        if self._is_output(folder):
            # No file may change while it is sent.
            self._finish_current_push()
        super().save_model(output_dir, _internal_call)
        if not _internal_call and self.is_world_process_zero():
            # After PEFT, which writes a card of its own to the same path.
            record = self.run_record()
            RunFolder(folder).save_run(record)
            self._write_card(folder, record)

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        if self._is_output(folder):
            self._saved_step = self.state.global_step
            if not is_peft_model(self.accelerator.unwrap_model(self.model)):
                RunFolder(folder).clear_adapter()

    def _is_output(self, folder: Path) -> bool:
        return folder.absolute() == Path(self.args.output_dir).absolute()

    def _write_card(self, folder: Path, record: UnlearningRun) -> None:
        is_saved = not self._is_output(folder) or self._saved_step == self.state.global_step
        RunFolder(folder, in_training=True).write_card(record, is_saved=is_saved)

    # The Hub

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Check that the repository may be pushed to, or raise a `PushError`; the first push creates it."""
        if not self.is_world_process_zero():
            return
        token, private = token or self.args.hub_token, self.args.hub_private_repo if private is None else private
        repo_id = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        if "/" not in repo_id:
            with explaining("log in"):
                repo_id = get_full_repo_name(repo_id, token=token)
        check_access(repo_id, private=private, token=token)
        self.hub_model_id, self.push_in_progress = repo_id, None

    def forbidden_texts(self) -> dict[str, list[str]]:
        """The texts that no published file may hold: whole answers of the `forget set`, and current `beliefs`."""
        tokenizer, store = self.processing_class, self.belief_store
        texts = {"forget set": answer_texts(self._forget_source, tokenizer, self.args.dataset_text_field)}
        if store is not None and store.refresh is not None:
            texts["beliefs"] = answer_texts((row for i in range(len(store)) for row in store.rows([i])), tokenizer)
        return texts

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        force: bool = False,
        **kwargs: Any,
    ) -> PushedRepo | Future | None:
        """
        Save, and push the output folder to `hub_model_id`.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`):
                Message of the commit.
            blocking (`bool`, *optional*, defaults to `True`):
                Whether to wait for the end of the upload.
            token (`str`, *optional*), revision (`str`, *optional*), private (`bool`, *optional*):
                In place of the config's `hub_token`, `hub_revision` and `hub_private_repo`.
            force (`bool`, *optional*, defaults to `False`):
                Whether to also push a model that has not forgotten by its own evaluation, or has missed its goal.
            kwargs (`dict[str, Any]`, *optional*):
                Arguments of `create_model_card`.

        Returns:
            [`~trl_unlearn.hub.push.PushedRepo`]: What was pushed, or a `Future` of it with `blocking=False`; `None` on
            all but the main process.

        Raises:
            [`~trl_unlearn.hub.access.PushError`]: See [`~trl_unlearn.hub.push.push`].
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        RunFolder(self.args.output_dir).save_run(self.run_record())
        self.create_model_card(**kwargs)
        self._finish_current_push()
        return self._send(commit_message, token, revision, private, force, run_as_future=not blocking)

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        if self.args.push_to_hub:
            self._push_saved(Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}"))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push later, when the checkpoint is complete: a push that is refused must not cost it."""

    def _push_saved(self, checkpoint: Path) -> None:
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if self.push_in_progress is not None and not self.push_in_progress.is_done():
            if not self.args.hub_always_push:
                return
            self._finish_current_push()
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        folder, record = RunFolder(self.args.output_dir), self.run_record()
        folder.save_run(record)
        # A copy: the checkpoint may be rotated away before it is sent.
        folder.copy_model(checkpoint, record.is_adapter)
        message = f"Training in progress, step {self.state.global_step}"
        self.push_in_progress = PushInProgress([self._send(message, run_as_future=True)])

    def _send(
        self,
        message: str | None,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        force: bool = False,
        run_as_future: bool = False,
    ) -> PushedRepo | Future:
        return push_output(
            self.args.output_dir,
            self.hub_model_id,
            forbidden_texts=self.forbidden_texts(),
            private=self.args.hub_private_repo if private is None else private,
            revision=revision or self.args.hub_revision,
            commit_message=message,
            token=token or self.args.hub_token,
            force=force,
            run_as_future=run_as_future,
        )

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        push = getattr(self, "push_in_progress", None)
        for job in push.jobs if push is not None else []:
            if (error := job.exception()) is not None:
                logger.warning(f"A push during training did not get through: {error}")
        self.push_in_progress = None
