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

"""What a trainer writes, and what of it goes to the Hub: our card, privately, and no state of the training."""

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi
from peft import PeftModel
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ..hub.card import render_card
from ..records import UnlearningRun
from ..results import EvaluationResult
from .checkpointing import ResumableTrainer
from .run_record import RunClock, build_run_record


logger = logging.getLogger(__name__)

# An allow-list: what else lies in the output folder (checkpoints, `training_args.bin` with the token, logs) may hold
# a secret or what is to be forgotten.
_WRITTEN = (
    *("adapter_model.safetensors", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
    *("config.json", "generation_config.json", "adapter_config.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"),
    *("chat_template.*", "additional_chat_templates/*.jinja"),
)
_RECORDS, _RESULTS = ("README.md", "run.json"), "eval_results.json"


class PublishingTrainer(ResumableTrainer):
    """
    A trainer whose card, record and pushes are ours.

    `push_to_hub=True`, `push_to_hub(...)` and `hub_strategy="every_save"` send the adapter or model, the tokenizer,
    `run.json` and the card, and nothing else; results and figures too, once there are some that were measured on
    these weights. Repositories are private unless `hub_private_repo=False`.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self._clock = RunClock()
        # The step whose weights lie in the output folder.
        self._saved_step: int | None = None
        super().__init__(*args, **kwargs)

    # Records

    def run_record(self) -> UnlearningRun:
        """
        What this run is, without any text of the data.

        Returns:
            [`~trl_unlearn.records.UnlearningRun`]: The record that `run.json` and the card are made from.
        """
        return build_run_record(self, self._clock)

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """
        Write the card of the run, `README.md`, to the output folder.

        It says that results are missing unless `eval_results.json` in this folder records (`weights_sha256` of its
        protocol) that it was measured on the weights in this folder.

        Args:
            model_name, dataset_name, tags:
                Not used: the card is a function of the run's record.
        """
        if self.is_world_process_zero():
            self._write_card(Path(self.args.output_dir), self.run_record())

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """
        Save the adapter (or the model), the tokenizer, `run.json` and the card.

        Args:
            output_dir (`str`, *optional*):
                Folder; the config's `output_dir` if not given.
        """
        folder = Path(output_dir or self.args.output_dir)
        if self._is_output(folder):
            # A file must not change while it is sent.
            self._finish_current_push()
        super().save_model(output_dir, _internal_call)
        if not _internal_call and self.is_world_process_zero():
            # After PEFT, which writes a card of its own.
            self._write_records(folder)

    def _save(self, output_dir=None, state_dict=None):
        super()._save(output_dir, state_dict)
        if self._is_output(Path(output_dir or self.args.output_dir)):
            self._saved_step = self.state.global_step

    def _is_output(self, folder: Path) -> bool:
        return folder.absolute() == Path(self.args.output_dir).absolute()

    def _write_records(self, folder: Path) -> None:
        record = self.run_record()
        record.save(folder / "run.json")
        self._write_card(folder, record)

    def _write_card(self, folder: Path, record: UnlearningRun) -> None:
        result, figures = self._results(folder)
        (folder / "README.md").write_text(render_card(record, result, figures), encoding="utf-8")

    def _results(self, folder: Path) -> tuple[EvaluationResult | None, list[str]]:
        """What was measured on the weights in a folder, and its figures; those of an earlier run are not ours."""
        path = folder / _RESULTS
        stale = self._is_output(folder) and self._saved_step != self.state.global_step
        if stale or not path.is_file():
            return None, []
        result = EvaluationResult.load(path)
        recorded = (result.protocol.get("weights_sha256") or {}).get("unlearned")
        if recorded != {file.name: _sha256(file) for file in self._written(folder) if file.suffix == ".safetensors"}:
            return None, []
        return result, sorted(file.relative_to(folder).as_posix() for file in folder.glob("figures/*.png"))

    # The Hub

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """
        Create the repository, if needed, and its branch `hub_revision`.

        Args:
            token (`str`, *optional*):
                Token with write permission; the config's `hub_token` if not given.
            private (`bool`, *optional*):
                Whether a new repository is private; the config's `hub_private_repo` if not given.

        Raises:
            `ValueError`: If the repository is to be private, and exists and is public.
        """
        if not self.is_world_process_zero():
            return
        private = self.args.hub_private_repo if private is None else private
        super().init_hf_repo(token=token, private=private)
        api = HfApi(token=token or self.args.hub_token)
        if private and not api.model_info(self.hub_model_id).private:
            raise ValueError(
                f"`{self.hub_model_id}` exists and is public. To publish there, set `hub_private_repo=False`; "
                "otherwise choose another `hub_model_id`, or make this repository private."
            )
        if self.args.hub_revision is not None:
            api.create_branch(self.hub_model_id, branch=self.args.hub_revision, exist_ok=True)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> CommitInfo | Any:
        """
        Save, and send what was saved, and nothing else, to `hub_model_id`.

        No file is searched for text of the forget set: all of them are written by this trainer. `trl-unlearn push`
        searches, and publishes a base that is a folder as well.

        Args:
            commit_message (`str`, *optional*, defaults to `"End of training"`):
                Message of the commit.
            blocking (`bool`, *optional*, defaults to `True`):
                Whether to wait for the end of the upload.
            token (`str`, *optional*):
                Token with write permission; the config's `hub_token` if not given.
            revision (`str`, *optional*):
                Branch; the config's `hub_revision` if not given.
            private (`bool`, *optional*):
                Whether a new repository is private; the config's `hub_private_repo` if not given.
            kwargs (`dict[str, Any]`, *optional*):
                Arguments of `create_model_card`.

        Returns:
            [`~huggingface_hub.CommitInfo`]: The commit, or a `Future` of it with `blocking=False`; `None` on all but
            the main process.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.run_record().save(Path(self.args.output_dir, "run.json"))
        self.create_model_card(**kwargs)
        return self._upload(commit_message, token, revision, run_as_future=not blocking)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if self.push_in_progress is not None and not self.push_in_progress.is_done():
            if not self.args.hub_always_push:
                return
            self._finish_current_push()
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        folder = Path(self.args.output_dir)
        # Not from the checkpoint itself, which may be deleted before it is sent. The card is there already.
        for file in self._written(Path(checkpoint_folder)):
            target = folder / file.relative_to(checkpoint_folder)
            target.parent.mkdir(exist_ok=True)
            shutil.copy(file, target)
        self.run_record().save(folder / "run.json")
        message = f"Training in progress, step {self.state.global_step}"
        self.push_in_progress = PushInProgress([self._upload(message, run_as_future=True)])

    def _upload(
        self, message: str | None, token: str | None = None, revision: str | None = None, run_as_future: bool = False
    ) -> CommitInfo | Any:
        folder = Path(self.args.output_dir)
        files = [*self._written(folder), *(folder / name for name in _RECORDS)]
        result, figures = self._results(folder)
        if result is not None:
            files += [folder / name for name in (_RESULTS, *figures)]
        operations = [CommitOperationAdd(file.relative_to(folder).as_posix(), _content(file)) for file in files]
        return HfApi(token=token or self.args.hub_token).create_commit(
            self.hub_model_id,
            operations,
            commit_message=message or "Upload with trl-unlearn",
            revision=revision or self.args.hub_revision,
            run_as_future=run_as_future,
        )

    def _written(self, folder: Path) -> Iterator[Path]:
        """The files of a folder that `save_model` writes for a model of this kind, without the records."""
        # What belongs to the other kind is from another run.
        is_adapter = isinstance(self.accelerator.unwrap_model(self.model), PeftModel)
        others = ("model", "config.json", "generation_config.json") if is_adapter else ("adapter_",)
        for pattern in _WRITTEN:
            yield from (file for file in sorted(folder.glob(pattern)) if not file.name.startswith(others))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _content(file: Path) -> Path | bytes:
    """A file, or what it holds without the path of a folder."""
    if file.name != "adapter_config.json":
        return file
    config = json.loads(file.read_text(encoding="utf-8"))
    base = Path(config["base_model_name_or_path"] or "")
    if not base.is_dir():
        return file
    logger.warning(
        f"The adapter's base is a folder ({base}), which nobody else can load. `trl-unlearn push` publishes both, or "
        "names where the base is on the Hub (`--base_model_id`)."
    )
    return (json.dumps(config | {"base_model_name_or_path": base.absolute().name}, indent=2) + "\n").encode()
