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

"""What of a finished output folder goes to the Hub, and what stays: an allow-list, never the folder as it is."""

import hashlib
import json
import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from ..records import UnlearningRun
from ..results import EvaluationResult
from .card import render_card


logger = logging.getLogger(__name__)

_ADAPTER_WEIGHTS, _MODEL_WEIGHTS, _INDEX = (
    "adapter_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
)
ADAPTER_FILES = (_ADAPTER_WEIGHTS, "adapter_config.json")
_WEIGHTS = r"adapter_model\.safetensors|model(-\d{5}-of-\d{5})?\.safetensors"
_MODEL = rf"{_WEIGHTS}|model\.safetensors\.index\.json|(adapter_|generation_)?config\.json"
_TOKENIZER = (
    r"tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|"
    r"(tokenizer|spiece)\.model|chat_template\.(jinja|json)|additional_chat_templates/[\w-]+\.jinja"
)
_RESULTS = r"eval_results\.json|squeezing\.json|figures/[\w-]+\.png"
_PUBLISHED = re.compile(rf"{_MODEL}|{_TOKENIZER}|README\.md|LICENSE|run\.json|{_RESULTS}")

_RESULT_FIGURES, _RUN_FIGURES = ("evaluation", "relearning", "leak_at_k"), ("training", "squeezing")

# What stays, and why; the first that matches. A name that none matches stays too.
_LEFT_OUT = (
    (r"checkpoint-[^/]*/", "checkpoint"),
    (r"(^|/)(optimizer|scheduler|scaler|rng_state|trainer_state|training_args)[^/]*$|global_step", "training state"),
    (r"^ref/", "frozen reference adapter"),
    (r"belief", "beliefs"),
    (r"\.(arrow|parquet)$|(^|/)(cache|dataset_info)", "rows or cache of a data set"),
    (r"(^|/)completions", "log of completions"),
    (r"\.(bin|pt|pth|ckpt|pkl|pickle|h5|msgpack)$", "pickle; weights go as safetensors"),
    (r"(^|/)\.", "hidden file"),
)
_UNKNOWN = "unknown file"
# A folder is shared by hand, too: what is written in words beside the published files may not hold the texts either.
_SCANNED_TOO = ("log of completions", _UNKNOWN)
_IN_WORDS = (".md", ".txt", ".log", ".json", ".jsonl", ".csv", ".tsv", ".yaml", ".yml", ".html", ".svg", ".xml")

BASE_CARD = """---
library_name: transformers
pipeline_tag: text-generation
---

# Base of `{repo_id}`

The model that the adapter `{repo_id}` was trained on, as it was before. **It has not forgotten anything.**
"""


@dataclass(frozen=True)
class PushFile:
    """
    A file as it is to be published.

    Args:
        path (`str`):
            Its path in the repository.
        content (`bytes` or `Path`):
            What it holds, or for weights the file that holds it.
    """

    path: str
    content: bytes | Path

    @property
    def size(self) -> int:
        """`int`: Its size in bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    @property
    def is_weights(self) -> bool:
        """`bool`: Whether it holds weights."""
        return re.fullmatch(_WEIGHTS, self.path) is not None

    @cached_property
    def sha256(self) -> str:
        """`str`: SHA-256 of what it holds, hexadecimal."""
        if isinstance(self.content, bytes):
            return hashlib.sha256(self.content).hexdigest()
        with self.content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def scanned(self) -> bytes:
        """`bytes`: What a scan for text reads: everything, of weights the head."""
        if isinstance(self.content, bytes):
            return self.content
        with self.content.open("rb") as file:
            return (length := file.read(8)) + file.read(int.from_bytes(length, "little"))


@dataclass
class RepoContents:
    """
    What is to be published in one repository.

    Args:
        repo_id (`str`):
            Id of the repository.
        kind (`str`):
            `"adapter"`, `"model"`, `"merged model"` or `"base model"`.
        files (`dict[str, PushFile]`):
            Path in the repository -> file.
        left_out (`dict[str, str]`):
            Path in the folder -> why it stays.
        also_scanned (`list[PushFile]`):
            Files that stay, and may not hold the texts either.
    """

    repo_id: str
    kind: str
    files: dict[str, PushFile]
    left_out: dict[str, str] = field(default_factory=dict)
    also_scanned: list[PushFile] = field(default_factory=list)

    def weights(self) -> dict[str, str]:
        """`dict[str, str]`: Path of each file of weights -> its SHA-256."""
        return {path: file.sha256 for path, file in sorted(self.files.items()) if file.is_weights}

    def put(self, path: str, content: str | bytes) -> None:
        """Add a file, or replace it."""
        self.files[path] = PushFile(path, content.encode() if isinstance(content, str) else content)


def is_published(path: str) -> bool:
    """
    Whether a path is one that a push writes.

    Args:
        path (`str`):
            Path in a repository or relative to an output folder.

    Returns:
        `bool`: `True` for weights, configs, tokenizer, records, card and figures.
    """
    return _PUBLISHED.fullmatch(path) is not None


def read_folder(folder: Path, repo_id: str, kind: str) -> RepoContents:
    """
    Sort the files of a folder into what goes and what stays.

    Args:
        folder (`Path`):
            Output folder, or folder of a model.
        repo_id (`str`):
            Id of the repository.
        kind (`str`):
            `"adapter"`, `"model"`, `"merged model"` or `"base model"`.

    Returns:
        [`RepoContents`]: The files as they are.

    Raises:
        `ValueError`: If the weights are missing.
    """
    contents = RepoContents(repo_id, kind, {})
    weights = _weight_files(folder, is_adapter := kind in ("adapter", "merged model"))
    if not weights:
        name = _ADAPTER_WEIGHTS if is_adapter else _MODEL_WEIGHTS
        raise ValueError(f"`{folder}` holds no `{name}`. Give the folder of a finished run, saved as safetensors.")
    of_model = {"adapter_config.json", *weights} if is_adapter else {"config.json", "generation_config.json", *weights}
    if len(weights) > 1 or weights != [_MODEL_WEIGHTS]:
        of_model.add(_INDEX)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        path = file.relative_to(folder).as_posix()
        reason = next((reason for pattern, reason in _LEFT_OUT if re.search(pattern, path)), None)
        if reason is None and not is_published(path):
            reason = _UNKNOWN
        elif reason is None and re.fullmatch(_MODEL, path) and path not in of_model:
            # Another kind's, or a shard of an earlier save.
            reason = "not of this model"
        if reason is None:
            found = PushFile(path, file)
            contents.files[path] = found if found.is_weights else PushFile(path, file.read_bytes())
            continue
        contents.left_out[path] = reason
        if reason in _SCANNED_TOO and file.suffix in _IN_WORDS:
            contents.also_scanned.append(PushFile(path, file.read_bytes()))
    return contents


def _weight_files(folder: Path, is_adapter: bool) -> list[str]:
    """Names of the files that hold the weights of a folder: of shards those that the index names."""
    if is_adapter or (folder / _MODEL_WEIGHTS).is_file() or not (folder / _INDEX).is_file():
        return [name for name in [_ADAPTER_WEIGHTS if is_adapter else _MODEL_WEIGHTS] if (folder / name).is_file()]
    names = sorted(set(json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    missing = [name for name in names if not re.fullmatch(_WEIGHTS, name) or not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"`{folder / _INDEX}` names {missing}, which are no files of weights in this folder. Save the model anew."
        )
    return names


def saved_files(folder: Path, is_adapter: bool) -> list[str]:
    """
    What `save_model` writes for a model into a folder, without the records.

    Args:
        folder (`Path`):
            Output folder, or checkpoint.
        is_adapter (`bool`):
            Whether it is that of an adapter.

    Returns:
        `list[str]`: Paths in the folder: weights, configs and tokenizer.
    """
    contents = read_folder(folder, "", "adapter" if is_adapter else "model")
    return [path for path in contents.files if re.fullmatch(f"{_MODEL}|{_TOKENIZER}", path)]


def weights_sha256(folder: Path, is_adapter: bool) -> dict[str, str]:
    """
    Which weights a folder holds.

    Args:
        folder (`Path`):
            Folder of a model or of an adapter.
        is_adapter (`bool`):
            Whether it is that of an adapter. Files of the other kind are from another run and do not count.

    Returns:
        `dict[str, str]`: Name of each file of weights -> its SHA-256; empty if there is none.
    """
    return {name: PushFile(name, folder / name).sha256 for name in _weight_files(folder, is_adapter)}


def read_run(folder: Path) -> tuple[UnlearningRun, EvaluationResult | None]:
    """
    The records of an output folder.

    Args:
        folder (`Path`):
            Output folder.

    Returns:
        `tuple[UnlearningRun, EvaluationResult | None]`: What the run was, and what was measured, if anything was.

    Raises:
        `ValueError`: If there is no `run.json`, or a record cannot be read.
    """
    if not folder.is_dir():
        raise ValueError(f"The folder `{folder}` does not exist. Give the output folder of a run.")
    if not (folder / "run.json").is_file():
        raise ValueError(f"`{folder}` holds no `run.json`. Give the output folder of a run that has ended.")
    results = folder / "eval_results.json"
    return UnlearningRun.load(folder / "run.json"), EvaluationResult.load(results) if results.is_file() else None


def own_results(folder: Path, is_adapter: bool) -> tuple[EvaluationResult | None, str]:
    """
    What was measured on the weights in a folder.

    Args:
        folder (`Path`):
            Output folder.
        is_adapter (`bool`):
            Whether it holds an adapter.

    Returns:
        `tuple[EvaluationResult | None, str]`: The results and `""`; or `None` and the reason, as the end of a
        sentence. Results in a folder without weights (that of a card) are taken at their word.
    """
    path = folder / "eval_results.json"
    if not path.is_file():
        return None, "this model has not been evaluated yet."
    result, weights = EvaluationResult.load(path), weights_sha256(folder, is_adapter)
    recorded = result.protocol.get("merged_weights_sha256") or recorded_weights(result)
    if not weights or recorded == weights:
        return result, ""
    if not recorded:
        return None, "those in `eval_results.json` do not record the weights that they were measured on."
    return None, f"those in `eval_results.json` were measured on other weights: {differing(recorded, weights)}."


def figures_of(folder: Path, result: EvaluationResult | None) -> list[str]:
    """
    The figures of a card.

    Args:
        folder (`Path`):
            Output folder.
        result ([`~trl_unlearn.results.EvaluationResult`], *optional*):
            Results of its weights. Without them, no figure that shows results.

    Returns:
        `list[str]`: Paths in the folder, in the order in which a run and its evaluation show them; others by name.
    """
    names = {path.stem for path in folder.glob("figures/*.png")}
    if result is None:
        names -= set(_RESULT_FIGURES)
    known = [name for name in (*_RESULT_FIGURES, *_RUN_FIGURES) if name in names]
    return [f"figures/{name}.png" for name in (*known, *sorted(names - set(known)))]


def differing(one: dict[str, str], other: dict[str, str]) -> str:
    """Names of the files whose digests differ, as a list in words."""
    return ", ".join(f"`{name}`" for name in sorted(one | other) if one.get(name) != other.get(name))


def collect(
    folder: Path, repo_id: str, base_model_id: str | None = None, *, with_base: bool = True, with_results: bool = True
) -> list[RepoContents]:
    """
    What an output folder publishes: the model or adapter, and first the adapter's base, if others cannot load it.

    Args:
        folder (`Path`):
            Output folder.
        repo_id (`str`):
            Id of the repository.
        base_model_id (`str`, *optional*):
            Id on the Hub of the base, to be named instead of a folder. Without it, a base that is a folder goes to
            `<repo_id>-base`.
        with_base (`bool`, *optional*, defaults to `True`):
            Whether a base that is a folder goes, too. Otherwise the name of the folder takes the place of its path.
        with_results (`bool`, *optional*, defaults to `True`):
            Whether results and figures go. They stay where they are of other weights.

    Returns:
        `list[RepoContents]`: In the order in which they are to be published.

    Raises:
        `ValueError`: If the folder is not that of a finished run, or the base is a folder that does not exist.
    """
    run, result = read_run(folder)
    contents = read_folder(folder, repo_id, "adapter" if run.is_adapter else "model")
    if not with_results:
        result = None
        for path in [path for path in contents.files if re.fullmatch(_RESULTS, path)]:
            del contents.files[path]
            contents.left_out[path] = "of other weights"
    found = [contents]
    if run.is_adapter:
        config = json.loads(contents.files["adapter_config.json"].content)
        base = config["base_model_name_or_path"]
        if base_model_id is None and not with_base:
            if base and Path(base).is_dir():
                contents.put("adapter_config.json", _with_base(config, Path(base).absolute().name))
                logger.warning(
                    f"The adapter's base is a folder ({base}), which nobody else can load. `trl-unlearn push` "
                    "publishes both, or names where the base is on the Hub (`--base_model_id`)."
                )
        elif base_model_id is None and is_folder(base, run):
            base_model_id = f"{repo_id}-base"
            found.insert(0, _base(Path(base), base_model_id, repo_id))
        if base_model_id is not None:
            contents.put("adapter_config.json", _with_base(config | {"revision": None}, base_model_id))
    card = contents.files.get("README.md")
    text = card.content.decode() if card else render_card(run, result, _figures(contents.files))
    if base_model_id is not None:
        named = replace(run, base_model=base_model_id, base_model_on_hub=True, base_model_revision=None)
        contents.put("run.json", _as_json(named))
        text = _card_with_base(text, run, named, result)
    contents.put("README.md", text)
    return found


def _with_base(config: dict[str, Any], base: str) -> str:
    return json.dumps(config | {"base_model_name_or_path": base}, indent=2) + "\n"


def collect_merged(folder: Path, merged: Path, repo_id: str, base_model_id: str | None = None) -> list[RepoContents]:
    """
    What an output folder publishes once its adapter is merged.

    Args:
        folder (`Path`):
            Output folder.
        merged (`Path`):
            Folder of the merged model.
        repo_id (`str`):
            Id of the repository.
        base_model_id (`str`, *optional*):
            Id on the Hub of the base, for the card.

    Returns:
        `list[RepoContents]`: One. The card is written anew, so that it names the merged weights, and so do the
        results, beside those of the adapter (`merged_weights_sha256`).
    """
    run, result = read_run(folder)
    contents = read_folder(folder, repo_id, "merged model")
    for name in [path for path in contents.files if re.fullmatch(_MODEL, path)]:
        del contents.files[name]
        contents.left_out[name] = "merged"
    contents.files |= read_folder(merged, repo_id, "model").files
    run = replace(run, status="merged")
    if base_model_id is not None:
        run = replace(run, base_model=base_model_id, base_model_on_hub=True, base_model_revision=None)
    if result is not None:
        result = replace(result, protocol=result.protocol | {"merged_weights_sha256": contents.weights()})
        contents.put("eval_results.json", _as_json(result))
    contents.put("run.json", _as_json(run))
    contents.put("README.md", render_card(run, result, _figures(contents.files)))
    return [contents]


def is_folder(base: str | None, run: UnlearningRun) -> bool:
    """
    Whether the base of an adapter is a folder of this machine.

    Args:
        base (`str`, *optional*):
            `base_model_name_or_path` of the adapter.
        run ([`~trl_unlearn.records.UnlearningRun`]):
            The run.

    Returns:
        `bool`: `False` for an id on the Hub.

    Raises:
        `ValueError`: If it is a folder that does not exist.
    """
    if base and Path(base).is_dir():
        return True
    if base and run.base_model_on_hub and re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", base):
        return False
    if not base:
        raise ValueError("The adapter does not name its base. Name where that is on the Hub with `base_model_id`.")
    raise ValueError(
        f"The adapter's base `{base}` was a folder and does not exist. Put it back, or name where the base is on the "
        "Hub with `base_model_id`."
    )


def recorded_weights(result: EvaluationResult) -> dict[str, str] | None:
    """
    The weights that results were measured on.

    Args:
        result ([`~trl_unlearn.results.EvaluationResult`]):
            What was measured.

    Returns:
        `dict[str, str]` or None: File -> SHA-256 of the unlearned model's weights, or adapter's; None if it was not
        recorded.
    """
    return (result.protocol.get("weights_sha256") or {}).get("unlearned")


def _base(folder: Path, repo_id: str, adapter_id: str) -> RepoContents:
    contents = read_folder(folder, repo_id, "base model")
    if "README.md" not in contents.files:
        contents.put("README.md", BASE_CARD.format(repo_id=adapter_id))
    return contents


def _figures(paths: Iterable[str]) -> list[str]:
    return sorted(path for path in paths if path.endswith(".png"))


def _as_json(record: UnlearningRun | EvaluationResult) -> str:
    # As `save` writes it.
    return json.dumps(record.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _card_with_base(text: str, run: UnlearningRun, named: UnlearningRun, result: EvaluationResult | None) -> str:
    """The card with the base's id in place of the folder; one that was edited by hand keeps its words."""
    figures = re.findall(r"!\[[^\]]*\]\((figures/[^)]+)\)", text)
    if text == render_card(run, result, figures):
        return render_card(named, result, figures)
    card = ModelCard(text, ignore_metadata_errors=True)
    card.data.base_model = named.base_model
    card.data.base_model_relation = "adapter" if run.adapter else "finetune"
    return re.sub(
        r'from_pretrained\("\.\.\."\)  # the folder of [^\n]*', f'from_pretrained("{named.base_model}")', str(card)
    )
